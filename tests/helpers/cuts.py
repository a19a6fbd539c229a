"""Cutting bytes in pieces, as TCP does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

__all__ = ["cut_anywhere"]


def cut_anywhere(data: st.DataObject, wire: bytes) -> list[bytes]:
    """Return `wire` in pieces, none of them empty, cut where Hypothesis likes."""
    cuts = data.draw(st.sets(st.integers(1, max(1, len(wire) - 1)), max_size=20))
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    return [wire[start:end] for start, end in pairwise(edges) if start < end]
