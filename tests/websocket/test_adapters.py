"""What each adapter makes of its library, beyond what all of them have in common."""

import asyncio
import gc
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp
import attrs
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from starlette.websockets import WebSocket, WebSocketDisconnect

import safeaio
from safeaio.websocket import (
    CloseInfo,
    HubMiddleware,
    MemoryWebSocket,
    SessionClosed,
    SessionRefused,
    TransportClosed,
    WebSocketHub,
    memory_pair,
)
from safeaio.websocket._adapters import door_of
from safeaio.websocket._aiohttp import AiohttpTransport
from safeaio.websocket._asgi import transport_of
from safeaio.websocket._starlette import StarletteTransport
from safeaio.websocket._tcp import hold_little, set_options, tcp_options
from safeaio.websocket._websockets import WebsocketsTransport

from .raw import connect
from .test_invariants import Endpoint, descriptors, echo, fill, idle, run, until
from .wires import (
    WIRES,
    Client,
    Wire,
    no_middleware,
    on_aiohttp,
    on_hypercorn,
    on_uvicorn,
    on_websockets,
)

# Clients, too


def test_client_of_websockets() -> None:
    async def test() -> None:
        hub, ours = WebSocketHub(), WebSocketHub()
        endpoint = Endpoint(hub, echo)
        async with on_websockets(endpoint, hub) as connect:
            url = f"ws://127.0.0.1:{connect.port}/"
            connection = await websockets.asyncio.client.connect(url, proxy=None)
            async with ours.session(connection) as session:
                await session.send("hello")
                assert await session.receive() == "hello"
            assert session.closed is not None
            assert session.closed.clean
            await until(lambda: endpoint.errors)

    run(test)


def test_client_of_aiohttp() -> None:
    async def test() -> None:
        hub, ours = WebSocketHub(), WebSocketHub()
        endpoint = Endpoint(hub, echo)
        async with (
            on_aiohttp(endpoint, hub) as connect,
            aiohttp.ClientSession() as http,
        ):
            for abort in (False, True):
                connection = await http.ws_connect(f"http://127.0.0.1:{connect.port}/")
                async with ours.session(connection) as session:
                    await session.send(b"hello")
                    assert await session.receive() == b"hello"
                    if abort:
                        AiohttpTransport(connection).abort()
            await until(lambda: len(endpoint.errors) == 2)
            assert AiohttpTransport(connection).buffered() == 0
            AiohttpTransport(connection).abort()  # again

    run(test)


# What is not public, and has to stay


def _has_sessions(endpoint: Endpoint) -> bool:
    return bool(endpoint.sessions)


def _has_errors(endpoint: Endpoint) -> bool:
    return bool(endpoint.errors)


def test_pins() -> None:
    """Each of these is used, though it is not documented."""

    async def test() -> None:
        seen: list[Any] = []

        async def handler(session: Any) -> None:
            seen.append(session)
            await idle(session)

        for name, wire in WIRES.items():
            hub = WebSocketHub()
            endpoint = Endpoint(hub, handler)
            raw: list[Any] = []

            async def keep(
                websocket: Any,
                endpoint: Endpoint = endpoint,
                raw: list[Any] = raw,
            ) -> None:
                raw.append(websocket)
                await endpoint(websocket)

            async with wire(keep, hub) as connect:
                client = await connect()
                await until(partial(_has_sessions, endpoint))
                [websocket] = raw
                if name == "websockets":
                    assert websocket.paused is False
                    assert callable(websocket.send_data)
                    assert _held(websocket.transport) == 1 << 16
                    assert websocket.protocol.side.name == "SERVER"
                    assert websocket.protocol.debug is False
                    assert websocket.protocol.extensions == []
                    assert websocket.protocol.expect_continuation_frame is False
                elif name == "aiohttp":
                    assert _held(websocket._req.transport) == 1 << 16
                    assert websocket._req.transport.get_protocol()._paused is False
                elif name != "memory":
                    line = websocket.scope["safeaio.line"]
                    assert _held(line.transport) == 1 << 16
                    if name == "uvicorn":
                        writable = line.transport.get_protocol().writable
                        assert line.has_room == writable.is_set
                    assert callable(websocket._receive)
                    assert callable(websocket._send)
                await client.close()
                await until(partial(_has_errors, endpoint))

    run(test)


