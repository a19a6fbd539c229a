"""Locust's CSV files (`--csv`), whole: its own writer writes once a second, and closes them without the last one.

Importing this puts a writer into Locust that writes once more when it closes the files. By then Locust has printed its
table, of the same statistics.
"""

from __future__ import annotations

import time

import locust.stats

__all__ = ["WholeCsv"]


class WholeCsv(locust.stats.StatsCSVFileWriter):
    """Locust's writer, with a last row for everything."""

    def close_files(self) -> None:
        """Called once, when Locust ends."""
        files = (
            (self.requests_csv_filehandle, self.requests_csv_writer, self.requests_csv),
            (self.failures_csv_filehandle, self.failures_csv_writer, self.failures_csv),
            (self.exceptions_csv_filehandle, self.exceptions_csv_writer, self.exceptions_csv),
        )
        for file, writer, write in files:
            file.seek(0)
            write(writer)
            file.truncate()
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
        super().close_files()


locust.stats.StatsCSVFileWriter = WholeCsv  # type: ignore[misc]
