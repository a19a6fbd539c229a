"""Which workers belong to a swarm, as its master knows them. Pure.

A worker introduces itself before it joins: with its process, its versions and its Locust file. It is refused if these
differ from the master's, and it is refused once the swarm has started: Locust would move users of the other workers to
it, and so open and close connections in the middle of what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Identity", "Roster", "title"]

# A worker that something starts again and again is refused as often; one line for each is of use for a while only.
MOST_NOTICES = 50
SHOWN_DIGITS = 8


def title(process: str) -> str:
    """A worker by the name that the recording has for it, HOST-PROCESS, for a person."""
    host, _, number = process.rpartition("-")
    return f"worker process {number} on host {host}" if host else f"worker {process}"


@dataclass(frozen=True)
class Identity:
    """What all processes of a swarm must have in common.

    Attributes:
        versions: package -> version.
        file: names of the Locust files; digest: of what is in them.
    """

    versions: Mapping[str, str]
    file: str = ""
    digest: str = ""

    @classmethod
    def read(cls, data: Any) -> Identity | None:
        """What another process has sent; None if it is no identity."""
        try:
            versions = {str(name): str(version) for name, version in data["versions"].items()}
            return cls(versions, str(data["file"]), str(data["digest"]))
        except (TypeError, KeyError, AttributeError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {"versions": dict(self.versions), "file": self.file, "digest": self.digest}

    @property
    def shown(self) -> str:
        """All versions, for a person."""
        return ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))

    def differences(self, worker: Identity) -> list[str]:
        """Each with both sides; this one is the master's."""
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
    """One for each master.

    Attributes:
        expected: workers that are waited for.
        is_closed: whether the swarm has started, after which no worker joins.
        is_ending: whether the workers were asked for their last reports, after which they may leave.
        ended: why the swarm never started; "" otherwise.
        notices: sentences about workers, for a person, the oldest first.
        processes: id of a worker that has joined -> its process, by a name that no other worker has.
        heard: id -> the second of the run's clock in which its last message came.
    """

    expected: int = 0
    is_closed: bool = False
    is_ending: bool = False
    ended: str = ""
    notices: list[str] = field(default_factory=list)
    processes: dict[str, str] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    _introductions: dict[str, tuple[str, Identity]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)

    def introduce(self, worker: str, data: Any) -> None:
        """Take a worker's introduction: {"process": its name, ...its identity}."""
        identity = Identity.read(data)
        if identity is not None:
            self._introductions[worker] = (str(data.get("process", "")), identity)

    def has_introduction(self, worker: str) -> bool:
        return worker in self._introductions

    def admit(self, worker: str, locust: str, own: Identity) -> str:
        """Let a worker join; return why not, or "" if it has. `locust`: the version that Locust itself sends."""
        why = self._why_not(worker, locust, own)
        if not why:
            self.processes[worker] = self._unique(worker)
        elif worker not in self._refused:
            self._refused.add(worker)
            self.notice(f"{self._shown(worker)} was refused: {why}")
        return why

    def _shown(self, worker: str) -> str:
        """For a person; Locust's id of a worker is HOST_ID."""
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
        """Its process's name. Containers may share a host's name, and have processes of the same number."""
        name = self._introductions[worker][0]
        taken = {each for other, each in self.processes.items() if other != worker}
        names = (name, *(f"{name}#{number}" for number in range(2, len(taken) + 3)))
        return next(each for each in names if each not in taken)

    def notice(self, sentence: str) -> None:
        if len(self.notices) < MOST_NOTICES:
            self.notices.append(sentence)
