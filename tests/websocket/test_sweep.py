"""Cancelled at every tick, by every route: a session leaves nothing, and lies to nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from safeaio import cancel_and_wait, shielded
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep
from safeaio.websocket import (
    MemoryWebSocket,
    SessionClosed,
    TransportClosed,
    WebSocketHub,
    WebSocketSession,
    memory_pair,
)


class World:
    """A hub, one session of it, and a client that does something."""

    def __init__(self, **limits: Any) -> None:
        self.limits = limits
        self.hub: WebSocketHub[Any]
        self.client: MemoryWebSocket

    async def run(
        self,
        handler: Callable[[WebSocketSession[Any]], Awaitable[None]],
        visit: Callable[[MemoryWebSocket], Awaitable[None]],
    ) -> None:
        self.hub = WebSocketHub(**self.limits)
        server, self.client = memory_pair(window=10)
        visiting = asyncio.create_task(_quietly(visit(self.client)))
        try:
            async with self.hub.session(server) as session:
                await handler(session)
        finally:
            await cancel_and_wait(visiting)

    def nothing_is_left(self, run: Run) -> None:
        snapshot = self.hub.snapshot()
        assert snapshot.sessions == snapshot.rooms == snapshot.queued_bytes == 0

    def the_peer_was_told(self, run: Run) -> None:
        """Unless the session never began."""
        closed = self.client.closed
        assert closed is None or closed.code in (1000, 1001, 1006, 4000)


async def _quietly(awaitable: Awaitable[None]) -> None:
    with suppress(TransportClosed):
        await awaitable


async def _all_of(hub: WebSocketHub[Any], serving: asyncio.Task[None]) -> None:
    await hub.drain()
    await asyncio.wait([serving])


async def echo(session: WebSocketSession[Any]) -> None:
    session.join("room")
    async for message in session:
        await session.send(message)


def sweep(
    world: World,
    handler: Callable[[WebSocketSession[Any]], Awaitable[None]],
    visit: Callable[[MemoryWebSocket], Awaitable[None]],
) -> None:
    async def scenario() -> None:
        await world.run(handler, visit)

    cancel_sweep(
        scenario,
        world.nothing_is_left,
        world.the_peer_was_told,
        loop_factory=VirtualClockLoop,
    )


def test_echo() -> None:
    async def visit(client: MemoryWebSocket) -> None:
        for text in ("a", "b"):
            await client.send(text)
            assert await client.receive() == text
        await client.close(4000)

    sweep(World(), echo, visit)


def test_deaf_peer() -> None:
    """The queue fills, `send` waits, and the close is cut off."""

    async def handler(session: WebSocketSession[Any]) -> None:
        for _ in range(8):
            await session.send("x" * 8)

    async def visit(client: MemoryWebSocket) -> None:
        client.deaf = True
        await asyncio.Event().wait()

    sweep(World(max_queue_messages=3, close_timeout=0.5), handler, visit)


def test_handler_that_is_away() -> None:
    """A reader stands in for it, and it is interrupted in the end."""

    async def handler(session: WebSocketSession[Any]) -> None:
        await asyncio.sleep(2)
        assert await session.receive() == "a"
        await asyncio.sleep(100)

    async def visit(client: MemoryWebSocket) -> None:
        await client.send("a")
        await asyncio.sleep(5)
        await client.close(4000)

    sweep(World(close_timeout=1.0), handler, visit)


def test_workers() -> None:
    async def double(message: str) -> str:
        await asyncio.sleep(1)
        return message * 2

    async def handler(session: WebSocketSession[Any]) -> None:
        await session.serve(double, concurrency=2)

    async def visit(client: MemoryWebSocket) -> None:
        for text in "abc":
            await client.send(text)
        for text in "abc":
            assert await client.receive() == text * 2
        await client.close(4000)

    sweep(World(), handler, visit)


def test_close_by_hand() -> None:
    async def handler(session: WebSocketSession[Any]) -> None:
        await session.send("last")
        await session.close(4000)
        with pytest.raises(SessionClosed):
            await session.receive()

    async def visit(client: MemoryWebSocket) -> None:
        while True:
            await client.receive()

    sweep(World(), handler, visit)


def test_drain() -> None:
    """Cancelled, it goes on, and the next one waits for it."""
    hubs: list[WebSocketHub[Any]] = []

    async def scenario() -> None:
        hub: WebSocketHub[Any] = WebSocketHub()
        hubs[:] = [hub]
        server, _ = memory_pair()

        async def endpoint() -> None:
            async with hub.session(server) as session:
                await echo(session)

        serving = asyncio.create_task(endpoint())
        try:
            await asyncio.sleep(0)
            await hub.drain()
        finally:
            await shielded(_all_of(hub, serving))

    def everybody_has_gone(run: Run) -> None:
        if hubs:
            assert hubs[0].snapshot().sessions == 0

    cancel_sweep(scenario, everybody_has_gone, loop_factory=VirtualClockLoop)
