"""Echo as an asyncio Protocol, on asyncio's or uvloop's loop. Usage: asyncio_echo.py LOOP PORT [CERTFILE KEYFILE]"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


def server_context(certfile: str, keyfile: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    return context


async def serve(port: str, *certificate: str) -> None:
    context = server_context(*certificate) if certificate else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", int(port), backlog=4096, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(serve(*sys.argv[2:]))
    else:
        asyncio.run(serve(*sys.argv[2:]))
