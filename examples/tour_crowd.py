"""Many WebSocket clients, a few of them deaf: they connect, and never read what comes.

Prints a line once all are connected, then for each line on stdin what those who read have
heard; ends when stdin does.
"""

import asyncio
import json
import resource
import socket
import statistics
import sys
import time

import safeaio

CLIENTS = 1000
DEAF = 10

SIZE = 32_768  # of a message, in bytes; it starts with the time at which it was due
INTERVAL = 0.1  # seconds from one to the next
COUNT = 40  # messages
SECONDS = COUNT * INTERVAL

_FRAME = 4 + SIZE

_HANDSHAKE = (
    b"GET /feed HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def allow_files(count: int) -> None:
    """Let this process have that many files open, if the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def message(due: float) -> str:
    return f"{due:.6f} ".ljust(SIZE, ".")


class Client(asyncio.Protocol):
    """One that reads, and takes the time.

    Attributes:
        transport: Of its connection.
        dues: When each message that has come was due.
        waits: How many seconds after that each has come.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.connected: asyncio.Future[None] = asyncio.Future()
        self.dues: list[float] = []
        self.waits: list[float] = []
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._data += data
        if not self.connected.done():
            self._shake_hands()
        while len(self._data) >= _FRAME:
            due = float(self._data[4:64].split()[0])
            self.dues.append(due)
            self.waits.append(now - due)
            del self._data[:_FRAME]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.connected.done():
            self.connected.set_exception(ConnectionAbortedError("no handshake"))

    def _shake_hands(self) -> None:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if end:
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._data = rest
            self.connected.set_result(None)


async def connect(port: int, *, deaf: bool) -> Client:
    connection = socket.socket()
    if deaf:  # with less room in the kernel it is noticed sooner
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    transport, client = await loop.create_connection(Client, sock=connection)
    client.transport = transport  # nobody else holds that of a deaf one
    transport.write(_HANDSHAKE)
    await client.connected
    if deaf:
        transport.pause_reading()
    return client


def heard(clients: list[Client]) -> dict[str, float]:
    """Return the per cent of what was due that has come, and the milliseconds it took."""
    start = min(client.dues[0] for client in clients if client.dues)
    now = time.monotonic()
    waits = [wait for client in clients for wait in client.waits]
    missing = [  # it is as late as the time since it was due, at least
        now - start - number * INTERVAL
        for client in clients
        for number in range(len(client.waits), COUNT)
    ]
    return {
        "told": 100 * len(waits) / (len(waits) + len(missing)),
        "p99": 1000 * statistics.quantiles(waits + missing, n=100)[98],
    }


def is_deaf(number: int) -> bool:
    every = CLIENTS // DEAF
    return number % every == every // 2


async def main(port: int) -> None:
    allow_files(CLIENTS + 100)

    async def one(number: int) -> Client:
        return await connect(port, deaf=is_deaf(number))

    clients = await safeaio.bounded_map(one, range(CLIENTS), limit=50)
    print(json.dumps({"connected": len(clients)}), flush=True)
    reading = [client for n, client in enumerate(clients) if not is_deaf(n)]
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(heard(reading)), flush=True)


if __name__ == "__main__":
    safeaio.run(main, int(sys.argv[1]))
