from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.host.scheduler_slice import SLICE_NS

ASK = """
import os, platform
from pathlib import Path
from loadtests.host import scheduler_slice
{before}
print(scheduler_slice.ask_for_short_slices(), os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
print(Path("/proc/self/sched").read_text())
"""


def slice_of(scheduling: str) -> int | None:
    found = re.search(r"se\.slice\s*:\s*(\d+)", scheduling)
    return int(found[1]) if found else None


def ask(before: str = "") -> tuple[list[str], int | None]:
    """In a process of its own: the answer, its policy and nice value, and the slice it has then."""
    command = [sys.executable, "-c", ASK.format(before=before)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.split("\n")[0].split(), slice_of(said)


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/sched").exists() or slice_of(Path("/proc/self/sched").read_text()) is None,
    reason="this kernel does not say how long a slice is",
)


def test_the_kernel_grants_a_short_slice_and_changes_nothing_else() -> None:
    (agreed, policy, nice), granted = ask("os.setpriority(os.PRIO_PROCESS, 0, 19)")

    assert (agreed, int(policy), int(nice)) == ("True", os.SCHED_OTHER, 19)
    assert granted == SLICE_NS


@pytest.mark.parametrize(
    "before",
    ["os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "platform.machine = lambda: 'unheard of'"],
    ids=["another policy", "another machine"],
)
def test_another_policy_and_an_unknown_machine_are_left_alone(before: str) -> None:
    (agreed, _, _), granted = ask(before)

    assert agreed == "False"
    assert granted != SLICE_NS
