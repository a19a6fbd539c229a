"""Certificates: from files to the contexts that TLS connections are made with, and to new ones when the files change.

They are made once, before workers are forked: so all workers share the keys of session tickets, and a client resumes
its session with any of them; and workers that run as somebody else need not be able to read the keys.

What is allowed by default is what Mozilla calls intermediate: TLS 1.2 with ECDHE and an AEAD cipher, and TLS 1.3; no
renegotiation, no compression (RFC 9325).
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gserver.errors import ConfigError
from gserver.tls_config import TlsConfig

__all__ = ["Tls", "TlsConfig"]

log = logging.getLogger("gserver.tls")

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
# A peer that closes without a close_notify has closed all the same: where messages end, the codec says.
_OPTIONS = (
    ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_IGNORE_UNEXPECTED_EOF
)

# gevent's SSLContext, if it has patched the module by now, cannot tell a server's name without a socket.
_Original: Any = next(kind for kind in ssl.SSLContext.__mro__ if kind.__module__ == "ssl")
_InC: Any = _Original.__base__


class _Context(_Original):  # type: ignore[misc]
    """An SSLContext whose attributes can be set after gevent has patched ssl: those of the original recurse then."""

    options = _InC.options
    verify_flags = _InC.verify_flags
    verify_mode = _InC.verify_mode
    minimum_version = _InC.minimum_version
    maximum_version = _InC.maximum_version


class Tls:
    """The context of `config`, in `context`. ConfigError names the setting, the file and what is wrong with it."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._loaded = self._seen = _stamps(config)
        self.context = _make(config)

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Tls:
        """From what gevent's StreamServer takes: certfile, keyfile, ca_certs, cert_reqs, ciphers, or ssl_context."""
        context = arguments.get("ssl_context")
        if context is not None:
            tls = cls.__new__(cls)
            tls.context = context
            return tls
        known = {field.name for field in fields(TlsConfig)}
        unknown = sorted(set(arguments) - known)
        if unknown or "certfile" not in arguments:
            raise ConfigError(f"TLS needs certfile or ssl_context, and takes {', '.join(sorted(known))}; got {unknown}")
        values = dict(arguments)
        if isinstance(values.get("cert_reqs"), int):
            values["cert_reqs"] = {number: name for name, number in _VERIFY.items()}[values["cert_reqs"]]
        return cls(TlsConfig(**values))

    def reload_if_changed(self) -> bool:
        """Use what the files hold now, if that has changed; to be called about once a second. Never raises.

        Files that changed since the last call are left for the next one: somebody may still be writing them. What
        cannot be used is logged once, and what was there stays. Connections that are open keep what they have.
        """
        stamps = _stamps(self._config)
        was_seen, self._seen = stamps == self._seen, stamps
        if stamps == self._loaded or not was_seen:
            return False
        self._loaded = stamps
        try:
            fresh = _make(self._config)  # at the same time the proof that certificate and key belong together
        except ConfigError as error:
            log.error("New certificates cannot be used, the old ones stay: %s", error)
            return False
        except Exception:  # the user's hook
            log.exception("New certificates cannot be used, the old ones stay")
            return False
        self.context = fresh
        log.info("New certificates are in use: %s", ", ".join(self._config.files()))
        return True


def _stamps(config: TlsConfig) -> list[tuple[int, int, int] | None]:
    return [_stamp(name) for name in config.files()]


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _make(config: TlsConfig) -> ssl.SSLContext:
    def default() -> ssl.SSLContext:
        return _make_default(config)

    return default() if config.ssl_context is None else config.ssl_context(config, default)


def _make_default(config: TlsConfig) -> ssl.SSLContext:
    context = _with_certificate(config, "certfile", config.certfile, config.keyfile)
    others = {
        _normal(name): _with_certificate(config, f"sni {name}", certfile, keyfile)
        for name, certfile, keyfile in config.sni
    }

    def choose(sslobject: ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
        sslobject.requested_name = name  # type: ignore[attr-defined]  # what TlsInfo tells
        other = _find(others, name)
        if other is not None:
            sslobject.context = other

    context.sni_callback = choose
    return context


def _with_certificate(config: TlsConfig, setting: str, certfile: str, keyfile: str | None) -> ssl.SSLContext:
    context: ssl.SSLContext = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    context.options |= _OPTIONS
    context.verify_mode = _VERIFY[config.cert_reqs]
    _set_ciphers(context, config.ciphers)
    _set_alpn(context, config.alpn)
    _load_authorities(context, config)
    _load_certificate(context, setting, certfile, keyfile, config.keyfile_password)
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str | None) -> None:
    try:
        context.set_ciphers(ciphers or _CIPHERS)
    except ssl.SSLError:
        raise ConfigError(f"setting ciphers is {ciphers!r}, of which OpenSSL knows none") from None


def _set_alpn(context: ssl.SSLContext, alpn: tuple[str, ...]) -> None:
    for name in alpn:
        if not name.isascii() or not 1 <= len(name) <= 255:
            raise ConfigError(f"setting alpn has {name!r}, must be ASCII of 1 to 255 characters (RFC 7301)")
    if alpn:
        context.set_alpn_protocols(list(alpn))


def _load_authorities(context: ssl.SSLContext, config: TlsConfig) -> None:
    if config.ca_certs is None:
        if config.cert_reqs != "none":
            raise ConfigError(f"setting cert_reqs is {config.cert_reqs!r}, which needs ca_certs")
        return
    _read("ca_certs", config.ca_certs)
    try:
        context.load_verify_locations(config.ca_certs)
    except ssl.SSLError:
        raise ConfigError(f"setting ca_certs is {config.ca_certs!r}, which holds no certificate in PEM") from None


def _load_certificate(
    context: ssl.SSLContext, setting: str, certfile: str, keyfile: str | None, password: str | None
) -> None:
    if "-----BEGIN CERTIFICATE-----" not in _read(setting, certfile):
        raise ConfigError(f"setting {setting} is {certfile!r}, which holds no certificate in PEM")
    key_setting, key_name = ("keyfile", keyfile) if keyfile is not None else (setting, certfile)
    if "PRIVATE KEY-----" not in _read(key_setting, key_name):
        raise ConfigError(f"setting {key_setting} is {key_name!r}, which holds no private key in PEM")
    try:
        context.load_cert_chain(certfile, keyfile, lambda: password or "")  # or OpenSSL asks on the terminal
    except ssl.SSLError as error:
        raise ConfigError(f"setting {setting} is {certfile!r}: {_why(error, key_name, password)}") from None


def _why(error: ssl.SSLError, key_name: str, password: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key_name!r} is not that of the certificate"
    with open(key_name, encoding="utf-8", errors="replace") as file:
        is_encrypted = "ENCRYPTED" in file.read()
    if is_encrypted:
        return f"the key in {key_name!r} " + ("needs keyfile_password" if not password else "has another password")
    return f"OpenSSL cannot read it or its key {key_name!r}: {error.reason or error}"


def _read(setting: str, name: str) -> str:
    try:
        with open(name, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"setting {setting} is {name!r}: {error.strerror}") from None


def _normal(name: str) -> str:
    return name.lower().rstrip(".")


def _find(contexts: Mapping[str, ssl.SSLContext], name: str | None) -> ssl.SSLContext | None:
    """The context of this name, or of the wildcard that covers it (RFC 6125, 6.4.3: one label, the leftmost)."""
    if not name:
        return None
    name = _normal(name)
    return contexts.get(name) or contexts.get("*." + name.partition(".")[2])
