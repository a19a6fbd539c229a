"""Checks of what a user declares (handlers, codecs, applications), with errors of one line.

An error names the value, what was expected, and the user's line of code. A declaration is checked when it is made, or
at the latest when a worker starts: the checks add no cost per message. A check accepts what it cannot judge: a function
without a signature, or one with a decorator.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from gserver.errors import DeclarationError

__all__ = [
    "check_bare",
    "check_codec",
    "check_function",
    "check_made_codec",
    "check_plain",
    "declaration_error",
    "described",
    "first_annotation",
    "named",
    "place_of_function",
    "takes_argument",
]

if sys.version_info >= (3, 14):
    from annotationlib import Format

    # An annotation may name what is imported for type checkers only.
    _inspect = functools.partial(inspect.signature, annotation_format=Format.FORWARDREF)
else:
    _inspect = inspect.signature

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
#: The methods of a codec, with the names of their arguments.
_METHODS: dict[str, tuple[str, ...]] = {"receive": ("data",), "messages": (), "encode": ("message",), "eof": ()}
#: Names of arguments that distinguish on_message(message, conn) from handle(socket, address).
_MESSAGES = {"message", "msg", "line", "data", "payload", "packet", "frame", "chunk", "text", "body"}
_CONNECTIONS = {"conn", "connection"}


def declaration_error(text: str) -> DeclarationError:
    """Return the error to raise from the user's call, with the place of that call."""
    return DeclarationError(text + _place_of_caller())


def check_function(what: str, function: Any, *names: str) -> None:
    """Check that `function` can be called with these arguments; DeclarationError if not.

    Args:
        what: the function's role in the error message, as "on_message" or "the handler of 'SUM'".
        names: the names of the arguments; only their number is checked.
    """
    expected = f"must be a function {what if what.isidentifier() else 'handler'}({', '.join(names)})"
    if not callable(function):
        raise declaration_error(f"{what} is {function!r}: {expected}")
    kind = _unusual_kind(function)
    if kind is not None:
        raise declaration_error(f"{what} is {named(function)}, {kind}")
    signature = _signature(function)
    if signature is not None and not _binds(signature, names):
        counted = f"{len(names)} argument{'' if len(names) == 1 else 's'}" if names else "no arguments"
        shown = f"the class {named(function)}" if isinstance(function, type) else f"{named(function)}{signature}"
        given = f"{shown}, which cannot be called with {counted}"
        raise declaration_error(f"{what} is {given}: {expected}")


def check_codec(codec: Any) -> None:
    """Check that `codec` is a class, or another callable, that can make a codec; DeclarationError if not."""
    if _looks_like_codec(codec) and not isinstance(codec, type):
        name = type(codec).__name__
        raise declaration_error(
            f"codec is an instance of {name}: each connection needs its own instance, so pass the class, codec={name}, "
            f"or functools.partial({name}, ...) if it needs arguments"
        )
    if not callable(codec):
        raise declaration_error(f"codec is {codec!r}: must be a codec class, such as codec=Lines")
    if (kind := _unusual_kind(codec)) is not None:
        raise declaration_error(f"codec is {named(codec)}, {kind}")
    signature = _signature(codec)
    if signature is not None and not _binds(signature, ()):
        raise declaration_error(
            f"codec is {named(codec)}{signature}: must be callable without arguments; use functools.partial"
        )


def check_plain(what: str, function: Any) -> None:
    """Check that a call of `function` runs it: not an async function, not a generator; DeclarationError if not."""
    kind = _unusual_kind(function)
    if kind is not None:
        raise DeclarationError(f"{what} is {named(function)}, {kind}{place_of_function(function)}")


def check_bare(what: str, function: Any) -> None:
    """Check that `function` can be a handle(socket, address) as in gevent; DeclarationError if not."""
    check_plain(what, function)
    if _looks_like_codec(function):
        raise DeclarationError(f"{what} is a codec, {named(function)}: expected a Service that uses it")
    signature = None if isinstance(function, type) else _signature(function)
    if signature is not None and _is_of_messages([*signature.parameters]):
        name = named(function)
        raise DeclarationError(
            f"{what} is {name}{signature}, which seems to take messages, by the names of its arguments: expected "
            f"Service({name}, codec=...), or a bare handle(socket, address){place_of_function(function)}"
        )


def _is_of_messages(names: list[str]) -> bool:
    """Whether these names look like on_message(message, conn), and not like handle(socket, address)."""
    return len(names) >= 2 and (names[0] in _MESSAGES or names[1] in _CONNECTIONS)


