"""examples/offload.py with real clients: heavy handlers, and nobody waits for those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gserver.client import Client
from gserver.codecs import JsonLines
from tests.helpers.processes import GserverProcess

EXAMPLE = (Path(__file__).parents[2] / "examples" / "offload.py").read_text()


def serve(folder: Path, *arguments: str, source: str = EXAMPLE) -> GserverProcess:
    (folder / "heavy_service.py").write_text(source)
    return GserverProcess(folder, "--offload-processes", "1", *arguments, "heavy_service:app")


def ask(client: Client, type_: str, **fields: Any) -> Any:
    return client.call({"type": type_, **fields})


def test_passwords_are_hashed_and_primes_are_counted(tmp_path: Path) -> None:
    with serve(tmp_path) as server, Client(server.address, JsonLines()) as client:
        assert ask(client, "register", name="ann", password="secret") == {"registered": "ann"}
        assert ask(client, "login", name="ann", password="secret") == {"ok": True}
        assert ask(client, "login", name="ann", password="guess") == {"ok": False}
        assert ask(client, "login", name="bob", password="secret") == {"ok": False}
        assert ask(client, "primes", below=1_000_000) == {"count": 78498}
        assert [ask(client, "primes", below=each)["count"] for each in (0, 1, 2, 3)] == [0, 0, 0, 1]
        for wrong in ("many", -1, 10**12):
            assert ask(client, "primes", below=wrong)["status"] == "ERROR"


@pytest.mark.parametrize("queue", ["0", "1"])
def test_a_computation_above_its_time_is_answered_and_others_are_served_meanwhile(tmp_path: Path, queue: str) -> None:
    source = EXAMPLE.replace("LONGEST_S = 5.0", "LONGEST_S = 0.1")
    assert source != EXAMPLE
    with (
        serve(tmp_path, "--offload-queue", queue, source=source) as server,
        Client(server.address, JsonLines()) as slow,
        Client(server.address, JsonLines()) as other,
    ):
        assert ask(other, "register", name="ann", password="secret") == {"registered": "ann"}
        slow.send({"type": "primes", "below": 100_000_000})
        assert ask(other, "login", name="ann", password="secret") == {"ok": True}

        assert slow.recv() == {"error": "Timeout"}
        assert "error" not in ask(other, "login", name="ann", password="secret")
