"""The folders of control groups, from files of /proc that the tests write."""

from __future__ import annotations

from gserver.config.control_groups import ControlGroup


def test_the_limits_of_all_parents_hold() -> None:
    group = ControlGroup("/sys/fs/cgroup/a/b", "/sys/fs/cgroup", 2)

    assert list(group.with_parents()) == ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]


def test_the_topmost_group_has_no_parent() -> None:
    assert list(ControlGroup("/sys/fs/cgroup", "/sys/fs/cgroup", 2).with_parents()) == ["/sys/fs/cgroup"]
