"""Cut bytes into pieces at random positions, as TCP does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

__all__ = ["cut_anywhere"]

#: Two bytes for each cut, and a cut at 0 has no effect. One draw of bytes is faster than one draw for each cut.
DICE = st.binary(min_size=4, max_size=40)


def cut_anywhere(data: st.DataObject, wire: bytes) -> list[bytes]:
    """Return `wire` in pieces that are not empty, cut at positions that Hypothesis chooses."""
    dice = data.draw(DICE)
    cuts = [int.from_bytes(dice[each : each + 2], "big") % (len(wire) + 1) for each in range(0, len(dice), 2)]
    return [wire[start:end] for start, end in pairwise([0, *sorted(cuts), len(wire)]) if start < end]
