"""gserver.bus between the workers of a server: all members get all lines, in order, whatever happens to workers."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.helpers.chat import Member, chat_server, counts, join_each
from tests.helpers.processes import GserverProcess, is_running, wait_for


def flat(members: dict[int, list[Member]]) -> list[Member]:
    return [member for each in members.values() for member in each]


def close(members: dict[int, list[Member]]) -> None:
    for member in flat(members):
        member.close()


def numbers(lines: list[bytes], name: bytes) -> list[int]:
    """The numbers of the lines of one publisher."""
    return [int(line.split()[1]) for line in lines if line.split()[0] == name]


def sockets_of(pid: int) -> int:
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(link).startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return found


@pytest.mark.parametrize(
    ("more", "app"),
    [
        ((), "app"),
        ((), "reader"),
        (("--preload",), "app"),
        (("--no-patch",), "app"),
        (("--reuse-port",), "app"),
        (("--greenlets", "dedicated"), "app"),
    ],
    ids=["plain", "stream", "preload", "unpatched", "reuse_port", "dedicated"],
)
def test_all_members_get_all_lines_of_each_publisher_in_order(tmp_path: Path, more: tuple[str, ...], app: str) -> None:
    with chat_server(tmp_path, *more, workers=3, app=app) as server:
        members = join_each(server, 2, server.serving_pids())
        publishers = [each[0] for each in members.values()]
        for number in range(100):
            for index, publisher in enumerate(publishers):
                publisher.send(b"say %d %d" % (index, number))
        for index, publisher in enumerate(publishers):
            publisher.send(b"say end %d" % index)
        for member in flat(members):
            lines: list[bytes] = []
            while len(numbers(lines, b"end")) < 3:
                lines.append(member.read())
            for index in range(3):
                assert numbers(lines, b"%d" % index) == list(range(100))
        assert counts(tmp_path) == {"published": 303, "delivered": 303 * 6, "dropped": 0}
        publishers[0].send(b"note it")
        wait_for(lambda: [member.heard for member in publishers] == [1, 1, 1], "the function of each worker is called")
        close(members)


def test_old_and_new_workers_are_linked_during_a_reload(tmp_path: Path) -> None:
    with chat_server(tmp_path) as server:
        old = server.serving_pids()
        members = join_each(server, 1, old)
        for index, member in enumerate(flat(members)):
            member.send(b"hold %s" % str(tmp_path / f"release {index}").encode())
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        new = [pid for pid in server.serving_pids() if pid not in old]
        newer = join_each(server, 1, new)
        assert len(new) == 2
        assert all(is_running(pid) for pid in old)
        flat(newer)[0].send(b"say from the new")
        for member in flat(members) + flat(newer):
            assert member.read() == b"from the new"
        released = str(tmp_path / "release 0").encode()
        (tmp_path / "release 0").touch()
        for member in [flat(members)[1], *flat(newer)]:
            assert member.read() == released
        (tmp_path / "release 1").touch()
        wait_for(lambda: not any(is_running(pid) for pid in old), "the old workers have ended")
        flat(newer)[1].send(b"say the end")
        assert flat(newer)[0].read_until(b"the end") == [str(tmp_path / "release 1").encode()]
        close(members)
        close(newer)


class Crowd:
    """Members that come back when their connection ends. Each notes what it got, connection by connection."""

    def __init__(self, server: GserverProcess, size: int) -> None:
        self._server = server
        self._ends = threading.Event()
        self.got: list[list[bytes]] = []  # by connection
        self._threads = [threading.Thread(target=self._take_part) for _ in range(size)]
        self._failures: list[BaseException] = []
        for thread in self._threads:
            thread.start()

    def _take_part(self) -> None:
        try:
            while not self._ends.is_set():
                try:
                    member = Member(self._server)
                except (OSError, IndexError):  # it was accepted by a worker that was just killed
                    continue
                lines: list[bytes] = []
                while not self._ends.is_set() and member.is_open:
                    lines += member.read_all()
                lines += member.read_all()
                self.got.append(lines)
                member.close()
        except BaseException as error:
            self._failures.append(error)

    def leave(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(60)
        assert self._failures == []


def test_workers_are_killed_reloaded_and_recycled_and_nobody_misses_a_line(tmp_path: Path) -> None:
    """A connection gets all lines of a publisher from the first that it gets to the last: none is left out or doubled.

    Lines of a publisher whose worker is killed may be lost at its end.
    """
    with chat_server(tmp_path, "--max-requests", "3000", "--worker-max-age", "0", workers=3) as server:
        crowd = Crowd(server, 6)
        for publisher in range(9):
            member = Member(server)
            for number in range(150):
                member.send(b"say %d %d" % (publisher, number))
                if number == 75:
                    workers = server.serving_pids()
                    if publisher % 3 == 0:
                        victims = [pid for pid in workers if pid != member.worker]
                        server.kill_worker(victims[0])
                    elif publisher % 3 == 1:
                        reloaded = server.log.count("Reloaded")
                        server.signal(signal.SIGHUP)
                        server.wait_for_log("Reloaded", reloaded + 1)
                if not member.is_open:
                    break
            member.read_all()
            member.close()
        crowd.leave()
        complete = 0
        for lines in crowd.got:
            for name in {line.split()[0] for line in lines}:
                found = numbers(lines, name)
                assert found == list(range(found[0], found[0] + len(found))), (name, found)
                complete += found == list(range(150))
        assert complete > 6  # of the publishers that no reload has ended
        assert counts(tmp_path)["dropped"] == 0


def test_a_stuck_worker_delays_nobody_and_misses_what_its_queue_cannot_hold(tmp_path: Path) -> None:
    with chat_server(tmp_path, "--bus-queue", "64K", workers=2) as server:
        stuck, running = server.serving_pids()
        members = join_each(server, 2, [stuck, running])
        publisher, other = members[running]
        os.kill(stuck, signal.SIGSTOP)
        for index in range(40):
            assert publisher.ask(b"burst b%d 20 1000" % index) == b"done"  # it is answered at once
        publisher.send(b"say end of the burst")
        received = other.read_until(b"end of the burst")
        assert [number for index in range(40) for number in numbers(received, b"b%d" % index)] == 40 * list(range(20))
        server.wait_for_log(rf"bus: \d+ messages dropped: worker {stuck} does not read")
        os.kill(stuck, signal.SIGCONT)
        wait_for(lambda: b"caught up" in said(publisher, members[stuck][0], b"caught up"), "it reads again")
        late = [line for line in members[stuck][1].read_until(b"caught up") if line.startswith(b"b")]
        keys = [(int(line.split()[0][1:]), int(line.split()[1])) for line in late]
        assert keys == sorted(set(keys))  # in order, none twice
        assert 60 < len(keys) < 800
        found = counts(tmp_path)
        assert found["dropped"] >= 800 - len(keys)
        assert all(member.is_open for member in flat(members))
        close(members)


def said(publisher: Member, member: Member, line: bytes) -> list[bytes]:
    """Publish a line; return what a member gets then."""
    publisher.send(b"say " + line)
    return member.read_all()


def test_a_worker_without_descriptors_of_others_after_they_are_killed(tmp_path: Path) -> None:
    """No descriptor is left of links to workers that are gone, and none is in the arbiter."""
    with chat_server(tmp_path, workers=3) as server:
        first = server.serving_pids()[0]
        members = join_each(server, 1, [first])
        before = sockets_of(first)
        in_arbiter = sockets_of(server.arbiter.pid)
        for _ in range(3):
            victim = next(pid for pid in server.serving_pids() if pid != first)
            server.kill_worker(victim)
            wait_for(
                lambda: sockets_of(first) == before, "the link to the dead one is closed, and one to the new is open"
            )
            assert sockets_of(server.arbiter.pid) == in_arbiter
        close(members)


def test_a_forked_child_holds_no_link(tmp_path: Path) -> None:
    with chat_server(tmp_path, workers=2) as server:
        one, other = server.serving_pids()
        members = join_each(server, 1, [one, other])
        child = int(members[one][0].ask(b"fork").split()[1])
        try:
            wait_for(lambda: sockets_of(child) == 0, "the child has given up its copies")
            before = sockets_of(other)
            server.kill_worker(one)
            wait_for(lambda: sockets_of(other) == before, "the other worker has seen the end of the link")
            newer = join_each(server, 1, [pid for pid in server.serving_pids() if pid != other])
            members[other][0].send(b"say hello")
            assert flat(newer)[0].read() == b"hello"
            close(newer)
        finally:
            psutil.Process(child).kill()
        close(members)


def test_a_worker_that_ends_sends_what_it_has_published(tmp_path: Path) -> None:
    """Lines of the drain itself, published when the handlers of the old worker return, reach the others."""
    with chat_server(tmp_path, workers=2) as server:
        members = join_each(server, 1, server.serving_pids())
        one, other = flat(members)
        one.send(b"burst last 2000 200")
        os.kill(one.worker, signal.SIGTERM)
        assert numbers([other.read() for _ in range(2000)], b"last") == list(range(2000))
        close(members)


def links_of(pid: int) -> int:
    """The unix stream sockets of a worker: its channel is a seqpacket socket, its clients use TCP."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    streams = {f"socket:[{row[6]}]" for row in rows if row[4] == "0001"}
    return sum(os.readlink(link) in streams for link in Path(f"/proc/{pid}/fd").iterdir())


def test_a_service_that_does_not_import_the_bus_has_no_links(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("from gserver import Lines, Service\napp = Service(lambda m, c: m, Lines)\n")
    with GserverProcess(tmp_path, "plain:app", workers=3) as server:
        assert [links_of(pid) for pid in server.serving_pids()] == [0, 0, 0]
    with chat_server(tmp_path, workers=3) as server:
        assert [links_of(pid) for pid in server.serving_pids()] == [2, 2, 2]
