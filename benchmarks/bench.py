"""Take one measurement: start a server and a client, and read what the server used between two points in time.

1. The server answers and is idle: its memory is read.
2. All connections are open and warmed up: memory and CPU time are read, and the load begins.
3. All requests are answered: CPU time is read again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contestants import fill
from benchmarks.figures import Measurement, figures_of
from benchmarks.jobs import Job, Scenario
from benchmarks.load import arguments_of, loading
from benchmarks.processors import place
from benchmarks.servers import serving
from benchmarks.toolchain import Toolchain
from loadtests.host.cpu_affinity import Cores
from loadtests.host.cpu_time import used_between
from loadtests.host.subprocesses import free_port
from loadtests.servers.toolchain import Missing

__all__ = ["Bench"]


@dataclass(frozen=True)
class Bench:
    """The client, the certificate and the cores with which a job is measured.

    client: path of the compiled client. certificate: certfile and keyfile, empty without TLS. seconds: length of the
    load.
    """

    client: str
    certificate: dict[str, str]
    cores: Cores
    seconds: float

    @classmethod
    def set_up(cls, job: Job, toolchain: Toolchain, seconds: float) -> Bench:
        """Compile what is needed; raise Missing if this machine cannot run the job."""
        available = sorted(os.sched_getaffinity(0))
        cores = place(available, job.cores)
        if cores is None:
            raise Missing(f"needs {job.cores} cores, and this process may use {len(available)}")
        tls = job.service == "tls"
        files = dict(zip(("certfile", "keyfile"), toolchain.certificate(), strict=True)) if tls else {}
        return cls(toolchain.client(tls), files, cores, seconds)

    def measure(self, scenario: Scenario, command: Sequence[str]) -> Measurement:
        """Measure the server that `command` starts; raise Failed if the server or the client fails."""
        job, port = scenario.job, free_port()
        words = fill(command, job.service, {"port": str(port), "workers": str(job.cores), **self.certificate})
        with serving(words, port, job.service, self.cores.server) as server:
            server.wait_until_quiet()
            empty_bytes = server.resident_bytes()
            load_words = [self.client, *arguments_of(scenario, port, server.reply, self.seconds)]
            with loading(load_words, self.cores.generator) as load:
                load.wait_until_ready()
                held_bytes = server.resident_bytes() - empty_bytes
                before = server.sample()
                outcome = load.go()
                cpu_s = used_between(before, server.sample()).seconds
        return figures_of(scenario, cpu_s, held_bytes, outcome)
