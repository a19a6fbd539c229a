"""Decides which workers belong to a swarm. Pure; the master uses it.

Before a worker joins, it sends an introduction: its process, its versions and a digest of its Locust file. It is
refused if these differ from the master's. It is also refused after the swarm has started: Locust would move users from
other workers to it, and so open and close connections during the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Identity", "Roster", "title"]

# A supervisor may restart a refused worker without end; only the first notices are of use.
MOST_NOTICES = 50
SHOWN_DIGITS = 8


def title(process: str) -> str:
    """The name of a worker for people; `process`: its name in a recording, HOST-PID."""
    host, _, number = process.rpartition("-")
    return f"worker process {number} on host {host}" if host else f"worker {process}"


@dataclass(frozen=True)
class Identity:
    """The versions and the Locust file, which must be the same in all processes of a swarm.

    Attributes:
        versions: package -> version.
        file: names of the Locust files, which may differ.
        digest: of the contents of these files.
    """

    versions: Mapping[str, str]
    file: str = ""
    digest: str = ""

    @classmethod
    def read(cls, data: Any) -> Identity | None:
        """The identity that another process has sent; None if `data` is not one."""
        try:
            versions = {str(name): str(version) for name, version in data["versions"].items()}
            return cls(versions, str(data["file"]), str(data["digest"]))
        except (TypeError, KeyError, AttributeError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {"versions": dict(self.versions), "file": self.file, "digest": self.digest}

    @property
    def shown(self) -> str:
        """All versions, for people."""
        return ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))

    def differences(self, worker: Identity) -> list[str]:
        """A text for each difference between this identity, the master's, and a worker's."""
        found = [
            f"{name} {worker.versions.get(name, 'missing')} at the worker, {version} at the master"
            for name, version in sorted(self.versions.items())
            if worker.versions.get(name) != version
        ]
        if worker.digest != self.digest:
            there, here = (f"{each.file} ({each.digest[:SHOWN_DIGITS]})" for each in (worker, self))
            found.append(f"Locust file {there} at the worker, {here} at the master")
        return found


@dataclass
class Roster:
    """The workers of a master.

    Attributes:
        expected: how many workers the master waits for.
        is_closed: whether the swarm has started, after which no worker can join.
        is_ending: whether the last reports were requested, after which workers may leave.
        ended: why the swarm did not start; "" otherwise.
        notices: sentences about workers for people, the oldest first.
        processes: id of a worker that has joined -> unique name of its process.
        last_message_s: id -> the second of the run's clock in which its last message came.
    """

    expected: int = 0
    is_closed: bool = False
    is_ending: bool = False
    ended: str = ""
    notices: list[str] = field(default_factory=list)
    processes: dict[str, str] = field(default_factory=dict)
    last_message_s: dict[str, int] = field(default_factory=dict)
    _introductions: dict[str, tuple[str, Identity]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)

    def introduce(self, worker: str, data: Any) -> None:
        """Store a worker's introduction: {"process": its name, ...its identity}. Other data is ignored."""
        identity = Identity.read(data)
        if identity is not None:
            self._introductions[worker] = (str(data.get("process", "")), identity)

    def has_introduction(self, worker: str) -> bool:
        """Whether the worker has sent a valid introduction."""
        return worker in self._introductions

    def admit(self, worker: str, locust: str, own: Identity) -> str:
        """Let a worker join, or refuse it; return the reason of the refusal, or "".

        locust: the worker's version of Locust, as Locust itself sends it. own: the master's identity.
        """
        why = self._why_not(worker, locust, own)
        if not why:
            self.processes[worker] = self._unique(worker)
        elif worker not in self._refused:
            self._refused.add(worker)
            self.notice(f"{self._shown(worker)} was refused: {why}")
        return why

    def _shown(self, worker: str) -> str:
        """The name of a worker for people; Locust's id of a worker is HOST_ID."""
        name = self._introductions[worker][0] if worker in self._introductions else ""
        return title(name) if name else f"a worker on host {worker.rpartition('_')[0]}"

    def _why_not(self, worker: str, locust: str, own: Identity) -> str:
        if worker not in self._introductions:
            return f"no loadtests, or another version, and locust {locust} at the worker; {own.shown} at the master"
        if differences := own.differences(self._introductions[worker][1]):
            return "; ".join(differences)
        if self.is_closed:
            count = len(self.processes)
            return f"the run has started, with {count} worker{'' if count == 1 else 's'}, and takes no others"
        return ""

    def _unique(self, worker: str) -> str:
        """The name of a worker's process, made unique: containers may have the same host name and the same pid."""
        name = self._introductions[worker][0]
        taken = {each for other, each in self.processes.items() if other != worker}
        names = (name, *(f"{name}#{number}" for number in range(2, len(taken) + 3)))
        return next(each for each in names if each not in taken)

    def notice(self, sentence: str) -> None:
        """Add to `notices`, up to 50."""
        if len(self.notices) < MOST_NOTICES:
            self.notices.append(sentence)
