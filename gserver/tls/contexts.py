"""The server's side of TLS before a connection exists: what is configured, checked and loaded; names; changed files.

`Tls(config)` loads everything at once, or raises a ConfigError that names the setting. It is made once, before the
workers are forked, so that all of them hold the same keys for session tickets and a session that one has given is
resumed by another. In a worker, gevent may have replaced `ssl.SSLContext` since: `_Context` works before and after.

New certificates never touch a context in use. They are loaded into a new one, which takes part only if all is well,
and to which the server name callback then switches each handshake. So a failure leaves no trace, a changed type of key
leaves no second certificate behind, and the ticket keys, which belong to the context that a handshake began with, stay.
Changed authorities replace that context too: no session that a removed one vouched for may be resumed.
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
#: SSL_OP_PRIORITIZE_CHACHA, which `ssl` does not name: ChaCha20 for clients that put it first, as slow ones do.
_OP_PRIORITIZE_CHACHA = 0x200000
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

_log = logging.getLogger(__name__)

Stamps = dict[str, "tuple[int, int, int] | None"]


# What gevent puts in its place cannot choose a certificate by name for a connection that is not a socket of its own.
_Original: Any = next(kind for kind in ssl.SSLContext.__mro__ if kind.__module__ == "ssl")
_InC: Any = _Original.__base__


class _Context(_Original):  # type: ignore[misc]
    """An SSLContext whose attributes can be set after gevent has patched ssl: those of the original recurse then."""

    options = _InC.options
    verify_flags = _InC.verify_flags
    verify_mode = _InC.verify_mode
    minimum_version = _InC.minimum_version
    maximum_version = _InC.maximum_version


@dataclass(frozen=True)
class _Contexts:
    """One generation of everything that is loaded from files."""

    default: ssl.SSLContext
    named: dict[str, ssl.SSLContext]  # names as `_normal` gives them, "*." and all
    until: datetime | None  # when the first of the certificates expires; None: the hook has loaded them

    def choose(self, name: str | None) -> ssl.SSLContext:
        """RFC 6125, 6.4.3: a wildcard stands for one whole label, the leftmost."""
        if name is None or not self.named:
            return self.default
        name = _normal(name)
        return self.named.get(name) or self.named.get("*." + name.partition(".")[2]) or self.default


class Tls:
    """The contexts of a server.

    context: what connections are wrapped with (`wrap_bio`, server side). Read it anew for each: a reload may change it.
    """

    context: ssl.SSLContext

    def __init__(self, config: TlsConfig) -> None:
        """Load all files. ConfigError: one line with the setting and what is wrong."""
        self._config = config
        self._pairs = _key_pairs(config)
        _check(config)
        self._loaded = self._tried = self._seen = self._look()
        self._contexts = self._load()
        self._use(self._contexts.default)

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Tls:
        """From what gevent's StreamServer takes: certfile, keyfile, ca_certs, cert_reqs, ciphers; or ssl_context."""
        known = {each.name for each in fields(TlsConfig)}
        unknown = sorted(set(arguments) - known)
        if unknown or not {"certfile", "ssl_context"} & set(arguments):
            raise ConfigError(f"TLS needs certfile or ssl_context, and takes {', '.join(sorted(known))}; got {unknown}")
        values = {"certfile": "", **arguments}
        if isinstance(values.get("ssl_context"), ssl.SSLContext):
            values["ssl_context"] = lambda config, factory: arguments["ssl_context"]
        if isinstance(values.get("cert_reqs"), int):
            values["cert_reqs"] = next(name for name, number in _CERT_REQS.items() if number == values["cert_reqs"])
        return cls(TlsConfig(**values))

    def reload_if_changed(self) -> bool:
        """Look whether files have changed, and take them; call it about once a second. Return whether it took any.

        A change counts once two looks have seen the same, so that no half-written file is taken. What cannot be loaded
        is logged once, and the old certificates stay; so too where a worker's user may not read what the arbiter
        has read. A handshake keeps what it had when the ClientHello came. With changed authorities, or if the hook's
        context chooses by server name itself, `context` is a new one.
        """
        before, self._seen = self._seen, self._look()
        if self._seen == self._tried or self._seen != before:
            return False
        self._tried = self._seen
        try:
            self._contexts = self._load()
        except ConfigError as error:
            _log.error("TLS: certificates cannot be loaded again, and those in use stay: %s", error)
            return False
        if self._chooses_itself or self._authorities(self._tried) != self._authorities(self._loaded):
            self._use(self._contexts.default)
        self._loaded = self._tried
        until = self._contexts.until
        _log.info("TLS: certificates loaded again%s", f", valid until {until:%Y-%m-%d}" if until else "")
        return True

    def _use(self, context: ssl.SSLContext) -> None:
        """Serve with `context`, which is of gevent's class if a hook has made it in a patched worker.

        Its setter wraps the callback in one that looks for a socket of gevent's, and there is none: so not by that.
        """
        self.context = context
        own = context.sni_callback
        self._chooses_itself = own is not None
        if isinstance(context, _InC):
            _InC.sni_callback.__set__(context, own or self._choose)
        elif own is None:
            context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL calls it in every handshake, with a name or without; an exception here would fail the handshake."""
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
        first = make(default) if config.ssl_context is None else _ask(config.ssl_context, config, lambda: make(default))
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
    except (OSError, ValueError):  # ValueError: no path can have this name
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _warn(validities: list[tuple[KeyPair, Validity]]) -> None:
    now = datetime.now(UTC)
    for pair, validity in validities:
        if complaint := validity.complaint(now):
            _log.warning("TLS: the certificate in %r %s", pair.certfile, complaint)


def _ask(hook: ContextHook, config: TlsConfig, factory: ContextFactory) -> ssl.SSLContext:
    try:
        context = hook(config, factory)
    except ConfigError:  # of the factory
        raise
    except BaseException as error:  # in the arbiter a SystemExit would end the server
        raise ConfigError(f"setting ssl_context: the hook failed: {described(error)}") from error
    if not hasattr(context, "wrap_bio"):  # a context from before gevent replaced the class is one as well
        raise ConfigError(f"setting ssl_context: the hook returned {context!r}: expected an ssl.SSLContext")
    return context


def _new_context(config: TlsConfig) -> ssl.SSLContext:
    """A context with all but a certificate."""
    context: ssl.SSLContext = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    # `ssl` itself has no compression, and the server's preference of ciphers.
    context.options |= ssl.OP_NO_RENEGOTIATION | _OP_PRIORITIZE_CHACHA
    context.num_tickets = 1  # of TLS 1.3: OpenSSL's two are for clients that open connections in pairs, as browsers do
    context.set_ciphers(config.ciphers or CIPHERS)
    if config.alpn:
        context.set_alpn_protocols(config.alpn)
    if config.ca_certs is not None:
        load_authorities(context, config.ca_certs)
    context.verify_mode = _CERT_REQS[config.cert_reqs]
    return context


def _check(config: TlsConfig) -> None:
    """What can be wrong without looking at a file."""
    if config.cert_reqs not in _CERT_REQS:
        raise ConfigError(f"setting cert_reqs is {config.cert_reqs!r}: expected {', '.join(_CERT_REQS)}")
    if config.min_version not in _VERSIONS:
        raise ConfigError(f"setting min_version is {config.min_version!r}: expected {' or '.join(_VERSIONS)}")
    if config.cert_reqs != "none" and config.ca_certs is None:
        raise ConfigError(f"setting cert_reqs is {config.cert_reqs!r}, and ca_certs does not say who may sign")
    if config.cert_reqs == "none" and config.ca_certs is not None:
        _log.warning("TLS: ca_certs is set, but cert_reqs is 'none', so no client is asked for a certificate")
    for protocol in config.alpn:
        if not (protocol.isascii() and 1 <= len(protocol) <= 255):  # RFC 7301, 3.1
            raise ConfigError(
                f"setting alpn: {protocol[:40]!r} is no protocol name: expected 1 to 255 ASCII characters"
            )
    _check_ciphers(config.ciphers or CIPHERS)


def _check_ciphers(ciphers: str) -> None:
    """OpenSSL says nothing of an unknown cipher as long as it knows another."""
    context: ssl.SSLContext = _Context(ssl.PROTOCOL_TLS_SERVER)
    for cipher in [ciphers, *re.split("[:, ]+", ciphers)]:
        if cipher != ciphers and cipher[:1] in "!-+@":  # what removes or orders selects nothing by itself
            continue
        try:
            context.set_ciphers(cipher)
        except ssl.SSLError as error:
            raise ConfigError(
                f"setting ciphers: {cipher!r} selects no cipher that OpenSSL has here for TLS 1.2"
            ) from error


def _key_pairs(config: TlsConfig) -> dict[str, KeyPair]:
    pairs: dict[str, KeyPair] = {}
    for written, certfile, keyfile in config.sni:
        name = _server_name(written)
        if name in pairs:
            raise ConfigError(f"setting sni names {written!r} twice")
        pairs[name] = KeyPair(certfile, keyfile, f" of {written!r} in sni")
    return pairs


def _server_name(written: str) -> str:
    """The name as clients send it: letters in lower case, and a-labels where it has others (RFC 6066, 3)."""
    wildcard, rest = ("*.", written[2:]) if written.startswith("*.") else ("", written)
    try:
        name = _normal(rest if rest.isascii() else rest.encode("idna").decode("ascii"))
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ConfigError(f"setting sni: {written[:80]!r} is no server name: expected a host name, or *. and one")
    return wildcard + name


def _normal(name: str) -> str:
    return name.removesuffix(".").lower()
