"""oom_score_adj, proc(5): which process the kernel kills first when memory runs out.

The kernel kills the process with the largest share of the memory of the machine or the control group, in thousandths,
plus this value. Each process can raise its own value without a privilege. Its children inherit it.
"""

from __future__ import annotations

__all__ = ["HIGHEST", "raise_above"]

#: The highest value that the kernel takes.
HIGHEST = 1000


def raise_above(pid: int, by: int, proc: str = "/proc") -> str | None:
    """Set the value of this process to that of process `pid` plus `by`, at most HIGHEST.

    To be called before this process changes its user: the kernel then refuses to write. Return the reason in one line
    if it failed, None if it succeeded.
    """
    try:
        with open(f"{proc}/{pid}/oom_score_adj") as file:
            value = min(HIGHEST, int(file.read()) + by)
        with open(f"{proc}/self/oom_score_adj", "w") as file:
            file.write(str(value))
    except (OSError, ValueError) as error:
        return f"oom_score_adj cannot be raised by {by}: {error}"
    return None
