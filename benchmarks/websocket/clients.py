"""Clients of a WebSocket server: sockets in one epoll, which count and do not parse.

Run as a script, with a core: see `Clients` for its commands.
"""

import asyncio
import re
import select
import socket
import sys
from collections.abc import Iterator
from statistics import quantiles
from time import monotonic, perf_counter
from typing import Any, final

from .frames import END, masked, message, upgrade
from .process import obey, pin

_CLOSE = bytes([0x88])
_STAMP = re.compile(rb"<([0-9.]+)>")
_CHUNK = 1 << 16
_PATIENCE = 30.0
_AT_ONCE = 100  # opening handshakes


@final
class Clients:
    """Connections to one server, by turns for each figure."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._deaf: list[socket.socket] = []
        self._pending = 0  # messages that came early

    async def connect(
        self, port: int, path: str, n: int, hello: str = "", deaf: bool = False
    ) -> None:
        """Open connections; a deaf one reads nothing after that."""
        for first in range(0, n, _AT_ONCE):
            some = [
                self._dial(port, path, deaf) for _ in range(min(_AT_ONCE, n - first))
            ]
            for connection in some:
                self._shake_hands(connection, hello.encode())
                if deaf:
                    self._deaf.append(connection)
                else:
                    connection.setblocking(False)
                    self._open[connection.fileno()] = connection
                    self._epoll.register(connection, select.EPOLLIN)

    @staticmethod
    def _dial(port: int, path: str, deaf: bool) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(upgrade(path, port))
        return connection

    def _shake_hands(self, connection: socket.socket, hello: bytes) -> None:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        if hello:
            connection.sendall(masked(hello))

    async def collect(self, n: int) -> float:
        """Read until there were `n` messages; return the seconds."""
        started = perf_counter()
        seen = self._pending
        for _, data in self._arrivals():
            seen += data.count(END)
            if seen >= n:
                break
        self._pending = seen - n
        return perf_counter() - started

    async def latencies(self, n: int) -> dict[str, float]:
        """Read until there were `n` messages that begin with their time, on this clock.

        Returns:
            The median and the 99th percentile of what they took, in seconds.
        """
        took: list[float] = []
        seen = 0
        for _, data in self._arrivals():
            now = monotonic()
            took += [now - float(stamp) for stamp in _STAMP.findall(data)]
            seen += data.count(END)
            if seen >= n:
                break
        cut = quantiles(took, n=100)
        return {"median": cut[49], "p99": cut[98]}

    def _arrivals(self) -> Iterator[tuple[socket.socket, bytes]]:
        while True:
            for number, _ in self._poll():
                connection = self._open[number]
                try:
                    data = connection.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    data = b""
                if not data:
                    self._forget(connection)
                yield connection, data

    def _poll(self) -> list[tuple[int, int]]:
        # Never asleep: to wake somebody up takes a server as long as to send, and which of
        # two ways has to do it more often is chance.
        give_up = monotonic() + _PATIENCE
        while not (events := self._epoll.poll(0)):
            if monotonic() > give_up:
                raise TimeoutError(f"nothing came for {_PATIENCE} s")
        return events

    def _forget(self, connection: socket.socket) -> None:
        self._epoll.unregister(connection)
        del self._open[connection.fileno()]
        connection.close()

    async def echo(self, n: int, size: int, in_flight: int) -> float:
        """Send `n` messages and read the echoes; return the seconds.

        Args:
            n: How many in all.
            size: Their bytes.
            in_flight: How many of them on each connection at a time.
        """
        frame = masked(message(size))
        sent = in_flight * len(self._open)
        seen = 0
        started = perf_counter()
        for connection in self._open.values():
            connection.sendall(frame * in_flight)
        for connection, data in self._arrivals():
            count = data.count(END)
            seen += count
            again = min(count, n - sent)
            if again > 0:
                connection.sendall(frame * again)
                sent += again
            if seen >= n:
                break
        return perf_counter() - started

    async def closes(self) -> float:
        """Answer close frames until every connection is closed; return the seconds."""
        started = perf_counter()
        for connection, data in self._arrivals():
            at = data.find(_CLOSE)
            if at >= 0:
                code = data[at + 2 : at + 4]
                connection.sendall(masked(code, opcode=8))
            if not self._open:
                break
        return perf_counter() - started

    async def come_and_go(self, port: int, path: str, n: int) -> float:
        """Open and close `n` connections, some at a time; return the seconds."""
        started = perf_counter()
        goodbye = masked((1000).to_bytes(2), opcode=8)
        for _ in range(0, n, _AT_ONCE):
            some = [self._dial(port, path, False) for _ in range(_AT_ONCE)]
            for connection in some:
                self._shake_hands(connection, b"")
                connection.sendall(goodbye)
            for connection in some:
                while connection.recv(_CHUNK):
                    pass
                connection.close()
        return perf_counter() - started

    async def hang_up(self) -> None:
        """Drop all connections."""
        for connection in [*self._open.values()]:
            self._forget(connection)
        for connection in self._deaf:
            connection.close()
        self._deaf.clear()
        self._pending = 0


def main() -> None:
    pin(int(sys.argv[1]))
    clients = Clients()
    commands: dict[str, Any] = {
        name: getattr(clients, name)
        for name in (
            "connect",
            "collect",
            "latencies",
            "echo",
            "closes",
            "come_and_go",
            "hang_up",
        )
    }
    asyncio.run(obey(commands))


if __name__ == "__main__":
    main()
