"""examples/device_gateway.py: real devices on TCP, on a clock of the test, and its administrators on a second port."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gserver import Client, CloseReason, ConnectionClosed, LengthPrefixed, Lines
from gserver.testing import Conversation
from tests.helpers.examples import EXAMPLES, load_example
from tests.helpers.ports import NamedPorts
from tests.helpers.processes import GserverProcess, wait_for

PATIENCE_S = 60


@pytest.fixture
def gateway() -> Any:
    return load_example("device_gateway")


def login(gateway: Any, name: bytes) -> bytes:
    frame: bytes = b"L%b:%b" % (name, gateway.token_of(name))
    return frame


def reading(gateway: Any, seconds: int) -> bytes:
    packed: bytes = gateway.READING.pack(seconds, 2150, 3300)
    return packed


# On a clock of the test


def test_a_device_must_log_in_within_ten_seconds(gateway: Any) -> None:
    with Conversation(gateway.app) as silent:
        other = silent.another()
        assert other.message(b"H", b"", b"R" + bytes(8), b"Lt1:guess", b"Lt1") == [
            *[b"Elog in first"] * 3,
            *[b"Ewrong token"] * 2,
        ]
        silent.advance(9)
        assert not silent.is_closed
        silent.advance(1.5)
        assert (silent.close_reason, other.close_reason) == (CloseReason.DEADLINE, CloseReason.DEADLINE)


def test_a_device_that_has_logged_in_stays_while_it_sends(gateway: Any) -> None:
    with Conversation(gateway.app, read_idle_timeout=90) as conv:
        assert conv.message(login(gateway, b"t1")) == [b"L"]
        for _ in range(5):
            conv.advance(80)
            assert conv.message(b"H") == [b"H"]
        conv.advance(91)
        assert conv.close_reason is CloseReason.READ_IDLE_TIMEOUT
        assert gateway.devices == {}


def test_readings_are_kept(gateway: Any) -> None:
    with Conversation(gateway.app) as conv:
        batch = reading(gateway, 2) + reading(gateway, 3)
        assert conv.message(login(gateway, b"t1"), b"R" + reading(gateway, 1), b"R" + batch) == [b"L", b"R", b"R"]
        assert gateway.latest == {"t1": (3, 2150, 3300)}
        assert conv.message(b"R", b"Rabc", b"X", b"") == [b"Ewrong length"] * 2 + [b"Eunknown frame"] * 2
        assert gateway.latest == {"t1": (3, 2150, 3300)}


def test_the_old_connection_of_a_device_is_replaced(gateway: Any) -> None:
    with Conversation(gateway.app) as old:
        old.message(login(gateway, b"t1"))
        new = old.another()
        assert new.message(login(gateway, b"t1")) == [b"L"]
        assert old.is_closed
        assert gateway.devices == {"t1": new.conn}
        assert new.message(b"H") == [b"H"]


def test_a_frame_that_is_too_long_ends_the_connection(gateway: Any) -> None:
    with Conversation(gateway.app) as conv:
        assert conv.send((64 * 1024 + 1).to_bytes(4, "big")) == [b"Ecannot be read"]
        assert conv.close_reason is CloseReason.PROTOCOL_ERROR


# With real clients, on both ports of one worker


class Running:
    """The server, with its two addresses."""

    def __init__(self, server: GserverProcess, ports: list[int], gateway: Any) -> None:
        self.server, self.ports, self.gateway = server, ports, gateway

    def device(self, name: bytes) -> Client:
        client = Client(("127.0.0.1", self.ports[0]), LengthPrefixed(), PATIENCE_S)
        assert client.call(login(self.gateway, name)) == b"L"
        return client

    def admin(self) -> Client:
        return Client(("127.0.0.1", self.ports[1]), Lines(), PATIENCE_S)


@pytest.fixture
def running(tmp_path: Path, gateway: Any) -> Iterator[Running]:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    named = NamedPorts()
    ports = [named["devices"], named["admin"]]
    settings = tmp_path / "device_gateway.conf.py"
    numbers = iter(ports)
    settings.write_text(re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda _: str(next(numbers)), settings.read_text()))
    with GserverProcess(tmp_path, "-c", settings.name, bind=None) as server:
        yield Running(server, ports, gateway)


def test_an_administrator_sends_commands_and_gets_their_results(running: Running) -> None:
    with running.device(b"t1") as device, running.admin() as admin, ThreadPoolExecutor(1) as thread:
        assert admin.call(b"list") == b"1 devices t1"
        for number, (command, result) in enumerate([(b"reboot", b"ok"), (b"set rate 5", b"5")]):
            answer = thread.submit(admin.call, b"send t1 " + command)
            assert device.recv() == b"C" + number.to_bytes(2, "big") + command
            device.send(b"D" + number.to_bytes(2, "big") + result)
            assert answer.result(PATIENCE_S) == result
        # A result that nobody waits for is ignored.
        device.send(b"D\0\0late")
        assert device.call(b"H") == b"H"
        assert admin.call(b"send t2 reboot") == b"error: t2 is not known"
        assert admin.call(b"last t1") == b"error: t1 is not known"
        assert admin.call(b"nonsense").startswith(b"error: expected")


def test_a_device_that_leaves_ends_the_command_at_once(running: Running) -> None:
    with running.device(b"t1") as device, running.admin() as admin, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(admin.call, b"send t1 reboot")
        assert device.recv()[:1] == b"C"
        device.close()
        assert answer.result(PATIENCE_S) == b"error: the device has left"


def test_a_compressed_batch_is_unpacked_while_others_are_served(running: Running) -> None:
    readings = b"".join(reading(running.gateway, number) for number in range(10_000))
    with running.device(b"t1") as device, running.device(b"t2") as other, running.admin() as admin:
        device.send(b"Z" + zlib.compress(readings))
        assert other.call(b"H") == b"H"
        assert device.recv() == b"R"
        assert admin.call(b"last t1") == b"9999 s 21.5 C 3.3 V"
        # A bomb is cut at the limit, and what is not compressed is an error.
        assert device.call(b"Z" + zlib.compress(bytes(40_000_000))[: 60 * 1024]) == b"R"
        assert device.call(b"Zabc") == b"Ecannot be read"
        assert device.call(b"H") == b"H"


def test_a_device_that_connects_again_is_reached_on_the_new_connection(running: Running) -> None:
    with running.device(b"t1") as old, running.device(b"t1") as new, running.admin() as admin:
        with pytest.raises(ConnectionClosed):
            old.recv()
        wait_for(lambda: admin.call(b"list") == b"1 devices t1", "the new connection is known")
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(admin.call, b"send t1 hello")
            assert new.recv()[3:] == b"hello"
            new.send(b"D\0\0hi")
            assert answer.result(PATIENCE_S) == b"hi"
