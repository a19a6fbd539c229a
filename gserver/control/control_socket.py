"""The control socket: clients of a running server, in the arbiter's loop. Never blocks, whatever a client does.

A client's requests are carried out one after another. While one is carried out, or while the client has replies to
read, nothing of its later requests is parsed. So a client costs at most MAX_REQUEST_BYTES of input and the replies of
one request.

Closes: close() closes everything, and removes the path if this arbiter has made it.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gserver.config.addresses import UnixBind
from gserver.control import socket_path
from gserver.control.protocol import MAX_REQUEST_BYTES, Problem, Request, encode, parse_request
from gserver.errors import ConfigError
from gserver.process.unix_listener import UnixListener

__all__ = ["Commands", "ControlSocket", "Reply"]

log = logging.getLogger("gserver.control")

# At one more, the client that has been silent for longest is closed; one that waits for its reply only if all do.
MAX_CLIENTS = 32
READ_BYTES = 16 * 1024
# How long to wait before the next accept if no descriptor is left.
EXHAUSTED_PAUSE_S = 1.0


class Reply(Protocol):
    """Where the answer to one request goes. After result() or error() nothing more may be sent."""

    @property
    def is_wanted(self) -> bool:
        """False once the client has gone: it has closed both directions, not only its sending side."""

    def rows(self, rows: Sequence[Any], sent: Callable[[], None]) -> None:
        """Send some rows, and call `sent` when the client has read them."""

    def when_gone(self, gone: Callable[[], None]) -> None:
        """Call `gone` once if the client goes before it has the result."""

    def result(self, /, **fields: Any) -> None: ...

    def error(self, problem: Problem) -> None: ...


class Commands(Protocol):
    """Carries out requests."""

    def run(self, request: Request, reply: Reply) -> None:
        """Carry out a request, and reply now or later. Never blocks; may raise Problem, or anything."""


class ControlSocket:
    """Listens for clients, and passes their requests to `commands`.

    Args:
        selector: all sockets are registered here, with the function to call when one is ready as data.
        commands: carries out the requests.
    """

    def __init__(self, selector: selectors.BaseSelector, commands: Commands) -> None:
        self._selector = selector
        self._commands = commands
        self._listener: UnixListener | None = None
        self._clients: list[_Client] = []  # the one that was active last stands last
        #: When wake() is to be called; None: an event comes first.
        self.wakes_at: float | None = None

    @property
    def path(self) -> str | None:
        return None if self._listener is None else self._listener.path

    def open(self, bind: UnixBind, suffix: str = "") -> None:
        """Listen at the path of `bind` plus `suffix`; ConfigError if that is not possible."""
        listener = UnixListener("control socket", bind)
        listener.open(suffix)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def open_default(self, environ: Mapping[str, str], pid: int) -> None:
        """Listen at the default path; if that is not possible, log the reason in one line, and go on without."""
        folder = socket_path.default_folder(environ, os.geteuid())
        if folder is None:
            log.info("No control socket: XDG_RUNTIME_DIR is not set")
            return
        try:
            socket_path.make_folder(folder)
            socket_path.sweep(folder)
            self.open(UnixBind(socket_path.path_for(folder, pid)))
        except (OSError, ConfigError) as error:
            log.info("No control socket: %s", error)

    def rename(self, bind: UnixBind) -> None:
        """Move the socket to another path."""
        if self._listener is not None:
            self._listener.rename(bind)

    def follow(self) -> None:
        """Move the socket if a symbolic link in its path now leads elsewhere."""
        if self._listener is not None:
            self._listener.follow()

    def close(self) -> None:
        """Close the clients, which read end-of-file, and the listener."""
        for client in list(self._clients):
            client.flush()
            client.close()
        if self._listener is not None:
            self._listener.close()

    def leave_to_child(self) -> None:
        """In a child process: close the sockets. The selector is the arbiter's and is not changed."""
        for client in self._clients:
            client.sock.close()
        self._clients.clear()
        if self._listener is not None:
            self._listener.leave_to_child()

    def wake(self, now: float) -> None:
        """Accept again, if it is time for that."""
        if self.wakes_at is not None and now >= self.wakes_at and self._listener is not None:
            self.wakes_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._listener.socket is not None
        try:
            sock, _ = self._listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self.wakes_at is None:
                # The client still waits, so the listener stays readable: do not look at it for a while.
                self._selector.unregister(self._listener)
                self.wakes_at = time.monotonic() + EXHAUSTED_PAUSE_S
            return
        if len(self._clients) >= MAX_CLIENTS:
            next((each for each in self._clients if not each.awaits_reply), self._clients[0]).close()
        self._clients.append(_Client(sock, self._selector, self._run, self._left, self._is_active))

    def _run(self, client: _Client, line: bytes) -> None:
        try:
            request = parse_request(line)
        except Problem as problem:
            _Reply(client, problem.request_id).error(problem)
            return
        reply = _Reply(client, request.id)
        try:
            self._commands.run(request, reply)
        except Problem as problem:
            reply.error(problem)
        except Exception as error:
            log.exception("control command %s failed", request.command)
            reply.error(Problem("failed", f"{request.command} failed: {type(error).__name__}, see the error log"))

    def _is_active(self, client: _Client) -> None:
        self._clients.remove(client)
        self._clients.append(client)

    def _left(self, client: _Client) -> None:
        self._clients.remove(client)


