"""Echoes, for scripts/autobahn.py: two servers, and on each a bare loop and a session.

`python -m scripts.echo` prints where each listens, as a line of JSON, and serves until its
standard input ends.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from safeaio.websocket import WebSocketHub
from safeaio.websocket.uvicorn import serve as serve_uvicorn

# The longest message of Autobahn has 16 MiB; by default the hub and websockets take 1 MiB.
LONGEST = 1 << 24


def hub() -> WebSocketHub[Any]:
    return WebSocketHub(max_message_bytes=LONGEST, max_queue_bytes=2 * LONGEST)


async def bare_on_websockets(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):  # which websockets would log
        async for message in connection:
            await connection.send(message)


def session_on_websockets() -> Callable[[ServerConnection], Awaitable[None]]:
    sessions = hub()

    async def endpoint(connection: ServerConnection) -> None:
        async with sessions.session(connection) as session:
            async for message in session:
                await session.send(message)

    return endpoint


def bare_on_uvicorn() -> FastAPI:
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        with suppress(WebSocketDisconnect):
            while (message := await websocket.receive())["type"] == "websocket.receive":
                await websocket.send({**message, "type": "websocket.send"})

    return app


def session_on_uvicorn(sessions: WebSocketHub[Any]) -> FastAPI:
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with sessions.session(websocket) as session:
            async for message in session:
                await session.send(message)

    return app


async def main() -> None:
    names = [
        f"{transport}, {layer}"
        for transport in ("websockets", "uvicorn")
        for layer in ("bare", "session")
    ]
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    options: dict[str, Any] = {"log_level": "critical", "lifespan": "off"}
    bare = uvicorn.Server(
        uvicorn.Config(bare_on_uvicorn(), ws_max_size=LONGEST, **options)
    )
    sessions = hub()
    async with (
        serve_websockets(
            bare_on_websockets, sock=listeners["websockets, bare"], max_size=LONGEST
        ),
        serve_websockets(
            session_on_websockets(),
            sock=listeners["websockets, session"],
            max_size=LONGEST,
            ping_interval=None,  # the hub has a heartbeat
        ),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(bare.serve([listeners["uvicorn, bare"]]))
        with_sessions = group.create_task(
            serve_uvicorn(
                session_on_uvicorn(sessions),
                sessions,
                sockets=[listeners["uvicorn, session"]],
                **options,
            )
        )
        addresses = {
            name: f"ws://127.0.0.1:{listener.getsockname()[1]}"
            for name, listener in listeners.items()
        }
        print(json.dumps(addresses), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        bare.should_exit = True
        with_sessions.cancel()


if __name__ == "__main__":
    asyncio.run(main())
