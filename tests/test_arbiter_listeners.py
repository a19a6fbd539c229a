"""Listening sockets: binding, refusing, keeping, handing over, and cleaning up."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.arbiter import listeners as module
from gserver.arbiter.listeners import Lane, Listeners
from gserver.bind import Bind, FdBind, TcpBind, UnixBind
from gserver.errors import ConfigError

ANY = TcpBind("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners(10)
    yield made
    made.close()


@pytest.fixture
def lanes() -> Iterator[Listeners]:
    """One listener for each worker."""
    made = Listeners(10, reuse_port=True)
    yield made
    made.close()


def only(lanes: list[Lane], bind: Bind = ANY) -> socket.socket:
    (lane,) = lanes
    return lane[bind]


def knock(address: object, family: int = socket.AF_INET) -> None:
    """Connect, which succeeds if somebody listens."""
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)


def test_every_bind_gets_a_listener_that_does_not_block(listeners: Listeners, tmp_path: Path) -> None:
    binds = [ANY, TcpBind("::1", 0), UnixBind(str(tmp_path / "socket"))]
    listeners.open(binds)

    (lane,) = listeners.lanes_for(1, binds, 1)
    assert [listener.family for listener in lane.values()] == [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]
    described = listeners.describe().split(", ")
    assert described[0].startswith("127.0.0.1:")
    assert described[1].startswith("[::1]:")
    assert described[2] == f"unix:{tmp_path}/socket"
    for listener in lane.values():
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_closing_removes_the_paths_of_unix_sockets(listeners: Listeners, tmp_path: Path) -> None:
    listeners.open([UnixBind(str(tmp_path / "socket"))])
    listeners.close()

    assert list(tmp_path.iterdir()) == []


def test_an_address_in_use_is_one_clear_error_and_changes_nothing(listeners: Listeners, tmp_path: Path) -> None:
    listeners.open([ANY])
    before = listeners.descriptors
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpBind("127.0.0.1", other.getsockname()[1])

        with pytest.raises(ConfigError, match=f"^cannot listen on {taken}: Address already in use$"):
            listeners.open([ANY, UnixBind(str(tmp_path / "socket")), taken])

    assert listeners.descriptors == before
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_exist_is_a_clear_error(listeners: Listeners) -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on host\.invalid:80: "):
        listeners.open([TcpBind("host.invalid", 80)])


def test_what_is_open_already_is_kept_as_it_is(listeners: Listeners, tmp_path: Path) -> None:
    unix = UnixBind(str(tmp_path / "socket"))
    listeners.open([ANY])
    before = listeners.descriptors[ANY]
    listeners.open([ANY, unix])
    listeners.keep([ANY])

    assert listeners.descriptors == {ANY: before}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_every_v6_address_takes_v4_too_unless_another_bind_does(listeners: Listeners, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listeners.open([TcpBind("::", port)])
    knock(("127.0.0.1", port))
    listeners.close()

    listeners.open([TcpBind("::", port), TcpBind(host, port)])

    knock(("127.0.0.1", port))
    knock(("::1", port), socket.AF_INET6)


# Unix sockets


def test_a_unix_socket_gets_the_mode_that_was_asked_for(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path), 0o640)])

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("bind_user", "owner_user"), [("1234", None), (None, "1234"), ("1234", "4321")])
def test_a_unix_socket_gets_the_owner_that_was_asked_for(
    tmp_path: Path, bind_user: str | None, owner_user: str | None
) -> None:
    path = tmp_path / "socket"
    made = Listeners(10, owner=(owner_user, "5678"))
    made.open([UnixBind(str(path), user=bind_user)])
    status = path.stat()
    made.close()

    assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_an_owner_that_does_not_exist_is_a_clear_error_and_leaves_no_path(listeners: Listeners, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no user 'nobody-at-all'"):
        listeners.open([UnixBind(str(tmp_path / "socket"), user="nobody-at-all")])
    assert list(tmp_path.iterdir()) == []


def test_a_stale_unix_socket_is_replaced(listeners: Listeners, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    listeners.open([UnixBind(path)])

    knock(path, socket.AF_UNIX)


@pytest.mark.parametrize("backlog", [10, 0])
def test_a_live_unix_socket_stays_even_if_its_queue_is_full(listeners: Listeners, tmp_path: Path, backlog: int) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as queued:
        live.bind(path)
        live.listen(backlog)
        queued.connect(path)

        with pytest.raises(ConfigError, match="Address already in use"):
            listeners.open([UnixBind(path)])
        assert os.path.exists(path)


def test_a_file_that_is_no_socket_stays(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")

    with pytest.raises(ConfigError, match="Address already in use"):
        listeners.open([UnixBind(str(path))])
    assert path.read_text() == "keep me"


def test_a_path_that_somebody_else_has_taken_meanwhile_is_not_removed(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path))])
    path.unlink()
    path.write_text("another server's")
    listeners.close()

    assert path.read_text() == "another server's"


def test_a_path_is_left_to_a_successor(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path))])
    listeners.leave_to_successor()

    assert path.exists()


# Descriptors


def test_a_descriptor_that_listens_is_served(listeners: Listeners) -> None:
    given = socket.create_server(("127.0.0.1", 0))
    address = given.getsockname()
    bind = FdBind(given.detach())
    listeners.open([bind])

    knock(address)
    assert only(listeners.lanes_for(1, [bind], 1), bind).accept()[0].close() is None


def test_a_descriptor_that_is_no_listener_is_a_clear_error_and_stays_open(listeners: Listeners) -> None:
    with socket.socket() as deaf:
        with pytest.raises(ConfigError, match=f"^descriptor {deaf.fileno()} is not a listening stream socket$"):
            listeners.open([FdBind(deaf.fileno())])
        assert deaf.getsockname()


@pytest.mark.parametrize("descriptor", [999_999, 0])
def test_a_descriptor_that_is_no_socket_is_a_clear_error(listeners: Listeners, descriptor: int) -> None:
    with open(os.devnull) as file, pytest.raises(ConfigError, match="is no socket: "):
        listeners.open([FdBind(descriptor or file.fileno())])


def test_another_arbiters_listeners_are_taken_over_with_their_lanes(lanes: Listeners) -> None:
    lanes.open([ANY])
    lanes.lanes_for(1, [ANY], 2)
    lanes.lanes_for(2, [ANY], 2)
    heir = Listeners(10, reuse_port=True)
    heir.adopt({bind: [os.dup(fd) for fd in fds] for bind, fds in lanes.descriptors.items()})

    assert heir.describe() == lanes.describe()
    assert [len(fds) for fds in heir.descriptors.values()] == [2]
    heir.close()


# Lanes


def test_all_workers_share_one_listener(listeners: Listeners) -> None:
    listeners.open([ANY])

    assert only(listeners.lanes_for(1, [ANY], 2)) is only(listeners.lanes_for(2, [ANY], 2))
    assert listeners.hand_over(1, [2], [ANY]) is None


def test_with_reuse_port_each_worker_has_its_own_at_the_same_address(lanes: Listeners) -> None:
    lanes.open([ANY])
    one, other = (only(lanes.lanes_for(pid, [ANY], 2)) for pid in (1, 2))

    assert one is not other
    assert one.getsockname() == other.getsockname()


def test_who_waits_in_a_dead_workers_lane_is_served_by_the_next(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = only(lanes.lanes_for(1, [ANY], 1))
    clients = [socket.create_connection(own.getsockname(), 5) for _ in range(5)]
    lanes.gone(1)
    successors = only(lanes.lanes_for(2, [ANY], 1))

    for client in clients:
        served, _ = successors.accept()
        served.close()
        client.close()


def test_a_replacement_gets_the_lane_of_the_one_it_replaces_and_lanes_do_not_pile_up(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = only(lanes.lanes_for(1, [ANY], 1))
    for old in range(1, 5):
        assert lanes.lanes_for(old + 1, [ANY], 1) == []
        heir = lanes.hand_over(old, [old + 1], [ANY])
        assert heir == (old + 1, [{ANY: own}])


def test_a_lane_that_nobody_needs_goes_to_whom_has_the_fewest(lanes: Listeners) -> None:
    lanes.open([ANY])
    for pid in (1, 2, 3):
        lanes.lanes_for(pid, [ANY], 3)
    first = lanes.hand_over(1, [2, 3], [ANY])
    second = lanes.hand_over(2, [3], [ANY])

    assert first is not None
    assert first[0] == 2
    assert second is not None
    assert second[0] == 3
    assert len(second[1]) == 2


def test_a_lane_without_an_heir_waits(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = only(lanes.lanes_for(1, [ANY], 1))

    assert lanes.hand_over(1, [], [ANY]) is None
    assert only(lanes.lanes_for(2, [ANY], 1)) is own
