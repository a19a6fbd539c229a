"""The bus over Redis: PUBLISH and SUBSCRIBE, with two connections of each worker.

    publish() ── queue ── sender greenlet ── PUBLISH ──> Redis ──> receiver greenlet ── Deliveries

Everything goes through Redis, also what a worker publishes to its own subscribers: so all subscribers of a topic get
its messages in the same order, that of Redis. A message waits until Redis has confirmed the subscriptions that were
made before it.

The two connections are made and given up together. While there are none, the worker is away: what it publishes is
dropped, and it gets nothing. A pub/sub of Redis keeps no messages, so a queue would only deliver some of them, to some.

Closes: close() ends the greenlets and closes the connections.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from greenlet import GreenletExit

from gserver.bus.deliveries import OVERHEAD_BYTES, Deliveries
from gserver.bus.redis_connections import TIMEOUT_S, Connections, shown
from gserver.bus.subscriptions import Subscriptions
from gserver.client.backoff import delay_s
from gserver.connection.time_slice import Fairness

__all__ = ["PREFIX", "RedisRoute"]

log = logging.getLogger("gserver.bus")

#: The channel of a topic is this and the topic.
PREFIX = b"gserver:"
#: Both connections are checked so often, in seconds: a read that takes TIMEOUT_S has failed.
PING_S = 2.0
FIRST_DELAY_S, MOST_DELAY_S = 0.1, 3.0
POLL_S = 0.005
# So many commands are sent at a time, and so many messages received: redis-py needs some 15 us for each.
BATCH = 50
_SUBSCRIBE, _UNSUBSCRIBE, _PUBLISH, _PING = b"SUBSCRIBE", b"UNSUBSCRIBE", b"PUBLISH", b"PING"


class RedisRoute:
    """The way of the messages of one worker over Redis.

    Args:
        url: redis://, rediss:// or unix://, as redis-py takes it.
        most_bytes: how many bytes may wait to be sent to Redis.
        deliveries: gets what arrives.
        dropped: called with the number of messages that are dropped, and why.

    ConfigError if redis-py is not installed, or does not understand the URL.
    """

    def __init__(
        self,
        url: str,
        most_bytes: int,
        deliveries: Deliveries,
        subscriptions: Subscriptions,
        dropped: Callable[[int, str], None],
    ) -> None:
        self._connections = Connections(url)
        self._shown = shown(url)
        self._most_bytes = most_bytes
        self._deliveries, self._subscriptions, self._dropped = deliveries, subscriptions, dropped
        self._greenlet: Any = None
        self._fairness = Fairness()
        self._room = Event()
        self._reset()

    def _reset(self) -> None:
        """A new pair of connections begins without the past of the last one."""
        self.is_joined = False  # both connections are there, and all topics are subscribed to
        self._sockets: list[Any] = []
        self._commands: deque[tuple[bytes, bytes, bytes]] = deque()  # command, topic, body
        self._size = 0
        self._sending = 0  # messages that Redis has not confirmed
        self._asked = self._confirmed = 0  # SUBSCRIBE and UNSUBSCRIBE
        self._wake, self._confirmation = Event(), Event()

    def join(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    @property
    def descriptors(self) -> list[int]:
        found = [getattr(connection, "_sock", None) for connection in self._sockets]
        return [sock.fileno() for sock in found if sock is not None]

    @property
    def is_sent(self) -> bool:
        return not self.is_joined or not (self._commands or self._sending)

    def publish(self, topic: bytes, body: bytes) -> None:
        if not self.is_joined:
            self._dropped(1, f"there is no connection to {self._shown}")
        elif self._commands and self._size + len(body) + OVERHEAD_BYTES > self._most_bytes:
            self._dropped(1, f"{self._shown} does not take them fast enough")
        else:
            self._size += len(body) + OVERHEAD_BYTES
            self._command(_PUBLISH, topic, body)

    def topic_began(self, topic: bytes) -> None:
        if self.is_joined:
            self._command(_SUBSCRIBE, topic)

    def topic_ended(self, topic: bytes) -> None:
        if self.is_joined:
            self._command(_UNSUBSCRIBE, topic)

    def resume(self) -> None:
        """There is room for more deliveries."""
        self._room.set()

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most so long, and close the connections."""
        left_s = timeout_s
        while not self.is_sent and left_s > 0:
            gevent.sleep(POLL_S)
            left_s -= POLL_S
        if self._greenlet is not None:
            self._greenlet.kill()
        self._fairness.close()

    def _command(self, command: bytes, topic: bytes, body: bytes = b"") -> None:
        self._commands.append((command, topic, body))
        self._wake.set()

    # In greenlets of their own

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                self._connect()
                failures = 0
                log.info("bus: connected to %s", self._shown)
                self._serve()
            except self._connections.errors as error:
                failures += 1
                if failures == 1:  # later ones are in the lines about dropped messages
                    log.error("bus: no connection to %s, trying again: %s", self._shown, error)
            except GreenletExit:
                raise
            except BaseException:
                failures += 1
                log.exception("bus: the connections to %s failed, trying again", self._shown)
            finally:
                self._leave()
            gevent.sleep(delay_s(failures, random.random(), FIRST_DELAY_S, MOST_DELAY_S))

    def _connect(self) -> None:
        """Make both connections, and subscribe to all topics."""
        for _ in range(2):
            self._sockets.append(self._connections.connect())
        self._publisher, self._subscriber = self._sockets
        self.is_joined = True
        for topic in self._subscriptions.topics:
            self._command(_SUBSCRIBE, topic)

    def _serve(self) -> None:
        """Send and receive until that fails; raise the failure."""
        failure: AsyncResult[BaseException] = AsyncResult()
        greenlets = [gevent.spawn(self._report, work, failure) for work in (self._send, self._receive)]
        try:
            error: Any = failure.get()
            raise error
        finally:
            gevent.killall(greenlets)

    @staticmethod
    def _report(work: Callable[[], None], failure: AsyncResult[BaseException]) -> None:
        try:
            work()
        except GreenletExit:
            raise
        except BaseException as error:
            failure.set(error)

    def _leave(self) -> None:
        lost = self._sending + sum(command == _PUBLISH for command, _, _ in self._commands)
        sockets = self._sockets
        self._reset()
        if lost:
            self._dropped(lost, f"the connection to {self._shown} ended before it had confirmed them")
        for connection in sockets:
            try:
                connection.disconnect()
            except Exception as error:
                log.debug("bus: closing a connection to %s: %s", self._shown, error)

    def _send(self) -> None:
        """Send the commands in their order, many at a time, and PING between them."""
        pings_at = time.monotonic() + PING_S
        while True:
            self._wake.wait(max(0.0, pings_at - time.monotonic()))
            self._wake.clear()
            if time.monotonic() >= pings_at:
                pings_at = time.monotonic() + PING_S
                self._exchange([(_PING,)])
                self._subscriber.send_command(_PING)
            if self._commands and self._commands[0][0] == _PUBLISH:
                self._wait_for_confirmations()
                self._publish_batch()
            elif self._commands:
                self._change_subscriptions()
            if self._commands:
                self._wake.set()

    def _wait_for_confirmations(self) -> None:
        while self._confirmed < self._asked:
            self._confirmation.clear()
            if not self._confirmation.wait(TIMEOUT_S):
                raise TimeoutError(f"no reply to SUBSCRIBE within {TIMEOUT_S:g} s")

    def _publish_batch(self) -> None:
        batch: list[tuple[bytes, bytes, bytes]] = []
        while self._commands and self._commands[0][0] == _PUBLISH and len(batch) < BATCH:
            _, topic, body = self._commands.popleft()
            self._size -= len(body) + OVERHEAD_BYTES
            batch.append((_PUBLISH, PREFIX + topic, body))
        self._sending = len(batch)
        self._exchange(batch)

    def _exchange(self, commands: list[Any]) -> None:
        """Send commands to Redis, and read the replies. A refused one is dropped."""
        self._publisher.send_packed_command(self._publisher.pack_commands(commands))
        for _ in commands:
            try:
                self._publisher.read_response()
            except self._connections.refusal as error:
                self._dropped(1, f"{self._shown} refuses them: {error}")
            self._sending = max(0, self._sending - 1)

    def _change_subscriptions(self) -> None:
        command, topic, _ = self._commands.popleft()
        topics = [topic]
        while self._commands and self._commands[0][0] == command and len(topics) < BATCH:
            topics.append(self._commands.popleft()[1])
        self._asked += len(topics)
        self._subscriber.send_command(command, *(PREFIX + topic for topic in topics))

    def _receive(self) -> None:
        """Receive messages and confirmations. Not by can_read(): with hiredis it blocks an unpatched event loop."""
        while True:
            for _ in range(BATCH):
                self._received(self._subscriber.read_response())
                if self._deliveries.is_full:
                    self._room.clear()
                    self._room.wait()
            self._fairness.yield_to_others()

    def _received(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) and reply else reply
        if kind == b"message":
            self._deliveries.put(bytes(reply[1][len(PREFIX) :]), bytes(reply[2]))
        elif kind in (b"subscribe", b"unsubscribe"):
            self._confirmed += 1
            self._confirmation.set()
