from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.process_tree import ProcessStat, parse_rss, parse_stat, tree_of, usage_of
from tests.helpers.waiting import wait_until

#: As Linux writes it: 7 ticks of user time, 5 of system time, 3 and 2 of children that have ended.
STAT = "42 (python3) S 7 42 42 0 -1 4194304 950 0 0 0 7 5 3 2 20 0 1 0 8911 17195008 2391 18446744073709551615 1 1 0\n"


def test_processor_time_is_user_and_system_time_with_that_of_ended_children() -> None:
    assert parse_stat(STAT) == ProcessStat(pid=42, parent=7, cpu_ticks=17)


@pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "()", ""])
def test_a_program_may_have_any_name(name: str) -> None:
    assert parse_stat(STAT.replace("python3", name)) == ProcessStat(42, 7, 17)


def test_memory_is_what_is_resident() -> None:
    text = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:                 123 kB\nPss:                  45 kB\n"

    assert parse_rss(text) == 123 * 1024


def test_a_process_without_memory_has_none() -> None:
    assert parse_rss("") == 0


def test_a_tree_is_the_process_and_its_descendants_in_any_order() -> None:
    processes = [ProcessStat(pid, parent, 0) for pid, parent in [(5, 4), (4, 2), (3, 2), (2, 1), (9, 8), (1, 0)]]

    assert {each.pid for each in tree_of(2, processes)} == {2, 3, 4, 5}


def test_a_process_that_has_ended_has_no_tree() -> None:
    assert tree_of(2, [ProcessStat(3, 2, 0)]) == []


def test_what_a_child_of_a_child_uses_is_counted() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    busy = "import time\nheld = b'x' * 30_000_000\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program, busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        used = usage_of(process.pid)
        process.kill()  # its child ends with its input

    assert used.cpu_s >= 0.15
    assert used.rss_bytes > 30_000_000


def test_processor_time_does_not_fall_when_a_child_ends() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        used = usage_of(process.pid)
        process.kill()

    assert used.cpu_s >= 0.15


def test_a_process_that_is_gone_has_used_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    wait_until(lambda: usage_of(process.pid).rss_bytes == 0)

    assert usage_of(process.pid).cpu_s == 0
