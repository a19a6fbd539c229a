"""An echo server that allocates a given number of bytes for each connection: `python -m tests.helpers.holding BYTES`.

It listens on 127.0.0.1 and prints its port as the first line.
"""

from __future__ import annotations

import asyncio
import os
import sys

from loadtests.host.environment import raise_nofile_limit

PAGE = 4096


class Connection(asyncio.Protocol):
    """An echo connection with allocated memory; each page is written, so that it is resident."""

    size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.held = os.urandom(PAGE) * (self.size // PAGE) + os.urandom(self.size % PAGE)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main(size: int) -> None:
    Connection.size = size
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    raise_nofile_limit()
    asyncio.run(main(int(sys.argv[1])))
