"""What a client that does not read is sent all the same, and what gets rid of it.

`python -m benchmarks.kernel_buffers` prints three tables, in about a minute, on Linux with
the `test` dependency group installed. All is in one process, over the loopback interface;
the client is that of websockets, whose socket is not read.
"""

import asyncio
import fcntl
import platform
import select
import socket
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp.web
import attrs
import uvicorn
import websockets
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from safeaio.websocket import HubMiddleware, WebSocketHub

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 64 * KIB)  # of a message
NOT_SENT = 16 * KIB
ENOUGH = 16 * MIB  # whoever takes that takes everything
BLOCKED = 0.5  # seconds that a send lasts which will not end
HELD = 20.0  # seconds after which nobody waits for a socket any more

Option: TypeAlias = tuple[int, int]
LOW_WATER: Option = (socket.TCP_NOTSENT_LOWAT, NOT_SENT)
USER_TIMEOUT: Option = (socket.TCP_USER_TIMEOUT, 5000)


@attrs.frozen(kw_only=True)
class Wire:
    """The server's end of one WebSocket.

    Attributes:
        connection: What a hub takes.
        send: Sends one message, by the server's own means.
        close: Closes, likewise.
        transport: Of asyncio.
        leave: Has the handler return.
    """

    connection: Any
    send: Callable[[bytes], Awaitable[object]]
    close: Callable[[], Awaitable[object]]
    transport: asyncio.Transport
    leave: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def held(self) -> bool:
        """Whether the server still has the socket."""
        return bool(self.transport.get_extra_info("socket").fileno() != -1)


Handler: TypeAlias = Callable[[Wire], Awaitable[None]]
Server: TypeAlias = Callable[
    [socket.socket, Handler], AbstractAsyncContextManager[None]
]


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - for a server, or a kernel
        await asyncio.sleep(0.005)


# Servers


def on_websockets(**options: Any) -> Server:
    @asynccontextmanager
    async def server(listener: socket.socket, handler: Handler) -> AsyncIterator[None]:
        async def handle(connection: ServerConnection) -> None:
            await handler(
                Wire(
                    connection=connection,
                    send=connection.send,
                    close=connection.close,
                    transport=connection.transport,
                )
            )

        options.setdefault("ping_interval", None)
        async with serve(handle, sock=listener, compression=None, **options):
            yield

    return server


def on_uvicorn(hub: WebSocketHub[Any] | None = None, **options: Any) -> Server:
    @asynccontextmanager
    async def server(listener: socket.socket, handler: Handler) -> AsyncIterator[None]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            websocket = WebSocket(scope, receive, send)
            await websocket.accept()
            await handler(
                Wire(
                    connection=websocket,
                    send=websocket.send_bytes,
                    close=websocket.close,
                    transport=send.__self__.transport,
                )
            )

        options.setdefault("ws_ping_interval", None)
        config = uvicorn.Config(
            app if hub is None else HubMiddleware(app, hub),
            lifespan="off",
            log_level="critical",
            timeout_graceful_shutdown=1,
            ws_per_message_deflate=False,
            **options,
        )
        running = uvicorn.Server(config)
        serving = asyncio.create_task(running._serve([listener]))
        await until(lambda: running.started)
        try:
            yield
        finally:
            running.should_exit = True
            await serving

    return server


def on_aiohttp() -> Server:
    @asynccontextmanager
    async def server(listener: socket.socket, handler: Handler) -> AsyncIterator[None]:
        async def handle(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            websocket = aiohttp.web.WebSocketResponse(compress=False, timeout=3)
            await websocket.prepare(request)
            assert request.transport is not None
            await handler(
                Wire(
                    connection=websocket,
                    send=websocket.send_bytes,
                    close=websocket.close,
                    transport=request.transport,
                )
            )
            return websocket

        app = aiohttp.web.Application()
        app.router.add_get("/", handle)
        runner = aiohttp.web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await aiohttp.web.SockSite(runner, listener).start()
        try:
            yield
        finally:
            await runner.cleanup()

    return server


@asynccontextmanager
async def deaf_client(
    server: Server, *options: Option
) -> AsyncIterator[tuple[Wire, ClientConnection]]:
    """Connect a client that does not read; leave nothing of it afterwards."""
    wires: asyncio.Queue[Wire] = asyncio.Queue()

    async def handler(wire: Wire) -> None:
        wires.put_nowait(wire)
        await wire.leave.wait()

    listener = socket.create_server(("127.0.0.1", 0))
    for option in options:
        listener.setsockopt(socket.IPPROTO_TCP, *option)
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    async with server(listener, handler):
        client = await connect(url, compression=None, ping_interval=None, proxy=None)
        wire = await wires.get()
        client.transport.pause_reading()
        try:
            yield wire, client
        finally:
            client.transport.abort()
            wire.transport.abort()
            wire.leave.set()


# What it is sent


async def absorbed_by_kernel(
    size: int,
    *options: Option,
    then: Callable[[socket.socket, socket.socket], int] | None = None,
) -> int:
    """Count the bytes that a bare socket takes; or what is to be counted then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for option in options:
            listener.setsockopt(socket.IPPROTO_TCP, *option)
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted:
                taken = await _fill(accepted, b"x" * size)
                return taken if then is None else then(accepted, client)


def unread(server: socket.socket, client: socket.socket) -> int:
    """Count what has got to the client's kernel."""
    count = fcntl.ioctl(client, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def read_before_it_is_writable(server: socket.socket, client: socket.socket) -> int:
    """Count what the client has to read before the server is told that there is room."""
    count = 0
    while not select.select([], [server], [], 0.01)[1]:
        count += len(client.recv(4 * KIB))
    return count


async def _fill(connection: socket.socket, data: bytes) -> int:
    connection.setblocking(False)
    taken = refused = 0
    while refused < 10:
        try:
            taken += connection.send(data)
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(BLOCKED / 10)
    return taken


async def absorbed(send: Callable[[bytes], Awaitable[object]], size: int) -> int | None:
    """Count the bytes for which a send returns; None if there is no end to them."""
    taken, data = 0, b"x" * size
    while taken < ENOUGH:
        sending = asyncio.ensure_future(send(data))
        await asyncio.wait([sending], timeout=BLOCKED)
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])
            return taken
        sending.result()
        taken += size
    return None


