"""What docs/slow-clients.md says of clients that do not read, without and with a hub."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import websockets
from fastapi import WebSocket

from safeaio.websocket import WebSocketHub
from safeaio.websocket._asgi import LINE

from .test_invariants import run, until
from .wires import WIRES, Client

Send = Callable[[bytes], Awaitable[object]]

MIB = 1 << 20
CHUNK = b"x" * (1 << 16)


@attrs.frozen
class Server:
    """The server's end of a connection: what its library gives to a handler."""

    websocket: Any
    left: asyncio.Event

    @property
    def send(self) -> Send:
        connection = self.websocket
        given: Send = getattr(connection, "send_bytes", None) or connection.send
        return given

    @property
    def transport(self) -> asyncio.Transport:
        websocket = self.websocket
        if isinstance(websocket, WebSocket):
            found = websocket.scope[LINE].transport
        elif hasattr(websocket, "transport"):
            found = websocket.transport
        else:
            found = websocket._req.transport
        assert isinstance(found, asyncio.Transport)
        return found

    @property
    def has_socket(self) -> bool:
        held: int = self.transport.get_extra_info("socket").fileno()
        return held != -1


@asynccontextmanager
async def deaf(wire: str) -> AsyncIterator[tuple[Server, Client]]:
    """Connect a client that does not read, to a handler without a hub."""
    servers: asyncio.Queue[Server] = asyncio.Queue()

    async def endpoint(websocket: Any) -> None:
        if isinstance(websocket, WebSocket):
            await websocket.accept()
        server = Server(websocket, asyncio.Event())
        servers.put_nowait(server)
        await server.left.wait()

    async with WIRES[wire](endpoint, WebSocketHub()) as connect:
        client = await connect()
        server = await servers.get()
        transport = server.transport
        client.be_deaf()
        try:
            yield server, client
        finally:
            client.vanish()
            transport.abort()
            server.left.set()


async def fill(send: Send, transport: asyncio.Transport) -> int:
    """Send until that waits, and cancel that; return how many were sent before."""
    sent = 0
    while True:
        sending = asyncio.ensure_future(send(b"%8d" % sent + CHUNK))
        if await is_stuck(sending, transport):
            sending.cancel()
            await asyncio.wait([sending])
            return sent
        sending.result()
        sent += 1


async def is_stuck(
    sending: asyncio.Future[object], transport: asyncio.Transport
) -> bool:
    """Tell whether it goes on waiting, with nothing more written meanwhile."""
    await asyncio.sleep(0)
    while not sending.done():
        before = transport.get_write_buffer_size()
        await asyncio.wait([sending], timeout=0.1)
        if not sending.done() and transport.get_write_buffer_size() == before:
            return True
    return False


BARE = ("websockets", "aiohttp", "uvicorn")


@pytest.mark.parametrize("wire", BARE)
def test_a_send_waits_in_the_end(wire: str) -> None:
    """With little of it in the process: the rest is in the kernel."""

    async def test() -> None:
        async with deaf(wire) as (server, _):
            sent = await fill(server.send, server.transport)
            assert 0 < server.transport.get_write_buffer_size() < MIB
            assert sent > 0

    run(test)


def test_a_broadcast_never_waits() -> None:
    """All of it is in the process."""

    async def test() -> None:
        async with deaf("websockets") as (server, _):
            for _ in range(32):
                websockets.broadcast([server.websocket], b"x" * MIB)
                await asyncio.sleep(0)
            assert server.transport.get_write_buffer_size() > 16 * MIB

    run(test)


def test_the_kernel_tells_sooner_with_a_low_water_mark() -> None:
    """That it takes no more, and that it takes more again."""
    taken, read = kernel()
    taken_low, read_low = kernel((socket.TCP_NOTSENT_LOWAT, 1 << 14))
    assert 4 * taken_low < taken
    assert 4 * read_low < read


