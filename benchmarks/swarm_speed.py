"""Measure how many verified exchanges a second one Locust process makes, with TcpUser and with a plain Locust user.

    python -m benchmarks.swarm_speed [--rounds 5] [--seconds 5] [--connections 50] [--depth N]

The plain user is written as in Locust's documentation: gevent's cooperative socket, one exchange in each run of a
task, one events.request.fire() for each exchange. Both users work in a closed loop, send 64 bytes that differ in each
message, and compare the reply.

The server is the epoll loop in C, on the first core; the swarms run on the last one, in a random order in each round.
The number of exchanges is Locust's own, of the whole run. CPU time is that of the Locust process from the start of the
test on. Other load on the host changes the rate, but hardly the CPU time for an exchange.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processors import place
from benchmarks.ratios import median, ratios, spread
from benchmarks.servers import serving
from benchmarks.toolchain import Toolchain, default_cache
from loadtests.host.cpu_affinity import on_cores
from loadtests.host.subprocesses import free_port

__all__ = ["main"]

LOCUSTFILE = Path(__file__).with_name("swarm_speed_users.py")
#: Name -> the user class and its options.
SWARMS = {"plain Locust user": ["PlainEcho"], "TcpUser": ["EchoUser", "--rate", "0"]}
STOP_TIMEOUT_S = 5


@dataclass(frozen=True)
class Measured:
    """The result of one swarm: exchanges per second, and microseconds of CPU time for each."""

    rate: float
    cost_us: float


def main(argv: Sequence[str]) -> int:
    """Measure the swarms in turn, and print a line with figures and ratios for each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.swarm_speed", description="Compare the speed of swarms."
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default 5)")
    parser.add_argument("--seconds", type=int, default=5, metavar="S", help="length of each run (default 5)")
    parser.add_argument("--connections", type=int, default=50, metavar="N", help="(default 50)")
    parser.add_argument("--depth", type=int, default=0, metavar="N", help="measure N messages in flight too")
    arguments = parser.parse_args(argv)
    swarms = dict(SWARMS)
    if arguments.depth:
        swarms[f"TcpUser, {arguments.depth} in flight"] = [*SWARMS["TcpUser"], "--depth", str(arguments.depth)]
    measured: dict[str, list[Measured]] = {name: [] for name in swarms}
    for number in range(1, arguments.rounds + 1):
        for name in random.sample(list(swarms), len(swarms)):
            measured[name].append(_measure(swarms[name], arguments.seconds, arguments.connections))
            print(f"round {number}: {name}: {measured[name][-1].rate:,.0f} a second", file=sys.stderr)
    _show(measured)
    return 0


def _measure(words: Sequence[str], seconds: int, connections: int) -> Measured:
    cores = place(sorted(os.sched_getaffinity(0)), 1)
    assert cores is not None  # there is at least one
    port = free_port()
    command = [*Toolchain(default_cache()).command_of("echo_epoll.c"), str(port)]
    with serving(command, port, "echo", cores.server), tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        options = ["--host", f"tcp://127.0.0.1:{port}", "-u", str(connections), "-r", str(connections)]
        options += ["--run-time", f"{seconds}s", "--stop-timeout", str(STOP_TIMEOUT_S), "--measured", str(output)]
        locust = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(LOCUSTFILE)]
        with on_cores(cores.generator):
            finished = subprocess.run([*locust, *options, *words], capture_output=True, text=True, check=False)
        if finished.returncode:
            raise SystemExit(f"benchmarks: Locust ended with status {finished.returncode}: {finished.stderr[-500:]}")
        report = json.loads(output.read_text())
        if not report["exchanges"]:
            raise SystemExit(f"benchmarks: {' '.join(words)} made no exchange in {seconds} s, try more --seconds")
        return Measured(report["exchanges"] / report["elapsed_s"], 1e6 * report["cpu_s"] / report["exchanges"])


def _show(measured: dict[str, list[Measured]]) -> None:
    width = max(map(len, measured))
    first = next(iter(measured.values()))
    for name, rounds in measured.items():
        faster = spread(ratios([each.rate for each in rounds], [each.rate for each in first]))
        cheaper = spread(ratios([each.cost_us for each in first], [each.cost_us for each in rounds]))
        assert faster is not None
        assert cheaper is not None
        print(
            f"{name:{width}}  {median([each.rate for each in rounds]):>9,.0f} exchanges/s"
            f"  x {faster.median:.2f} ({faster.low:.2f} to {faster.high:.2f})"
            f"  {median([each.cost_us for each in rounds]):5.1f} us of CPU time each"
            f"  x {cheaper.median:.2f} ({cheaper.low:.2f} to {cheaper.high:.2f})"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
