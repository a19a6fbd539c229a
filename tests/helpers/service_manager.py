"""Run `systemd --user` for a test, in namespaces and control groups that are removed at the end.

systemd does not start on a machine that was not booted with it, which it detects in /run; so it gets a separate /run.
Requires root, Debian's package `systemd`, and writable control groups.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import children_of, wait_for

__all__ = ["ServiceManager", "missing_for_a_manager"]

SYSTEMD = "/lib/systemd/systemd"
JOURNALD = "/lib/systemd/systemd-journald"
_START = """
for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs" || exit 1; done
exec unshare --mount --pid --fork --mount-proc --propagation private --kill-child sh -c '
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit 1
touch "$HOME/console" && mount --bind "$HOME/console" /dev/console || exit 1
"$SYSTEMD" --user --unit=basic.target --log-target=console &
wait $!'
"""
_START_JOURNAL = f"""
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d || exit 1
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\n' > /run/systemd/journald.conf.d/test.conf || exit 1
{JOURNALD} > "$HOME/journal.log" 2>&1 &
"""


def _groups() -> list[Path]:
    """Return the control groups of this process for systemd: that of version 2, or name=systemd of version 1."""
    own = dict(re.findall(r"^\d+:([^:]*):(.*)$", Path("/proc/self/cgroup").read_text(), re.M))
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        name = "" if kind.startswith("cgroup2 ") else "name=systemd" if "name=systemd" in kind else None
        if name in own:
            found.append(Path(fields.split()[4]) / own[name].lstrip("/"))
    return found


def missing_for_a_manager() -> str | None:
    """Return why systemd cannot be started here, or None."""
    if os.getuid() != 0:
        return "needs root"
    missing = [program for program in (SYSTEMD, "systemctl", "unshare", "nsenter") if not shutil.which(program)]
    if missing:
        return f"needs {', '.join(missing)}"
    groups = _groups()
    return None if groups and all(os.access(group, os.W_OK) for group in groups) else "needs writable control groups"


class ServiceManager:
    """A running systemd for use in `with`. Leaving it ends all its processes.

    folder: a folder with a short path, which units may use.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sd"))
        self._groups = [group / f"gserver-test-{os.getpid()}" for group in _groups()]
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DBUS_"))},
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "SYSTEMD": SYSTEMD,
            "GROUPS_TO_JOIN": " ".join(map(str, self._groups)),
        }

    def __enter__(self) -> ServiceManager:
        for path in (*self._groups, self.folder / "run", self.folder / ".config/systemd/user"):
            path.mkdir(parents=True, mode=0o700)
        with (self.folder / "manager.log").open("wb") as log:
            self._process = subprocess.Popen(["sh", "-c", _START], env=self._environment, stdout=log, stderr=log)
        try:
            wait_for(self._is_there, "the service manager answers")
        except AssertionError:
            log = self.log
            self._end()
            pytest.skip(f"systemd --user cannot be started here: {log}")
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            print(self.log)
        self._end()

    def _is_there(self) -> bool:
        assert self._process.poll() is None, self.log
        return bool(children_of(self._process.pid)) and self.run("list-units").returncode == 0

    def _end(self) -> None:
        self._process.kill()  # the namespace of processes ends with it
        self._process.wait()
        wait_for(self._is_empty, "every process of the service manager has ended")
        shutil.rmtree(self.folder)

    def _is_empty(self) -> bool:
        for group in self._groups:
            for path in [*_below(group), group]:
                with contextlib.suppress(FileNotFoundError, OSError):
                    path.rmdir()
        return not any(group.exists() for group in self._groups)

    @property
    def log(self) -> str:
        """The output of systemd and its units."""
        return (self.folder / "manager.log").read_text(errors="replace")

    def install(self, name: str, text: str) -> None:
        (self.folder / ".config/systemd/user" / name).write_text(text)
        self.call("daemon-reload")

    def call(self, *words: str) -> str:
        """Run systemctl and return its output; raise AssertionError if it fails."""
        ended = self.run(*words)
        assert ended.returncode == 0, f"systemctl {' '.join(words)}: {ended.stderr}\n{self.log}"
        return ended.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.inside("systemctl", "--user", *words)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start systemctl; the caller waits for its end."""
        return subprocess.Popen(self._entering("systemctl", "--user", *words), env=self._environment)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in systemd's namespaces: it accepts commands only from there, and pids are those of there."""
        return subprocess.run(
            self._entering(*command), env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _entering(self, *command: str) -> list[str]:
        (first,) = children_of(self._process.pid)
        return ["nsenter", "--mount", "--pid", f"--target={first}", *command]

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit, such as MainPID."""
        return self.call("show", "--value", "--property", name, unit).strip()

    def start_journal(self) -> None:
        """Start a journal in the namespaces; units that are started later write to it."""
        if not shutil.which(JOURNALD):
            pytest.skip(f"needs {JOURNALD}")
        self.inside("sh", "-c", _START_JOURNAL)
        try:
            wait_for(lambda: self.inside("test", "-S", "/run/systemd/journal/stdout").returncode == 0, "it listens", 30)
        except AssertionError:
            pytest.skip(f"systemd-journald cannot be started here: {(self.folder / 'journal.log').read_text()}")

    def journal(self) -> list[dict[str, str]]:
        """Return the entries of the journal."""
        output = self.inside("journalctl", "--no-pager", "--output=json").stdout
        return [json.loads(line) for line in output.splitlines()]


def _below(group: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, _ in os.walk(group, topdown=False))
