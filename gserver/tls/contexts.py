"""The SSL contexts of the server: validates the TLS settings, loads and reloads certificates, chooses them by name.

`Tls(config)` loads all files, or raises a ConfigError that names the setting. It is created once, before the workers
are forked, so that all workers have the same keys for session tickets, and can resume each other's sessions. In a
worker, gevent may have replaced `ssl.SSLContext`: `_Context` works before and after that.

A reload never changes a context in use. New certificates are loaded into a new context. Only if all of them are valid,
the server name callback switches each handshake to the new context. So a failure has no effect, a new type of key
leaves no second certificate behind, and the ticket keys are kept: they belong to the context with which a handshake
begins. If the authorities have changed, that context is replaced too, so that no session with a removed authority can
be resumed.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from gserver.config.tls_options import ContextFactory, ContextHook, TlsConfig
from gserver.errors import ConfigError
from gserver.tls.certificates import KeyPair, Validity, load_authorities, load_key_pair
from gserver.user_errors import described

__all__ = ["CIPHERS", "Tls", "TlsConfig"]

#: TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, 4.2). TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: SSL_OP_PRIORITIZE_CHACHA, which `ssl` does not define: ChaCha20 for clients that prefer it, as slow ones do.
_OP_PRIORITIZE_CHACHA = 0x200000
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

_log = logging.getLogger(__name__)

Stamps = dict[str, "tuple[int, int, int] | None"]


# The original class: gevent's replacement can choose a certificate by name only for connections with a gevent socket.
_Original: Any = next(kind for kind in ssl.SSLContext.__mro__ if kind.__module__ == "ssl")
_InC: Any = _Original.__base__


class _Context(_Original):  # type: ignore[misc]
    """An SSLContext that works after gevent has patched ssl: the original's setters recurse infinitely then."""

    options = _InC.options
    verify_flags = _InC.verify_flags
    verify_mode = _InC.verify_mode
    minimum_version = _InC.minimum_version
    maximum_version = _InC.maximum_version


@dataclass(frozen=True)
class _Contexts:
    """The contexts from one load of all files."""

    default: ssl.SSLContext
    named: dict[str, ssl.SSLContext]  # by name as returned by `_normal`, with "*." for a wildcard
    until: datetime | None  # when the first certificate expires; None: loaded by the hook

    def choose(self, name: str | None) -> ssl.SSLContext:
        """Return the context for a server name. A wildcard matches one label, the leftmost (RFC 6125, 6.4.3)."""
        if name is None or not self.named:
            return self.default
        name = _normal(name)
        return self.named.get(name) or self.named.get("*." + name.partition(".")[2]) or self.default


class Tls:
    """The SSL contexts of a server.

    Attributes:
        context: the context for new connections (`wrap_bio`, server side). Read it for each: a reload may replace it.
    """

    context: ssl.SSLContext

    def __init__(self, config: TlsConfig) -> None:
        """Validate the settings and load all files. ConfigError: one line, with the setting and the fault."""
        self._config = config
        self._pairs = _key_pairs(config)
        _check(config)
        self._loaded = self._tried = self._seen = self._look()
        self._contexts = self._load()
        self._use(self._contexts.default)

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Tls:
        """Create it from arguments of gevent's StreamServer: certfile, keyfile, ca_certs, cert_reqs and ciphers, or
        ssl_context.
        """
        known = {each.name for each in fields(TlsConfig)}
        unknown = sorted(set(arguments) - known)
        if unknown or not {"certfile", "ssl_context"} & set(arguments):
            raise ConfigError(
                f"TLS needs certfile or ssl_context, and accepts {', '.join(sorted(known))}; got {unknown}"
            )
        values = {"certfile": "", **arguments}
        if isinstance(values.get("ssl_context"), ssl.SSLContext):
            values["ssl_context"] = lambda config, factory: arguments["ssl_context"]
        if isinstance(values.get("cert_reqs"), int):
            values["cert_reqs"] = next(name for name, number in _CERT_REQS.items() if number == values["cert_reqs"])
        return cls(TlsConfig(**values))

    @property
    def until(self) -> datetime | None:
        """When the first of the certificates in use expires; None if the hook has loaded them."""
        return self._contexts.until

    def reload_if_changed(self) -> bool:
        """Reload all files if one has changed; return whether it did. Call it about once per second.

        A change is loaded when two calls in a row have found the same files, so that no half-written file is loaded. A
        failure is logged once, and the old certificates stay in use; for example, if the user of a worker may not read
        the files. A handshake keeps the certificates that it began with. `context` is replaced if the authorities have
        changed, or if the hook's context chooses by server name itself.
        """
        before, self._seen = self._seen, self._look()
        if self._seen == self._tried or self._seen != before:
            return False
        self._tried = self._seen
        try:
            self._contexts = self._load()
        except ConfigError as error:
            _log.error("TLS: certificates cannot be reloaded, the old ones stay in use: %s", error)
            return False
        if self._chooses_itself or self._authorities(self._tried) != self._authorities(self._loaded):
            self._use(self._contexts.default)
        self._loaded = self._tried
        until = self._contexts.until
        _log.info("TLS: certificates loaded again%s", f", valid until {until:%Y-%m-%d}" if until else "")
        return True

    def _use(self, context: ssl.SSLContext) -> None:
        """Use `context` for new connections, and set its server name callback.

        A hook in a patched worker returns a context of gevent's class. gevent's setter wraps the callback in one that
        needs a gevent socket, and there is none; so the setter of the C class is called.
        """
        self.context = context
        own = context.sni_callback
        self._chooses_itself = own is not None
        if isinstance(context, _InC):
            _InC.sni_callback.__set__(context, own or self._choose)
        elif own is None:
            context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """Switch a handshake to the context of its server name; OpenSSL calls it in each handshake. Must not raise."""
        chosen = self._contexts.choose(name)
        if chosen is not context:
            connection.context = chosen

    def _load(self) -> _Contexts:
        config = self._config
        validities: list[tuple[KeyPair, Validity]] = []

        def make(pair: KeyPair) -> ssl.SSLContext:
            context = _new_context(config)
            validities.append((pair, load_key_pair(context, pair, config.keyfile_password)))
            return context

        default = KeyPair(config.certfile, config.keyfile)
        first = (
            make(default)
            if config.ssl_context is None
            else _call_hook(config.ssl_context, config, lambda: make(default))
        )
        named = {name: make(pair) for name, pair in self._pairs.items()}
        _warn(validities)
        return _Contexts(first, named, min((validity.until for _, validity in validities), default=None))

    def _look(self) -> Stamps:
        config = self._config
        pairs = [KeyPair(config.certfile, config.keyfile), *self._pairs.values()]
        paths = [path for pair in pairs for path in pair.files]
        return {path: _stamp(path) for path in (*paths, *([config.ca_certs] if config.ca_certs else []))}

    def _authorities(self, stamps: Stamps) -> tuple[int, int, int] | None:
        return stamps[self._config.ca_certs] if self._config.ca_certs else None


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _warn(validities: list[tuple[KeyPair, Validity]]) -> None:
    now = datetime.now(UTC)
    for pair, validity in validities:
        if complaint := validity.complaint(now):
            _log.warning("TLS: the certificate in %r %s", pair.certfile, complaint)