# What ASGI servers do, which the docs tell of


@pytest.mark.parametrize(
    ("wire", "raises"),
    [(on_uvicorn(), True), (on_hypercorn(), False)],
    ids=["uvicorn", "hypercorn"],
)
def test_send_to_one_who_has_gone(wire: Wire, *, raises: bool) -> None:
    """On hypercorn it goes on as if it were sent: `receive` alone tells."""

    async def test() -> None:
        peer: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        raised: list[bool] = []

        async def endpoint(websocket: WebSocket) -> None:
            await websocket.accept()
            (await peer).vanish()
            with pytest.raises(WebSocketDisconnect):
                await websocket.receive_text()
            for _ in range(3):
                try:
                    await websocket.send_text("x")
                except (WebSocketDisconnect, RuntimeError):
                    raised.append(True)
                else:
                    raised.append(False)

        async with wire(endpoint, WebSocketHub()) as connect:
            peer.set_result(await connect())
            await until(lambda: len(raised) == 3)
        assert raised == [raises] * 3

    run(test)


@pytest.mark.parametrize(
    "wire",
    [on_uvicorn(no_middleware), on_hypercorn(no_middleware)],
    ids=["uvicorn", "hypercorn"],
)
def test_without_the_middleware(wire: Wire) -> None:
    """A session is over in time, though the server keeps the socket for its peer."""

    async def test() -> None:
        hub = WebSocketHub(stall_timeout=0.2, close_timeout=0.2)
        open_before: list[int] = []

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            open_before.append(descriptors())
            client.be_deaf()
            await fill(session)
            await until(lambda: session.closed)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
            snapshot = hub.snapshot()
            assert (snapshot.evicted, snapshot.sessions) == (1, 0)
            assert snapshot.queued_bytes == 0
            await asyncio.sleep(0.3)
            assert descriptors() == open_before[0]
        assert endpoint.errors == [None]

    run(test)


# Heartbeats


