"""Listening sockets: binding, refusing, keeping, handing over, and cleaning up."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.arbiter import listeners as module
from gserver.arbiter.listeners import Lane, Listeners
from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind
from gserver.config.listener_settings import Listener
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
    """Connect: OSError if no process listens."""
    with socket.socket(family) as client:
        client.settimeout(60)
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


def test_rows_have_the_names_and_applications_of_the_settings(listeners: Listeners, tmp_path: Path) -> None:
    path, other = UnixBind(str(tmp_path / "a")), UnixBind(str(tmp_path / "b"))
    listeners.open([ANY, path, other])
    known = [
        Listener(ANY, "devices", "shop:devices", address=str(ANY), is_declared=True),
        Listener(path, str(path), address=str(path)),
        Listener(ANY, "before the reload", "shop:old", address=str(ANY), is_declared=True),
    ]
    rows = listeners.rows(known, "shop:all", {"devices"})

    assert [(row["name"], row["app"], row["tls"]) for row in rows] == [
        ("devices", "shop:devices", True),
        (str(path), "shop:all", False),
        (str(other), "shop:all", False),  # of a reload that was abandoned
    ]
    assert listeners.describe(known) == f"devices at {rows[0]['address']}, {path}, {other}"


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


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_host_that_cannot_be_a_name_is_a_clear_error(listeners: Listeners, host: str) -> None:
    with pytest.raises(ConfigError, match=f"^cannot listen on {host}:80: "):
        listeners.open([TcpBind(host, 80)])


def test_an_address_given_twice_is_opened_once(listeners: Listeners) -> None:
    listeners.open([ANY, ANY])

    assert [len(descriptors) for descriptors in listeners.descriptors.values()] == [1]


def backlog_of(listener: socket.socket) -> int:
    """Where listening sockets keep it: tcpi_sacked."""
    (backlog,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)
    return int(backlog)


@pytest.mark.parametrize("reuse_port", [False, True])
def test_every_listener_has_the_backlog_that_was_asked_for(reuse_port: bool) -> None:
    made = Listeners(7, reuse_port=reuse_port)
    made.open([ANY])
    backlogs = [backlog_of(only(made.lanes_for(pid, [ANY], 2))) for pid in (1, 2)]
    made.close()

    assert backlogs == [7, 7]


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


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_every_lane_of_a_v6_address_leaves_v4_to_the_other_bind(lanes: Listeners, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    six, four = TcpBind("::", port), TcpBind(host, port)
    lanes.open([six, four])

    for pid in (1, 2):
        own = only(lanes.lanes_for(pid, [six, four], 2), six)
        assert own.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


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


@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "99999999999"])
@pytest.mark.parametrize("what", ["user", "group"])
def test_a_number_that_is_no_owner_is_a_clear_error_and_leaves_no_path(
    listeners: Listeners, tmp_path: Path, what: str, number: str
) -> None:
    with pytest.raises(ConfigError):
        listeners.open([UnixBind(str(tmp_path / "socket"), **{what: number})])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 200, "file/socket", "nowhere/socket"])
def test_a_path_that_cannot_be_bound_is_a_clear_error(listeners: Listeners, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"^cannot listen on unix:.*: \w"):
        listeners.open([UnixBind(str(tmp_path / name))])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_bind_at_the_same_path_leaves_what_is_served_there(listeners: Listeners, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listeners.open([UnixBind(path)])

    with pytest.raises(ConfigError, match="Address already in use"):
        listeners.open([UnixBind(path), UnixBind(path, 0o600)], patient=False)
    knock(path, socket.AF_UNIX)


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


def test_a_live_datagram_socket_stays(listeners: Listeners, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as live:
        live.bind(path)

        with pytest.raises(ConfigError, match="Address already in use"):
            listeners.open([UnixBind(path)])
    assert os.path.exists(path)


def test_a_link_to_a_file_stays_and_so_does_the_file(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "link"
    (tmp_path / "notes.txt").write_text("keep me")
    path.symlink_to(tmp_path / "notes.txt")

    with pytest.raises(ConfigError, match="Address already in use"):
        listeners.open([UnixBind(str(path))])
    assert path.read_text() == "keep me"


def test_a_file_that_is_no_socket_stays(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")

    with pytest.raises(ConfigError, match="Address already in use"):
        listeners.open([UnixBind(str(path))])
    assert path.read_text() == "keep me"


def test_a_path_that_another_program_has_taken_is_not_removed(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path))])
    path.unlink()
    path.write_text("another server's")
    listeners.close()

    assert path.read_text() == "another server's"


def test_a_path_is_left_to_a_new_arbiter(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path))])
    listeners.close_without_unlink()

    assert path.exists()


@pytest.mark.parametrize("end", [Listeners.close, lambda served: served.keep([])], ids=["close", "keep"])
def test_a_path_that_is_gone_already_is_no_trouble(
    listeners: Listeners, tmp_path: Path, end: Callable[[Listeners], None]
) -> None:
    path = tmp_path / "socket"
    listeners.open([UnixBind(str(path))])
    path.unlink()
    end(listeners)

    assert listeners.descriptors == {}


def test_a_unix_socket_that_was_taken_over_is_removed_in_the_end(listeners: Listeners, tmp_path: Path) -> None:
    bind = UnixBind(str(tmp_path / "socket"))
    listeners.open([bind])
    receiver = Listeners(10)
    receiver.adopt({bind: [os.dup(fd) for fd in listeners.descriptors[bind]]})
    listeners.close_without_unlink()
    knock(bind.path, socket.AF_UNIX)
    receiver.close()

    assert list(tmp_path.iterdir()) == []


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
    with open(os.devnull) as file, pytest.raises(ConfigError, match="is not a socket: "):
        listeners.open([FdBind(descriptor or file.fileno())])


def test_a_descriptor_that_no_process_can_have_is_a_clear_error(listeners: Listeners) -> None:
    with pytest.raises(ConfigError, match=r"^descriptor 99999999999 is not a socket: "):
        listeners.open([FdBind(99_999_999_999)])


def test_a_descriptor_is_not_closed_by_what_fails_beside_it(listeners: Listeners) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        with pytest.raises(ConfigError, match="is not a socket"):
            listeners.open([FdBind(given.fileno()), FdBind(999_999)])
        knock(given.getsockname())


def test_a_descriptor_is_not_left_to_other_programs(listeners: Listeners) -> None:
    given = socket.create_server(("127.0.0.1", 0)).detach()
    os.set_inheritable(given, True)
    listeners.open([FdBind(given)])

    assert not os.get_inheritable(given)


def test_another_arbiters_listeners_are_taken_over_with_their_lanes(lanes: Listeners) -> None:
    lanes.open([ANY])
    lanes.lanes_for(1, [ANY], 2)
    lanes.lanes_for(2, [ANY], 2)
    receiver = Listeners(10, reuse_port=True)
    receiver.adopt({bind: [os.dup(fd) for fd in fds] for bind, fds in lanes.descriptors.items()})

    assert receiver.describe() == lanes.describe()
    assert [len(fds) for fds in receiver.descriptors.values()] == [2]
    receiver.close()


def test_what_another_arbiter_has_not_taken_over_is_not_opened_any_more(lanes: Listeners) -> None:
    """A new lane would be closed with this arbiter, which resets the connections in its accept queue."""
    lanes.open([ANY])
    first = only(lanes.lanes_for(1, [ANY], 1))

    assert only(lanes.lanes_for(2, [ANY], 2, is_upgrading=True)) is first
    assert [len(fds) for fds in lanes.descriptors.values()] == [1]
    assert lanes.hand_over(2, [1], [ANY]) is None
    assert only(lanes.lanes_for(3, [ANY], 2)) is not first


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


def test_clients_in_the_queue_of_a_dead_worker_are_served_by_the_next(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = only(lanes.lanes_for(1, [ANY], 1))
    clients = [socket.create_connection(own.getsockname(), 5) for _ in range(5)]
    lanes.worker_ended(1)
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
        receiver = lanes.hand_over(old, [old + 1], [ANY])
        assert receiver == (old + 1, [{ANY: own}])


def test_a_surplus_lane_goes_to_the_worker_with_the_fewest(lanes: Listeners) -> None:
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


def test_clients_in_the_queue_of_a_lane_that_is_handed_over_are_served(lanes: Listeners) -> None:
    lanes.open([ANY])
    for pid in (1, 2):
        lanes.lanes_for(pid, [ANY], 2)
    address = lanes.describe().rpartition(":")
    clients = [socket.create_connection((address[0], int(address[2])), 5) for _ in range(10)]
    receiver = lanes.hand_over(1, [2], [ANY])

    assert receiver is not None
    assert receiver[0] == 2
    lanes.worker_ended(1)
    served = [accept_all(socket.socket(fileno=os.dup(fd))) for fd in lanes.descriptors[ANY]]
    assert sum(served) == len(clients)
    for client in clients:
        client.close()


def accept_all(listener: socket.socket) -> int:
    """How many waited there."""
    count = 0
    with listener:
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def test_an_unknown_worker_has_no_lanes_to_hand_over(lanes: Listeners) -> None:
    lanes.open([ANY])
    lanes.lanes_for(1, [ANY], 1)
    lanes.worker_ended(7)

    assert lanes.hand_over(7, [1], [ANY]) is None


def test_an_address_that_is_added_is_in_every_lane(lanes: Listeners) -> None:
    more = TcpBind("::1", 0)
    lanes.open([ANY])
    for pid in (1, 2):
        lanes.lanes_for(pid, [ANY], 2)
        lanes.worker_ended(pid)
    lanes.lanes_for(1, [ANY], 2)
    lanes.open([ANY, more])
    receivers = lanes.hand_over(1, [], [ANY]), lanes.lanes_for(3, [ANY, more], 2)

    assert receivers[0] is None
    assert [set(lane) for lane in receivers[1]] == [{ANY, more}] * len(lanes.descriptors[ANY])
    assert len({lane[more].getsockname() for lane in receivers[1]}) == 1


def test_an_address_that_is_given_up_is_closed_in_every_lane(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = [only(lanes.lanes_for(pid, [ANY], 2)) for pid in (1, 2)]
    lanes.keep([])

    assert [listener.fileno() for listener in own] == [-1, -1]
    assert lanes.descriptors == {}


def test_a_lane_without_a_receiver_waits(lanes: Listeners) -> None:
    lanes.open([ANY])
    own = only(lanes.lanes_for(1, [ANY], 1))

    assert lanes.hand_over(1, [], [ANY]) is None
    assert only(lanes.lanes_for(2, [ANY], 1)) is own
