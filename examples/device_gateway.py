r"""A gateway for a fleet of devices, with a binary protocol; and an admin side that sends commands to them.

A frame is a length in 4 bytes, a letter, and a body:

    from the device             reply
    L NAME:TOKEN                L                log in, within 10 seconds of the connect
    H                           H                heartbeat, because a silent device is disconnected after 90 seconds
    R READING...                R                readings of 8 bytes each, see READING
    Z COMPRESSED                R                a batch of readings, compressed with zlib
    D NUMBER RESULT                              the command with this number is done
    from the gateway
    C NUMBER COMMAND                             a command; the number has 2 bytes
    E TEXT                                       the error reply to any frame

Start it. It has one worker, because a worker knows only its own devices. device_gateway.conf.py has both addresses, and
the timeouts:

    $ gserver -c device_gateway.conf.py

Talk to it as a device, and as an administrator who sends it a command and waits for the result:

    $ printf 'Lt1:c67a934afaf5ce59e4fe374294ba350f\nH\nRabcdefgh\nX\n' \
        | python -m gserver.client 127.0.0.1:3032 --codec length
    L
    H
    R
    Eunknown frame
    $ printf 'list\nlast t1\nsend t1 reboot\n' | python -m gserver.client 127.0.0.1:3033
    0 devices
    1633837924 s 259.58 C 26.472 V
    error: t1 is not known

Load it with devices that log in and send readings and heartbeats:

    $ loadtests run json --host tcp://127.0.0.1:3032 --file device_gateway_load.py --user Device
"""

from __future__ import annotations

import functools
import hmac
import itertools
import os
import struct
import zlib

from gevent import Timeout
from gevent.event import AsyncResult

from gserver import CloseReason, Connection, ConnectionClosed, Fault, LengthPrefixed, Lines, Service, offload

SECRET = os.environ.get("FLEET_SECRET", "change me").encode()
READING = struct.Struct(">Ihh")  # seconds since 1970, hundredths of a degree Celsius, millivolts of the battery
MAX_BATCH_BYTES = 1024 * 1024
COMMAND_TIMEOUT_S = 10

devices: dict[str, Connection] = {}
latest: dict[str, tuple[int, int, int]] = {}
commands: dict[tuple[Connection, bytes], AsyncResult[bytes]] = {}  # that wait for their result
numbers = itertools.count()


def token_of(name: bytes) -> bytes:
    return hmac.digest(SECRET, name, "sha256")[:16].hex().encode()


def opened(conn: Connection) -> None:
    conn.set_deadline(10)


def handle(frame: bytes, conn: Connection) -> bytes | None:
    kind, body = frame[:1], frame[1:]
    if conn.session is None:
        return log_in(body, conn) if kind == b"L" else b"Elog in first"
    match kind:
        case b"H":
            return b"H"
        case b"R":
            return keep(body, conn)
        case b"Z":  # in a thread, because the other devices would wait while it is unpacked
            return keep(offload.thread(unpack, body), conn)
        case b"D":
            if (command := commands.get((conn, body[:2]))) is not None:
                command.set(body[2:])
            return None
    return b"Eunknown frame"


def log_in(body: bytes, conn: Connection) -> bytes:
    name, _, token = body.partition(b":")
    if not hmac.compare_digest(token, token_of(name)):
        return b"Ewrong token"
    conn.session = name.decode("ascii", "replace")
    conn.set_deadline(None)
    replaced, devices[conn.session] = devices.get(conn.session), conn
    if replaced is not None:  # the device has connected again before the end of its old connection was noticed
        replaced.close()
    return b"L"


def keep(body: bytes, conn: Connection) -> bytes:
    if not body or len(body) % READING.size:
        return b"Ewrong length"
    latest[conn.session] = READING.unpack_from(body, len(body) - READING.size)
    return b"R"


def unpack(body: bytes) -> bytes:
    return zlib.decompressobj().decompress(body, MAX_BATCH_BYTES)


def closed(conn: Connection, reason: CloseReason) -> None:
    if devices.get(conn.session) is conn:
        del devices[conn.session]
    for (owner, _), command in list(commands.items()):
        if owner is conn:
            command.set_exception(ConnectionClosed("the device has left", reason))


def failed(fault: Fault, conn: Connection) -> bytes:
    return b"Ebusy" if isinstance(fault, offload.Full) else b"Ecannot be read"


def send(name: str, text: bytes) -> bytes:
    """Send a command to a device, and wait for its result."""
    conn, number = devices[name], struct.pack(">H", next(numbers) % 65536)
    command = commands[conn, number] = AsyncResult()
    try:
        conn.send_nowait(b"C" + number + text)
        return command.get(timeout=COMMAND_TIMEOUT_S)
    finally:
        del commands[conn, number]


def administer(line: bytes, conn: Connection) -> bytes:
    """Handle a line of an administrator: list, last NAME, send NAME COMMAND."""
    try:
        match line.decode().split(" ", 2):
            case ["list"]:
                return f"{len(devices)} devices {' '.join(sorted(devices))}".strip().encode()
            case ["last", name]:
                seconds, degrees, volts = latest[name]
                return f"{seconds} s {degrees / 100} C {volts / 1000} V".encode()
            case ["send", name, command]:
                return send(name, command.encode())
    except KeyError as error:
        return f"error: {error.args[0]} is not known".encode()
    except (ConnectionClosed, Timeout) as error:
        return f"error: {error}".encode()
    return b"error: expected list, last NAME, or send NAME COMMAND"


app = Service(
    handle,
    functools.partial(LengthPrefixed, max_bytes=64 * 1024),
    on_open=opened,
    on_close=closed,
    on_error=failed,
    probe=b"H",
)
admin = Service(administer, Lines, probe=b"list")
