"""Every kind of connection that a hub takes, with a client at the other end."""

import asyncio
import importlib.util
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol, TypeAlias

import aiohttp.web
import hypercorn.asyncio
import hypercorn.config
import uvicorn
import websockets.asyncio.client
import websockets.asyncio.server
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed

from safeaio.websocket import (
    HubMiddleware,
    MemoryWebSocket,
    TransportClosed,
    WebSocketHub,
    memory_pair,
)

Endpoint: TypeAlias = Callable[[Any], Awaitable[None]]


class Client(Protocol):
    """The peer of a session."""

    async def send(self, data: str | bytes) -> None: ...
    async def receive(self) -> str | bytes | None:
        """Return the next message; None if there is none, now that it is closed."""

    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    def vanish(self) -> None:
        """Be gone without a close frame."""

    def be_deaf(self) -> None:
        """Read nothing."""

    def hear(self) -> None:
        """Read again."""

    @property
    def closed(self) -> tuple[int, str] | None:
        """What it was told, if it is closed."""


class Connect(Protocol):
    """Makes clients."""

    port: int

    async def __call__(self) -> Client: ...


Wire: TypeAlias = Callable[
    [Endpoint, WebSocketHub[Any]], AbstractAsyncContextManager[Connect]
]


class MemoryClient:
    def __init__(self, end: MemoryWebSocket) -> None:
        self._end = end
        self._window = end.peer._window

    async def send(self, data: str | bytes) -> None:
        await self._end.send(data)

    async def receive(self) -> str | bytes | None:
        try:
            return await self._end.receive()
        except TransportClosed:
            return None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._end.close(code, reason)

    def vanish(self) -> None:
        self._end.abort()

    def be_deaf(self) -> None:
        self._end.peer._window = 0

    def hear(self) -> None:
        self._end.peer._window = self._window
        self._end.peer._push()

    @property
    def closed(self) -> tuple[int, str] | None:
        info = self._end.closed
        return None if info is None else (info.code, info.reason)


class MemoryClients:
    port = 0

    def __init__(self, endpoint: Endpoint, endpoints: asyncio.TaskGroup) -> None:
        self._endpoint = endpoint
        self._endpoints = endpoints

    async def __call__(self) -> Client:
        server, client = memory_pair()
        self._endpoints.create_task(_await(self._endpoint(server)))
        return MemoryClient(client)


async def _await(awaitable: Awaitable[None]) -> None:
    await awaitable


@asynccontextmanager
async def memory(endpoint: Endpoint, hub: WebSocketHub[Any]) -> AsyncIterator[Connect]:
    async with asyncio.TaskGroup() as endpoints:
        yield MemoryClients(endpoint, endpoints)


class NetworkClient:
    def __init__(self, connection: websockets.asyncio.client.ClientConnection) -> None:
        self.connection = connection

    async def send(self, data: str | bytes) -> None:
        await self.connection.send(data)

    async def receive(self) -> str | bytes | None:
        try:
            return await self.connection.recv()
        except ConnectionClosed:
            return None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.connection.close(code, reason)

    def vanish(self) -> None:
        self.connection.transport.abort()

    def be_deaf(self) -> None:
        self.connection.transport.pause_reading()

    def hear(self) -> None:
        self.connection.transport.resume_reading()

    @property
    def closed(self) -> tuple[int, str] | None:
        received = self.connection.protocol.close_rcvd
        return None if received is None else (received.code, received.reason)


class NetworkClients:
    def __init__(self, port: int) -> None:
        self.port = port
        self.clients: list[NetworkClient] = []

    async def __call__(self) -> Client:
        connection = await websockets.asyncio.client.connect(
            f"ws://127.0.0.1:{self.port}/",
            compression=None,
            ping_interval=None,
            close_timeout=5,
            proxy=None,
        )
        self.clients.append(NetworkClient(connection))
        return self.clients[-1]


@asynccontextmanager
async def _clients(port: int) -> AsyncIterator[Connect]:
    connect = NetworkClients(port)
    try:
        yield connect
    finally:
        for client in connect.clients:
            client.connection.transport.abort()
            with suppress(ConnectionClosed):
                await client.connection.wait_closed()