def kernel(*options: tuple[int, int]) -> tuple[int, int]:
    """Return what a connection takes, and how much of that is to be read before more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for option in options:
            listener.setsockopt(socket.IPPROTO_TCP, *option)
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                server.setblocking(False)
                taken = read = 0
                with suppress(BlockingIOError):
                    while True:
                        taken += server.send(CHUNK)
                while not select.select([], [server], [], 0.005)[1]:
                    read += len(client.recv(1 << 14))
                return taken, read


def test_a_close_of_websockets_waits_behind_it() -> None:
    """Whatever its `close_timeout`."""

    async def test() -> None:
        async with deaf("websockets") as (server, _):
            await fill(server.send, server.transport)
            server.websocket.close_timeout = 0.01
            closing = asyncio.create_task(server.websocket.close())
            assert await is_stuck(closing, server.transport)
            assert server.has_socket
            server.transport.abort()
            await closing
            assert not server.has_socket

    run(test)


def test_a_close_on_uvicorn_waits_behind_it() -> None:
    async def test() -> None:
        async with deaf("uvicorn") as (server, _):
            await fill(server.send, server.transport)
            closing = asyncio.create_task(server.websocket.close())
            assert await is_stuck(closing, server.transport)
            closing.cancel()
            assert server.has_socket

    run(test)


def test_a_handler_on_uvicorn_that_returns_frees_nothing() -> None:
    """The socket waits for its buffer to be written; an abort waits for nothing."""

    async def test() -> None:
        async with deaf("uvicorn") as (server, _):
            await fill(server.send, server.transport)
            server.left.set()
            await until(server.transport.is_closing)
            assert server.transport.get_write_buffer_size()
            assert server.has_socket
            server.transport.abort()
            await until(lambda: not server.has_socket)

    run(test)


async def evict(server: Server, hub: WebSocketHub[Any]) -> None:
    """Have a hub end the session of a client that does not read."""

    async def handler() -> None:
        async with hub.session(server.websocket) as session:
            session.join("room")
            async for _ in session:
                pass

    handling = asyncio.create_task(handler())
    await until(lambda: hub.snapshot().rooms)
    while not hub.publish("room", CHUNK).evicted:  # noqa: ASYNC110 - for a kernel
        await asyncio.sleep(0)
    await handling


@pytest.mark.parametrize("wire", BARE)
def test_a_hub_frees_the_socket(wire: str) -> None:
    async def test() -> None:
        async with deaf(wire) as (server, _):
            transport = server.transport
            held = transport.get_extra_info("socket")
            await evict(server, WebSocketHub())
            await until(lambda: held.fileno() == -1)

    run(test)


def test_without_the_middleware_it_does_not() -> None:
    """Though the session is over."""

    async def test() -> None:
        async with deaf("uvicorn") as (server, _):
            line = server.websocket.scope.pop(LINE)
            await evict(server, WebSocketHub())
            server.websocket.scope[LINE] = line
            assert server.has_socket

    run(test)


@pytest.mark.parametrize(
    ("wire", "delivered"), [("websockets", True), ("aiohttp", True), ("uvicorn", False)]
)
def test_what_a_send_did_that_was_cut(wire: str, *, delivered: bool) -> None:
    """It depends on the library."""

    async def test() -> None:
        async with deaf(wire) as (server, client):
            sent = await fill(server.send, server.transport)
            assert await received(server.send, client) == sent + delivered

    run(test)


@pytest.mark.parametrize("wire", BARE)
def test_a_send_of_a_session_that_was_cut_did_nothing(wire: str) -> None:
    async def test() -> None:
        async with deaf(wire) as (server, client):
            hub = WebSocketHub(stall_timeout=60, heartbeat=None)
            async with hub.session(server.websocket) as session:
                sent = await fill(session.send, server.transport)
                assert await received(session.send, client) == sent

    run(test)


async def received(send: Send, client: Client) -> int:
    """Have the client read again; return how many messages it gets, in order."""
    client.hear()
    sending = asyncio.ensure_future(send(b"the end"))
    number = 0
    while (data := await client.receive()) != b"the end":
        assert isinstance(data, bytes)
        assert data[:8] == b"%8d" % number
        number += 1
    await sending
    return number