def test_ping_of_websockets() -> None:
    async def test() -> None:
        hub = WebSocketHub(heartbeat=0.1, stall_timeout=0.5)
        latencies: list[float | None] = []

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            await until(lambda: session.latency is not None)
            latencies.append(session.latency)
            client.be_deaf()
            await fill(session)  # no ping goes where nothing else can
            await until(lambda: session.closed)

        endpoint = Endpoint(hub, handler)
        async with on_websockets(endpoint, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
            [session] = endpoint.sessions
            assert session.closed is not None
            assert latencies[0] is not None
            assert 0 < latencies[0] < 1

    run(test)


@pytest.mark.parametrize("kind", [AiohttpTransport, StarletteTransport])
def test_others_have_their_own_heartbeat(kind: Any) -> None:
    transport = kind.__new__(kind)
    with pytest.raises(NotImplementedError):
        transport.ping()


# ASGI, event by event


class Server:
    """The side of an ASGI server for one WebSocket."""

    def __init__(self, *events: dict[str, Any], denial: bool = True) -> None:
        extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
        self.scope: dict[str, Any] = {"type": "websocket", "extensions": extensions}
        self.events = deque([{"type": "websocket.connect"}, *events])
        self.sent: list[dict[str, Any]] = []
        self.fails: BaseException | None = None
        self.writable: asyncio.Event = asyncio.Event()
        self.writable.set()

    async def receive(self) -> dict[str, Any]:
        while not self.events:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return self.events.popleft()

    async def send(self, event: Any) -> None:
        await self.writable.wait()
        if self.fails is not None:
            raise self.fails
        self.sent.append(event)
        if event["type"] == "websocket.close":
            self.events.append({"type": "websocket.disconnect", "code": 1000})

    @property
    def websocket(self) -> WebSocket:
        return WebSocket(self.scope, self.receive, self.send)

    @property
    def types(self) -> list[str]:
        return [event["type"].removeprefix("websocket.") for event in self.sent]


DISCONNECT = "websocket.disconnect"


@pytest.mark.parametrize(
    ("event", "code", "cause"),
    [
        ({"code": 1000, "reason": ""}, 1000, "peer"),
        ({"code": 4005, "reason": "bye"}, 4005, "peer"),
        ({"code": 4005}, 4005, "peer"),
        ({"code": 1005, "reason": ""}, 1005, "peer"),
        ({"code": 1005}, 1006, "vanished"),
        ({"code": 1006}, 1006, "vanished"),
        ({}, 1006, "vanished"),
    ],
)
async def test_disconnects_are_told_apart(event: Any, code: int, cause: str) -> None:
    server = Server({"type": DISCONNECT, **event})
    async with WebSocketHub().session(server.websocket) as session:
        with pytest.raises(SessionClosed) as caught:
            await session.receive()
    assert (caught.value.info.code, caught.value.info.cause) == (code, cause)
    assert caught.value.info.clean == (cause == "peer")


async def test_an_endpoint_may_accept_by_itself() -> None:
    server = Server({"type": "websocket.receive", "bytes": b"x", "text": None})
    websocket = server.websocket
    await websocket.accept(subprotocol="chat")
    async with WebSocketHub().session(websocket) as session:
        assert await session.receive() == b"x"
    assert server.types == ["accept", "close"]


async def test_an_endpoint_closes_by_itself() -> None:
    server = Server()
    websocket = server.websocket
    async with WebSocketHub().session(websocket) as session:
        await session.send("before")
        await websocket.close()
        await session.send("after")
        await until(lambda: session.closed)
        with pytest.raises(SessionClosed):
            await session.send("later")
    assert server.types == ["accept", "send", "close"]


async def test_the_peer_is_gone_before_it_is_accepted() -> None:
    server = Server()
    server.fails = OSError()
    with pytest.raises(SessionClosed) as caught:
        async with WebSocketHub().session(server.websocket):
            pass
    assert caught.value.info.cause == "vanished"


async def test_refused_before_it_is_accepted() -> None:
    hub = WebSocketHub()
    await hub.drain()
    for denial, types in (
        (True, ["http.response.start", "http.response.body"]),
        (False, ["close"]),
    ):
        server = Server(denial=denial)
        with pytest.raises(SessionRefused):
            async with hub.session(server.websocket):
                pass
        assert server.types == types
    accepted = Server()
    websocket = accepted.websocket
    await websocket.accept()
    with pytest.raises(SessionRefused):
        async with hub.session(websocket):
            pass
    assert accepted.sent[-1]["code"] == 1013


async def test_a_send_that_waits_is_ended_in_the_background() -> None:
    """What was begun goes first, and nothing overtakes it."""
    server = Server()
    async with WebSocketHub().session(server.websocket) as session:
        session.join("room")
        server.writable.clear()
        for text in "abc":
            await session.send(text)
        assert session.queued_bytes > 0
        server.writable.set()
        await session.flush()
    sent = [event["text"] for event in server.sent if "text" in event]
    assert sent == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError(), RuntimeError("closed")])
async def test_a_send_that_fails(error: Exception) -> None:
    server = Server()
    async with WebSocketHub().session(server.websocket) as session:
        server.fails = error
        await session.send("x")
        with pytest.raises(SessionClosed):
            await session.flush()
    assert session.closed is not None
    assert session.closed.cause == "vanished"