@asynccontextmanager
async def on_websockets(
    endpoint: Endpoint, hub: WebSocketHub[Any]
) -> AsyncIterator[Connect]:
    async with websockets.asyncio.server.serve(
        endpoint,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        max_size=hub.max_message_bytes,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with _clients(port) as connect:
            yield connect


@asynccontextmanager
async def on_aiohttp(
    endpoint: Endpoint, hub: WebSocketHub[Any]
) -> AsyncIterator[Connect]:
    async def handle(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        websocket = aiohttp.web.WebSocketResponse(
            compress=False, max_msg_size=hub.max_message_bytes
        )
        await websocket.prepare(request)
        await endpoint(websocket)
        return websocket

    app = aiohttp.web.Application()
    app.router.add_get("/", handle)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=1, handler_cancellation=False)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with _clients(runner.addresses[0][1]) as connect:
            yield connect
    finally:
        await runner.cleanup()


def application(endpoint: Endpoint) -> FastAPI:
    app = FastAPI()

    @app.websocket("/")
    async def handle(websocket: WebSocket) -> None:
        await endpoint(websocket)

    return app


def no_middleware(app: Any, hub: WebSocketHub[Any]) -> Any:
    """Return what a server gets that nobody has told of `HubMiddleware`."""
    return app


def on_uvicorn(outermost: Any = HubMiddleware, **options: Any) -> Wire:
    @asynccontextmanager
    async def wire(
        endpoint: Endpoint, hub: WebSocketHub[Any]
    ) -> AsyncIterator[Connect]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            outermost(application(endpoint), hub),
            log_level="error",
            lifespan="off",
            ws_ping_interval=None,
            ws_max_size=hub.max_message_bytes,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
            **options,
        )
        with warnings.catch_warnings():
            if options.get("ws") == "websockets":  # that is deprecated
                warnings.simplefilter("ignore")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve([listener]))
            try:
                while not server.started:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                async with _clients(listener.getsockname()[1]) as connect:
                    yield connect
            finally:
                server.should_exit = True
                await serving

    return wire


def on_hypercorn(outermost: Any = HubMiddleware) -> Wire:
    @asynccontextmanager
    async def wire(
        endpoint: Endpoint, hub: WebSocketHub[Any]
    ) -> AsyncIterator[Connect]:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listener.detach()}"]  # it closes it
        config.loglevel = "ERROR"
        config.graceful_timeout = 1
        config.websocket_max_message_size = hub.max_message_bytes
        stop = asyncio.Event()
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(
                outermost(application(endpoint), hub),
                config,
                shutdown_trigger=stop.wait,
            )
        )
        try:
            async with _clients(port) as connect:
                yield connect
        finally:
            stop.set()
            await serving

    return wire


UVICORN = {"uvicorn": "auto"}
"""What uvicorn calls its implementations of WebSockets."""

HYPERCORN = on_hypercorn()

# These take long, and differ no more from one Python to the next than the others do.
EVERY_SERVER = sys.version_info >= (3, 13)

if EVERY_SERVER:
    UVICORN["uvicorn-wsproto"] = "wsproto"
    if importlib.util.find_spec("uvicorn.protocols.websockets.websockets_impl"):
        UVICORN["uvicorn-legacy"] = "websockets"

WIRES: dict[str, Wire] = {
    "memory": memory,
    "websockets": on_websockets,
    "aiohttp": on_aiohttp,
    **{name: on_uvicorn(ws=ws) for name, ws in UVICORN.items()},
}
if EVERY_SERVER:
    WIRES["hypercorn"] = HYPERCORN

TELLS_NO_CODE = (HYPERCORN,)
"""Where a peer that closes looks like one that vanished: 1006, and no reason."""

TASKS = {on_aiohttp: 2, HYPERCORN: 2, WIRES.get("uvicorn-legacy"): 4}
"""How many tasks a server has for each connection, the endpoint's among them; else 1."""
