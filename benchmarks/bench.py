"""One measurement: a fresh server, a fresh client, and what the server used between two moments.

the server answers and is quiet      -> what it holds without connections
all connections are open and warm    -> what it holds with them; from here on processor time counts
everything that was asked is answered
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contestants import fill
from benchmarks.figures import Measurement, figures_of
from benchmarks.jobs import Job, Scenario
from benchmarks.load import arguments_of, loading
from benchmarks.processors import Placement, available, place
from benchmarks.servers import serving
from benchmarks.toolchain import Toolchain
from loadtests.host.subprocesses import free_port
from loadtests.servers.toolchain import Missing

__all__ = ["Bench"]


@dataclass(frozen=True)
class Bench:
    """What a job needs of this machine."""

    client: str
    certificate: dict[str, str]
    placement: Placement
    seconds: float

    @classmethod
    def set_up(cls, job: Job, toolchain: Toolchain, seconds: float) -> Bench:
        """Compile what must be compiled; Missing if this machine cannot do the job."""
        placement = place(available(), job.cores)
        if placement is None:
            raise Missing(f"needs {job.cores} processors, and this process may use {len(available())}")
        tls = job.service == "tls"
        files = dict(zip(("certfile", "keyfile"), toolchain.certificate(), strict=True)) if tls else {}
        return cls(toolchain.client(tls), files, placement, seconds)

    def measure(self, scenario: Scenario, command: Sequence[str]) -> Measurement:
        """Measure the server that `command` starts; Failed if it, or the load, does not do what it should."""
        job, port = scenario.job, free_port()
        words = fill(command, job.service, {"port": str(port), "workers": str(job.cores), **self.certificate})
        with serving(words, port, job.service, self.placement.server) as server:
            server.wait_until_quiet()
            before = server.usage()
            load_words = [self.client, *arguments_of(scenario, port, server.reply, self.seconds)]
            with loading(load_words, self.placement.client) as load:
                load.wait_until_ready()
                ready = server.usage()
                outcome = load.go()
                after = server.usage()
        return figures_of(scenario, before, ready, after, outcome)
