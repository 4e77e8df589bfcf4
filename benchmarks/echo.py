"""A TCP echo server in a process of its own, and round trips to it.

Run as a script this is the server: it prints its port and ends when its stdin does, so
it cannot outlive whoever started it.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast, final

import attrs

HOST = "127.0.0.1"
CONNECTIONS = 100  # as many as calls are allowed at once, so that these never queue
SIZE = 8  # bytes of a message


@contextmanager
def echo_server() -> Iterator[int]:
    """Run the server in a process of its own, and give its port."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@asynccontextmanager
async def echo_client(
    port: int,
) -> AsyncIterator[Callable[[int], Coroutine[Any, Any, int]]]:
    """Open the connections, and give a function that makes one round trip."""
    loop = asyncio.get_running_loop()
    free: asyncio.Queue[_Connection] = asyncio.LifoQueue()

    async def round_trip(number: int) -> int:
        connection = await free.get()
        try:
            return int.from_bytes(await connection.send(number.to_bytes(SIZE)))
        finally:
            free.put_nowait(connection)

    opened = [
        await loop.create_connection(_Connection, HOST, port)
        for _ in range(CONNECTIONS)
    ]
    for _, connection in opened:
        free.put_nowait(connection)
    try:
        yield round_trip
    finally:
        for transport, _ in opened:
            transport.close()


@attrs.define(eq=False)
@final
class _Connection(asyncio.Protocol):
    _transport: asyncio.Transport = attrs.field(init=False)
    _received: bytes = attrs.field(default=b"", init=False)
    _reply: asyncio.Future[bytes] = attrs.field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, message: bytes) -> asyncio.Future[bytes]:
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) == SIZE:
            self._reply.set_result(self._received)
            self._received = b""


@final
class _Echo(asyncio.Protocol):
    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
