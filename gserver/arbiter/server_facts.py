"""The arbiter's part of the scoreboard: facts about the server as a whole. Only the arbiter writes them.

Each fact is one aligned word, so other processes read it without a lock. Instants are seconds since 1970, because they
are shown to people and to other machines.
"""

from __future__ import annotations

from gserver.arbiter.restart_causes import RestartCause

__all__ = ["FACT_WORDS", "ServerFacts"]

_STARTED_AT, _GENERATION, _TARGET, _STOPPING, _LEAVING, _TAKEN_OUT, _MIN_WORKERS = range(7)
_SUCCEEDED, _FAILED, _RELOAD_AT, _RELOAD_FAILED, _SUCCESSOR = range(7, 12)
_FIRST_CAUSE = 12
_CAUSES = {cause: _FIRST_CAUSE + index for index, cause in enumerate(RestartCause)}
#: How many words the facts need.
FACT_WORDS = _FIRST_CAUSE + len(_CAUSES)
_MICROSECONDS = 1_000_000


class ServerFacts:
    """Facts about the server, in shared memory.

    Args:
        words: FACT_WORDS zeros.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words

    @property
    def started_at(self) -> float:
        """When the arbiter started; 0 before that is known."""
        return self._words[_STARTED_AT] / _MICROSECONDS

    @started_at.setter
    def started_at(self, value: float) -> None:
        self._words[_STARTED_AT] = int(value * _MICROSECONDS)

    @property
    def generation(self) -> int:
        """The number of reloads that have begun to replace the workers."""
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, value: int) -> None:
        self._words[_GENERATION] = value

    @property
    def target(self) -> int:
        """How many workers should serve."""
        return self._words[_TARGET]

    @target.setter
    def target(self, value: int) -> None:
        self._words[_TARGET] = value

    @property
    def is_stopping(self) -> bool:
        return bool(self._words[_STOPPING])

    @is_stopping.setter
    def is_stopping(self, value: bool) -> None:
        self._words[_STOPPING] = value

    @property
    def is_leaving(self) -> bool:
        """Whether the server is about to stop, and still serves for shutdown_delay."""
        return bool(self._words[_LEAVING])

    @is_leaving.setter
    def is_leaving(self, value: bool) -> None:
        self._words[_LEAVING] = value

    @property
    def has_successor(self) -> bool:
        """Whether a new server serves from the same sockets, and this one ends: a binary upgrade."""
        return bool(self._words[_SUCCESSOR])

    @has_successor.setter
    def has_successor(self, value: bool) -> None:
        self._words[_SUCCESSOR] = value

    @property
    def min_workers(self) -> int:
        """The setting min_workers; it can be changed while the server runs."""
        return self._words[_MIN_WORKERS]

    @min_workers.setter
    def min_workers(self, value: int) -> None:
        self._words[_MIN_WORKERS] = value

    @property
    def is_taken_out(self) -> bool:
        """Whether the operator has taken the server out of service: it serves, but reports that it is not ready."""
        return bool(self._words[_TAKEN_OUT])

    @is_taken_out.setter
    def is_taken_out(self, value: bool) -> None:
        self._words[_TAKEN_OUT] = value

    @property
    def reloads_succeeded(self) -> int:
        return self._words[_SUCCEEDED]

    @property
    def reloads_failed(self) -> int:
        return self._words[_FAILED]

    @property
    def last_reload_at(self) -> float:
        """When the last reload ended; 0: there was none."""
        return self._words[_RELOAD_AT] / _MICROSECONDS

    @property
    def last_reload_failed(self) -> bool:
        return bool(self._words[_RELOAD_FAILED])

    def reload_ended(self, succeeded: bool, at: float) -> None:
        self._words[_SUCCEEDED if succeeded else _FAILED] += 1
        self._words[_RELOAD_FAILED] = not succeeded
        self._words[_RELOAD_AT] = int(at * _MICROSECONDS)

    @property
    def restarts(self) -> dict[RestartCause, int]:
        """How many workers have ended and were to be replaced, by cause."""
        return {cause: self._words[word] for cause, word in _CAUSES.items()}

    def restarted(self, cause: RestartCause) -> None:
        self._words[_CAUSES[cause]] += 1
