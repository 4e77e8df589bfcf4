"""Clients that mean harm, as bytes on real sockets: each is ended, and nobody else notices."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from safeaio import RateLimiter
from safeaio.websocket import WebSocketHub

from .raw import BINARY, CONT, PING, TEXT, Raw, connect, frame
from .test_invariants import Endpoint, descriptors, echo, idle, run, until
from .wires import WIRES, Wire, on_aiohttp, on_websockets

ACCEPTED_FIRST = (on_websockets, on_aiohttp)
"""Where a WebSocket has been accepted by the time that a hub may refuse it."""

BURST = 200

NETWORK = {name: wire for name, wire in WIRES.items() if name != "memory"}

pytestmark = pytest.mark.parametrize("wire", NETWORK.values(), ids=NETWORK)

Attack = Callable[[Raw], Awaitable[None]]

LIMITS: dict[str, Any] = {
    "max_queue_bytes": 100_000,
    "max_message_bytes": 50_000,
    "stall_timeout": 0.3,
    "close_timeout": 0.3,
    "receive_rate": RateLimiter(500, burst=500),
    "first_message_timeout": 0.5,
}


async def half_a_frame_and_fin(raw: Raw) -> None:
    await raw.send(frame(TEXT, b"x" * 1000)[:500])
    raw.close()


async def half_a_frame_and_reset(raw: Raw) -> None:
    await raw.send(frame(TEXT, b"x" * 1000)[:500])
    raw.reset()


async def half_a_frame(raw: Raw) -> None:
    """The rest never comes."""
    await raw.send(frame(TEXT, b"x" * 1000)[:500])
    assert await raw.close_code() in (3008, None)
    raw.close()


async def dripping(raw: Raw) -> None:
    """A frame, byte by byte."""

    async def drip() -> None:
        with suppress(OSError):
            for byte in frame(TEXT, b"x" * 1000):
                await raw.send(bytes([byte]))
                await asyncio.sleep(0.02)

    sending = asyncio.create_task(drip())
    assert await raw.close_code() in (3008, None)
    sending.cancel()
    await asyncio.wait([sending])
    raw.close()


async def fin(raw: Raw) -> None:
    raw.close()


async def reset(raw: Raw) -> None:
    raw.reset()


async def oversize(raw: Raw) -> None:
    await _send_until_closed(raw, frame(BINARY, b"x" * 60_000))
    assert await raw.close_code() in (1009, None)
    raw.close()


async def fragments(raw: Raw) -> None:
    """Each is small, but there is no end to them."""
    await _send_until_closed(raw, frame(TEXT, b"x", fin=False))
    await _send_until_closed(raw, frame(CONT, b"x" * 1000, fin=False) * 1000)
    assert await raw.close_code() in (1009, None)
    raw.close()


async def messages(raw: Raw) -> None:
    await _send_until_closed(raw, frame(TEXT, b"x" * 10) * 2000)
    assert await raw.close_code() in (1008, None)
    raw.close()


async def invalid(raw: Raw) -> None:
    await raw.send(b"\xff" * 100)
    assert await raw.close_code() in (1002, None)
    raw.close()


async def silence(raw: Raw) -> None:
    assert await raw.close_code() == 3008
    raw.close()


async def _send_until_closed(raw: Raw, data: bytes, seconds: float = 2) -> None:
    try:
        async with asyncio.timeout(seconds):
            await raw.send(data)
    except (OSError, TimeoutError):
        pass


ATTACKS = (
    half_a_frame,
    dripping,
    half_a_frame_and_fin,
    half_a_frame_and_reset,
    fin,
    reset,
    oversize,
    fragments,
    messages,
    invalid,
    silence,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attack(wire: Wire, attack: Attack) -> None:
    """The attacker's session ends; a healthy one, and the hub, go on."""

    async def test() -> None:
        hub = WebSocketHub(**LIMITS)
        endpoint = Endpoint(hub, echo)
        async with wire(endpoint, hub) as healthy:
            friend = await healthy()
            await friend.send("hello")
            assert await friend.receive() == "hello"
            before = descriptors()
            await attack(await connect(healthy.port))
            await until(lambda: endpoint.errors)
            assert hub.snapshot().sessions == 1
            await until(lambda: descriptors() == before)
            await friend.send("still here")
            assert await friend.receive() == "still here"
            await friend.close()
            await until(lambda: len(endpoint.errors) == 2)
        assert endpoint.errors == [None, None]
        assert hub.snapshot().queued_bytes == 0

    run(test)


def test_deaf_ones_are_evicted(wire: Wire) -> None:
    """Within `stall_timeout` and a second; the others get everything at once."""

    async def test() -> None:
        hub = WebSocketHub(**LIMITS)
        loop = asyncio.get_running_loop()

        async def handler(session: Any) -> None:
            session.join("room")
            await idle(session)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as healthy:
            friend = await healthy()
            deaf = [await connect(healthy.port, receive_buffer=4096) for _ in range(3)]
            await friend.send("first")
            for raw in deaf:
                await raw.send(frame(TEXT, b"first"))
            await until(lambda: len(endpoint.sessions) == 4)
            await asyncio.sleep(0.05)
            evicted = 0
            behind_since: float | None = None
            number = 0
            while evicted < 3:
                delivery = hub.publish("room", f"{number}:".ljust(16_000))
                evicted += delivery.evicted
                if delivery.queued and behind_since is None:
                    behind_since = loop.time()
                assert str(await friend.receive()).startswith(f"{number}:")
                number += 1
                evicted = max(evicted, hub.snapshot().evicted)
                assert hub.snapshot().queued_bytes <= 3 * 100_000
            assert behind_since is not None
            assert loop.time() - behind_since < 0.5 + 1.0
            await until(lambda: len(endpoint.errors) == 3)
            assert endpoint.errors == [None] * 3
            await friend.close()
            await until(lambda: len(endpoint.errors) == 4)
            for raw in deaf:  # the server has let go of the socket
                assert await raw.close_code() in (1013, None)
                raw.close()

    run(test)


