"""Handlers that need a processor for a while: a password in a thread, a computation in another process.

    gserver --offload-processes 2 offload:app

    {"type": "register", "name": "ann", "password": "secret"}    {"registered": "ann"}
    {"type": "login", "name": "ann", "password": "secret"}       {"ok": true}
    {"type": "primes", "below": 1000000}                         {"count": 78498}

hashlib computes without the GIL, so a thread is enough. Python code needs a process. A full queue and a computation
above its time are answered: neither disturbs another client.
"""

import hashlib
import hmac
import os
from typing import Annotated, Any

import msgspec

from gserver import Connection, JsonService, offload

LONGEST_S = 5.0

passwords: dict[str, tuple[bytes, bytes]] = {}  # of this worker


def hash_password(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1)


def count_primes(below: int) -> int:
    """The sieve of Eratosthenes."""
    sieve = bytearray([1]) * below
    sieve[:2] = bytes(min(2, below))
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return sum(sieve)


class Register(msgspec.Struct, tag="register"):
    name: str
    password: str


class Login(msgspec.Struct, tag="login"):
    name: str
    password: str


class Primes(msgspec.Struct, tag="primes"):
    below: Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]


app = JsonService()


@app.on
def register(message: Register, conn: Connection) -> dict[str, Any]:
    salt = os.urandom(16)
    passwords[message.name] = salt, offload.thread(hash_password, message.password.encode(), salt)
    return {"registered": message.name}


@app.on
def login(message: Login, conn: Connection) -> dict[str, Any]:
    salt, digest = passwords.get(message.name, (b"nobody", b""))
    return {"ok": hmac.compare_digest(offload.thread(hash_password, message.password.encode(), salt), digest)}


@app.on
def primes(message: Primes, conn: Connection) -> dict[str, Any]:
    try:
        return {"count": offload.process(count_primes, message.below, timeout=LONGEST_S)}
    except (offload.Full, offload.Timeout, offload.Died) as error:
        return {"error": type(error).__name__}
