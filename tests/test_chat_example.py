"""examples/chat as a process, with real clients."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from .websocket.chat import chat

Client = websockets.asyncio.client.ClientConnection


async def join(port: int, name: str, room: str = "lobby") -> Client:
    url = f"ws://127.0.0.1:{port}/chat"
    client = await websockets.asyncio.client.connect(url, proxy=None)
    await client.send(json.dumps({"name": name, "room": room}))
    return client


async def heard(client: Client, wanted: Callable[[Any], object]) -> Any:
    """Return the first message that is wanted."""
    while not wanted(message := json.loads(await client.recv())):
        pass
    return message


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


def test_rooms_presence_and_the_end() -> None:
    """Everyone hears their room, knows who is there, and is told of the restart."""

    async def test() -> None:
        async with chat() as (process, port):
            alice, bob = await join(port, "alice"), await join(port, "bob")
            eve = await join(port, "eve", "elsewhere")
            await heard(alice, lambda m: m.get("here") == ["alice", "bob"])
            await alice.send(json.dumps({"text": "hello"}))
            for client in (alice, bob):
                message = await heard(client, lambda m: "from" in m)
                assert message == {"from": "alice", "text": "hello"}
            await bob.close()
            await heard(alice, lambda m: m.get("here") == ["alice"])
            assert json.loads(await eve.recv()) == {"here": ["eve"]}

            process.send_signal(signal.SIGTERM)
            for client in (alice, eve):
                with suppress(ConnectionClosed):
                    while True:
                        await client.recv()
                assert client.close_code == 1012
            assert await asyncio.to_thread(process.wait, 30) == 0

    run(test)


def test_a_slow_client_is_evicted() -> None:
    """A room is flooded; whoever does not read is cut off, and the others hear all."""

    async def test() -> None:
        async with chat() as (_, port):
            alice, slow = await join(port, "alice"), await join(port, "slow")
            await heard(alice, lambda m: m.get("here") == ["alice", "slow"])
            slow.transport.pause_reading()
            evicted = False
            while not evicted:
                await alice.send(json.dumps({"flood": 2000}))
                number = -1
                while number < 1999:
                    message = await heard(alice, lambda m: "noise" in m or "here" in m)
                    if "here" in message:
                        assert message["here"] == ["alice"]
                        evicted = True
                    else:
                        assert message["noise"] == number + 1
                        number += 1
            await alice.close()
            slow.transport.abort()
            await slow.wait_closed()

    run(test)
