"""Many at once, and many in a row: a server in a process of its own keeps its limits.

The clients are in other processes, too. On one Python in full, elsewhere a tenth of it.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from .crowd import LIMITS, resident

PART = 1 if sys.version_info >= (3, 13) else 10

SERVERS = pytest.mark.parametrize("wire", ["uvicorn", "websockets"])

MIB = 1 << 20

PER_CONNECTION = 128 << 10
"""What a server needs for one connection beside what the hub counts: some 30 KiB of its
own, 64 KiB in the buffer of the transport, and a message on its way in or out."""


class Process:
    """One of `crowd`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout
        self._process = process

    async def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._stdout.readline())
        return answer

    async def ask(self) -> dict[str, Any]:
        self._stdin.write(b"\n")
        return await self.answer()

    async def stop(self) -> None:
        self._stdin.close()
        await self._process.wait()


@asynccontextmanager
async def started(*arguments: object) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.websocket.crowd",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # uvicorn has a line for each that is refused
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Process(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(main())


async def crowd(role: str, port: int, count: int, server: Process) -> dict[str, Any]:
    """Have clients come and go; return what the server says while they are there."""
    async with started(role, port, count) as clients:
        said = await clients.answer()
        there = await server.ask()
        await clients.stop()
    return {**there, **said}


async def left(server: Process) -> dict[str, Any]:
    """Return what the server says once nobody is there any more."""
    while (await server.ask())["sessions"]:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)  # sockets are closed after sessions
    return await server.ask()


@SERVERS
def test_burst(wire: str) -> None:
    """A hub takes as many as it may; the others are told so, and nothing is left of any."""
    count, most = 10_000 // PART, 1000 // PART

    async def test() -> None:
        async with started("serve", wire, "burst", most) as server:
            port = (await server.answer())["port"]
            empty = await server.ask()
            once = await crowd("burst", port, count, server)  # the most memory for once
            before = await left(server)
            there = await crowd("burst", port, count, server)
            after = await left(server)
        refused = "503" if wire == "uvicorn" else "1013"
        assert there["answers"] == {"welcome": most, refused: count - most}
        assert (once["sessions"], there["sessions"]) == (most, most)
        for name in ("tasks", "files", "queued"):
            assert empty[name] == after[name], name
        assert after["objects"] < before["objects"] + 500
        assert after["resident"] < before["resident"] + 8 * MIB

    run(test)


@SERVERS
def test_hostile_crowd(wire: str) -> None:
    """Floods, deaf and dripping ones: all are ended, and the healthy hardly notice."""
    count, friends = 200 // PART, 50
    budget = LIMITS["hostile"]["memory_budget"] + (3 * count) * PER_CONNECTION

    async def test() -> None:
        async with (
            started("serve", wire, "hostile", 1000) as server,
            started(
                "healthy", port := (await server.answer())["port"], friends
            ) as good,
        ):
            await good.answer()
            await asyncio.sleep(1)
            before, alone = await server.ask(), await good.ask()
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, resident(server.pid))
                    await asyncio.sleep(0.02)

            watching = asyncio.create_task(watch())
            async with started("hostile", port, count) as bad:
                ends = (await bad.answer())["ends"]
            watching.cancel()
            beside = await good.ask()
            after = await server.ask()
            while after["files"] > before["files"]:
                await asyncio.sleep(0.1)
                after = await server.ask()
        assert most - before["resident"] < budget
        codes = {"flood": {"1008"}, "deaf": {"1013"}, "drip": {"1013"}}
        assert {
            kind: sum(told.values()) for kind, told in ends.items()
        } == dict.fromkeys(codes, count)
        for kind, told in ends.items():
            assert set(told) <= codes[kind] | {"None"}, kind
        assert after["evicted"] == 2 * count
        for name in ("sessions", "rooms", "queued", "tasks", "files"):
            assert after[name] == before[name], name
        assert beside["answers"] > friends
        assert beside["p50"] < 3 * alone["p50"] + 0.02
        assert beside["p99"] < 20 * alone["p99"] + 1.0

    run(test)


def test_memory_over_pairs() -> None:
    """100 000 sessions leave nothing, and nothing for the garbage collector either."""

    async def test() -> None:
        async with started("pairs", 100_000 // PART) as process:
            said = await process.answer()
        assert (said["garbage"], said["sessions"]) == (0, 0)
        assert said["objects"] < 1000
        assert said["resident"] < MIB

    run(test)


@SERVERS
def test_memory_over_sockets(wire: str) -> None:
    """Those that come and go, politely or not, leave nothing."""
    count = {"websockets": 20_000, "uvicorn": 5_000}[wire]

    async def test() -> None:
        async with started("serve", wire, "burst", 1000) as server:
            port = (await server.answer())["port"]
            await crowd("come_and_go", port, 1000 // PART, server)
            before = await left(server)
            await crowd("come_and_go", port, count // PART, server)
            after = await left(server)
        for name in ("rooms", "queued", "tasks", "files"):
            assert after[name] == before[name], name
        assert after["objects"] < before["objects"] + 500
        assert after["resident"] < before["resident"] + 2 * MIB

    run(test)
