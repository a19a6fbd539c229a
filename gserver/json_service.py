"""JsonService: messages that are data, with one handler for each type of message.

A message is of the type that its handler names, in one of two ways:

    @api.on                 the handler's annotation: a msgspec.Struct with a tag. The codec decodes it in one pass
    @api.on("SUM", Sum)     the value of the message's field "type"; with a shape, the message is converted after that

If every handler is of the first kind, the codec gets the union of all Structs. Otherwise it decodes plain values, and
the field "type" chooses the handler.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, overload

import msgspec

from gserver.codecs import Codec, JsonLines, Malformed
from gserver.codecs.malformed import MalformedError
from gserver.errors import CloseReason, HandlerTimeout, LimitExceeded, ProtocolError
from gserver.service import Fault, OnError, OnMessage, Ready, Service, Stop
from gserver.user_errors import (
    check_function,
    declaration_error,
    described,
    first_annotation,
    named,
    takes_argument,
)

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["JsonService"]

_convert = msgspec.convert

Handler = TypeVar("Handler", bound=Callable[..., Any])

#: The type of the default probe, and its tag where tags are numbers. It is answered like an unknown type.
PROBE_TYPE, PROBE_NUMBER = "gserver.probe", -(2**63)
PROBE = {"type": PROBE_TYPE}
UNKNOWN_TYPE = "Unknown type"
_TYPE_FIELD = "type"


class JsonService(Service):
    """A service that calls a handler by the type of the message: JSON, one value per line, or another codec for data.

        import msgspec

        class Sum(msgspec.Struct, tag="SUM"):
            a: float
            b: float

        class Total(msgspec.Struct):
            result: float

        api = JsonService()

        @api.on
        def add(message: Sum, conn: Connection) -> Total:
            return Total(message.a + message.b)

        with Conversation(api, codec=JsonLines()) as conv:
            assert conv.message({"type": "SUM", "a": 1, "b": 2}) == [{"result": 3.0}]

    An error is answered with {"status":"ERROR","message":...}: text that is not JSON, an unknown type, a field that is
    missing or of the wrong type, an exception of a handler, a line above the maximum (the connection is then closed).

    JSON has no infinity and no NaN: a reply has null in their place, as in JavaScript. A handler that must not send
    null checks with math.isfinite().

    Args:
        codec: JsonLines (default), JsonContentLength, MsgPack, or another one that delivers and encodes plain data.
        on_error: as in Service. A message of an unknown type, or with a wrong field, is a Malformed; its text names the
            field. Default: the error reply described above.
        probe: as in Service. Default: a message of a type that no client uses.
        on_open, on_close, on_drain, ready, stop, probe_on_open, concurrency, ordered: as in Service.
    """

    def __init__(
        self,
        codec: Callable[[], Codec] = JsonLines,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection, CloseReason], None] | None = None,
        on_drain: Callable[[Connection], None] | None = None,
        on_error: OnError | None = None,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = PROBE,
        probe_on_open: bool = False,
        concurrency: int = 1,
        ordered: bool = False,
    ) -> None:
        self._plain_codec: Callable[..., Codec] = codec
        self._plain_probe = probe
        #: Struct -> its handler.
        self._structs: dict[type[msgspec.Struct], OnMessage] = {}
        #: Tag, or value of the field "type" -> handler, and the shape or None.
        self._routes: dict[Any, tuple[OnMessage, Any]] = {PROBE_TYPE: (_answer_probe, None)}
        self._has_plain_routes = False
        super().__init__(
            self._by_field,
            codec,
            on_open=on_open,
            on_close=on_close,
            on_drain=on_drain,
            on_error=on_error or _error_reply,
            ready=ready,
            stop=stop,
            probe=probe,
            probe_on_open=probe_on_open,
            concurrency=concurrency,
            ordered=ordered,
        )

    @property
    def untyped_codec(self) -> Callable[[], Codec]:
        """The codec as it was passed, without the types of the requests: for a client, whose messages are replies."""
        return self._plain_codec

    @overload
    def on(self, handler: Handler, /) -> Handler: ...
    @overload
    def on(self, type_: str, shape: type[Any] | None = None) -> Callable[[Handler], Handler]: ...
    def on(self, type_: Any, shape: type[Any] | None = None) -> Any:
        """Register the decorated function, handler(message, conn) -> reply or None, for a type of message.

        @api.on: the annotation of `message` is a msgspec.Struct with a tag, such as
        `class Sum(msgspec.Struct, tag="SUM")`, or a union of several.

        @api.on("SUM"): messages with this value in the field "type". With a shape, @api.on("SUM", Sum) (a Struct, a
        dataclass, a TypedDict), the message is validated and converted; without one, the handler gets the plain dict.

        ValueError if the type already has a handler. DeclarationError if the shape or the handler cannot be used.

        Example:
            app = JsonService()

            @app.on("ECHO")
            def echo(message, conn):
                return {"text": message["text"]}

            with Conversation(app) as conv:
                assert conv.message({"type": "ECHO", "text": "hello"}) == [{"text": "hello"}]
        """
        if inspect.isroutine(type_) and shape is None:
            self._register_structs(type_)
            return type_
        if inspect.isroutine(shape):
            raise declaration_error(
                f"the shape of {type_!r} is the function {named(shape)}: write @api.on({type_!r}) above it"
            )
        if shape is not None:
            _check_shape(f"the shape of {type_!r}", shape)

        def register(handler: Handler) -> Handler:
            check_function(f"the handler of {type_!r}", handler, "message", "conn")
            self._add_route(type_, handler, shape)
            self._has_plain_routes = True
            self._choose_dispatch()
            return handler

        return register

    def _register_structs(self, handler: OnMessage) -> None:
        check_function(f"the handler {named(handler)}", handler, "message", "conn")
        for struct in _structs_of(handler):
            self._add_route(struct.__struct_config__.tag, handler, struct)
            self._structs[struct] = handler
        self._choose_dispatch()

    def _add_route(self, type_: Any, handler: OnMessage, shape: Any) -> None:
        if type_ in self._routes:
            raise ValueError(f"type {type_!r} already has a handler: {self._routes[type_][0]!r}")
        self._routes[type_] = (handler, shape)

    def _choose_dispatch(self) -> None:
        """Let the codec decode to Structs if all handlers are for Structs and the codec can do it."""
        if not self._has_plain_routes and takes_argument(self._plain_codec, "type"):
            self._dispatch_by_struct()
        else:
            self._dispatch_by_field()

    def _dispatch_by_struct(self) -> None:
        probe = _probe_like(next(iter(self._structs)))
        self._handlers = {**self._structs, probe: _answer_probe}
        union: Any = functools.reduce(operator.or_, self._handlers)
        _check_shape(f"the union of {', '.join(map(named, self._structs))}", union)
        self.codec = functools.partial(self._plain_codec, type=union)
        self.on_message: OnMessage = self._by_struct
        self.probe = probe() if self._plain_probe is PROBE else self._plain_probe

    def _dispatch_by_field(self) -> None:
        self.codec, self.on_message, self.probe = self._plain_codec, self._by_field, self._plain_probe
        for struct in self._structs:
            config = struct.__struct_config__
            if config.tag_field != _TYPE_FIELD or config.array_like:
                raise declaration_error(
                    f"the tag of {named(struct)} is not in a field {_TYPE_FIELD!r}: that needs a codec with the "
                    "argument type, such as JsonLines, and a service without any @api.on('TYPE')"
                )

    def _by_struct(self, message: Any, conn: Connection) -> Any:
        return self._handlers[type(message)](message, conn)

    def _by_field(self, message: Any, conn: Connection) -> Any:
        try:
            handler, shape = self._routes[message["type"]]
        except (KeyError, TypeError):  # an unknown type, no type, or a type that is not hashable
            raise MalformedError(Malformed(UNKNOWN_TYPE)) from None
        if shape is not None:
            try:
                message = _convert(message, shape)
            except msgspec.ValidationError as error:
                raise MalformedError(Malformed(str(error))) from None
        return handler(message, conn)


def _structs_of(handler: OnMessage) -> list[type[msgspec.Struct]]:
    """The Structs that the annotation of `message` names; DeclarationError if it is anything else."""
    annotation = first_annotation(handler)
    structs = list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]
    for struct in structs:
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            found = "no annotation" if struct is inspect.Parameter.empty else f"the annotation {_shown(struct)}"
            raise declaration_error(
                f"the handler {named(handler)} has {found} for its message: @api.on needs a msgspec.Struct with a tag, "
                "or write @api.on('TYPE')"
            )
        if struct.__struct_config__.tag is None:
            raise declaration_error(
                f"the message of the handler {named(handler)}, {named(struct)}, has no tag: write class "
                f"{struct.__name__}(msgspec.Struct, tag={struct.__name__.upper()!r})"
            )
    return structs


def _shown(annotation: Any) -> str:
    return named(annotation) if isinstance(annotation, type) else str(annotation)


def _probe_like(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a Struct for the probe that may be in a union with `struct`."""
    config = struct.__struct_config__
    tag = PROBE_TYPE if isinstance(config.tag, str) else PROBE_NUMBER
    return msgspec.defstruct("Probe", [], tag=tag, tag_field=config.tag_field, array_like=config.array_like)


def _answer_probe(message: Any, conn: Connection) -> dict[str, str]:
    return _error(UNKNOWN_TYPE)


def _check_shape(what: str, shape: Any) -> None:
    """Check that msgspec can use `shape`; DeclarationError if not. Forward references may be resolved later."""
    try:
        msgspec.json.Decoder(shape)
    except TypeError as error:
        if isinstance(shape, type) or get_origin(shape) is not None:
            raise declaration_error(f"{what} cannot be used: {error}") from error
        raise declaration_error(f"{what} is {shape!r}: must be a type, such as a msgspec.Struct") from error
    except (NameError, AttributeError):  # a forward reference
        pass
    except Exception as error:
        raise declaration_error(f"{what} is {shape!r}, which cannot be used: {described(error)}") from error


def _error(message: str) -> dict[str, str]:
    return {"status": "ERROR", "message": message}


def _error_reply(fault: Fault, conn: Connection) -> dict[str, str]:
    if isinstance(fault, Malformed):
        return _error(fault.message)
    if isinstance(fault, ProtocolError | LimitExceeded | HandlerTimeout):
        return _error(str(fault))
    return _error("Internal error")
