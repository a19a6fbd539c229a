"""Requests short scheduler slices, for a process that must be punctual rather than fast.

When a send is due, another process may have the core: the sampler, the progress display, another generator, a worker.
The scheduler lets it finish its slice, a millisecond or more, and the send is late. A thread with shorter slices
preempts it at once, and gets no more CPU time in total. Linux since 6.12 (EEVDF); no privilege is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["SLICE_NS", "ask_for_short_slices"]

#: The minimum that the kernel grants.
SLICE_NS = 100_000
# System call numbers: neither Python nor glibc before 2.41 has this call.
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
    """Request them for the calling thread and its later children; return whether the kernel accepted.

    Kernels before 6.12 accept the request and ignore it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attributes = _Attributes(policy=os.SCHED_OTHER, nice=os.getpriority(os.PRIO_PROCESS, 0), runtime_ns=SLICE_NS)
    attributes.size = ctypes.sizeof(attributes)
    return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0) == 0)