class _Reply:
    def __init__(self, client: _Client, request_id: Any) -> None:
        self._client = client
        self._id = request_id
        self._is_over = False

    @property
    def is_wanted(self) -> bool:
        self._client.close_if_gone()
        return not self._client.is_closed

    def rows(self, rows: Sequence[Any], sent: Callable[[], None]) -> None:
        self._client.send(encode(self._id, rows=rows), sent)

    def when_gone(self, gone: Callable[[], None]) -> None:
        self._client.gone = gone

    def result(self, /, **fields: Any) -> None:
        self._finish(encode(self._id, result=fields))

    def error(self, problem: Problem) -> None:
        self._finish(encode(self._id, error={"code": problem.code, "message": str(problem)}))

    def _finish(self, line: bytes) -> None:
        if not self._is_over:
            self._is_over = True
            self._client.send(line, self._client.request_done)


class _Client:
    """One connection of a client."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        run: Callable[[_Client, bytes], None],
        left: Callable[[_Client], None],
        is_active: Callable[[_Client], None],
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.is_closed = False
        self.gone: Callable[[], None] | None = None  # to be called if it goes while its request is carried out
        self._selector = selector
        self._run, self._left, self._is_active = run, left, is_active
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._sent: Callable[[], None] | None = None  # to be called when the outbox is empty
        self._is_busy = False  # a request is being carried out
        self._has_finished = False  # the client has closed its sending side
        self._events = 0
        self._choose_events()

    @property
    def awaits_reply(self) -> bool:
        """Whether its request is being carried out. False while it has replies to read."""
        return self._is_busy and not self._outbox

    def send(self, line: bytes, sent: Callable[[], None]) -> None:
        """Send a line; call `sent` once the kernel has taken it, from the loop."""
        if self.is_closed:
            return
        self._outbox += line
        self._sent = sent
        self.flush()
        self._choose_events()

    def request_done(self) -> None:
        self._is_busy = False
        self.gone = None
        self._begin_next()

    def flush(self) -> None:
        """Pass replies to the kernel."""
        try:
            while self._outbox:
                del self._outbox[: self.sock.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close_if_gone(self) -> None:
        """Close if nobody reads any more.

        After the end of the client's requests the socket is not looked at, so only this notices that it has gone.
        """
        if self._has_finished and not self.is_closed:
            poll = select.poll()
            poll.register(self.sock, 0)
            if any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0)):
                self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._events:
                self._selector.unregister(self.sock)
            self.sock.close()
            self._left(self)
            if self.gone is not None:
                self.gone()

    def _ready(self) -> None:
        """The socket is readable or writable, or `sent` is to be called."""
        if self.is_closed:  # by another event of the same iteration
            return
        self._is_active(self)
        if not self._has_finished and len(self._inbox) <= MAX_REQUEST_BYTES:
            self._receive()
        if not self.is_closed:
            self.flush()
        if not self.is_closed and not self._outbox and self._sent is not None:
            sent, self._sent = self._sent, None
            sent()
        if not self.is_closed:
            self._begin_next()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._has_finished = not data
        self._inbox += data

    def _begin_next(self) -> None:
        """Carry out the next request, if the last one is over."""
        if not self._is_busy and self._sent is None:
            end = self._inbox.find(b"\n")
            if end < 0 and self._has_finished:  # the last line needs no line feed
                end = len(self._inbox)
            if end > MAX_REQUEST_BYTES or (end < 0 and len(self._inbox) > MAX_REQUEST_BYTES):
                self._refuse()
            elif self._has_finished and not self._inbox:
                self.close()
            elif end >= 0:
                line = bytes(self._inbox[:end])
                del self._inbox[: end + 1]
                self._is_busy = True
                self._run(self, line)
        if not self.is_closed:
            self._choose_events()

    def _refuse(self) -> None:
        """A request that is too long: say so, and close."""
        self._is_busy = self._has_finished = True
        text = f"a request is longer than {MAX_REQUEST_BYTES} bytes"
        self.send(encode(None, error={"code": "malformed", "message": text}), self.close)

    def _choose_events(self) -> None:
        """Read while there may be requests; write while there are replies, or `sent` is to be called."""
        events = 0
        if not self._has_finished and len(self._inbox) <= MAX_REQUEST_BYTES:
            events |= selectors.EVENT_READ
        if self._outbox or self._sent is not None:
            events |= selectors.EVENT_WRITE
        if events != self._events and not self.is_closed:
            self._change_events(events)

    def _change_events(self, events: int) -> None:
        """With 0 the socket is not looked at: after the client's end-of-file it stays readable."""
        if self._events == 0:
            self._selector.register(self.sock, events, self._ready)
        elif events == 0:
            self._selector.unregister(self.sock)
        else:
            self._selector.modify(self.sock, events, self._ready)
        self._events = events
