"""The control groups of this process, cgroups(7): the folders with the limits and counters of one controller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ControlGroup", "control_groups"]


@dataclass(frozen=True)
class ControlGroup:
    """A control group that this process is in.

    Attributes:
        folder: the folder of the group.
        mount_point: the folder of the topmost group that can be seen from here.
        version: 1 or 2 of the kernel's interface; the files have other names.
    """

    folder: str
    mount_point: str
    version: int

    def with_parents(self) -> Iterator[str]:
        """The folder of this group, of its parent, and so on up to the mount point: the limits of all of them hold."""
        folder = self.folder
        while folder != self.mount_point and folder.startswith(self.mount_point):
            yield folder
            folder = os.path.dirname(folder)
        yield self.mount_point


def control_groups(controller: str, proc: str = "/proc/self") -> list[ControlGroup]:
    """Return the groups of a process that may have `controller` ("memory", "cpu"), those of version 1 first.

    A controller belongs to one version at a time: the files of the other group are missing. Empty without /proc.
    """
    try:
        with open(f"{proc}/cgroup", "rb") as groups, open(f"{proc}/mountinfo", "rb") as mounts:
            paths = _paths(os.fsdecode(groups.read()))
            mounted = [os.fsdecode(line).split() for line in mounts]
    except OSError:
        return []
    found = []
    for fields in mounted:
        root, point = fields[3], fields[4]
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == "cgroup" and controller in options and controller in paths:
            found.append(ControlGroup(_below(point, root, paths[controller]), point, 1))
        elif kind == "cgroup2" and "" in paths:
            found.append(ControlGroup(_below(point, root, paths[""]), point, 2))
    return found


def _paths(text: str) -> dict[str, str]:
    """Return controller -> path, with "" for version 2. A line is hierarchy:controllers:path."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _below(point: str, root: str, path: str) -> str:
    """Return the folder of a group: a container may have only its own part of the tree mounted."""
    inside = path.removeprefix(root) if root != "/" else path
    return os.path.join(point, inside.strip("/")).rstrip("/")
