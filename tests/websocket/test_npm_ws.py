"""A second implementation of the protocol, npm's `ws`, as the client of a session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest

from safeaio import RateLimiter
from safeaio.websocket import CloseInfo, WebSocketHub, WebSocketSession

from .npm_ws import NpmClient, install, npm_client
from .wires import WIRES, Wire

PATIENCE = 60.0  # seconds; on a busy machine

Handler = Callable[[WebSocketSession[Any]], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def _ws() -> None:
    install()


@pytest.fixture(params=["websockets", "aiohttp", "uvicorn"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await test()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@asynccontextmanager
async def visitor(
    wire: Wire, hub: WebSocketHub[Any], handler: Handler
) -> AsyncIterator[tuple[NpmClient, asyncio.Future[CloseInfo]]]:
    """Give a client that has connected, and how its session will have ended."""
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    async def endpoint(websocket: Any) -> None:
        async with hub.session(websocket) as session:
            await handler(session)
        assert session.closed is not None
        ended.set_result(session.closed)

    async with wire(endpoint, hub) as clients:
        async with npm_client(clients.port) as client:
            await client.told("open")
            yield client, ended
        await until(lambda: hub.snapshot().sessions == 0)


async def echo(session: WebSocketSession[Any]) -> None:
    session.join("room")
    async for message in session:
        await session.send(message)


def test_echo(wire: Wire) -> None:
    """Whatever it sends comes back: of either kind, in one frame or many, of any size."""

    async def test() -> None:
        hub = WebSocketHub()
        async with visitor(wire, hub, echo) as (client, _):

            async def comes_back(data: bytes, *, binary: bool) -> None:
                assert await client.told("message") == {
                    "event": "message",
                    "binary": binary,
                    "size": len(data),
                    "digest": sha256(data).hexdigest(),
                }

            for text in ("hello", "", "naïve €uro \U0001f600"):
                client.do("text", text=text)
                await comes_back(text.encode(), binary=False)
            client.do("binary", hex="00ff80")
            await comes_back(b"\x00\xff\x80", binary=True)
            parts = ["once ", "", "upon ", "a time"]
            for binary in (False, True):
                client.do("fragments", parts=parts, binary=binary)
                await comes_back(b"once upon a time", binary=binary)
                size = hub.max_message_bytes - 1  # aiohttp takes no more
                client.do("large", size=size, binary=binary)
                await comes_back((b"\7" if binary else b"x") * size, binary=binary)

    run(test)


async def one(session: WebSocketSession[Any]) -> None:
    await session.receive()


async def farewell(session: WebSocketSession[Any]) -> None:
    await session.receive()
    await session.close(4321, "bis bald: 5 €")


@pytest.mark.parametrize(
    ("handler", "said", "code", "reason"),
    [
        (one, ["hello"], 1000, ""),
        (farewell, ["hello"], 4321, "bis bald: 5 €"),
        (echo, ["hello"] * 5, 1008, "too many messages"),
        (echo, ["x" * 1001], 1009, None),  # each server has words of its own
    ],
    ids=["returned", "of the application", "rate", "too big"],
)
def test_closed_by_us(
    wire: Wire, handler: Handler, said: list[str], code: int, reason: str | None
) -> None:
    """It is told the code, and the reason."""

    async def test() -> None:
        rate = RateLimiter(0.01, burst=4)
        hub = WebSocketHub(max_message_bytes=1000, receive_rate=rate)
        async with visitor(wire, hub, handler) as (client, ended):
            for text in said:
                client.do("text", text=text)
            close = await client.told("close")
            assert close["code"] == code
            assert reason is None or close["reason"] == reason
            assert (await ended).code == code

    run(test)


@pytest.mark.parametrize(
    ("code", "reason"), [(1001, "going away"), (1012, "service restart")]
)
def test_drain(wire: Wire, code: int, reason: str) -> None:
    """It gets what was published last, and is told whether to come back."""

    async def test() -> None:
        hub = WebSocketHub()
        async with visitor(wire, hub, echo) as (client, ended):
            client.do("text", text="hello")
            await client.told("message")
            hub.publish("room", "last words")
            drained = await hub.drain(code=code)
            assert (await client.told("message", "close"))["size"] == 10
            close = await client.told("message", "close")
            assert close == {"event": "close", "code": code, "reason": reason}
            assert (await ended).clean
            assert drained.closed == 1

    run(test)


def test_full(wire: Wire) -> None:
    """One too many is told to try again later: before it is accepted, where that can be."""

    async def test() -> None:
        hub = WebSocketHub(max_sessions=1)

        async def endpoint(websocket: Any) -> None:
            async with hub.session(websocket) as session:
                await echo(session)

        async with wire(endpoint, hub) as clients:
            async with npm_client(clients.port) as first:
                await first.told("open")
                await until(lambda: hub.snapshot().sessions == 1)
                async with npm_client(clients.port) as second:
                    refusal = await second.told("error", "close")
                if wire is WIRES["uvicorn"]:
                    assert refusal["text"] == "Unexpected server response: 503"
                else:
                    assert refusal["code"] == 1013
                    assert refusal["reason"] == "try again later"
            await until(lambda: hub.snapshot().sessions == 0)

    run(test)


def test_closed_by_it(wire: Wire) -> None:
    """The session has its code and its reason; aiohttp answers 1000, the others the code."""

    async def test() -> None:
        async with visitor(wire, WebSocketHub(), echo) as (client, ended):
            client.do("close", code=4001, reason="genug")
            answer = 1000 if wire is WIRES["aiohttp"] else 4001
            assert (await client.told("close"))["code"] == answer
            info = await ended
            assert (info.code, info.reason, info.cause) == (4001, "genug", "peer")

    run(test)


def test_pings(wire: Wire) -> None:
    """Its pings are answered, and it answers those of a hub that has a heartbeat."""

    async def test() -> None:
        sessions: list[WebSocketSession[Any]] = []

        async def remembered(session: WebSocketSession[Any]) -> None:
            sessions.append(session)
            await echo(session)

        hub = WebSocketHub(heartbeat=0.2)
        async with visitor(wire, hub, remembered) as (client, _):
            client.do("ping", data="still there?")
            assert (await client.told("pong"))["data"] == "still there?"
            if wire is WIRES["websockets"]:  # the others leave no ping to us
                await client.told("ping")
                await until(lambda: sessions[0].latency)
            client.do("text", text="hello")
            await client.told("message")

    run(test)


def test_deaf(wire: Wire) -> None:
    """Once it reads no more it is evicted, and the connection is gone when it reads again."""

    async def test() -> None:
        hub = WebSocketHub(max_queue_bytes=100_000, stall_timeout=0.5)
        async with visitor(wire, hub, echo) as (client, ended):
            client.do("text", text="hello")
            await client.told("message")
            client.do("pause")
            while not hub.snapshot().evicted:
                hub.publish("room", "x" * 16_000)
                assert hub.snapshot().queued_bytes <= 100_000
                await asyncio.sleep(0.001)
            assert (await ended).cause == "slow"
            client.do("resume")
            assert (await client.told("close"))["code"] == 1006

    run(test)