async def broadcast(wire: Wire, data: bytes) -> None:
    websockets.broadcast([wire.connection], data)
    await asyncio.sleep(0)


async def absorbed_by_server(
    server: Server, size: int, *options: Option, way: str = "send"
) -> int | None:
    async with deaf_client(server, *options) as (wire, _):
        if way == "broadcast":
            return await absorbed(lambda data: broadcast(wire, data), size)
        return await absorbed(wire.send, size)


async def absorbed_by_session(
    hub: WebSocketHub[Any], server: Server, size: int, *options: Option
) -> int | None:
    async with (
        deaf_client(server, *options) as (wire, _),
        hub.session(wire.connection) as session,
    ):
        taken = await absorbed(session.send, size)
        wire.transport.abort()
        return taken


def patient() -> WebSocketHub[Any]:
    """Return a hub that evicts nobody while we count."""
    return WebSocketHub(stall_timeout=60, heartbeat=None)


async def print_absorbed() -> None:
    print(
        "| bytes taken | 1 KiB messages | 64 KiB | 1 KiB, `NOTSENT` | 64 KiB, `NOTSENT` |"
    )
    print("| --- | --: | --: | --: | --: |")
    settings = [(size, options) for options in ((), (LOW_WATER,)) for size in SIZES]
    hub = patient()
    ways: dict[str, Callable[..., Awaitable[int | None]]] = {
        "both kernels": absorbed_by_kernel,
        "of that, the client's": partial(absorbed_by_kernel, then=unread),
        "read before there is room again": partial(
            absorbed_by_kernel, then=read_before_it_is_writable
        ),
        "websockets, `send`": lambda *a: absorbed_by_server(on_websockets(), *a),
        "aiohttp, `send_bytes`": lambda *a: absorbed_by_server(on_aiohttp(), *a),
        "uvicorn, `send_bytes`": lambda *a: absorbed_by_server(on_uvicorn(), *a),
        "`websockets.broadcast`": lambda *a: absorbed_by_server(
            on_websockets(), *a, way="broadcast"
        ),
        "a session on websockets": lambda *a: absorbed_by_session(
            hub, on_websockets(), *a
        ),
        "a session on uvicorn": lambda *a: absorbed_by_session(
            hub, on_uvicorn(hub), *a
        ),
    }
    for name, way in ways.items():
        counts = [await way(size, *options) for size, options in settings]
        print(f"| {name} |", *[f"{_bytes(count)} |" for count in counts])


def _bytes(count: int | None) -> str:
    if count is None:
        return f"no end at {ENOUGH // MIB} MiB"
    return f"{count / KIB:,.0f} KiB"


# What gets rid of it


async def by_close(wire: Wire) -> None:
    await wire.close()


async def by_return(wire: Wire) -> None:
    wire.leave.set()


async def by_abort(wire: Wire) -> None:
    wire.transport.abort()


async def by_waiting(wire: Wire) -> None:
    await wire.leave.wait()


async def freed_bare(
    server: Server, end: Callable[[Wire], Awaitable[None]], *options: Option
) -> float | None:
    """Measure the seconds until the server has no socket; None if it keeps it."""
    async with deaf_client(server, *options) as (wire, _):
        await absorbed(wire.send, 64 * KIB)
        ending = asyncio.ensure_future(end(wire))
        seconds = await _free(wire)
        ending.cancel()
        await asyncio.wait([ending])
        return seconds


