"""Two echo services, one without delay and one that sleeps for 100 us: a comparison must detect the difference."""

from __future__ import annotations

import time

from gserver import Service
from gserver.codecs import Raw
from gserver.connection.connection import Connection

__all__ = ["quick", "slower"]

SLEEP_S = 100e-6


def _quick(data: bytes, conn: Connection) -> bytes:
    return data


def _slower(data: bytes, conn: Connection) -> bytes:
    time.sleep(SLEEP_S)
    return data


quick = Service(_quick, Raw)
slower = Service(_slower, Raw)