def test_pings_without_end(wire: Wire) -> None:
    """They are the transport's to answer: its buffer does not grow with the pongs."""

    async def test() -> None:
        hub = WebSocketHub(**{**LIMITS, "heartbeat": 0.2, "first_message_timeout": 1.0})
        endpoint = Endpoint(hub, echo)
        async with wire(endpoint, hub) as healthy:
            friend = await healthy()
            await friend.send("hello")
            before = descriptors()
            raw = await connect(healthy.port, receive_buffer=4096)
            await until(lambda: len(endpoint.sessions) == 2)
            transport = endpoint.sessions[1]._connection.transport
            most = 0
            pings = frame(PING, b"x" * 100) * 500
            while not endpoint.errors:
                await _send_until_closed(raw, pings, seconds=0.1)
                most = max(most, transport.buffered() or 0)
                await asyncio.sleep(0)
            assert most < 100_000 + (8 << 20)
            assert await raw.close_code() in (1013, 3008, None)
            raw.close()
            await until(lambda: descriptors() == before)
            await friend.send("still here")
            assert [await friend.receive() for _ in "12"] == ["hello", "still here"]
            await friend.close()
            await until(lambda: len(endpoint.errors) == 2)
        assert endpoint.errors == [None, None]

    # Where two wait to write, the legacy one fails: its defect, which is reported.
    legacy = wire is WIRES.get("uvicorn-legacy")
    run(test, AssertionError if legacy else ())


@pytest.mark.parametrize("how", ["reset", "close"])
def test_gone_amid_pings(wire: Wire, how: str) -> None:
    """Its pongs are under way still: that is no error of the handler's."""

    async def test() -> None:
        hub = WebSocketHub(**{**LIMITS, "first_message_timeout": None})
        endpoint = Endpoint(hub, echo)
        async with wire(endpoint, hub) as healthy:
            raw = await connect(healthy.port, receive_buffer=4096)
            pings = frame(PING, b"x" * 100) * 60_000
            await _send_until_closed(raw, pings, seconds=0.5)
            getattr(raw, how)()
            await until(lambda: endpoint.errors)
        assert endpoint.errors == [None]

    run(test)


def test_burst_of_connections(wire: Wire) -> None:
    """More than the hub takes: the others are told when to come back."""

    async def test() -> None:
        hub = WebSocketHub(
            **{**LIMITS, "max_sessions": 50, "first_message_timeout": None}
        )
        endpoint = Endpoint(hub, idle)
        answers: list[str] = []
        codes: list[int | None] = []

        async def attempt(port: int) -> None:
            try:
                raw = await connect(port)
            except ConnectionError as refusal:
                answers.append(str(refusal).lower())
                return
            try:
                codes.append(await raw.close_code())
            finally:
                raw.close()

        async with wire(endpoint, hub) as healthy:
            before = descriptors()
            attempts = [
                asyncio.create_task(attempt(healthy.port)) for _ in range(BURST)
            ]
            await until(lambda: len(answers) + len(codes) == BURST - 50)
            assert hub.snapshot().sessions == 50
            for attempted in attempts:
                attempted.cancel()
            await asyncio.wait(attempts)
            await until(lambda: hub.snapshot().sessions == 0)
            await until(lambda: descriptors() == before)
        assert set(codes) <= {1013}
        assert bool(codes) is (wire in ACCEPTED_FIRST)
        assert all(answer.startswith("http/1.1 503") for answer in answers)
        assert all("\r\nretry-after: 5\r\n" in answer for answer in answers)

    run(test)


def test_dripping_ones_are_evicted(wire: Wire) -> None:
    """Something gets through to them all the time, but they never catch up."""

    async def test() -> None:
        hub = WebSocketHub(**{**LIMITS, "stall_timeout": 60.0, "lag_timeout": 0.5})

        async def handler(session: Any) -> None:
            session.join("room")
            await idle(session)

        async def drip(raw: Raw) -> None:
            data = b"some"
            with suppress(OSError):
                while data:
                    data = await asyncio.get_running_loop().sock_recv(raw._socket, 256)
                    await asyncio.sleep(0.01)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as healthy:
            raw = await connect(healthy.port, receive_buffer=4096)
            await raw.send(frame(TEXT, b"hello"))
            await until(lambda: hub.snapshot().rooms)
            dripping = asyncio.create_task(drip(raw))
            while not endpoint.errors:
                hub.publish("room", "x" * 16_000, slow="drop_oldest")
                await asyncio.sleep(0.001)
            dripping.cancel()
            await asyncio.wait([dripping])
            raw.close()
        [session] = endpoint.sessions
        assert session.closed is not None
        assert (session.closed.code, session.closed.cause) == (1013, "slow")
        snapshot = hub.snapshot()
        assert (snapshot.evicted, snapshot.queued_bytes) == (1, 0)

    run(test)