async def freed_by_hub(hub: WebSocketHub[Any], server: Server) -> float | None:
    """Likewise, from the publish that finds no room."""
    async with deaf_client(server) as (wire, _):
        tending = asyncio.create_task(_tend(hub, wire))
        await until(lambda: hub.snapshot().rooms)
        while not hub.publish("room", b"x" * 64 * KIB).evicted:  # noqa: ASYNC110
            await asyncio.sleep(0)
        seconds = await _free(wire)
        await tending
        return seconds


async def _tend(hub: WebSocketHub[Any], wire: Wire) -> None:
    async with hub.session(wire.connection) as session:
        session.join("room")
        async for _ in session:
            pass
    wire.leave.set()


async def _free(wire: Wire) -> float | None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.timeout(HELD):
            await until(lambda: not wire.held)
    except TimeoutError:
        return None
    return loop.time() - start


async def print_freed() -> None:
    print("| a client that reads nothing is ended by | its socket is free after |")
    print("| --- | --: |")
    hub, without = patient(), patient()
    ways = {
        "websockets: `close()`, `close_timeout=3`": freed_bare(
            on_websockets(close_timeout=3), by_close
        ),
        "websockets: a ping each second": freed_bare(
            on_websockets(close_timeout=3, ping_interval=1, ping_timeout=1), by_waiting
        ),
        "websockets: `transport.abort()`": freed_bare(on_websockets(), by_abort),
        "aiohttp: `close()`, `timeout=3`": freed_bare(on_aiohttp(), by_close),
        "uvicorn: `close()`": freed_bare(on_uvicorn(), by_close),
        "uvicorn: its handler returns": freed_bare(on_uvicorn(), by_return),
        "uvicorn: a ping each second": freed_bare(
            on_uvicorn(ws_ping_interval=1, ws_ping_timeout=1), by_waiting
        ),
        "uvicorn: its handler returns, `TCP_USER_TIMEOUT` is 5 s": freed_bare(
            on_uvicorn(), by_return, USER_TIMEOUT
        ),
        "uvicorn: `transport.abort()`": freed_bare(on_uvicorn(), by_abort),
        "a hub on websockets": freed_by_hub(patient(), on_websockets()),
        "a hub on uvicorn, without `HubMiddleware`": freed_by_hub(
            without, on_uvicorn()
        ),
        "a hub on uvicorn": freed_by_hub(hub, on_uvicorn(hub)),
    }
    for name, seconds in zip(ways, await asyncio.gather(*ways.values()), strict=True):
        print(f"| {name} | {_seconds(seconds)} |")


def _seconds(seconds: float | None) -> str:
    return f"not in {HELD:.0f} s" if seconds is None else f"{seconds:.2f} s"


# What became of a send that was cut


async def cut_bare(server: Server) -> str:
    async with deaf_client(server) as (wire, client):
        return await _cut(wire.send, client)


async def cut_session(hub: WebSocketHub[Any], server: Server) -> str:
    async with (
        deaf_client(server) as (wire, client),
        hub.session(wire.connection) as session,
    ):
        return await _cut(session.send, client)


async def _cut(
    send: Callable[[bytes], Awaitable[object]], client: ClientConnection
) -> str:
    number = 0
    while True:
        sending = asyncio.ensure_future(send(b"%8d" % number + b"x" * 64 * KIB))
        await asyncio.wait([sending], timeout=BLOCKED)
        if not sending.done():
            break
        number += 1
    sending.cancel()
    await asyncio.wait([sending])
    client.transport.resume_reading()
    read = asyncio.create_task(_read_to_the_end(client))
    await send(b"the end")
    received = await read
    assert received[:number] == [*range(number)]
    return "delivered" if received[number:] else "not delivered"


async def _read_to_the_end(client: ClientConnection) -> list[int]:
    received = []
    while (data := await client.recv()) != b"the end":
        received.append(int(data[:8]))
    return received


async def print_cut() -> None:
    print("| a send that is cancelled while it waits | its message |")
    print("| --- | --- |")
    hub = patient()
    ways = {
        "websockets, `send`": cut_bare(on_websockets()),
        "aiohttp, `send_bytes`": cut_bare(on_aiohttp()),
        "uvicorn, `send_bytes`": cut_bare(on_uvicorn()),
        'uvicorn with `ws="wsproto"`, `send_bytes`': cut_bare(on_uvicorn(ws="wsproto")),
        "a session on websockets": cut_session(hub, on_websockets()),
        "a session on uvicorn": cut_session(hub, on_uvicorn(hub)),
    }
    for name, way in ways.items():
        print(f"| {name} | {await way} |")


async def main() -> None:
    for table in (print_absorbed, print_freed, print_cut):
        print()
        await table()


if __name__ == "__main__":
    names = ("websockets", "aiohttp", "uvicorn", "starlette")
    print(
        f"CPython {platform.python_version()}, Linux {platform.release()};",
        ", ".join(f"{name} {version(name)}" for name in names),
    )
    for name in ("tcp_wmem", "tcp_rmem"):
        print(name, *Path(f"/proc/sys/net/ipv4/{name}").read_text().split())
    asyncio.run(main())
