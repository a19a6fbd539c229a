"""The messages between the arbiter and its children: short, over a socket pair, some with descriptors.

    worker -> arbiter   BORN           the first message if the preload process forked the worker; with its pid
                        READY          the worker can accept connections
                        RECYCLE        the worker has reached a recycling limit and is to be replaced
                        NOT_ACCEPTING  the worker drains and accepts no more connections
                        LEFT           with pidfds of the processes that the application has left running
                        ANSWER         to a QUESTION; with one line of JSON
                        STACKS         the worker got USR2; with its stacks, the running one first
                        FAILED         the worker cannot start; with the reason, in one line
                        LINKS          the application uses gserver.bus: see gserver.arbiter.bus_links
    arbiter -> worker   LISTEN         with the listeners to accept from
                        DRAIN          drain over drain_spread; with the addresses that are closed for good
                        DRAIN_AT_ONCE  the same, without a spread and within a second
                        QUESTION       with one line of JSON: see gserver.arbiter.worker_questions
                        SET            with the values of live settings, as one line of JSON
                        LINK           with pids of other workers, and the ends of links of the bus to them
                        LINKED         all LINK messages to workers that had sent LINKS before were sent
    arbiter -> child    REOPEN         with the paths of the log files, and descriptors of the opened files
    preload process -> arbiter   PRELOADED   the application is imported
    arbiter -> preload process   FORK        with a scoreboard slot, an age, and the worker's end of its channel

End-of-file means that the other process has ended. SOCK_SEQPACKET preserves message boundaries (unix(7)).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ANSWER",
    "BORN",
    "DRAIN",
    "DRAIN_AT_ONCE",
    "DRAIN_AT_ONCE_S",
    "FAILED",
    "FORK",
    "LEFT",
    "LINK",
    "LINKED",
    "LINKS",
    "LISTEN",
    "MAX_DESCRIPTORS",
    "NOT_ACCEPTING",
    "PRELOADED",
    "QUESTION",
    "READY",
    "RECYCLE",
    "REOPEN",
    "SET",
    "STACKS",
    "Channel",
    "Message",
]

BORN = "born"
READY = "ready"
RECYCLE = "recycle"
NOT_ACCEPTING = "not_accepting"
LEFT = "left"
QUESTION = "question"
ANSWER = "answer"
STACKS = "stacks"
FAILED = "failed"
LINKS = "links"
LINK = "link"
LINKED = "linked"
SET = "set"
LISTEN = "listen"
DRAIN = "drain"
DRAIN_AT_ONCE = "drain at once"
REOPEN = "reopen"
PRELOADED = "preloaded"
FORK = "fork"

#: After DRAIN_AT_ONCE, how long a worker may take for the replies that are due, in seconds.
DRAIN_AT_ONCE_S = 1.0

MAX_BYTES = 64 * 1024
# The most descriptors that one message can carry (SCM_MAX_FD, unix(7)).
MAX_DESCRIPTORS = 253


@dataclass(frozen=True)
class Message:
    kind: str
    addresses: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()  # the receiver closes them


class Channel:
    """One end of a channel. Never blocks. Closes: close(); the receiver of descriptors closes those."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._end.fileno()

    @staticmethod
    def fits(kind: str, addresses: Sequence[str]) -> bool:
        """Whether a message is short enough to be sent."""
        return len(_encoded(kind, addresses)) <= MAX_BYTES

    def send(self, kind: str, addresses: Sequence[str] = (), descriptors: Sequence[int] = ()) -> bool:
        """Send a message; return False if the other process has ended, or has hundreds of messages unread.

        A message of more than 64 KiB is not sent either: see fits().
        """
        text = _encoded(kind, addresses)
        if len(text) > MAX_BYTES:
            return False
        try:
            socket.send_fds(self._end, [text], descriptors)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; None after the other process has ended. BlockingIOError if there is no message yet."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, MAX_BYTES, MAX_DESCRIPTORS)
        except ConnectionResetError:
            # The other process ended with unread messages. The kernel reports that once, ahead of what it had sent.
            return self.receive()
        if not data:
            return None
        for descriptor in descriptors:  # programs that the application starts must not get them
            os.set_inheritable(descriptor, False)
        kind, *addresses = json.loads(data)
        return Message(kind, tuple(addresses), tuple(descriptors))

    def shut(self) -> None:
        """Refuse further messages to this end; those sent before can still be received."""
        self._end.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._end.close()


def _encoded(kind: str, addresses: Sequence[str]) -> bytes:
    return json.dumps([kind, *addresses]).encode()
