"""A small blocking client that uses the same codecs, and a command to talk to a server from the terminal.

    with Client(("127.0.0.1", 3000), JsonLines()) as client:
        reply = client.call({"type": "SUM", "a": 10, "b": 20})

It uses a plain socket: in a process that gevent has patched, it blocks only its greenlet.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

import msgspec

from gserver.codecs import CODECS, Codec, JsonLines, Malformed, MsgPack, Raw, codec_named
from gserver.config.addresses import TcpBind, UnixBind, parse_bind
from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.errors import ConnectionClosed, GServerError

__all__ = ["Client", "main"]

DEFAULT_TIMEOUT_S = 10.0


class Client:
    """One connection to a server.

    Args:
        address: (host, port), or the path of a unix socket.
        codec: a codec object, used by this connection only; default Raw().
        timeout_s: maximum time to connect, to send, or for one recv(), in seconds; None: no limit. May be changed.

    Every method raises TimeoutError after timeout_s (the connection cannot be used any more), ConnectionClosed if the
    peer closed the connection, ProtocolError if the peer violated the framing, and OSError like a socket.
    close(), or the end of the `with` block, closes the socket.
    """

    def __init__(
        self, address: tuple[str, int] | str, codec: Codec | None = None, timeout_s: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        self.codec: Codec = Raw() if codec is None else codec
        self.timeout_s = timeout_s
        self._received: deque[Any] = deque()
        self._socket = _connect(address, timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, message: Any) -> None:
        """Send one message."""
        self.send_bytes(self.codec.encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, without the codec: part of a message, or several messages."""
        self._socket.settimeout(self.timeout_s)
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ConnectionClosed(f"the server closed the connection: {error}") from error

    def recv(self) -> Any:
        """Return the next message; a Malformed for one that the codec could delimit but not decode."""
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        while not self._received:
            data = self._receive(deadline)
            if not data:
                self.codec.eof()
                raise ConnectionClosed("the server closed the connection")
            self.codec.receive(data)
            self._received.extend(self.codec.messages())
        return self._received.popleft()

    def _receive(self, deadline: float | None) -> bytes:
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no answer within {self.timeout_s:g} s")
            self._socket.settimeout(left_s)
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout_s:g} s") from None
        except ConnectionResetError as error:
            raise ConnectionClosed(f"the server reset the connection: {error}") from error

    def call(self, message: Any) -> Any:
        """Send one message and return the next one that arrives."""
        self.send(message)
        return self.recv()

    def __iter__(self) -> Iterator[Any]:
        """Yield messages until the server closes the connection."""
        while True:
            try:
                message = self.recv()
            except ConnectionClosed:
                return
            yield message

    def finish(self) -> None:
        """Half-close: send nothing more. Replies of the server can still be received."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


def _connect(address: tuple[str, int] | str, timeout_s: float | None) -> socket.socket:
    if isinstance(address, tuple):
        sock = socket.create_connection(address, timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def main(argv: Sequence[str]) -> int:
    """Run the command: send each line of standard input as a message, print every reply; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gserver.client",
        description="Send each line of standard input as a message, then half-close; print the replies.",
    )
    parser.add_argument("address", metavar="HOST:PORT", help="the server: HOST:PORT, [V6]:PORT or unix:PATH")
    parser.add_argument("--codec", default="lines", metavar="NAME", help=f"codec: {', '.join(CODECS)} (default lines)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="maximum time to connect, and, after the last line, until the server closes the connection "
        f"(default {DEFAULT_TIMEOUT_S:g})",
    )
    arguments = parser.parse_args(argv)
    try:
        codec = codec_named(arguments.codec)()
        with Client(_address(arguments.address), codec, arguments.timeout) as client:
            return _converse(client, sys.stdin.buffer, sys.stdout.buffer)
    except (GServerError, OSError, ValueError) as error:
        print(f"gserver.client: {arguments.address}: {error}", file=sys.stderr)
        return 1


def _address(text: str) -> tuple[str, int] | str:
    bind = parse_bind(text)
    if isinstance(bind, UnixBind):
        return bind.path
    assert isinstance(bind, TcpBind)
    return (bind.host or "127.0.0.1", bind.port)


def _converse(client: Client, requests: BinaryIO, replies: BinaryIO) -> int:
    """Send requests, and print replies in a thread: each reply appears at once, and the server is never blocked."""
    failures: list[Exception] = []
    timeout_s, client.timeout_s = client.timeout_s, None  # no limit while the user types
    printer = threading.Thread(target=_print_replies, args=(client, replies, failures), daemon=True)
    printer.start()
    for line in requests:
        client.send(_message(client.codec, line))
    client.finish()
    printer.join(timeout_s)
    if printer.is_alive():
        raise TimeoutError(f"the server did not finish within {timeout_s:g} s")
    if failures:
        raise failures[0]
    return 0


def _print_replies(client: Client, replies: BinaryIO, failures: list[Exception]) -> None:
    try:
        for reply in client:
            replies.write(_text(reply))
            replies.flush()
    except (GServerError, OSError, ValueError) as error:
        failures.append(error)


def _message(codec: Codec, line: bytes) -> Any:
    """Convert a line of input to a message: JSON for a codec that carries data, bytes for the others."""
    if isinstance(codec, JsonLines | MsgPack):
        try:
            return msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{line!r} is not JSON: {error}") from None
    return line if isinstance(codec, Raw) else line.rstrip(b"\r\n")


def _text(reply: Any) -> bytes:
    if isinstance(reply, Malformed):
        raise ValueError(f"the server sent an invalid reply: {reply.detail}")
    if isinstance(reply, bytes):
        return reply if reply.endswith(b"\n") else reply + b"\n"
    return msgspec.json.encode(reply) + b"\n"


def entry_point() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry_point()
