"""Coroutines that are begun by hand."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from safeaio.websocket._step import Rest, finish


def begin(coro: Coroutine[Any, Any, object]) -> Rest:
    return coro, coro.send(None)


async def test_the_rest_goes_on_in_another_task() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send() -> tuple[str, str]:
        first = await future
        await asyncio.sleep(0)
        return first, await asyncio.sleep(0, "second")

    rest = begin(send())

    async def go_on() -> object:
        return await finish(rest)

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    assert not task.done()
    future.set_result("first")
    assert await task == ("first", "second")


async def test_a_future_that_is_done_by_then() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send() -> str:
        return await future

    rest = begin(send())
    future.set_result("done")
    assert await finish(rest) == "done"


async def test_errors_are_the_coroutines() -> None:
    async def send() -> None:
        await asyncio.sleep(0)
        raise OSError("lost")

    rest = begin(send())
    with pytest.raises(OSError, match="lost"):
        await finish(rest)


async def test_a_cancel_reaches_the_coroutine() -> None:
    seen: list[str] = []

    async def send() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # its cleanup may wait
            seen.append("cleaned up")
            raise

    rest = begin(send())

    async def go_on() -> None:
        await finish(rest)

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned up"]


async def test_closed_with_what_awaits_it() -> None:
    closed: list[str] = []

    async def send() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append("closed")

    rest = begin(send())

    async def go_on() -> None:
        await finish(rest)

    coro = go_on()
    coro.send(None)
    coro.close()
    assert closed == ["closed"]
