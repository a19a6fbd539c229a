"""The applications of a server's listeners: each is loaded once, even if several listeners have it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gserver.config.listener_settings import Listener
from gserver.config.settings import Settings
from gserver.errors import ConfigError, GServerError
from gserver.worker.app_loader import Application, parse_application

__all__ = ["Applications", "CannotImport"]


class CannotImport(GServerError):
    """The import of an application has failed; the cause is what it raised.

    Attributes:
        text: of the application.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Applications:
    """What the listeners of `settings` serve.

    Args:
        settings: with the listeners.
        app: the APP of the command line, for listeners without an app of their own; None: it was not given.
    """

    def __init__(self, settings: Settings, app: str | None) -> None:
        self._app = app or ""
        self._listeners: dict[str, list[Listener]] = {}  # by the text of their application
        for listener in settings.all_listeners:
            self._listeners.setdefault(self.text_of(listener), []).append(listener)
        self._parsed = {text: parse_application(text) for text in self._listeners}

    def text_of(self, listener: Listener) -> str:
        return self._app if listener.app is None else listener.app

    @property
    def texts(self) -> list[str]:
        return list(self._parsed)

    @property
    def title(self) -> str:
        """For people: the text of the application, or those of all."""
        return ", ".join(self._parsed)

    @property
    def modules(self) -> list[str]:
        return list(dict.fromkeys(each.module for each in self._parsed.values()))

    def listeners_with(self, text: str) -> list[Listener]:
        """The listeners of an application."""
        return self._listeners[text]

    def load(self) -> dict[str, Any]:
        """Import the applications; return them by their texts. ConfigError, or CannotImport."""
        return {text: self._load(text, application) for text, application in self._parsed.items()}

    def _load(self, text: str, application: Application) -> Any:
        try:
            with self._naming(text):
                return application.load()
        except ConfigError:
            raise
        except BaseException as error:
            raise CannotImport(text) from error

    def each(self, served: Mapping[str, Any], use: Callable[[Any, list[Listener]], object]) -> None:
        """Call `use` with each application and its listeners. A ConfigError names the application if there are more."""
        for text, listeners in self._listeners.items():
            with self._naming(text):
                use(served[text], listeners)

    @contextlib.contextmanager
    def _naming(self, text: str) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            if len(self._parsed) == 1 or repr(text) in str(error):
                raise
            raise type(error)(f"{text!r}: {error}") from error.__cause__
