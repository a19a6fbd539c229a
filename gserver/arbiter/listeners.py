"""The listening sockets. The arbiter keeps them open for as long as their address is served; workers get copies.

Therefore no reload, crash or recycling of a worker closes a listener. Connections in its accept queue wait for the next
worker.

A *lane* is a set of listeners, one for each address. All workers share one lane. With reuse_port each worker has its
own lane, and the kernel distributes new connections over the lanes. When a worker ends, its lane waits for the next
worker. A surplus lane goes to one of the remaining workers: closing it would reset the connections in its accept queue
(measured: 18 of 40).

Closes: close() closes everything and removes the paths of unix sockets.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind, describe_address
from gserver.config.listener_settings import Listener
from gserver.config.working_directory import place_of
from gserver.errors import ConfigError
from gserver.process.privileges import gid_of, uid_of
from gserver.process.unix_sockets import identity, remove_stale

__all__ = ["Lane", "Listeners", "title_of"]

log = logging.getLogger("gserver.arbiter")

# A server that is just stopping may still hold the address.
ATTEMPTS = 5
RETRY_S = 1.0
_EVERY_IPV4 = ("", "0.0.0.0")
# The kinds of sockets that can be served when another program has made them.
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_PROTOCOLS = (0, socket.IPPROTO_TCP, 262)  # the last is IPPROTO_MPTCP

Lane = dict[Bind, socket.socket]


class Listeners:
    """The listeners of one arbiter.

    Args:
        backlog: the size of each listener's accept queue, as for listen(2).
        reuse_port: whether each worker has a lane of its own.
        owner: user and group of new unix sockets (names, numbers or None) if their bind does not name them.
    """

    def __init__(
        self, backlog: int, reuse_port: bool = False, owner: tuple[str | None, str | None] = (None, None)
    ) -> None:
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._owner = owner
        self._lanes: list[Lane] = [{}]
        self._holders: dict[int, list[int]] = {}  # with reuse_port: pid of a worker -> its lanes
        # For unix sockets, by path: where each was made, and its identity by stat().
        self._paths: dict[str, tuple[str, tuple[int, int]]] = {}

    # Addresses

    def adopt(self, inherited: Mapping[Bind, Sequence[int]]) -> None:
        """Take over listeners of another arbiter: for each address one descriptor per lane."""
        for bind, descriptors in inherited.items():
            for lane, descriptor in enumerate(descriptors):
                self._lane(lane)[bind] = _from_descriptor(descriptor)
            if isinstance(bind, UnixBind) and not bind.is_abstract:
                self._remember(bind.path)

    def open(self, binds: Iterable[Bind], patient: bool = True) -> None:
        """Bind the addresses that are not bound yet. If one cannot be bound: ConfigError, and nothing is changed.

        With `patient`, an address in use is tried 5 times, once a second; without, once.
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
                    self._lanes[0].pop(bind).detach()  # leave it open: it was passed to this process
            self._close(opened)
            raise

    def keep(self, binds: Iterable[Bind]) -> None:
        """Close the listeners of all other addresses."""
        kept = set(binds)
        self._close([bind for bind in self._lanes[0] if bind not in kept])

    def close(self) -> None:
        self._close(list(self._lanes[0]))

    def close_without_unlink(self) -> None:
        """Close the listeners, but keep the paths of unix sockets, where another process still listens."""
        self._paths.clear()
        self.close()

    def _close(self, binds: list[Bind]) -> None:
        for bind in binds:
            for lane in self._lanes:
                if bind in lane:
                    lane.pop(bind).close()
            if isinstance(bind, UnixBind):
                self._remove_own(bind.path)

    def describe(self, known: Iterable[Listener] = ()) -> str:
        """Names, and the actual addresses, with the ports that the kernel chose, as text. Args: as for rows()."""
        return ", ".join(map(title_of, self.rows(known, "", ())))

    def rows(self, known: Iterable[Listener], app: str, with_tls: Container[str]) -> list[dict[str, Any]]:
        """A row for each address: name, application, what was asked for, the actual address, and its accept queue.

        Over all lanes; of a unix socket the kernel does not give the queue.

        Args:
            known: the listeners of the settings; the first one of an address counts.
            app: the APP of the command line, for listeners without an app of their own.
            with_tls: the names of the listeners that use TLS.
        """
        by_bind = {listener.bind: listener for listener in reversed(list(known))}
        return [self._row(bind, by_bind.get(bind, Listener(bind, str(bind))), app, with_tls) for bind in self._lanes[0]]

    def _row(self, bind: Bind, of: Listener, app: str, with_tls: Container[str]) -> dict[str, Any]:
        lanes = [lane[bind] for lane in self._lanes if bind in lane]
        queued = [number for listener in lanes if (number := _queued(listener)) is not None]
        return {
            "name": of.name,
            "app": app if of.app is None else of.app,
            "tls": of.name in with_tls,
            "bind": str(bind),
            "address": describe_address(lanes[0].getsockname()),
            "sockets": len(lanes),
            "backlog": self._backlog,
            "queued": sum(queued) if queued else None,
        }

    def describe_bind(self, bind: Bind) -> str:
        """The actual address of one listener as text."""
        return describe_address(self._lanes[0][bind].getsockname())

    def duplicate(self, bind: Bind) -> socket.socket:
        """The listener of an address once more, with a descriptor of its own, which the caller closes."""
        return self._lanes[0][bind].dup()

    @property
    def descriptors(self) -> dict[Bind, list[int]]:
        """The descriptors by address, as adopt() of a new arbiter takes them."""
        return {bind: [lane[bind].fileno() for lane in self._lanes if bind in lane] for bind in self._lanes[0]}

    # Lanes

    def lanes_for(self, pid: int, binds: Sequence[Bind], wanted: int, is_upgrading: bool = False) -> list[Lane]:
        """The lanes for a new worker: with reuse_port all free lanes, or a new one; otherwise the shared lane.

        Args:
            wanted: how many lanes there may be. If all are taken, the new worker gets none yet: it gets those of the
                worker that it replaces when that one drains.
            is_upgrading: a new arbiter has inherited the present lanes. A further lane would be closed with this
                arbiter, which resets the connections in its accept queue. So the worker shares a present lane.
        """
        if not self._reuse_port:
            return [_for_addresses(self._lanes[0], binds)]
        held = {lane for lanes in self._holders.values() for lane in lanes}
        free = [lane for lane in range(len(self._lanes)) if lane not in held]
        if not free and len(self._lanes) < wanted:
            if is_upgrading:
                self._holders[pid] = []
                return [self._with_all_addresses(pid % len(self._lanes), binds)]
            free = [len(self._lanes)]
        self._holders[pid] = free
        return [self._with_all_addresses(lane, binds) for lane in free]

    def worker_ended(self, pid: int) -> None:
        """A worker has ended: its lanes wait for the next worker."""
        self._holders.pop(pid, None)

    def hand_over(self, pid: int, candidates: Sequence[int], binds: Sequence[Bind]) -> tuple[int, list[Lane]] | None:
        """A worker stops accepting: choose the worker that accepts from its lanes from now on, and return both.

        It is the one of `candidates` with the fewest lanes. None if there are no lanes, or no worker to take them.
        """
        lanes = self._holders.pop(pid, [])
        receivers = [receiver for receiver in candidates if receiver in self._holders]
        if not lanes or not receivers:
            return None
        receiver = min(receivers, key=lambda each: len(self._holders[each]))
        self._holders[receiver] += lanes
        return receiver, [self._with_all_addresses(lane, binds) for lane in lanes]

    def _lane(self, index: int) -> Lane:
        while len(self._lanes) <= index:
            self._lanes.append({})
        return self._lanes[index]

    def _with_all_addresses(self, index: int, binds: Sequence[Bind]) -> Lane:
        """A lane with a listener for each address; missing ones are bound where the first lane has its own."""
        lane = self._lane(index)
        for bind in binds:
            if bind not in lane and isinstance(bind, TcpBind):
                first = self._lanes[0][bind]
                is_v6 = first.family == socket.AF_INET6
                only_v6 = bool(first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) if is_v6 else None
                lane[bind] = self._listen_at(first.family, first.getsockname(), only_v6)
        return _for_addresses(lane, binds)

    # Sockets

    def _listen(self, bind: Bind, all_binds: Sequence[Bind], attempts: int) -> socket.socket:
        for attempt in range(1, attempts + 1):
            try:
                return self._listen_once(bind, all_binds)
            except (UnicodeError, OverflowError) as error:  # the host cannot be encoded as a name
                raise ConfigError(f"cannot listen on {bind}: {error}") from error
            except OSError as error:
                if error.errno != errno.EADDRINUSE or attempt == attempts:
                    raise ConfigError(f"cannot listen on {bind}: {error.strerror or error}") from error
            if attempt == 1:
                log.warning("Address %s is in use: retrying for %g s", bind, (attempts - 1) * RETRY_S)
            time.sleep(RETRY_S)
        raise AssertionError("unreachable")

    def _listen_once(self, bind: Bind, all_binds: Sequence[Bind]) -> socket.socket:
        if isinstance(bind, FdBind):
            return _from_descriptor(bind.fd)
        if isinstance(bind, UnixBind):
            return self._listen_unix(bind)
        host = bind.host or "0.0.0.0"
        family, _, _, _, address = socket.getaddrinfo(host, bind.port, type=socket.SOCK_STREAM)[0]
        # [::] accepts IPv4 as well (RFC 3493, 5.3), unless a bind to every IPv4 address uses the same port.
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
            return self._begin_to_listen(listener)
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
                return self._begin_to_listen(listener)
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
            return self._begin_to_listen(listener)
        except BaseException:
            listener.close()
            self._remove_own(bind.path)
            raise

    def _begin_to_listen(self, listener: socket.socket) -> socket.socket:
        listener.listen(self._backlog)
        listener.setblocking(False)  # one connection wakes several workers, and only one gets it
        return listener

    def _remember(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._paths[path] = place_of(path), identity(path)

    def _remove_own(self, path: str) -> None:
        """Remove the path of a unix socket if it is still the one that this arbiter has made."""
        slot, made = self._paths.pop(path, (path, None))
        with contextlib.suppress(FileNotFoundError):
            if made is not None and identity(slot) == made:
                os.unlink(slot)


def title_of(row: Mapping[str, Any]) -> str:
    """A row as text for people: the name, if the listener has one, and the actual address."""
    return str(row["address"]) if row["name"] == row["bind"] else f"{row['name']} at {row['address']}"


def _queued(listener: socket.socket) -> int | None:
    """How many connections wait in the accept queue: tcpi_unacked of TCP_INFO on a listener (tcp(7))."""
    if listener.family == socket.AF_UNIX:
        return None
    return int(struct.unpack_from("=I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)[0])


def _for_addresses(lane: Lane, binds: Sequence[Bind]) -> Lane:
    return {bind: lane[bind] for bind in binds if bind in lane}


def _from_descriptor(descriptor: int) -> socket.socket:
    """The listener of a descriptor; ConfigError if no connections can be accepted from it."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"descriptor {descriptor} is not a socket: {error.strerror}") from None
    reason = _why_unusable(listener)
    if reason is not None:
        listener.detach()
        raise ConfigError(f"descriptor {descriptor} is not a listening stream socket{reason}")
    if descriptor <= 2:
        listener = _move_above_standard(listener)
    listener.setblocking(False)
    listener.set_inheritable(False)
    return listener


def _why_unusable(listener: socket.socket) -> str | None:
    """Why connections cannot be accepted from this socket, as the end of a message; None if they can."""
    family, kind = (getattr(each, "name", each) for each in (listener.family, listener.type))
    if listener.family not in _FAMILIES:
        return f" of AF_INET, AF_INET6 or AF_UNIX: its family is {family}"
    if listener.type != socket.SOCK_STREAM or listener.proto not in _PROTOCOLS:
        return f": it is a {kind} of {family}, protocol {listener.proto}"
    return None if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else ""


def _move_above_standard(listener: socket.socket) -> socket.socket:
    """Duplicate a listener that has descriptor 0, 1 or 2, and put /dev/null there.

    Otherwise output would be written into the socket, and a daemon would replace it with /dev/null.
    """
    moved = listener.dup()
    low = listener.detach()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, low)
    os.close(null)
    return moved
