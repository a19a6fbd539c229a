"""Parses the text that names an application: the APP of the command line, or the app of a listener. Pure.

echo, json               a built-in service
MODULE:NAME              an object of a module
MODULE:FACTORY(ARGS)     a factory with literal arguments, as in gunicorn
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from gserver.errors import ConfigError

__all__ = ["ApplicationText", "parse_text"]

_SHORT_NAMES = ("echo", "json")
_EXPECTED = "expected MODULE:NAME, MODULE:FACTORY(ARGS) or one of " + ", ".join(_SHORT_NAMES)


@dataclass(frozen=True)
class ApplicationText:
    """A parsed text: the module, the name in it, and the call if it is a factory."""

    text: str  # as the user wrote it
    module: str
    name: str
    arguments: tuple[Any, ...] | None  # of the call; None: the text has no call
    keywords: dict[str, Any]


def parse_text(text: str) -> ApplicationText:
    """Parse the text without importing anything; ConfigError if it is not valid."""
    head = text.partition("(")[0]
    module, colon, expression = ("gserver.handlers", ":", text) if head in _SHORT_NAMES else text.partition(":")
    if not colon or not module:
        raise ConfigError(f"application {text!r}: {_EXPECTED}")
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: a zero byte
        raise ConfigError(f"application {text!r}: {expression!r} is neither a name nor a call") from None
    if isinstance(node, ast.Call):
        arguments, keywords = _literals(text, node)
        return ApplicationText(text, module, _dotted(text, node.func), arguments, keywords)
    return ApplicationText(text, module, _dotted(text, node), None, {})


def _dotted(text: str, node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(text, node.value)}.{node.attr}"
    raise ConfigError(f"application {text!r}: {ast.unparse(node)!r} is not a name")


def _literals(text: str, call: ast.Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        arguments = tuple(ast.literal_eval(argument) for argument in call.args)
    except (ValueError, TypeError, RecursionError, MemoryError):  # TypeError: a list as a key
        raise ConfigError(f"application {text!r}: the arguments must be literals") from None
    if None in keywords:
        raise ConfigError(f"application {text!r}: ** is not allowed")
    return arguments, {name: value for name, value in keywords.items() if name is not None}
