"""A small web site: it takes `limit` connections at a time and answers 503 to more.

Prints its port, then its counters for each line on stdin; ends when stdin does, so
it cannot outlive whoever started it.
"""

import asyncio
import json
import sys

import safeaio

PAGE_TIME = 0.01
PAGE = b"x" * 4096


def fails(number: int) -> bool:
    return number % 250 == 100


class Site:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = self._admitted = 0
        self.counters = {"peak": 0, "refused": 0, "served": 0}

    async def connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._open += 1
        self.counters["peak"] = max(self.counters["peak"], self._open)
        admitted = self._admitted < self._limit
        self._admitted += admitted
        try:
            if admitted:
                await self._serve(reader, writer)
            else:
                await self._refuse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            self._open -= 1
            self._admitted -= admitted
            writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(PAGE_TIME)
            self.counters["served"] += 1
            number = int(head.split()[1].removeprefix(b"/page/"))
            if fails(number):
                writer.write(_head(b"500 Internal Server Error"))
            else:
                writer.write(_head(b"200 OK", length=len(PAGE)) + PAGE)
            await writer.drain()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Closing with the request unread would reset the connection, and the
        # client would not always see the answer.
        await reader.readuntil(b"\r\n\r\n")
        self.counters["refused"] += 1
        writer.write(_head(b"503 Service Unavailable", b"Connection: close\r\n"))
        await writer.drain()


def _head(status: bytes, extra: bytes = b"", length: int = 0) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, extra, length)


async def main(limit: int) -> None:
    site = Site(limit)
    server = await asyncio.start_server(site.connected, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(site.counters), flush=True)


if __name__ == "__main__":
    safeaio.run(main, int(sys.argv[1]))
