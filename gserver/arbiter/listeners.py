"""Listening sockets. They belong to the arbiter for as long as their address is served; workers get copies.

So no reload, crash or recycling of a worker closes one, and what the kernel has queued waits for the next worker.

A *lane* is a set of listeners, one for each address. All workers share one lane, or (reuse_port) each has one of its
own, and the kernel spreads new connections over the lanes. A lane whose worker has gone waits for the next one; one
that nobody needs any more goes to a worker that is left, for a lane that is closed resets whoever is queued there
(measured: 18 of 40).

Closes: close() closes everything and removes the paths of unix sockets.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence

from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind, describe_address
from gserver.config.working_directory import place_of
from gserver.errors import ConfigError
from gserver.process.privileges import gid_of, uid_of
from gserver.process.unix_sockets import identity, remove_stale

__all__ = ["Lane", "Listeners"]

log = logging.getLogger("gserver.arbiter")

# A server that was told to stop a moment ago may still hold the address.
ATTEMPTS = 5
RETRY_S = 1.0
_EVERY_IPV4 = ("", "0.0.0.0")
# What can be served of the sockets that others have made.
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_PROTOCOLS = (0, socket.IPPROTO_TCP, 262)  # the last is IPPROTO_MPTCP

Lane = dict[Bind, socket.socket]


class Listeners:
    """The listeners of one arbiter.

    Args:
        backlog: of each listener.
        reuse_port: whether each worker has a lane of its own.
        owner: user and group that new unix sockets get, names or numbers or None, where their bind names none.
    """

    def __init__(
        self, backlog: int, reuse_port: bool = False, owner: tuple[str | None, str | None] = (None, None)
    ) -> None:
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._owner = owner
        self._lanes: list[Lane] = [{}]
        self._holders: dict[int, list[int]] = {}  # with reuse_port, pid -> the lanes it accepts from
        # Of unix sockets: where each was made, and what stat() said of it.
        self._paths: dict[str, tuple[str, tuple[int, int]]] = {}

    # Addresses

    def adopt(self, inherited: Mapping[Bind, Sequence[int]]) -> None:
        """Take over descriptors that another arbiter has bound, one for each lane."""
        for bind, descriptors in inherited.items():
            for lane, descriptor in enumerate(descriptors):
                self._lane(lane)[bind] = _from_descriptor(descriptor)
            if isinstance(bind, UnixBind) and not bind.is_abstract:
                self._remember(bind.path)

    def open(self, binds: Iterable[Bind], patient: bool = True) -> None:
        """Bind what is not bound yet; ConfigError, with nothing changed, if an address cannot be had.

        While an address is in use it is tried again, up to 5 times, once a second, unless not `patient`.
        """
        wanted = list(binds)
        opened: list[Bind] = []
        try:
            for bind in wanted:
                if bind not in self._lanes[0]:
                    self._lanes[0][bind] = self._listen(bind, wanted, ATTEMPTS if patient else 1)
                    opened.append(bind)
        except BaseException:
            for bind in opened:
                if isinstance(bind, FdBind):
                    self._lanes[0].pop(bind).detach()  # it was open before
            self._close(opened)
            raise

    def keep(self, binds: Iterable[Bind]) -> None:
        """Close the listeners of all other addresses."""
        kept = set(binds)
        self._close([bind for bind in self._lanes[0] if bind not in kept])

    def close(self) -> None:
        self._close(list(self._lanes[0]))

    def leave_to_successor(self) -> None:
        """Close everything, but leave the paths of unix sockets to somebody who listens there too."""
        self._paths.clear()
        self.close()

    def _close(self, binds: list[Bind]) -> None:
        for bind in binds:
            for lane in self._lanes:
                if bind in lane:
                    lane.pop(bind).close()
            if isinstance(bind, UnixBind):
                self._remove_own(bind.path)

    def describe(self) -> str:
        """Where the server really listens, with the ports that the kernel chose."""
        return ", ".join(describe_address(listener.getsockname()) for listener in self._lanes[0].values())

    @property
    def descriptors(self) -> dict[Bind, list[int]]:
        """What adopt() of another arbiter takes."""
        return {bind: [lane[bind].fileno() for lane in self._lanes if bind in lane] for bind in self._lanes[0]}

    # Lanes

    def lanes_for(self, pid: int, binds: Sequence[Bind], wanted: int, has_heir: bool = False) -> list[Lane]:
        """What a worker that begins shall accept from: with reuse_port the lanes that nobody has, else the one.

        `wanted`: how many lanes there may be. Where all are held, it gets those of the worker that it replaces, when
        that is told to drain. has_heir: another arbiter has taken over the lanes there are. One more would be closed
        with this arbiter, and reset its queue: the worker shares one.
        """
        if not self._reuse_port:
            return [_only(self._lanes[0], binds)]
        held = {lane for lanes in self._holders.values() for lane in lanes}
        free = [lane for lane in range(len(self._lanes)) if lane not in held]
        if not free and len(self._lanes) < wanted:
            if has_heir:
                self._holders[pid] = []
                return [self._complete(pid % len(self._lanes), binds)]
            free = [len(self._lanes)]
        self._holders[pid] = free
        return [self._complete(lane, binds) for lane in free]

    def gone(self, pid: int) -> None:
        """A worker has ended: its lanes wait for the next one."""
        self._holders.pop(pid, None)

    def hand_over(self, pid: int, successors: Sequence[int], binds: Sequence[Bind]) -> tuple[int, list[Lane]] | None:
        """A worker stops accepting: return who of the successors shall accept from its lanes too, if they need that."""
        lanes = self._holders.pop(pid, [])
        heirs = [heir for heir in successors if heir in self._holders]
        if not lanes or not heirs:
            return None
        heir = min(heirs, key=lambda each: len(self._holders[each]))
        self._holders[heir] += lanes
        return heir, [self._complete(lane, binds) for lane in lanes]

    def _lane(self, index: int) -> Lane:
        while len(self._lanes) <= index:
            self._lanes.append({})
        return self._lanes[index]

    def _complete(self, index: int, binds: Sequence[Bind]) -> Lane:
        """A lane with a listener for each address, next to that of the first lane."""
        lane = self._lane(index)
        for bind in binds:
            if bind not in lane and isinstance(bind, TcpBind):
                first = self._lanes[0][bind]
                is_v6 = first.family == socket.AF_INET6
                only_v6 = bool(first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) if is_v6 else None
                lane[bind] = self._listen_at(first.family, first.getsockname(), only_v6)
        return _only(lane, binds)

    # Sockets

    def _listen(self, bind: Bind, all_binds: Sequence[Bind], attempts: int) -> socket.socket:
        for attempt in range(1, attempts + 1):
            try:
                return self._listen_once(bind, all_binds)
            except (UnicodeError, OverflowError) as error:  # a host that can be no name
                raise ConfigError(f"cannot listen on {bind}: {error}") from error
            except OSError as error:
                if error.errno != errno.EADDRINUSE or attempt == attempts:
                    raise ConfigError(f"cannot listen on {bind}: {error.strerror or error}") from error
            if attempt == 1:
                log.warning("Address %s is in use: trying again for %g s", bind, (attempts - 1) * RETRY_S)
            time.sleep(RETRY_S)
        raise AssertionError("unreachable")

    def _listen_once(self, bind: Bind, all_binds: Sequence[Bind]) -> socket.socket:
        if isinstance(bind, FdBind):
            return _from_descriptor(bind.fd)
        if isinstance(bind, UnixBind):
            return self._listen_unix(bind)
        host = bind.host or "0.0.0.0"
        family, _, _, _, address = socket.getaddrinfo(host, bind.port, type=socket.SOCK_STREAM)[0]
        # [::] takes IPv4 as well, unless somebody else does (RFC 3493, 5.3).
        is_shared = any(TcpBind(host, bind.port) in all_binds for host in _EVERY_IPV4)
        return self._listen_at(family, address, is_shared if family == socket.AF_INET6 else None)

    def _listen_at(self, family: int, address: tuple[object, ...], only_v6: bool | None) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if only_v6 is not None:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
            listener.bind(address)
            return self._listening(listener)
        except BaseException:
            listener.close()
            raise

    def _listen_unix(self, bind: UnixBind) -> socket.socket:
        if not bind.is_abstract:
            remove_stale(bind.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(bind.address)
            if bind.is_abstract:
                return self._listening(listener)
        except OSError:
            listener.close()
            raise
        self._remember(bind.path)
        try:
            if bind.mode is not None:
                os.chmod(bind.path, bind.mode)
            uid, gid = uid_of(bind.user or self._owner[0]), gid_of(bind.group or self._owner[1])
            if uid is not None or gid is not None:
                os.chown(bind.path, -1 if uid is None else uid, -1 if gid is None else gid)
            return self._listening(listener)
        except BaseException:
            listener.close()
            self._remove_own(bind.path)
            raise

    def _listening(self, listener: socket.socket) -> socket.socket:
        listener.listen(self._backlog)
        listener.setblocking(False)  # several workers are woken for one connection, and only one gets it
        return listener

    def _remember(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._paths[path] = place_of(path), identity(path)

    def _remove_own(self, path: str) -> None:
        """Remove the path of a socket, if it is still the one that this arbiter has made."""
        place, made = self._paths.pop(path, (path, None))
        with contextlib.suppress(FileNotFoundError):
            if made is not None and identity(place) == made:
                os.unlink(place)


def _only(lane: Lane, binds: Sequence[Bind]) -> Lane:
    return {bind: lane[bind] for bind in binds if bind in lane}


def _from_descriptor(descriptor: int) -> socket.socket:
    """A listener from a descriptor; ConfigError if it is none that can be served."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"descriptor {descriptor} is no socket: {error.strerror}") from None
    fault = _fault(listener)
    if fault is not None:
        listener.detach()
        raise ConfigError(f"descriptor {descriptor} is not a listening stream socket{fault}")
    if descriptor <= 2:
        listener = _moved(listener)
    listener.setblocking(False)
    listener.set_inheritable(False)
    return listener


def _fault(listener: socket.socket) -> str | None:
    """What it is instead of a socket from which connections can be served; None if it is one."""
    family, kind = (getattr(each, "name", each) for each in (listener.family, listener.type))
    if listener.family not in _FAMILIES:
        return f" of AF_INET, AF_INET6 or AF_UNIX: it is of {family}"
    if listener.type != socket.SOCK_STREAM or listener.proto not in _PROTOCOLS:
        return f": it is a {kind} of {family}, protocol {listener.proto}"
    return None if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else ""


def _moved(listener: socket.socket) -> socket.socket:
    """As another descriptor: what is printed must not go into it, and a daemon puts /dev/null in its place."""
    moved = listener.dup()
    low = listener.detach()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, low)
    os.close(nothing)
    return moved
