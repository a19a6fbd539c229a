"""The JSON service (GREETING and SUM, one object per line) as an asyncio Protocol, on asyncio's or uvloop's loop.

Usage: asyncio_json.py LOOP PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from loadtests.servers.peers.json_answers import reply_to


class Json(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            self.write(reply_to(line))


async def serve(port: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Json, "127.0.0.1", int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(serve(sys.argv[2]))
    else:
        asyncio.run(serve(sys.argv[2]))
