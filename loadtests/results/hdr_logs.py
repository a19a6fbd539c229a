"""Write a recording as HdrHistogram interval logs (version 1.3), one for each series and latency. Intervals are 1 s.

    GREETING.service.hlog, GREETING.response.hlog, connect.service.hlog, ...

HdrHistogram's tools and plotters read them. Latencies are nanoseconds; only the maximum in each line is milliseconds,
as the format requires. Time starts with the first second of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from loadtests.recording.histogram import Histogram
from loadtests.recording.recording import Recording
from loadtests.results.store import write_whole

__all__ = ["write_hdr_logs"]

_HEAD = """\
#[Histogram log format version 1.3]
#[StartTime: 0.000 (seconds since epoch), the first second of the recording]
"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
"""


def write_hdr_logs(recording: Recording, folder: Path) -> list[Path]:
    """Write the logs into `folder`, which is made if missing; return their paths. An empty latency gets no file."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = min((second for seconds in recording.cells.values() for second in seconds), default=0)
    written = []
    for series, kind, seconds in _latencies(recording):
        path = folder / f"{quote(series, safe=' ')}.{kind}.hlog"
        write_whole(path, _HEAD + "".join(_line(second - begin, each) for second, each in sorted(seconds.items())))
        written.append(path)
    return written


def _latencies(recording: Recording) -> Iterator[tuple[str, str, dict[int, Histogram]]]:
    for series, cells in sorted(recording.cells.items()):
        for kind in ("service", "response"):
            seconds = {second: getattr(cell, kind).all for second, cell in cells.items()}
            seconds = {second: histogram for second, histogram in seconds.items() if histogram.counts}
            if seconds:
                yield series, kind, seconds


def _line(start_s: int, histogram: Histogram) -> str:
    longest_ms = histogram.percentiles([100])[100] / 1e6
    return f"{start_s:.3f},1.000,{longest_ms:.3f},{histogram.encode()}\n"
