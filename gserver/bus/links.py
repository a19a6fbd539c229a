"""The links of a worker to the other workers of its server: one socket pair to each, which the arbiter makes.

    worker A ── publish ──> queue ──> socket ──> worker B ──> its Deliveries

A worker that does not read fills its socket, and then the queue of each other worker. After that, messages to it are
dropped: publish() never waits. A worker that has too much to deliver does not read from its links meanwhile.

Closes: a link closes its socket when the other worker has ended; Mesh.close() closes all.
"""

from __future__ import annotations

import _socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import get_hub

from gserver.bus.deliveries import OVERHEAD_BYTES, Deliveries
from gserver.bus.wire import GREETING, Frames, frame_of
from gserver.fault_isolation import shielded

__all__ = ["Link", "Mesh"]

_READ, _WRITE = 1, 2  # libev's
# Some 400 small messages, which take half a time slice to read.
RECEIVE_BYTES = 16 * 1024
MOST_RECEIVE_BYTES = 256 * 1024  # inside a long message
SEND_BYTES = 256 * 1024
POLL_S = 0.005


class Link:
    """The link to one other worker.

    Args:
        descriptor: this worker's end of the socket pair; the link owns it.
        pid: of the other worker.
        most_bytes: how many bytes may wait to be sent, beside those that the kernel holds.
        received: called with the topic and the body of each message.
        ended: called once, when the other worker has ended.
    """

    def __init__(
        self,
        descriptor: int,
        pid: int,
        most_bytes: int,
        received: Callable[[Link, bytes, bytes], None],
        ended: Callable[[Link], None],
    ) -> None:
        self.pid = pid
        self.is_greeted = False  # whether the other worker has its end
        self.dropped = 0  # messages
        self._most_bytes = most_bytes
        self._received, self._ended = received, ended
        self._sock = _socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        self._frames = Frames()
        self._queue: deque[memoryview] = deque()
        self._size = 0
        loop = get_hub().loop
        self._reader: Any = loop.io(descriptor, _READ)
        self._writer: Any = loop.io(descriptor, _WRITE)
        self.resume()
        self.send(GREETING)

    @property
    def descriptor(self) -> int:
        """-1 once it is closed."""
        return self._sock.fileno()

    @property
    def is_sent(self) -> bool:
        return not self._queue

    def send(self, frame: bytes) -> bool:
        """Send a frame after those before it; return False, and drop it, if too many wait."""
        if self._queue:
            if self._size + len(frame) + OVERHEAD_BYTES > self._most_bytes:
                self.dropped += 1
                return False
            self._append(memoryview(frame))
            return True
        sent = self._send(frame)
        if sent < len(frame) and self.descriptor >= 0:
            self._append(memoryview(frame)[sent:])
            self._writer.start(shielded, "sending to a worker", self._send_more)
        return True

    def pause(self) -> None:
        """Receive nothing until resume()."""
        self._reader.stop()

    def resume(self) -> None:
        if self.descriptor >= 0 and not self._reader.active:
            self._reader.start(shielded, "receiving from a worker", self._receive)

    def close(self) -> None:
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        self._queue.clear()
        self._sock.close()

    def _append(self, rest: memoryview) -> None:
        self._queue.append(rest)
        self._size += len(rest) + OVERHEAD_BYTES

    def _send(self, data: Any) -> int:
        """Pass bytes to the kernel; return how many it has accepted."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the other worker has ended; what it has sent can still be received
            return len(data)

    def _send_more(self) -> None:
        chunks, size = [], 0
        while self._queue and size < SEND_BYTES:
            chunks.append(self._queue.popleft())
            size += len(chunks[-1])
            self._size -= len(chunks[-1]) + OVERHEAD_BYTES
        data = memoryview(b"".join(chunks))
        sent = self._send(data)
        if sent < size:
            self._queue.appendleft(data[sent:])
            self._size += size - sent + OVERHEAD_BYTES
        if not self._queue:
            self._writer.stop()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(min(max(RECEIVE_BYTES, self._frames.missing), MOST_RECEIVE_BYTES))
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended with unread messages; reported once, ahead of what it had sent
            return
        if not data:
            self.close()
            self._ended(self)
            return
        for topic, body in self._frames.receive(data):
            if topic:
                self._received(self, topic, body)
            else:
                self.is_greeted = True


class Mesh:
    """All links of a worker.

    Args:
        most_bytes: for each link.
        deliveries: gets what is published, here and by other workers.
        ask: asks the arbiter for links to all other workers; linked() gets them, and those to later workers.
        dropped: called with each message that is dropped: how many workers do not get it, and why.
    """

    def __init__(
        self,
        most_bytes: int,
        deliveries: Deliveries,
        ask: Callable[[], object] | None,
        dropped: Callable[[int, str], None],
    ) -> None:
        self._most_bytes = most_bytes
        self._deliveries = deliveries
        self._ask = ask
        self._dropped = dropped
        self._links: dict[Link, None] = {}
        self._is_asking = False  # the answer of the arbiter is not complete

    def join(self) -> None:
        if self._ask is not None:
            self._is_asking = True
            self._ask()

    @property
    def is_joined(self) -> bool:
        """Whether every other worker that has asked before this one has its end of the link."""
        return not self._is_asking and all(link.is_greeted for link in self._links)

    @property
    def is_sent(self) -> bool:
        return all(link.is_sent for link in self._links)

    @property
    def descriptors(self) -> list[int]:
        return [link.descriptor for link in self._links]

    def linked(self, pids: Sequence[str], descriptors: Sequence[int]) -> None:
        """The arbiter has sent this worker's ends of links to other workers."""
        for pid, descriptor in zip(pids, descriptors, strict=True):
            self._links[Link(descriptor, int(pid), self._most_bytes, self._received, self._ended)] = None

    def all_linked(self) -> None:
        """The arbiter has sent all links to the workers that were there before this one."""
        self._is_asking = False

    def publish(self, topic: bytes, body: bytes) -> None:
        if not self._deliveries.offer(topic, body):
            self._dropped(1, "this worker has too much to deliver")
        if self._links:
            frame = frame_of(topic, body)
            for link in tuple(self._links):
                if not link.send(frame):
                    self._dropped(1, f"worker {link.pid} does not read")

    def topic_began(self, topic: bytes) -> None:
        """Nothing to do: every message goes to every worker."""

    topic_ended = topic_began

    def resume(self) -> None:
        """There is room for more deliveries."""
        for link in self._links:
            link.resume()

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most so long, and close all links."""
        left_s = timeout_s
        while not self.is_sent and left_s > 0:
            gevent.sleep(POLL_S)
            left_s -= POLL_S
        for link in self._links:
            link.close()
        self._links.clear()

    def _received(self, link: Link, topic: bytes, body: bytes) -> None:
        self._deliveries.put(topic, body)
        if self._deliveries.is_full:
            for each in self._links:
                each.pause()

    def _ended(self, link: Link) -> None:
        self._links.pop(link, None)