async def test_a_send_that_fails_after_it_has_waited() -> None:
    server = Server()
    async with WebSocketHub().session(server.websocket) as session:
        server.writable.clear()
        await session.send("x")
        server.fails = OSError()
        server.writable.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await session.send("y")
        with pytest.raises(SessionClosed):
            await session.flush()


async def test_a_close_that_fails() -> None:
    server = Server()
    async with WebSocketHub().session(server.websocket) as session:
        server.fails = OSError()
    assert session.closed is not None
    assert not session.closed.clean


async def test_a_received_disconnect_stays_one() -> None:
    server = Server({"type": DISCONNECT, "code": 1000, "reason": ""})
    transport = await door_of(server.websocket).open()
    for _ in range(2):
        with pytest.raises(TransportClosed):
            await transport.receive()
    assert await transport.close(1000, "")  # it had closed
    assert transport.buffered() is None
    transport.abort()  # which nobody can here
    assert not transport.caps.can_abort


# The middleware


async def test_middleware_passes_http_on() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    server = Server()
    await HubMiddleware(app, WebSocketHub())(
        {"type": "http"}, server.receive, server.send
    )
    assert seen == ["http"]


async def test_middleware_refuses_before_the_application() -> None:
    hub = WebSocketHub()
    await hub.drain()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    server = Server()
    await HubMiddleware(app, hub)(server.scope, server.receive, server.send)
    assert server.sent[0]["status"] == 503
    assert hub.snapshot().refused == 1
    assert (b"retry-after", b"5") in server.sent[0]["headers"]


async def test_middleware_absorbs_a_refusal() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise SessionRefused(CloseInfo(1013, "", "local", False, "refused"))

    server = Server()
    await HubMiddleware(app, WebSocketHub())(server.scope, server.receive, server.send)
    assert transport_of(server.send) is None


@pytest.mark.parametrize(("version", "has_line"), [("1.1", True), ("2", False)])
async def test_a_line_is_of_one_websocket(version: str, *, has_line: bool) -> None:
    """Over HTTP/2 others have the same transport: it is nobody's to drop."""
    seen: list[bool] = []

    class Transport(asyncio.Transport):
        def get_protocol(self) -> asyncio.BaseProtocol:
            return asyncio.Protocol()

    class Stream:
        transport = Transport()

        async def send(self, event: Any) -> None:
            raise NotImplementedError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("safeaio.line" in scope)

    scope = {"type": "websocket", "http_version": version}
    await HubMiddleware(app, WebSocketHub())(scope, Server().receive, Stream().send)
    assert seen == [has_line]


def test_options_of_tcp() -> None:
    assert tcp_options(None, None) == []
    assert [value for _, value in tcp_options(1.5, 1 << 16)] == [1500, 1 << 16]

    class Pipe(asyncio.BaseTransport):
        pass

    set_options(Pipe(), tcp_options(1, 1))  # it has no socket


def test_options_are_set_on_uvicorn() -> None:
    import socket

    async def test() -> None:
        hub = WebSocketHub()
        options: list[int] = []

        async def handler(session: Any) -> None:
            await idle(session)

        endpoint = Endpoint(hub, handler)

        async def look(websocket: Any) -> None:
            connection = websocket.scope["safeaio.line"].transport.get_extra_info(
                "socket"
            )
            options.append(
                connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            )
            await endpoint(websocket)

        async with on_uvicorn()(look, hub) as connect:
            client = await connect()
            await client.close()
            await until(lambda: endpoint.errors)
        assert options == [30_000]

    run(test)


def test_nothing_is_written_to_aiohttp_that_closes() -> None:
    async def test() -> None:
        hub = WebSocketHub()
        raw: list[Any] = []

        async def handler(session: Any) -> None:
            session.join("room")
            [websocket] = raw
            websocket._req.transport.close()  # the session has yet to hear of it
            assert hub.publish("room", "x").sent == 0
            with suppress(SessionClosed):
                await session.receive()

        endpoint = Endpoint(hub, handler)

        async def keep(websocket: Any) -> None:
            raw.append(websocket)
            await endpoint(websocket)

        async with on_aiohttp(keep, hub) as connect:
            await connect()
            await until(lambda: endpoint.errors)
        assert not any(endpoint.errors)

    run(test)


