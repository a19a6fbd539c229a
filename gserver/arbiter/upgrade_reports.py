"""How the start of a new arbiter goes: it reports to the old one through a pipe, for gserverctl upgrade.

A report is a line of JSON with some of these fields:

    {"version": "1.2", "control_socket": "/run/app.ctl.2"}
    {"is_ready": true}
    {"failed_because": "the config file /etc/app.py does not exist"}

The user's code runs in the new arbiter too, and may write anything. So the old one takes nothing but these fields, with
values of their types, and reads at most MAX_BYTES. A new arbiter of a version without reports sends none.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

__all__ = ["UpgradeReports", "send_report"]

# PIPE_BUF: so much is written at once, or not at all.
MAX_REPORT_BYTES = 4096
# More than any arbiter sends. The kernel keeps at most 64 KiB of what was not read.
MAX_BYTES = 64 * 1024
#: The longest text in a report, in characters. In JSON each has six bytes at most, or twelve for two.
MAX_TEXT = 600
_TYPES = {"version": str, "control_socket": str, "is_ready": bool, "failed_because": str}


def send_report(descriptor: int, **fields: Any) -> None:
    """Send a report. Never blocks: without a reader, or without room, the report is lost."""
    cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(cut).encode() + b"\n")


class UpgradeReports:
    """What is known about one new arbiter: its reports, and its end.

    Closes: close() closes the descriptor.

    Args:
        descriptor: the read end of the pipe; this object closes it.

    Attributes:
        pid: of the new arbiter; 0 before it is forked.
        is_cancelled: it was told to stop.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.pid = 0
        self.is_cancelled = False
        self._descriptor: int | None = descriptor
        self._data = b""  # the beginning of a line
        self._left = MAX_BYTES
        self._state: dict[str, Any] = {
            "is_running": True,
            "is_ready": False,
            "version": None,
            "control_socket": None,
            "failed_because": None,
        }

    def state(self) -> dict[str, Any]:
        """pid, is_running, is_ready, version, control_socket, failed_because: None where it is not known."""
        self._read()
        return {"pid": self.pid, **self._state}

    def ended(self, how: str) -> None:
        """The new arbiter has ended. `how`: the reason, if it has not reported one."""
        self._read()
        self.close()
        self._state["is_running"] = self._state["is_ready"] = False
        self._state["failed_because"] = self._state["failed_because"] or how

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> None:
        while self._descriptor is not None and self._left > 0:
            try:
                data = os.read(self._descriptor, min(MAX_REPORT_BYTES, self._left))
            except OSError:  # nothing more is there now
                return
            if not data:
                return
            self._left -= len(data)
            *lines, self._data = (self._data + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(report, dict):
            for name, kind in _TYPES.items():
                value = report.get(name)
                if isinstance(value, kind):
                    self._state[name] = _one_line(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in " ".join(text.split()))