def check_made_codec(codec: Callable[[], Any]) -> None:
    """Make one codec and check its methods; DeclarationError if it is no codec (see gserver.codecs)."""
    name = named(codec)
    try:
        made = codec()
    except Exception as error:
        raise DeclarationError(f"the codec {name} cannot be made: {described(error)}") from error
    if isinstance(made, type) or not _looks_like_codec(made):
        raise DeclarationError(f"the codec {name} makes {made!r}, which is no codec{place_of_function(codec)}")
    kind = type(made).__name__
    missing = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if not hasattr(made, "partial"):
        missing.append("partial")
    if missing:
        raise DeclarationError(
            f"the codec {name} makes a {kind} that has no {' and no '.join(missing)}: a codec has receive(data), "
            "messages(), encode(message), eof(), and the attribute partial"
        )
    for method, names in _METHODS.items():
        _check_method(kind, method, getattr(made, method), names)


def _check_method(kind: str, method: str, function: Any, names: tuple[str, ...]) -> None:
    unusual = None if method == "messages" and inspect.isgeneratorfunction(function) else _unusual_kind(function)
    if unusual is not None:
        raise DeclarationError(f"the codec's method {kind}.{method} is {unusual}{place_of_function(function)}")
    signature = _signature(function)
    if signature is not None and not _binds(signature, names):
        raise DeclarationError(
            f"the codec's method {kind}.{method}{signature} must be callable as {method}({', '.join(names)})"
            f"{place_of_function(function)}"
        )


def _looks_like_codec(thing: Any) -> bool:
    return hasattr(thing, "receive") and hasattr(thing, "messages")


def _unusual_kind(function: Any) -> str | None:
    """Return why a call of `function` would not run it, as text; None if it would."""
    for each in (function, type(function).__dict__.get("__call__")):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            return "an async function: gserver does not await it; use def, which may block its greenlet"
        if inspect.isgeneratorfunction(each):
            return "a generator function (it contains yield): a call would not run it; use return, or conn.send()"
    return None


def first_annotation(function: Any) -> Any:
    """Return the annotation of a function's first argument, evaluated; inspect.Parameter.empty if there is none.

    DeclarationError for a name that is known neither to the function's module nor to the caller of gserver.
    """
    signature = _signature(function, follow_wrapped=True)
    parameters = [] if signature is None else [*signature.parameters.values()]
    annotation = parameters[0].annotation if parameters else inspect.Parameter.empty
    if hasattr(annotation, "__forward_arg__"):  # Python 3.14: a name that is not defined yet
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        return annotation
    caller = _caller()
    known = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return eval(annotation, known, caller.f_locals if caller is not None else None)
    except Exception as error:
        raise declaration_error(
            f"the annotation {annotation!r} of {named(function)} cannot be evaluated: {described(error)}"
        ) from error


def takes_argument(function: Any, name: str) -> bool:
    """Return whether `function` has an argument of this name."""
    signature = _signature(function)
    return signature is not None and name in signature.parameters


def _signature(function: Any, follow_wrapped: bool = False) -> inspect.Signature | None:
    """Return the signature of the function itself, not of one that a decorator wraps; None if it is not known."""
    try:
        return _inspect(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):
        return None


def _binds(signature: inspect.Signature, arguments: tuple[str, ...]) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def named(thing: Any) -> str:
    """Return the name of a function or class as the user knows it; its repr() if it has no name."""
    if isinstance(thing, functools.partial):
        return f"partial({named(thing.func)})"
    name = getattr(thing, "__qualname__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else repr(thing)


def described(error: BaseException) -> str:
    """Return an exception as one line, with the innermost line of code outside gserver."""
    places = [
        f" ({frame.f_code.co_filename}:{line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_own(frame) and not frame.f_code.co_filename.startswith("<frozen ")
    ]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append(f" ({error.filename}:{error.lineno})")
    return " ".join(f"{type(error).__name__}: {_text_of(error)}{places[-1] if places else ''}".split())


def _text_of(error: BaseException) -> str:
    try:
        return error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:
        return "(its text is not available: str() failed)"


def place_of_function(function: Any) -> str:
    """Return where `function` is defined, as " (FILE:LINE)"; empty if that is not known."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""


def _caller() -> FrameType | None:
    """Return the frame that called into gserver."""
    return next((frame for frame in _frames() if not _is_own(frame)), None)


def _place_of_caller() -> str:
    """Return the line that called into gserver, as " (FILE:LINE)"."""
    frame = _caller()
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else ""


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OWN)
