"""Short turns on the processor, for a process that has to be on time more than it has to get much done.

A send is due while something else has the core: the sampler, the progress display, another generator, a worker. The
scheduler lets that finish its slice, a millisecond or more, and the send is late by it. Who asks for shorter slices
takes its turn at once, and by the scheduler's rules gets no more in all: Linux since 6.12 (EEVDF), unprivileged.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["SLICE_NS", "ask_for_short_slices"]

#: The shortest that the kernel grants.
SLICE_NS = 100_000
# Neither Python nor glibc before 2.41 has this call.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}


class _Attributes(ctypes.Structure):
    """struct sched_attr, sched_setattr(2)"""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


def ask_for_short_slices() -> bool:
    """For the calling thread and those it starts later; whether the kernel agreed. Older ones agree and ignore it."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attributes = _Attributes(policy=os.SCHED_OTHER, nice=os.getpriority(os.PRIO_PROCESS, 0), runtime_ns=SLICE_NS)
    attributes.size = ctypes.sizeof(attributes)
    return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0) == 0)