def _held(transport: asyncio.BaseTransport) -> int:
    connection: socket.socket = transport.get_extra_info("socket")
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


@pytest.mark.parametrize("data", ["ü" * 3000, b"\xff" * 3000])
def test_compressed_peers_of_websockets(data: str | bytes) -> None:
    """Whose frames are their own each."""

    async def test() -> None:
        hub = WebSocketHub()

        async def handle(connection: Any) -> None:
            async with hub.session(connection) as session:
                session.join("room")
                async for message in session:
                    await session.send(message)

        async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            url = f"ws://127.0.0.1:{port}"
            async with websockets.asyncio.client.connect(url, proxy=None) as client:
                assert client.protocol.extensions
                await client.send(data)
                assert await client.recv() == data
                assert hub.publish("room", data).sent == 1
                assert await client.recv() == data

    run(test)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_no_message_goes_between_the_parts_of_another(compression: Any) -> None:
    async def test() -> None:
        hub = WebSocketHub()

        async def endpoint(websocket: Any) -> None:
            async def parts() -> AsyncIterator[str]:
                yield "a"
                delivery = hub.publish("room", "between")
                assert (delivery.sent, delivery.queued) == (0, 1)
                yield "b"

            async with hub.session(websocket) as session:
                session.join("room")
                await websocket.send(parts())

        serving = websockets.asyncio.server.serve(
            endpoint, "127.0.0.1", 0, compression=compression
        )
        async with serving as server:
            port = server.sockets[0].getsockname()[1]
            connecting = websockets.asyncio.client.connect(f"ws://127.0.0.1:{port}")
            async with connecting as client:
                assert [message async for message in client] == ["ab", "between"]

    run(test)


@pytest.mark.parametrize(("high", "then"), [(1 << 19, 1 << 16), (1 << 15, 1 << 15)])
def test_asyncio_holds_little_as_well(high: int, then: int) -> None:
    """Over TLS it would hold 512 KiB, which the sweeper takes for a peer that is behind."""

    class Wire(asyncio.Transport):
        limits = 0, high

        def get_write_buffer_limits(self) -> tuple[int, int]:
            return self.limits

        def set_write_buffer_limits(
            self, high: int | None = None, low: int | None = None
        ) -> None:
            assert high is not None
            self.limits = 0, high

    wire = Wire()
    hold_little(wire)
    assert wire.limits[1] == then


def test_unknown_kinds() -> None:
    with pytest.raises(TypeError, match="got <object object"):
        door_of(object())


async def test_refused_peer_that_does_not_answer() -> None:
    hub = WebSocketHub()
    await hub.drain()
    server, client = memory_pair()
    client.deaf = True
    with pytest.raises(SessionRefused):
        async with hub.session(server):
            pass
    assert server.closed is not None


# Corners


async def test_a_begun_send_is_given_up() -> None:
    server = Server()
    transport = await door_of(server.websocket).open()
    server.writable.clear()
    assert transport.try_send(transport.prepare("x"))
    assert not transport.try_send(transport.prepare("y"))
    transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.writable.set()
    assert server.types == ["accept"]


