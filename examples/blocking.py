"""Handlers that wait, in the three ways there are, beside one that does not.

    REDIS=127.0.0.1:6379 gserver blocking:app

    echo TEXT        is answered at once
    sleep            waits for nothing but time
    get KEY          asks a Redis, over a connection of a pool
    hash TEXT        computes in a thread, for what keeps the processor keeps everybody

While a handler waits, its own connection waits with it, and no other.
"""

import hashlib
import os
import socket

import gevent
from gevent.queue import Queue

from gserver import Connection, Lines, Service

POOL_SIZE = 20
HASH_ROUNDS = 20_000

pool: Queue[socket.socket | None] = Queue()
for _ in range(POOL_SIZE):
    pool.put(None)  # connected when it is first needed


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
    """GET of the Redis protocol (RESP). A worker has patched `socket`, so this waits in gevent's way."""
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
    """The reply to GET: $LENGTH, and so many bytes; $-1 where there is no such key."""
    with redis.makefile("rb") as file:
        length = int(file.readline()[1:])
        return file.read(length + 2)[:-2] if length >= 0 else b"(nil)"


def hash_slowly(text: bytes) -> bytes:
    """hashlib lets go of the interpreter while it computes; what does not is better done in another process."""
    digest = gevent.get_hub().threadpool.apply(hashlib.pbkdf2_hmac, ("sha256", text, b"salt", HASH_ROUNDS))
    return digest.hex().encode()


HANDLERS = {b"echo": echo, b"sleep": sleep, b"get": get, b"hash": hash_slowly}

app = Service(on_message, Lines)
