"""Publish a message to all connections that have subscribed to a topic, in all workers.

    from gserver import bus

    def on_open(conn: Connection) -> None:
        bus.subscribe(conn, "lobby")

    def on_message(line: bytes, conn: Connection) -> None:
        bus.publish("lobby", line)

    bus.listen("prices", forget_prices)  # a function, in each worker

No call blocks. Each subscriber gets the message by its own codec, as conn.send_nowait() sends it; the publisher's
connection too, if it has subscribed. A subscription ends with its connection.

With the setting bus = None, the topics are those of the workers of one server. With bus = "redis://HOST:PORT/0", they
are those of all servers that use this Redis. Where no worker runs, in a program with a TcpServer and in tests, they are
those of the process, of one event loop. docs/bus.md has the guarantees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gserver.bus import worker_bus
from gserver.bus.worker_bus import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from gserver.connection.connection import Connection

__all__ = ["listen", "publish", "subscribe", "unsubscribe"]


def publish(topic: str, message: Any, exclude: Connection | None = None) -> None:
    """Send `message` to all connections that have subscribed to `topic`. Returns at once, before it is delivered.

    Args:
        topic: a text of 1 to 255 bytes in UTF-8.
        message: bytes, text, a number, True, False, None, a list, a dict, or a msgspec Struct or dataclass of these. It
            crosses processes as MessagePack: subscribers get a Struct as a dict, and a tuple as a list, whichever
            worker they are in.
        exclude: a connection of this worker that does not get it, such as the publisher's.

    Raises:
        TypeError, ValueError: the topic is not allowed, or the message cannot be carried, or is longer than the setting
            bus_queue.
        RuntimeError: the call was made in another thread than the worker's.

    Example:
        app = Service(
            lambda line, conn: bus.publish("lobby", line, exclude=conn),
            Lines,
            on_open=lambda conn: bus.subscribe(conn, "lobby"),
        )
        with Conversation(app) as ada:
            bob = ada.another()
            ada.message(b"hello")
            assert (ada.received, bob.received) == ([], [b"hello"])
    """
    current().publish(topic, message, exclude)


def subscribe(conn: Connection, topic: str) -> None:
    """From now on `conn` gets what is published to `topic`. A second call changes nothing.

    Raises:
        TypeError, ValueError: the topic is not allowed, or `conn` is not the connection of a service.
        ConnectionClosed: the connection is closed.
        RuntimeError: the call was made in another thread than the worker's.

    Example:
        def handle(topic, conn):
            bus.subscribe(conn, topic.decode())
            bus.publish(topic.decode(), b"one more")

        with Conversation(Service(handle, Lines)) as conv:
            assert conv.message(b"news") == [b"one more"]
    """
    current().subscribe(conn, topic)


def unsubscribe(conn: Connection, topic: str) -> None:
    """From now on `conn` gets nothing more of `topic`. Without effect if it has not subscribed.

    Example:
        def handle(line, conn):
            bus.unsubscribe(conn, "news")
            bus.publish("news", line)

        app = Service(handle, Lines, on_open=lambda conn: bus.subscribe(conn, "news"))
        with Conversation(app) as conv:
            assert conv.message(b"hello") == []
    """
    current().unsubscribe(conn, topic)


def listen(topic: str, function: Callable[[Any], object]) -> None:
    """Call function(message) in this worker for each message that is published to `topic`, in any worker.

    For what each worker must do: forget a cached value, close the connections of a user. To be called when the module
    of the application is imported, or in ready(). The calls of a function are made one after the other, in a greenlet,
    so it may block; if 1,000 messages wait for it, further ones are dropped. An exception is logged.

    Raises:
        TypeError, ValueError: the topic is not allowed, or `function` is not callable.

    Example:
        cache = {"ada": 1}
        bus.listen("changed", lambda name: cache.pop(name, None))

        with Conversation(Service(lambda line, conn: bus.publish("changed", line.decode()), Lines)) as conv:
            conv.message(b"ada")
            assert cache == {}
    """
    worker_bus.listen(topic, function)
