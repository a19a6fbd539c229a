"""Three handlers that wait in different ways, beside one that does not.

    REDIS=127.0.0.1:6379 gserver blocking:app

    echo TEXT        replies at once
    sleep            sleeps for 50 ms
    get KEY          sends a request to Redis, over a connection of a pool
    hash TEXT        computes in a thread: in the event loop it would delay every connection

While a handler waits, only its own connection waits.
"""

import hashlib
import os
import socket

import gevent
from gevent.queue import Queue

from gserver import Connection, Lines, Service, offload

POOL_SIZE = 20
HASH_ROUNDS = 20_000

pool: Queue[socket.socket | None] = Queue()
for _ in range(POOL_SIZE):
    pool.put(None)  # connects when it is first used


def on_message(line: bytes, conn: Connection) -> bytes:
    command, _, argument = line.partition(b" ")
    handler = HANDLERS.get(command)
    return b"ERROR unknown command" if handler is None else handler(argument)


def echo(text: bytes) -> bytes:
    return text


def sleep(_: bytes) -> bytes:
    gevent.sleep(0.05)
    return b"slept"


def get(key: bytes) -> bytes:
    """Send GET in the Redis protocol (RESP). The worker has patched `socket`, so only this greenlet waits."""
    redis = pool.get() or connect()
    try:
        redis.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        reply = read_bulk(redis)
    except OSError:
        redis.close()
        pool.put(None)
        return b"ERROR no Redis"
    pool.put(redis)
    return reply


def connect() -> socket.socket:
    host, _, port = os.environ.get("REDIS", "127.0.0.1:6379").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def read_bulk(redis: socket.socket) -> bytes:
    """Read the reply to GET: $LENGTH and that many bytes, or $-1 if there is no such key."""
    with redis.makefile("rb") as file:
        length = int(file.readline()[1:])
        return file.read(length + 2)[:-2] if length >= 0 else b"(nil)"


def hash_slowly(text: bytes) -> bytes:
    """Hash in a thread: hashlib releases the GIL meanwhile. Code that keeps the GIL needs offload.process()."""
    digest = offload.thread(hashlib.pbkdf2_hmac, "sha256", text, b"salt", HASH_ROUNDS)
    return digest.hex().encode()


HANDLERS = {b"echo": echo, b"sleep": sleep, b"get": get, b"hash": hash_slowly}

app = Service(on_message, Lines)
