"""The messages between the arbiter and a worker: short, over a socket pair, with descriptors among them.

    worker -> arbiter   BORN      first, with its pid, if the preload process forked it
                        READY     it can take connections
                        RECYCLE   it has reached a limit of its life, and is to be replaced
                        NOT_ACCEPTING  it drains, and accepts no more
                        LEFT      with descriptors of the processes that its application has left
    arbiter -> worker   LISTEN    with the listeners to accept from
                        DRAIN     over drain_spread, or DRAIN_AT_ONCE; with the addresses that end with it
    arbiter -> any      REOPEN    with the paths of the log files, and the files themselves
    preload process -> arbiter   PRELOADED
    arbiter -> preload process   FORK, with a place, an age and the worker's end of its channel

End-of-file means that the other process has ended. SOCK_SEQPACKET keeps messages apart (unix(7)).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BORN",
    "DRAIN",
    "DRAIN_AT_ONCE",
    "FORK",
    "LEFT",
    "LISTEN",
    "MAX_DESCRIPTORS",
    "NOT_ACCEPTING",
    "PRELOADED",
    "QUICK_S",
    "READY",
    "RECYCLE",
    "REOPEN",
    "Channel",
    "Message",
]

BORN = "born"
READY = "ready"  # it would accept connections
RECYCLE = "recycle"
NOT_ACCEPTING = "not_accepting"
LEFT = "left"
LISTEN = "listen"
DRAIN = "drain"
DRAIN_AT_ONCE = "drain at once"
REOPEN = "reopen"
PRELOADED = "preloaded"  # it has imported the application
FORK = "fork"

#: What DRAIN_AT_ONCE leaves a worker for the replies that it owes, in seconds.
QUICK_S = 1.0

MAX_BYTES = 64 * 1024
# What one message may carry (SCM_MAX_FD, unix(7)).
MAX_DESCRIPTORS = 253


@dataclass(frozen=True)
class Message:
    word: str
    addresses: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()  # the receiver's to close


class Channel:
    """One end. Never blocks. Closes: close(), and descriptors that were received are their receiver's."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, word: str, addresses: Sequence[str] = (), descriptors: Sequence[int] = ()) -> bool:
        """Whether it could be said: not to somebody who is gone, or who has not listened for hundreds of messages."""
        text = json.dumps([word, *addresses]).encode()
        if len(text) > MAX_BYTES:
            return False
        try:
            socket.send_fds(self._end, [text], descriptors)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; None when the other side is gone. BlockingIOError when there is nothing yet."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, MAX_BYTES, MAX_DESCRIPTORS)
        except ConnectionResetError:
            # The other side has ended with something unread. That is said once, and before what it had sent.
            return self.receive()
        if not data:
            return None
        for descriptor in descriptors:  # not for the programs that an application may start
            os.set_inheritable(descriptor, False)
        word, *addresses = json.loads(data)
        return Message(word, tuple(addresses), tuple(descriptors))

    def shut(self) -> None:
        """From now on nothing can be sent to this end; what was sent before is still received."""
        self._end.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._end.close()
