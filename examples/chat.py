r"""A chat with rooms and nicknames, over all workers. A member that does not read is disconnected.

A line is a message to all members of the room, or a command: /nick NAME, /join ROOM, /quit.

Start it with two workers:

    $ gserver chat:app -b 127.0.0.1:3034 -w 2

Talk to it. A member gets its own messages too:

    $ (printf '/nick ada\n/join lobby\nhello\n'; sleep 0.5; echo /quit) | python -m gserver.client 127.0.0.1:3034
    * guest is now ada
    * ada is here
    ada: hello
    * bye

Load it with members that join a room each, and get every message back through the bus:

    $ loadtests run json --host tcp://127.0.0.1:3034 --file chat_load.py --user Member

The setting send_buffer_limit (1 MiB) is what a member may leave unread. With the setting bus = "redis://HOST:PORT/0",
the rooms are those of several hosts.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from gserver import CloseReason, Connection, Lines, Service, bus

NAME = re.compile(r"[\w-]{1,20}")


@dataclass
class Member:
    name: str = "guest"
    room: str = ""


def opened(conn: Connection) -> None:
    conn.session = Member()


def closed(conn: Connection, reason: CloseReason) -> None:
    leave(conn)


def handle(line: bytes, conn: Connection) -> bytes | None:
    member: Member = conn.session
    text = "".join(filter(str.isprintable, line.decode("utf-8", "replace")))
    match text.split(maxsplit=1):
        case ["/nick", name] if NAME.fullmatch(name):
            news = f"* {member.name} is now {name}"
            member.name = name
            if not member.room:
                return news.encode()
            tell(member.room, news)
        case ["/join", room] if NAME.fullmatch(room):
            leave(conn)
            member.room = room
            bus.subscribe(conn, f"room {room}")
            tell(room, f"* {member.name} is here")
        case ["/quit"]:
            conn.close()
            return b"* bye"
        case [command, *_] if command.startswith("/") or not member.room:
            return b"* /nick NAME, /join ROOM or /quit; a name has at most 20 letters and digits"
        case [_, *_]:
            tell(member.room, f"{member.name}: {text}")
    return None


def tell(room: str, text: str) -> None:
    bus.publish(f"room {room}", text.encode())


def leave(conn: Connection) -> None:
    member: Member = conn.session
    if member.room:
        bus.unsubscribe(conn, f"room {member.room}")
        tell(member.room, f"* {member.name} has left")


app = Service(handle, functools.partial(Lines, max_bytes=1000), on_open=opened, on_close=closed)
