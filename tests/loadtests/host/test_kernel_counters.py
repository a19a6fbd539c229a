"""Kernel counters: the parsers on texts, the rest on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.host import kernel_counters

NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPTimeouts
TcpExt: 1 22 33 4
IpExt: InNoRoutes InOctets
IpExt: 0 99
"""
is_root = os.getuid() == 0


def waiting(listener: socket.socket) -> int:
    found = kernel_counters.listeners(listener.getsockname()[1])
    assert found is not None
    return found.waiting


def test_cpu_time_of_processes_and_interrupts_and_stolen_time() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    line = " ".join(["cpu ", *(str(seconds * ticks) for seconds in (10, 2, 30, 400, 5, 1, 6, 7, 3, 1))])

    assert kernel_counters.parse_processors(line) == {"busy_s": 42.0, "interrupts_s": 7.0, "steal_s": 7.0}


def test_pairs_of_lines_are_tables() -> None:
    tables = kernel_counters.parse_pairs(NETSTAT)

    assert tables["TcpExt"] == {"SyncookiesSent": 1, "ListenOverflows": 22, "ListenDrops": 33, "TCPTimeouts": 4}
    assert tables["IpExt"] == {"InNoRoutes": 0, "InOctets": 99}


def test_cpu_time_grows_with_work() -> None:
    before = kernel_counters.processors()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    after = kernel_counters.processors()

    assert after["busy_s"] > before["busy_s"]
    assert all(after[name] >= before[name] for name in before)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_accept_queue_is_that_of_the_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as one, socket.create_server((host, 0), family=family) as other:
        clients = [socket.create_connection(one.getsockname()[:2]) for _ in range(5)]
        assert waiting(one) == 5
        assert waiting(other) == 0
        one.accept()[0].close()
        assert waiting(one) == 4
        for client in clients:
            client.close()


def test_the_queues_of_all_listeners_of_a_port_are_added() -> None:
    one = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    with one, socket.create_server(one.getsockname(), reuse_port=True):
        clients = [socket.create_connection(one.getsockname()) for _ in range(20)]
        assert waiting(one) == 20
        for client in clients:
            client.close()


def test_without_a_listener_there_is_no_queue() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))

        assert kernel_counters.listeners(bound.getsockname()[1]) is None


def test_connections_dropped_by_a_full_queue_are_counted() -> None:
    before = kernel_counters.network()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        after = kernel_counters.network()
        for client in clients:
            client.close()

    assert after["listen_overflows"] >= before["listen_overflows"] + 1
    assert after["listen_drops"] >= before["listen_drops"] + 1


@contextlib.contextmanager
def overrun(listener: socket.socket, connects: int = 12) -> Iterator[int]:
    """Connect more often than an accept queue of one can hold; yield the minimum of dropped requests."""
    clients = [socket.socket(listener.family) for _ in range(connects)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield connects - 2
    finally:
        for client in clients:
            client.close()


def dropped(listener: socket.socket, *addresses: str) -> int:
    found = kernel_counters.listeners(listener.getsockname()[1], addresses)
    return sum(found.dropped.values()) if found else 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connection_requests_dropped_by_a_full_queue_are_counted_for_its_listener(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    make = functools.partial(socket.create_server, (host, 0), family=family, backlog=1)
    with make() as full, make() as other, overrun(full) as least:
        assert dropped(full) >= least
        assert dropped(full, host) >= least
        assert dropped(other) == 0


def test_a_listener_of_the_same_port_on_another_address_is_another_server() -> None:
    tested = socket.create_server(("127.0.0.1", 0), backlog=1)
    port = tested.getsockname()[1]
    with tested, socket.create_server(("127.0.0.2", port), backlog=1) as other, overrun(other) as least:
        assert dropped(tested, "127.0.0.1") == 0
        assert dropped(tested, "127.0.0.2") >= least
        assert kernel_counters.listeners(port, ["127.0.0.3"]) is None


def test_a_listener_on_every_address_takes_connects_to_each() -> None:
    with socket.create_server(("0.0.0.0", 0), backlog=1) as tested:
        assert kernel_counters.listeners(tested.getsockname()[1], ["127.0.0.7"]) is not None


def test_listeners_that_share_a_port_each_have_their_own_drops() -> None:
    one = socket.create_server(("127.0.0.1", 0), reuse_port=True, backlog=1)
    with one, socket.create_server(one.getsockname(), reuse_port=True, backlog=1), overrun(one, 40):
        found = kernel_counters.listeners(one.getsockname()[1])
        assert found is not None
        assert len(found.dropped) == 2
        assert sum(found.dropped.values()) >= 36


def test_a_new_listener_begins_at_0() -> None:
    assert kernel_counters.drops_between({"a": 8, "b": 3}, {"b": 4, "c": 2}) == 3
    assert kernel_counters.drops_between({"a": 8}, {}) == 0


def test_unread_bytes_count_as_memory_of_tcp() -> None:
    """The kernel accounts up to 1 MiB for each core separately, which is not in the counter."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        before = kernel_counters.network()
        sent = 0
        for client in clients:
            client.setblocking(False)
            sent += client.send(bytes(4_000_000))
        after = kernel_counters.network()
        for client in clients:
            client.close()

    assert sent > 20_000_000
    assert after["tcp_memory_bytes"] - before["tcp_memory_bytes"] > sent / 2
    assert after["tcp_established"] >= 40


@pytest.mark.skipif(not is_root or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_process_in_another_namespace_has_its_own_counters() -> None:
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        there, here = kernel_counters.network(process.pid), kernel_counters.same_namespace(process.pid)
        process.kill()

    assert there["tcp_established"] == there["listen_drops"] == there["retransmits"] == 0
    assert not here
    assert kernel_counters.same_namespace(os.getpid())


def test_a_process_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        kernel_counters.network(2**22 + 1)
    assert not kernel_counters.same_namespace(2**22 + 1)


def test_the_kernel_has_every_counter_that_is_read() -> None:
    names = {"listen_overflows", "listen_drops", "retransmits", "tcp_established", "tcp_time_wait", "tcp_memory_bytes"}

    assert set(kernel_counters.network()) == names
    assert Path("/proc/stat").exists()