def test_send_of_websockets_to_one_who_has_gone() -> None:
    async def test() -> None:
        hub = WebSocketHub()
        raised: list[TransportClosed] = []

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            client.vanish()
            await until(lambda: session.closed)
            [connection] = raw
            transport = WebsocketsTransport(connection)
            assert not transport.try_send(transport.prepare("x"))
            with pytest.raises(TransportClosed) as caught:
                await transport.send(transport.prepare("x"))
            raised.append(caught.value)
            assert transport.ping().cancelled()

        endpoint = Endpoint(hub, handler)
        raw: list[Any] = []

        async def keep(websocket: Any) -> None:
            raw.append(websocket)
            await endpoint(websocket)

        async with on_websockets(keep, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
        assert endpoint.errors == [None]
        assert raised[0].info.code == 1006

    run(test)


def test_no_ping_where_the_buffer_is_full() -> None:
    """It would wait there."""

    async def test() -> None:
        hub = WebSocketHub()

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            client.be_deaf()
            [connection] = raw
            transport = WebsocketsTransport(connection)
            wire = connection.transport
            while not wire.get_write_buffer_size():
                wire.write(b"x" * 16_384)  # the kernel's buffers come first
            _, high = wire.get_write_buffer_limits()
            wire.write(b"x" * (high - wire.get_write_buffer_size()))
            assert not connection.paused
            assert transport.ping().cancelled()
            client.vanish()
            await until(lambda: session.closed)

        endpoint = Endpoint(hub, handler)
        raw: list[Any] = []

        async def keep(websocket: Any) -> None:
            raw.append(websocket)
            await endpoint(websocket)

        async with on_websockets(keep, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)

    run(test)


def test_no_ping_where_writing_has_to_wait() -> None:
    """The buffer has room again, but not yet enough for websockets to go on."""

    async def test() -> None:
        hub = WebSocketHub(heartbeat=None)

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            client.be_deaf()
            [connection] = raw
            transport = WebsocketsTransport(connection)
            wire = connection.transport
            while not connection.paused:
                wire.write(b"x" * 16_384)
            wire.set_write_buffer_limits(high=1 << 20)
            assert transport.ping().cancelled()
            client.vanish()
            await until(lambda: session.closed)

        endpoint = Endpoint(hub, handler)
        raw: list[Any] = []

        async def keep(websocket: Any) -> None:
            raw.append(websocket)
            await endpoint(websocket)

        async with on_websockets(keep, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
        assert endpoint.errors == [None]

    run(test)


def test_a_ping_to_one_who_has_just_gone() -> None:
    """Before the loop has heard of it, as a sweep may be."""

    async def test() -> None:
        hub = WebSocketHub(heartbeat=None)

        async def handler(session: Any) -> None:
            client = await endpoint.peer
            transport = WebsocketsTransport(raw[0])
            client.reset()
            assert transport.ping().cancelled()
            await until(lambda: session.closed)

        endpoint: Any = Endpoint(hub, handler)
        raw: list[Any] = []

        async def keep(websocket: Any) -> None:
            raw.append(websocket)
            await endpoint(websocket)

        async with on_websockets(keep, hub) as healthy:
            endpoint.peer.set_result(await connect(healthy.port))
            await until(lambda: endpoint.errors)
        assert endpoint.errors == [None]

    run(test)


class Failing:
    """A transport of somebody else, with defects."""

    caps = MemoryWebSocket.caps
    prepare = staticmethod(MemoryWebSocket.prepare)

    def __init__(self, end: MemoryWebSocket, *fails: str) -> None:
        self._end = end
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        if name in self._fails:
            return self._fail
        return getattr(self._end, name)

    async def _fail(self, *_: Any) -> Any:
        raise ZeroDivisionError

    def try_send(self, _: Any) -> bool:
        return False


@pytest.mark.virtual_time
@pytest.mark.parametrize("fails", ["send", "receive", "close"])
async def test_transport_with_defects(fails: str, reported: list[Any]) -> None:
    """It is reported, and the session ends."""
    hub = WebSocketHub()
    server, client = memory_pair()
    async with hub.session(Failing(server, fails)) as session:
        if fails == "send":
            await session.send("x")
            with pytest.raises(SessionClosed):
                await session.receive()
        elif fails == "receive":
            await asyncio.sleep(5)  # the reader tries
            with pytest.raises(SessionClosed):
                await session.send("x")
    assert client.closed is not None
    assert client.closed.code == 1006
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


class Pinging(Failing):
    """What comes of its pings is given."""

    def __init__(self, end: MemoryWebSocket, pong: BaseException) -> None:
        super().__init__(end, "_")
        self._pong = pong

    def ping(self) -> "asyncio.Future[float]":
        if isinstance(self._pong, ZeroDivisionError):
            raise self._pong
        pong: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        pong.set_exception(self._pong)
        pong.exception()  # lest the last one be reported
        return pong


@pytest.mark.virtual_time
async def test_a_ping_that_fails_ends_no_other_session(reported: list[Any]) -> None:
    """Nor does it end the timeouts of the others."""
    hub = WebSocketHub(heartbeat=1.0, idle_timeout=30.0)
    server, _ = memory_pair()
    ends: list[str] = []

    async def endpoint(websocket: Any) -> None:
        async with hub.session(websocket) as session:
            with suppress(SessionClosed):
                await session.receive()
        assert session.closed is not None
        ends.append(session.closed.cause)

    async with asyncio.TaskGroup() as group:
        group.create_task(endpoint(Pinging(memory_pair()[0], ZeroDivisionError())))
        group.create_task(endpoint(Pinging(memory_pair()[0], ConnectionError())))
        group.create_task(endpoint(server))
    assert ends == ["protocol", "idle", "idle"]
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


@pytest.mark.virtual_time
async def test_no_close_frame_goes_into_half_a_message(reported: list[Any]) -> None:
    """Where a cancelled write leaves one, the connection is aborted."""
    hub = WebSocketHub(max_queue_messages=2)
    server, client = memory_pair(window=1)
    transport = Failing(server, "close")  # which would be reported
    transport.caps = attrs.evolve(server.caps, cancel_send="corrupts")
    async with hub.session(transport) as session:
        session.join("room")
        for _ in range(4):
            await asyncio.sleep(0)
            hub.publish("room", "x")
        with pytest.raises(SessionClosed):
            await session.send("x")
    assert session.closed is not None
    assert (session.closed.cause, session.closed.clean) == ("slow", False)
    assert client.closed is not None
    assert client.closed.code == 1006
    assert reported == []


@pytest.mark.virtual_time
async def test_transport_that_is_lost_while_it_closes() -> None:
    server, client = memory_pair()

    class Lost(Failing):
        async def _fail(self, *_: Any) -> Any:
            raise TransportClosed(CloseInfo(1006, "", "remote", False, "vanished"))

    async with WebSocketHub().session(Lost(server, "close")) as session:
        pass
    assert session.closed == CloseInfo(1000, "", "local", False, "returned")
    assert client.closed is not None


async def test_accepted_while_the_hub_drains() -> None:
    hub = WebSocketHub()
    server = Server()
    server.writable.clear()

    async def endpoint() -> None:
        async with hub.session(server.websocket) as session:
            with pytest.raises(SessionClosed):
                await session.receive()

    serving = asyncio.create_task(endpoint())
    await asyncio.sleep(0)
    await hub.drain()
    server.writable.set()
    await serving
    assert server.sent[-1]["code"] == 1012


def test_sessions_that_main_leaves_behind() -> None:
    hub = WebSocketHub()

    async def main() -> None:
        server, _ = memory_pair()

        async def endpoint() -> None:
            async with hub.session(server) as session:
                await session.receive()

        asyncio.create_task(endpoint())  # noqa: RUF006
        await asyncio.sleep(0)

    safeaio.run(main, on_leak="ignore")
    assert hub.snapshot().sessions == 0


async def test_a_session_leaves_nothing_to_the_garbage_collector() -> None:
    hub = WebSocketHub()
    for number in range(6):
        server, client = memory_pair()
        if number % 2:
            await client.send("hello")
            await client.close()
        async with hub.session(server) as session:
            await session.send("hello")
            if number % 2:
                await session.receive()
        del server.peer, session  # two ends hold each other
        assert number < 2 or gc.collect() == 0
        gc.collect()
