"""The TLS contexts of the listeners, made in the arbiter before its workers are forked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gserver.config.settings import Settings
from gserver.errors import ConfigError

if TYPE_CHECKING:
    from gserver.config.tls_options import TlsConfig
    from gserver.tls.contexts import Tls

__all__ = ["TlsOfListeners", "certificates_of"]

#: By the name of the listener; one without TLS is not there.
TlsOfListeners = Mapping[str, "Tls"]


def certificates_of(settings: Settings) -> TlsOfListeners:
    """The TLS contexts of the listeners that use TLS, by name. Those with the same settings share theirs.

    They are made before the fork: so all workers share the keys of session tickets, and need no right to read the
    files.
    """
    configs = settings.tls_of_listeners()
    if not configs:
        return {}
    from gserver.tls.contexts import Tls  # late: gevent warns if ssl is imported before it is patched

    made: dict[TlsConfig, Tls] = {}
    for name, config in configs.items():
        if config not in made:
            try:
                made[config] = Tls(config)
            except ConfigError as error:
                raise ConfigError(f"listener {name}: {error}" if settings.listeners else str(error)) from error
    return {name: made[config] for name, config in configs.items()}
