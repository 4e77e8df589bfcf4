"""Processes of `test_scale`: a server, and the clients that come to it.

Each obeys the lines on its stdin, and answers each with a line of JSON.
"""

import asyncio
import gc
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from safeaio import RateLimiter
from safeaio.websocket import SessionRefused, WebSocketHub, memory_pair
from safeaio.websocket._tcp import set_options, tcp_options

from .raw import CLOSE, TEXT, Raw, connect, frame
from .wires import WIRES

ADDRESSES = [f"127.0.0.{n}" for n in range(2, 10)]
"""Where clients come from, lest one address run out of ports."""

LIMITS: dict[str, dict[str, Any]] = {
    "burst": {"heartbeat": None},
    "hostile": {
        "heartbeat": None,
        "max_queue_bytes": 1 << 16,
        "max_message_bytes": 1 << 14,
        "memory_budget": 8 << 20,
        "receive_rate": RateLimiter(50, burst=50),
        "stall_timeout": 1.0,
        "lag_timeout": 2.0,
        "close_timeout": 1.0,
    },
}


def open_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def orders() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


# The server


async def serve(wire: str, limits: str, max_sessions: str) -> None:
    hub = WebSocketHub(**LIMITS[limits], max_sessions=int(max_sessions))

    async def endpoint(websocket: Any) -> None:
        with suppress(SessionRefused):
            if wire == "websockets":  # a listener may have these options, too
                set_options(websocket.transport, tcp_options(30.0, 1 << 16))
            await visited(websocket)

    async def visited(websocket: Any) -> None:
        async with hub.session(websocket) as session:
            await session.send("welcome")
            async for message in session:
                if message.startswith("join "):
                    session.join(message.removeprefix("join "))
                else:
                    await session.send(message)

    async def feed() -> None:
        while True:
            await asyncio.sleep(0.05)
            hub.publish("feed", "x" * 16_000)
            hub.publish("full", "x" * 16_000, slow="drop_oldest")

    lines = await orders()
    async with WIRES[wire](endpoint, hub) as served, asyncio.TaskGroup() as group:
        feeding = group.create_task(feed())
        say(port=served.port)
        while await lines.readline():
            snapshot = hub.snapshot()
            garbage = gc.collect()
            say(
                sessions=snapshot.sessions,
                rooms=snapshot.rooms,
                queued=snapshot.queued_bytes,
                evicted=snapshot.evicted,
                tasks=len(asyncio.all_tasks()),
                files=len(os.listdir("/proc/self/fd")),
                garbage=garbage,
                objects=len(gc.get_objects()),
                resident=resident(),
            )
        feeding.cancel()


# Clients


async def burst(port: str, count: str) -> None:
    """Come all at once; whoever is welcome stays until it is told to go."""
    answers: Counter[str] = Counter()
    welcome: list[Raw] = []
    at_once = asyncio.Semaphore(500)

    async def attempt(number: int) -> None:
        source = ADDRESSES[number % len(ADDRESSES)]
        async with at_once:
            try:
                raw = await connect(int(port), source=source)
            except ConnectionError as refusal:
                lines = str(refusal).lower().split("\r\n")
                retry = "retry-after: 5" in lines
                answers[lines[0].split()[1] if retry else lines[0]] += 1
                return
            opcode, payload = await raw.receive()
            if opcode == CLOSE:
                answers[str(int.from_bytes(payload[:2]))] += 1
                raw.close()
            else:
                answers[payload.decode()] += 1
                welcome.append(raw)

    lines = await orders()
    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(count)):
            group.create_task(attempt(number))
    say(answers=answers, seconds=perf_counter() - began)
    await lines.readline()
    for raw in welcome:
        raw.close()


async def come_and_go(port: str, count: str) -> None:
    """Connect, be welcome and go, in every way there is, some at a time."""
    left = iter(range(int(count)))

    async def visit() -> None:
        for number in left:
            source = ADDRESSES[number % len(ADDRESSES)]
            raw = await connect(int(port), source=source)
            await raw.receive()
            if number % 3 == 0:
                raw.reset()
                continue
            if number % 3 == 1:
                await raw.send(frame(TEXT, b"join room") + frame(TEXT, b"hello"))
                await raw.receive()
                await raw.send(frame(CLOSE, (1000).to_bytes(2)))
                await raw.close_code()
            raw.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(visit())
    say(count=int(count))


async def healthy(port: str, count: str) -> None:
    """Talk, and tell how long the answers take, whenever that is asked."""
    took: list[float] = []
    raws = [await connect(int(port)) for _ in range(int(count))]

    async def talk(raw: Raw) -> None:
        await raw.receive()
        while True:
            began = perf_counter()
            await raw.send(frame(TEXT, b"hello"))
            await raw.receive()
            took.append(perf_counter() - began)
            await asyncio.sleep(0.05)

    lines = await orders()
    talking = [asyncio.create_task(talk(raw)) for raw in raws]
    say(count=len(raws))
    while await lines.readline():
        for task in talking:
            if task.done():
                await task
        took.sort()
        half, most = took[len(took) // 2], took[len(took) * 99 // 100]
        say(answers=len(took), p50=half, p99=most)
        took.clear()
    for task in talking:
        task.cancel()


async def hostile(port: str, count: str) -> None:
    """As many of each kind; tell how each of them was ended."""
    ends: dict[str, Counter[str]] = {}

    async def flood(raw: Raw) -> None:
        await raw.send(frame(TEXT, b"x" * 1000) * 10_000)

    async def deaf(raw: Raw) -> None:
        await raw.send(frame(TEXT, b"join feed"))
        await asyncio.sleep(4)

    async def drip(raw: Raw) -> None:
        await raw.send(frame(TEXT, b"join full"))
        data = b"some"
        while data:
            data = await raw.read(256)
            await asyncio.sleep(0.02)

    async def attack(kind: Callable[[Raw], Awaitable[None]], number: int) -> None:
        source = ADDRESSES[number % len(ADDRESSES)]
        raw = await connect(int(port), source=source, receive_buffer=4096)
        with suppress(OSError):
            await kind(raw)
        code = await raw.close_code()
        raw.close()
        ends.setdefault(kind.__name__, Counter())[str(code)] += 1

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(count)):
            for kind in (flood, deaf, drip):
                group.create_task(attack(kind, number))
    say(ends=ends, seconds=perf_counter() - began)


# Without sockets


async def pairs(count: str) -> None:
    """Connect and disconnect in memory, in every way there is."""
    hub = WebSocketHub()

    async def cycle(number: int) -> None:
        server, client = memory_pair()
        if number % 3 == 0:
            await client.send("hello")
            await client.close()
        elif number % 3 == 1:
            client.abort()
        async with hub.session(server) as session:
            session.join("room")
            await session.send("hello")
            if number % 3 != 2:
                async for message in session:
                    await session.send(message)
        del server.peer  # the two of them hold each other

    async def cycles(count: int) -> None:
        for number in range(count):
            await cycle(number)

    await cycles(3000)
    gc.collect()
    gc.disable()
    objects, before = len(gc.get_objects()), resident()
    began = perf_counter()
    await cycles(int(count))
    seconds = perf_counter() - began
    say(
        resident=resident() - before,
        garbage=gc.collect(),
        objects=len(gc.get_objects()) - objects,
        sessions=hub.snapshot().sessions,
        seconds=seconds,
    )


ROLES = (serve, burst, come_and_go, healthy, hostile, pairs)

if __name__ == "__main__":
    open_many_files()
    [role] = [role for role in ROLES if role.__name__ == sys.argv[1]]
    asyncio.run(role(*sys.argv[2:]))