def _call_hook(hook: ContextHook, config: TlsConfig, factory: ContextFactory) -> ssl.SSLContext:
    try:
        context = hook(config, factory)
    except ConfigError:  # from the factory
        raise
    except BaseException as error:  # in the arbiter, a SystemExit would end the server
        raise ConfigError(f"setting ssl_context: the hook failed: {described(error)}") from error
    if not hasattr(context, "wrap_bio"):  # isinstance() would fail for a context from before gevent's patch
        raise ConfigError(f"setting ssl_context: the hook returned {context!r}: expected an ssl.SSLContext")
    return context


def _new_context(config: TlsConfig) -> ssl.SSLContext:
    """Return a context with all settings, without a certificate."""
    context: ssl.SSLContext = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    # `ssl` already turns compression off, and prefers the order of ciphers of the server.
    context.options |= ssl.OP_NO_RENEGOTIATION | _OP_PRIORITIZE_CHACHA
    context.num_tickets = (
        1  # TLS 1.3; OpenSSL's default of 2 is for clients that open connections in pairs, as browsers do
    )
    context.set_ciphers(config.ciphers or CIPHERS)
    if config.alpn:
        context.set_alpn_protocols(config.alpn)
    if config.ca_certs is not None:
        load_authorities(context, config.ca_certs)
    context.verify_mode = _CERT_REQS[config.cert_reqs]
    return context


def _check(config: TlsConfig) -> None:
    """Validate the settings that need no file."""
    if config.cert_reqs not in _CERT_REQS:
        raise ConfigError(f"setting cert_reqs is {config.cert_reqs!r}: expected {', '.join(_CERT_REQS)}")
    if config.min_version not in _VERSIONS:
        raise ConfigError(f"setting min_version is {config.min_version!r}: expected {' or '.join(_VERSIONS)}")
    if config.cert_reqs != "none" and config.ca_certs is None:
        raise ConfigError(f"setting cert_reqs is {config.cert_reqs!r}, and ca_certs is not set")
    if config.cert_reqs == "none" and config.ca_certs is not None:
        _log.warning("TLS: ca_certs is set, but cert_reqs is 'none', so no client certificate is requested")
    for protocol in config.alpn:
        if not (protocol.isascii() and 1 <= len(protocol) <= 255):  # RFC 7301, 3.1
            raise ConfigError(
                f"setting alpn: {protocol[:40]!r} is not a protocol name: expected 1 to 255 ASCII characters"
            )
    _check_ciphers(config.ciphers or CIPHERS)


def _check_ciphers(ciphers: str) -> None:
    """Check each cipher alone, because OpenSSL ignores unknown ciphers if one in the list is known."""
    context: ssl.SSLContext = _Context(ssl.PROTOCOL_TLS_SERVER)
    for cipher in [ciphers, *re.split("[:, ]+", ciphers)]:
        if cipher != ciphers and cipher[:1] in "!-+@":  # an entry that removes or sorts selects nothing by itself
            continue
        try:
            context.set_ciphers(cipher)
        except ssl.SSLError as error:
            raise ConfigError(f"setting ciphers: {cipher!r} selects no cipher of this OpenSSL for TLS 1.2") from error


def _key_pairs(config: TlsConfig) -> dict[str, KeyPair]:
    pairs: dict[str, KeyPair] = {}
    for written, certfile, keyfile in config.sni:
        name = _server_name(written)
        if name in pairs:
            raise ConfigError(f"setting sni has {written!r} twice")
        pairs[name] = KeyPair(certfile, keyfile, f" of {written!r} in sni")
    return pairs


def _server_name(written: str) -> str:
    """Return the name as clients send it: in lower case, with A-labels for non-ASCII labels (RFC 6066, 3)."""
    wildcard, rest = ("*.", written[2:]) if written.startswith("*.") else ("", written)
    try:
        name = _normal(rest if rest.isascii() else rest.encode("idna").decode("ascii"))
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ConfigError(f"setting sni: {written[:80]!r} is not a server name: expected HOST or *.HOST")
    return wildcard + name


def _normal(name: str) -> str:
    return name.removesuffix(".").lower()
