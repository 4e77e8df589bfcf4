"""WebSocket servers, each with a bare endpoint and one through a session of ours.

Run as a script, with a core and the name of a server: it answers with its port, and then
takes the commands of `Room`.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic, perf_counter
from typing import Any, TypeAlias, final

import uvicorn
import websockets
from aiohttp import web
from fastapi import FastAPI, WebSocket
from websockets.asyncio.server import ServerConnection, serve

from safeaio.websocket import HubMiddleware, WebSocketHub, WebSocketSession
from safeaio.websocket._framing import framed

from .frames import message
from .process import cpu, obey, pin, resident, trace

HOST = "127.0.0.1"
BARE, SESSION, ROOM = "/bare", "/session", "/room"
ROOM_NAME = "all"

Server: TypeAlias = Callable[["Room"], AbstractAsyncContextManager[int]]


@final
class Room:
    """Everyone who is connected, and ways to tell them something.

    Attributes:
        bare: The connections of websockets, for what knows of no sessions.
    """

    def __init__(self) -> None:
        self.hub = _new_hub()
        self.bare: set[ServerConnection] = set()

    async def configure(self, **options: Any) -> None:
        """Make another hub, for who comes from now on."""
        self.hub = _new_hub(**options)

    async def publish(self, way: str, n: int, size: int) -> None:
        """Tell everyone, `n` times, by turns of the loop."""
        text = message(size).decode()
        tell = getattr(self, "_" + way)
        for _ in range(n):
            await tell(text)
            await asyncio.sleep(0)

    async def _hub(self, text: str) -> None:
        self.hub.publish(ROOM_NAME, text)

    async def _broadcast(self, text: str) -> None:
        websockets.broadcast(self.bare, text)

    async def _write(self, text: str) -> None:
        """Make the system call, and do nothing else: the floor."""
        frame, _ = framed(text)
        for connection in self.bare:
            os.write(connection.transport.get_extra_info("socket").fileno(), frame)

    async def pulse(self, n: int, size: int, interval: float) -> dict[str, Any]:
        """Tell everyone the time, `n` times, with pauses.

        Returns:
            Seconds from the first who was behind to the last who was evicted, and the
            most that was queued, and resident, in bytes.
        """
        behind: float | None = None
        evicted = 0.0
        queued = memory = 0
        due = monotonic()
        for _ in range(n):
            stamp = f"<{monotonic():.6f}>"
            before = self.hub.snapshot()
            delivery = self.hub.publish(
                ROOM_NAME, stamp + message(size - len(stamp)).decode()
            )
            if delivery.queued and behind is None:
                behind = monotonic()
            due += interval
            await asyncio.sleep(max(0.0, due - monotonic()))
            after = self.hub.snapshot()
            if after.evicted > before.evicted:
                evicted = monotonic()
            queued = max(queued, after.queued_bytes)
            memory = max(memory, await resident())
        return {
            "eviction": None if behind is None else evicted - behind,
            "evicted": self.hub.snapshot().evicted,
            "queued": queued,
            "resident": memory,
        }

    async def emptied(self) -> None:
        """Wait until there is no session."""
        while self.hub.snapshot().sessions:  # noqa: ASYNC110 - a hub tells nobody
            await asyncio.sleep(0.01)

    async def drain(self, deadline: float) -> dict[str, float]:
        """Drain the hub; return the seconds, and what became of the sessions."""
        started = perf_counter()
        drained = await self.hub.drain(deadline=deadline, batch=500, interval=0.1)
        return {
            "seconds": perf_counter() - started,
            "closed": drained.closed,
            "aborted": drained.aborted,
            "left": self.hub.snapshot().sessions,
        }


def _new_hub(**options: Any) -> WebSocketHub[str | bytes]:
    """Make a hub whose first ping is after all that is measured: the clients answer none."""
    return WebSocketHub(**{"max_sessions": 20_000, "heartbeat": 3600.0, **options})


async def _echo(session: WebSocketSession[str | bytes]) -> None:
    async for text in session:
        await session.send(text)


async def _stay(session: WebSocketSession[str | bytes]) -> None:
    session.join(ROOM_NAME)
    async for _ in session:
        pass


@asynccontextmanager
async def _websockets(room: Room) -> AsyncIterator[int]:
    async def bare(connection: ServerConnection) -> None:
        async for text in connection:
            await connection.send(text)

    async def session(connection: ServerConnection) -> None:
        async with room.hub.session(connection) as session:
            await _echo(session)

    async def stay(connection: ServerConnection) -> None:
        room.bare.add(connection)
        async with room.hub.session(connection) as session:
            await _stay(session)
        room.bare.discard(connection)

    endpoints = {BARE: bare, SESSION: session, ROOM: stay}

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        await endpoints[connection.request.path](connection)

    async with serve(handle, HOST, 0, compression=None, ping_interval=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def _aiohttp(room: Room) -> AsyncIterator[int]:
    async def bare(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        async for text in websocket:
            await websocket.send_str(text.data)
        return websocket

    def through(
        use: Callable[[WebSocketSession[str | bytes]], Awaitable[None]],
    ) -> Callable[[web.Request], Awaitable[web.WebSocketResponse]]:
        async def endpoint(request: web.Request) -> web.WebSocketResponse:
            websocket = web.WebSocketResponse(compress=False)
            await websocket.prepare(request)
            async with room.hub.session(websocket) as session:
                await use(session)
            return websocket

        return endpoint

    app = web.Application()
    app.router.add_get(BARE, bare)
    app.router.add_get(SESSION, through(_echo))
    app.router.add_get(ROOM, through(_stay))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _fastapi(room: Room) -> AsyncIterator[int]:
    app = FastAPI()

    @app.websocket(BARE)
    async def bare(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            text = await websocket.receive_text()
            await websocket.send_text(text)

    @app.websocket(SESSION)
    async def session(websocket: WebSocket) -> None:
        async with room.hub.session(websocket) as session:
            await _echo(session)

    @app.websocket(ROOM)
    async def stay(websocket: WebSocket) -> None:
        async with room.hub.session(websocket) as session:
            await _stay(session)

    async with asgi(HubMiddleware(app, room.hub)) as port:
        yield port


@asynccontextmanager
async def asgi(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI application on uvicorn."""
    config = uvicorn.Config(
        app,
        host=HOST,
        port=0,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="critical",
        timeout_graceful_shutdown=1,
        **options,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has nothing else to wait for
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


SERVERS: dict[str, Server] = {
    "websockets": _websockets,
    "aiohttp": _aiohttp,
    "FastAPI on uvicorn": _fastapi,
}


async def run(server: AbstractAsyncContextManager[int], room: Any) -> None:
    """Serve, and obey."""
    async with server as port:
        names = [name for name in dir(room) if not name.startswith("_")]
        commands = {
            name: getattr(room, name) for name in names if callable(getattr(room, name))
        }

        async def answer() -> int:
            return port

        await obey(
            {
                "port": answer,
                "cpu": cpu,
                "resident": resident,
                "trace": trace,
                **commands,
            }
        )


def main() -> None:
    core, name = sys.argv[1:]
    logging.disable()  # of clients that go without a word
    pin(int(core))
    room = Room()
    asyncio.run(run(SERVERS[name](room), room))


if __name__ == "__main__":
    main()
