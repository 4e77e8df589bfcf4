"""uvicorn under `safeaio.run`: a signal drains the hub, then the server stops."""

import asyncio
import signal
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import uvicorn
import websockets.asyncio.client
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed

import safeaio
from safeaio import Service, supervise
from safeaio.websocket import WebSocketHub, memory_pair
from safeaio.websocket.uvicorn import serve

from . import raw
from .raw import connect
from .test_invariants import run, until
from .wires import UVICORN

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


def test_restarted() -> None:
    """The hub admits again, which had drained."""
    hub = WebSocketHub()
    received: list[Any] = []

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        serving = partial(serve, application(hub), hub, port=port, **OPTIONS)
        async with supervise(Service(serving, name="api")) as sup:
            await sup.restart("api")
            assert hub.admits
            visiting = asyncio.create_task(client(port, received))
            while not received:  # noqa: ASYNC110 - for a server
                await asyncio.sleep(0.01)
            await sup.stop("api")
            await visiting

    safeaio.run(main)
    assert received == ["hello", (1012, "service restart")]


def test_reopened_while_it_drains() -> None:
    hub = WebSocketHub()

    async def main() -> None:
        server, _ = memory_pair()
        async with hub.session(server):
            draining = asyncio.create_task(hub.drain(grace=0.1))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="still drains"):
                hub.reopen()
        await draining
        assert not hub.admits
        hub.reopen()
        assert hub.admits

    asyncio.run(main())


def test_a_refusal_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    hub = WebSocketHub(max_sessions=1, close_timeout=0.2)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(
            serve(application(hub), hub, sockets=[listener], log_config=None)
        )
        first = await connect(port)
        await until(lambda: hub.snapshot().sessions)
        for _ in range(5):
            with pytest.raises(ConnectionError, match="503"):
                await connect(port)
        await safeaio.cancel_and_wait(serving)
        first.close()
        listener.close()

    asyncio.run(main())
    assert hub.snapshot().refused == 5
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


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


# What uvicorn does by itself


@asynccontextmanager
async def bare(app: Any, **options: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Serve an ASGI application in which nothing is ours."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_level="error", timeout_graceful_shutdown=1, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ws="websockets" is deprecated
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        await until(lambda: server.started)
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


@pytest.mark.parametrize("ws", UVICORN.values())
def test_send_waits_for_a_peer_that_reads_nothing(ws: str) -> None:
    """All limits of a hub rest on that; with "auto", 0.50.0 to 0.52.0 take everything."""

    async def test() -> None:
        sent = 0
        waits = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await receive()
            await send({"type": "websocket.accept"})
            with suppress(TimeoutError):
                while sent < 64 << 20:  # far more than kernels take
                    async with asyncio.timeout(0.5):
                        await send({"type": "websocket.send", "bytes": bytes(1 << 16)})
                    sent += 1 << 16
            waits.set()

        async with bare(app, ws=ws, lifespan="off") as (_, port):
            deaf = await connect(port)
            await waits.wait()
            deaf.reset()
        assert sent < 64 << 20

    run(test)


@pytest.mark.parametrize("ws", UVICORN.values())
def test_uvicorn_closes_first(ws: str) -> None:
    """There is no time for a last message, and its lifespan ends later still."""

    async def test() -> None:
        happened: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (event := await receive())["type"] != f"{scope['type']}.disconnect":
                happened.append(event["type"])
                if event["type"] == "lifespan.shutdown":
                    await send({"type": "lifespan.shutdown.complete"})
                    return
                accept = (
                    "accept" if scope["type"] == "websocket" else "startup.complete"
                )
                await send({"type": f"{scope['type']}.{accept}"})
            happened.append(event["type"])
            with suppress(OSError, RuntimeError):
                await send({"type": "websocket.send", "text": "last words"})

        async with bare(app, ws=ws, lifespan="on") as (server, port):
            url = f"ws://127.0.0.1:{port}/"
            async with websockets.asyncio.client.connect(url, proxy=None) as client:
                server.should_exit = True
                with pytest.raises(ConnectionClosed) as caught:
                    await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        assert happened == [
            "lifespan.startup",
            "websocket.connect",
            "websocket.disconnect",
            "lifespan.shutdown",
        ]

    run(test)
