"""Count the instructions that the server executes in user space for a message, with valgrind.

The count does not depend on other load on the machine. A server is forked several times, with different numbers of
messages; the difference excludes the start, the imports and the end. The result is a ratio to a yardstick, ordinary
Python code on a socket that is counted in the same way (tests/helpers/counted.py), so that the ratio also holds for
another interpreter.

    python -m tests.helpers.instructions     prints the counts of this interpreter
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gserver.connection.native_fields import IS_NATIVE

__all__ = ["Costs", "Counts", "count"]

ROOT = Path(__file__).parents[2]
VALGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
PATIENCE_S = 240
ECHO = b"x" * 63 + b"\n"
PIPELINED = 16
SUMS = b'{"type":"SUM","a":10,"b":20}\n' * PIPELINED
REPLIES = b'{"status":"OK","result":30}\n' * PIPELINED
#: For each connection of counted.py: the request, the reply, and the number of messages in it.
KINDS = [(ECHO, ECHO, 1), (ECHO, ECHO, 1), (SUMS, REPLIES, PIPELINED)]
#: FEW exchanges are made in every child, so that caches and adaptive sizes have settled; MORE are the counted ones.
FEW = 200
MORE = (2000, 2000, 400)


@dataclass(frozen=True)
class Counts:
    """Instructions for a message, of the yardstick and of gserver."""

    yardstick: float
    echo: float
    json: float

    @property
    def costs(self) -> Costs:
        return Costs(self.echo / self.yardstick, self.json / self.yardstick)


@dataclass(frozen=True)
class Costs:
    """Ratios to the yardstick: of an echo, and of a JSON message of which 16 arrive together."""

    echo: float
    json: float


def count(compiled: bool) -> Counts:
    """Count the instructions with this interpreter, in four children of the same program.

    compiled: whether gserver uses its compiled module.
    """
    plans = [[FEW] * 3, *([FEW + (MORE[kind] if kind == more else 0) for kind in range(3)] for more in range(3))]
    few, *others = _instructions(compiled, plans)
    each = (
        (total - few) / exchanges / messages
        for total, exchanges, (_, _, messages) in zip(others, MORE, KINDS, strict=True)
    )
    return Counts(*each)


def _instructions(compiled: bool, plans: Sequence[Sequence[int]]) -> list[int]:
    """Return for each plan (numbers of exchanges) the instructions of its child and before the fork."""
    program = [sys.executable, str(Path(__file__).with_name("counted.py")), str(len(plans))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    environment |= {} if compiled else {"GSERVER_PURE": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen([*VALGRIND, *program], stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for exchanges in plans:
                for number, (request, reply, _) in zip(exchanges, KINDS, strict=True):
                    _exchange(int(process.stdout.readline()), request, reply, number)
            _, output = process.communicate(timeout=PATIENCE_S)
        except BaseException:
            process.kill()
            raise
    found = re.findall(r"I\s+refs:\s+([\d,]+)", output)  # one line for each child, and one for the parent
    assert len(found) == len(plans) + 1, output
    return [int(count.replace(",", "")) for count in found[: len(plans)]]


def _exchange(port: int, request: bytes, reply: bytes, number: int) -> None:
    """Make `number` exchanges, one after another, so that each message is read and handled alone."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(number):
            client.sendall(request)
            missing = len(reply)
            while missing:
                got = len(client.recv(missing))
                assert got, "the server closed the connection"
                missing -= got


if __name__ == "__main__":
    for compiled in (True, False) if IS_NATIVE else (False,):
        found = count(compiled)
        costs = found.costs
        ratios = f"echo {costs.echo:.3f}, json {costs.json:.3f} of the yardstick"
        print(f"{'compiled' if compiled else 'pure'}: {ratios}; {found}")
