"""A service that gets into each trouble of docs/operations.md, so that the runbook can be practised and tested.

    gserver trouble:app --control-socket ctl

    TEXT             replies at once
    search TEXT      slow: computes for 0.2 s, and delays every connection of its worker
    order TEXT       hangs: waits for a database that never answers
    loop TEXT        stuck: computes for ever, and blocks its worker
    store TEXT       leaks: keeps 1 MiB of each message's text
    crash TEXT       crashes: the process ends by a signal, as by a fault in C code

Do not let anybody but yourself send messages to it.
"""

import os
import signal
import time

import gevent

from gserver import Connection, Lines, Service

SEARCH_S = 0.2
CACHED_BYTES = 1 << 20

cache: list[bytes] = []


def on_message(line: bytes, conn: Connection) -> bytes:
    command, _, text = line.partition(b" ")
    return HANDLERS.get(command, reply)(text)


def reply(text: bytes) -> bytes:
    return b"done"


def search(text: bytes) -> bytes:
    until = time.perf_counter() + SEARCH_S
    while time.perf_counter() < until:
        score(text)
    return b"found"


def score(text: bytes) -> int:
    return sum(text * 100)


def order(text: bytes) -> bytes:
    return query_database(text)


def query_database(text: bytes) -> bytes:
    gevent.sleep(3600)
    return b"ordered"


def loop(text: bytes) -> bytes:
    while True:
        score(text)


def store(text: bytes) -> bytes:
    cache.append(text * (CACHED_BYTES // len(text)))
    return b"stored"


def crash(text: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b"never sent"


HANDLERS = {b"search": search, b"order": order, b"loop": loop, b"store": store, b"crash": crash}

app = Service(on_message, Lines)
