"""The client of the control socket, with servers that answer anything."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.control.client import ControlClient, Unreachable
from gserver.control.protocol import Problem


class FakeServer:
    """Accepts one client, and answers each of its requests with the next of these lists of lines."""

    def __init__(self, path: Path, answers: list[Callable[[dict[str, Any]], list[Any]]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answers = answers
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        peer, _ = self._listener.accept()
        with peer, peer.makefile("rb") as lines:
            for answer in self._answers:
                line = lines.readline()
                if not line:
                    return
                request = json.loads(line)
                self.requests.append(request)
                for each in answer(request):
                    text = each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n"
                    peer.sendall(text)

    def close(self) -> None:
        self._thread.join(30.0)
        self._listener.close()
        assert not self._thread.is_alive()


Serve = Callable[..., ControlClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[FakeServer] = []
    clients: list[ControlClient] = []

    def made(*answers: Callable[[dict[str, Any]], list[Any]]) -> ControlClient:
        servers.append(FakeServer(tmp_path / "ctl", list(answers)))
        clients.append(ControlClient(str(tmp_path / "ctl")))
        clients[-1].server = servers[-1]  # type: ignore[attr-defined]
        return clients[-1]

    yield made
    for client in clients:
        client.close()
    for server in servers:
        server.close()


def reply(*rows: list[Any], **last: Any) -> Callable[[dict[str, Any]], list[Any]]:
    return lambda request: [
        *({"schema": 1, "id": request["id"], "rows": each} for each in rows),
        {"schema": 1, "id": request["id"], **last},
    ]


def test_it_waits_for_a_place_in_a_full_accept_queue(tmp_path: Path) -> None:
    path = str(tmp_path / "ctl")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)

        def accept_both() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        accepting = threading.Timer(0.2, accept_both)
        accepting.start()
        ControlClient(path).close()
        accepting.join()


def test_a_call_returns_the_result_and_rows(serve: Serve) -> None:
    client = serve(
        reply(result={"pid": 1}), reply([1, 2], [3], result={"count": 3}), reply(result={"count": 0, "missing": []})
    )

    assert client.call("status") == {"pid": 1}
    assert client.call("connections", sort="idle") == {"rows": [1, 2, 3], "count": 3}
    assert client.call("connections") == {"rows": [], "count": 0, "missing": []}
    requests = client.server.requests  # type: ignore[attr-defined]
    assert requests[1] == {"command": "connections", "id": 2, "sort": "idle"}


def test_rows_that_were_not_read_are_not_those_of_the_next_request(serve: Serve) -> None:
    client = serve(reply([1], [2], result={"count": 2}), reply([7], result={"count": 1}))
    assert next(client.request("connections")) == 1

    assert client.call("workers") == {"rows": [7], "count": 1}


def test_a_refusal_is_a_problem(serve: Serve) -> None:
    client = serve(reply(error={"code": "not_found", "message": "there is no worker 1"}), reply(result={}))
    with pytest.raises(Problem, match=r"^there is no worker 1$") as caught:
        client.call("restart_worker", pid=1)

    assert caught.value.code == "not_found"
    assert client.call("status") == {}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"hello\n", "is not the control socket of a gserver"),
        (b"[1]\n", "is not the control socket of a gserver"),
        (b'"text"\n', "is not the control socket of a gserver"),
        (b"{}\n", "is not the control socket of a gserver"),
        (b'{"schema": 1}\n', "is not the control socket of a gserver"),
        (b"[" * 100_000 + b"\n", "is not the control socket of a gserver"),
        (b'{"schema": 2, "result": {}}\n', "has version 2 of the protocol, not 1"),
        (b'{"schema": 1, "resu', "has ended"),
        (b"", "has ended"),
    ],
)
def test_what_is_not_a_reply_is_one_line(serve: Serve, answer: bytes, problem: str) -> None:
    client = serve(lambda request: [answer])
    with pytest.raises(Unreachable) as caught:
        client.call("status")

    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "ctl"))
        server.listen()
        with (
            ControlClient(str(tmp_path / "ctl")) as client,
            pytest.raises(Unreachable, match=r"does not answer: timed out$"),
        ):
            client.call("status", limit_s=0.05)
        with (
            ControlClient(str(tmp_path / "ctl")) as client,
            pytest.raises(Unreachable, match=r"has not ended: timed out$"),
        ):
            client.wait_for_end(0.05)


def test_the_end_of_a_server_is_waited_for(serve: Serve) -> None:
    client = serve(reply(result={"pid": 1}))
    client.call("stop")
    client.wait_for_end(30.0)


@pytest.mark.parametrize("name", ["missing", "missing/ctl", "a file"])
def test_without_a_server_it_is_unreachable_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unreachable, match=r"^control socket '.*' cannot be used: "):
        ControlClient(str(tmp_path / name))

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    with pytest.raises(Unreachable, match="No such file or directory"):
        ControlClient(str(folder / "ctl"))
