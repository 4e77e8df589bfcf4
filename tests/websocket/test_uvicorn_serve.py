"""uvicorn under `safeaio.run`: a signal drains the hub, then the server stops."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import websockets.asyncio.client
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed

import safeaio
from safeaio import Service, supervise
from safeaio.websocket import WebSocketHub
from safeaio.websocket.uvicorn import serve

from . import raw

OPTIONS: dict[str, Any] = {"log_level": "error", "lifespan": "off"}


def application(hub: WebSocketHub[Any]) -> FastAPI:
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.session(websocket) as session:
            session.join("room")
            async for message in session:
                await session.send(message)
            assert session.draining

    return app


async def client(port: int, received: list[Any]) -> None:
    url = f"ws://127.0.0.1:{port}/"
    async with websockets.asyncio.client.connect(url, proxy=None) as connection:
        await connection.send("hello")
        received.append(await connection.recv())
        with suppress(ConnectionClosed):
            async for message in connection:
                received.append(message)
        await connection.wait_closed()
        received.append((connection.close_code, connection.close_reason))


@pytest.mark.parametrize("supervised", [False, True])
def test_a_signal_drains_first(*, supervised: bool) -> None:
    """The last message is delivered, and every peer told to come back."""
    hub = WebSocketHub()
    received: list[Any] = []
    over: list[str] = []

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = partial(serve, application(hub), hub, sockets=[listener], **OPTIONS)

        async def visit() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(client(port, received))
                while not received:  # noqa: ASYNC110 - for a server
                    await asyncio.sleep(0.01)
                hub.publish("room", "last words")
                signal.raise_signal(signal.SIGTERM)

        async with asyncio.TaskGroup() as group:
            if supervised:
                group.create_task(_await(supervise(Service(serving, name="api"))))
            else:
                group.create_task(serving())
            group.create_task(visit())
        over.append("main")
        listener.close()

    safeaio.run(main, grace=20)
    assert received == ["hello", "last words", (1012, "service restart")]
    assert over == ["main"]
    assert hub.snapshot().sessions == 0


async def _await(awaitable: Any) -> None:
    await awaitable


def test_a_peer_that_answers_no_close_does_not_keep_uvicorn_from_stopping() -> None:
    """Its time is up when main is cancelled; the lifespan ends after that."""
    hub = WebSocketHub()
    lived: list[str] = []
    peers: list[raw.Raw] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        lived.append("stored")

    async def main() -> None:
        app = application(hub)
        app.router.lifespan_context = lifespan
        listener = socket.create_server(("127.0.0.1", 0))

        async def visit() -> None:
            peers.append(await raw.connect(listener.getsockname()[1]))
            while not hub.snapshot().rooms:  # noqa: ASYNC110 - for a server
                await asyncio.sleep(0.01)
            signal.raise_signal(signal.SIGTERM)

        async with asyncio.TaskGroup() as group:
            group.create_task(serve(app, hub, sockets=[listener], log_level="error"))
            group.create_task(visit())
        listener.close()

    with pytest.raises(safeaio.Terminated):
        safeaio.run(main, grace=2)
    peers[0].close()
    assert lived == ["stored"]


def test_it_says_when_it_listens() -> None:
    hub = WebSocketHub()

    async def main() -> None:
        serving = partial(serve, application(hub), hub, port=0, **OPTIONS)
        async with supervise(Service(serving, name="api")) as sup:
            assert sup.health().ready

    safeaio.run(main)


def test_it_did_not_start() -> None:
    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        with pytest.raises(RuntimeError, match="uvicorn did not start"):
            await serve(lifespan, WebSocketHub(), port=0, log_level="critical")

    safeaio.run(main)


def test_outside_of_run() -> None:
    """Until it is cancelled."""
    hub = WebSocketHub()

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(
            serve(application(hub), hub, sockets=[listener], **OPTIONS)
        )
        received: list[Any] = []
        visiting = asyncio.create_task(client(listener.getsockname()[1], received))
        while not received:  # noqa: ASYNC110 - for a server
            await asyncio.sleep(0.01)
        await safeaio.cancel_and_wait(serving)
        await visiting
        assert received == ["hello", (1012, "service restart")]
        listener.close()

    asyncio.run(main())
