"""Loads the application named by the APP argument of the command line.

    echo, json               a built-in service
    MODULE:NAME              an object of a module: a service, a bare handler, or a factory
    MODULE:FACTORY(ARGS)     a factory with literal arguments, as in gunicorn

A callable with two positional arguments is a bare handler, handle(socket, address); one without arguments is a factory.
A function with arguments named like a message and a connection is refused: it was meant for a Service.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gserver.config.application_text import ApplicationText, parse_text
from gserver.errors import ConfigError
from gserver.service import Service, StreamService
from gserver.user_errors import check_bare, check_plain

__all__ = ["Application", "parse_application"]


@dataclass(frozen=True)
class Application(ApplicationText):
    """A parsed APP argument, or the app of a listener."""

    def load(self) -> Service | StreamService | Callable[..., Any]:
        """Import the application and return it.

        ConfigError if it does not exist or cannot be served. Exceptions of the user's code are not caught.
        """
        found = self._find()
        if self.arguments is not None:
            found = self._call(found, self.arguments, self.keywords)
        elif not _is_service(found) and not _accepts(found, 2) and _accepts(found, 0):
            found = self._call(found, (), {})
        if not _is_service(found):
            self._check_bare(found)
        served: Service | StreamService | Callable[..., Any] = found
        return served

    def _check_bare(self, found: Any) -> None:
        if isinstance(found, type) and issubclass(found, Service | StreamService):
            raise ConfigError(f"{self.text!r} is the class {found.__name__} itself: expected an object of it")
        check_bare(repr(self.text), found)
        if not _accepts(found, 2):
            hint = "; a function of one connection is marked with @stream" if _accepts(found, 1) else ""
            raise ConfigError(
                f"{self.text!r} is {found!r}: expected a Service, a @stream function, a function handle(socket, "
                f"address), or a factory of one of them{hint}"
            )

    def _find(self) -> Any:
        try:
            found: Any = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise  # an import inside the user's module failed: the user needs the traceback
            raise ConfigError(f"no module named {error.name!r}, in {self.text!r}") from None
        for part in self.name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise ConfigError(f"module {self.module!r} has no {self.name!r}, in {self.text!r}") from None
        return found

    def _call(self, factory: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        check_plain(repr(self.text), factory)
        try:
            inspect.signature(factory).bind(*arguments, **keywords)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.text!r} cannot be called: {error}") from None
        return factory(*arguments, **keywords)


def _is_service(thing: Any) -> bool:
    return isinstance(thing, Service | StreamService)


def _accepts(thing: Any, count: int) -> bool:
    """Whether `thing` can be called with `count` positional arguments."""
    try:
        inspect.signature(thing).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def parse_application(text: str) -> Application:
    """Parse an APP argument without importing anything; ConfigError if it is not valid."""
    return Application(**vars(parse_text(text)))
