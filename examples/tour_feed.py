"""Three ways to tell everyone something, and the server that does it one way.

Prints its port. With the first line on stdin it begins to publish, and prints how far it
is, and what it has measured; ends when stdin does.
"""

import asyncio
import gc
import json
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from tour_crowd import CLIENTS, COUNT, DEAF, INTERVAL, SECONDS, allow_files, message
from websockets.asyncio import server as bare

import safeaio
from safeaio.websocket import WebSocketHub
from safeaio.websocket.uvicorn import serve

_REST = 0.5  # seconds for the last message to arrive


class Way(Protocol):
    """A server of one kind, and how it tells all its clients something."""

    async def serve(self, listening: socket.socket) -> None: ...
    async def publish(self, text: str) -> None: ...
    def connected(self) -> int: ...


class ConnectionManager:
    """As in the documentation of FastAPI."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def serve(self, listening: socket.socket) -> None:
        app = FastAPI()
        app.add_api_websocket_route("/feed", self.endpoint)
        config = uvicorn.Config(app, log_level="critical")
        await uvicorn.Server(config).serve([listening])

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections.append(websocket)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            self.active_connections.remove(websocket)

    async def publish(self, text: str) -> None:
        for connection in self.active_connections:
            await connection.send_text(text)

    def connected(self) -> int:
        return len(self.active_connections)


class Broadcast:
    """As in the documentation of websockets."""

    def __init__(self) -> None:
        self._connections: set[bare.ServerConnection] = set()

    async def serve(self, listening: socket.socket) -> None:
        async with bare.serve(self.handle, sock=listening) as server:
            await server.serve_forever()

    async def handle(self, connection: bare.ServerConnection) -> None:
        self._connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            self._connections.remove(connection)

    async def publish(self, text: str) -> None:
        bare.broadcast(self._connections, text)

    def connected(self) -> int:
        return len(self._connections)


class Hub:
    """As in our own: what is told is how things are now."""

    def __init__(self) -> None:
        self._hub = WebSocketHub(stall_timeout=1.5)

    async def serve(self, listening: socket.socket) -> None:
        app = FastAPI()
        app.add_api_websocket_route("/feed", self.endpoint)
        await serve(app, self._hub, sockets=[listening], log_level="critical")

    async def endpoint(self, websocket: WebSocket) -> None:
        async with self._hub.session(websocket) as session:
            session.join("everyone")
            async for _ in session:
                pass

    async def publish(self, text: str) -> None:
        self._hub.publish("everyone", text, slow="conflate")

    def connected(self) -> int:
        return self._hub.snapshot().sessions


WAYS: dict[str, type[Way]] = {
    "ConnectionManager": ConnectionManager,
    "websockets.broadcast": Broadcast,
    "WebSocketHub": Hub,
}


def memory() -> float:
    """Return how many MB this process holds in RAM; elsewhere than on Linux, has held."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


async def publish_all(way: Way, start: float) -> None:
    for number in range(COUNT):
        due = start + number * INTERVAL
        await asyncio.sleep(due - time.monotonic())
        await way.publish(message(due))


async def measure(way: Way) -> dict[str, float | None]:
    gc.collect()
    before = most = memory()
    within: float | None = None
    start = time.monotonic()
    publishing = asyncio.create_task(publish_all(way, start))
    while (passed := time.monotonic() - start) < SECONDS + _REST:
        await asyncio.sleep(INTERVAL / 2)
        most = max(most, memory())
        if within is None and way.connected() <= CLIENTS - DEAF:
            within = passed
        print(json.dumps({"done": min(int(passed / INTERVAL), COUNT)}), flush=True)
    publishing.cancel()
    return {
        "memory": most - before,
        "evicted": CLIENTS - way.connected(),
        "within": within,
    }


async def main(name: str) -> None:
    allow_files(CLIENTS + 100)
    way = WAYS[name]()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # By itself the kernel takes megabytes for each deaf one, which takes longer to show.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    serving = asyncio.create_task(way.serve(listening))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    with suppress(BrokenPipeError):  # whoever started this is gone
        if await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(way)), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
    assert not serving.done()
    os._exit(0)  # a thousand clients are no reason to stay


if __name__ == "__main__":
    safeaio.run(main, sys.argv[1])
