"""What a block with cleanup costs, beside what one writes by hand."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

from safeaio import cancel_and_wait, cleanup_scope

# Takes how often to do it, and returns the seconds of what counts.
Timed: TypeAlias = Callable[[int], Awaitable[float]]
Call: TypeAlias = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    await asyncio.sleep(0)


async def by_hand(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with asyncio.timeout(None), AsyncExitStack():
            pass
    return perf_counter() - started


async def by_scope(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with cleanup_scope():
            pass
    return perf_counter() - started


async def by_hand_with_deadline(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with asyncio.timeout(60), AsyncExitStack():
            pass
    return perf_counter() - started


async def by_scope_with_deadline(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with cleanup_scope(timeout=60):
            pass
    return perf_counter() - started


async def _shielded_by_hand(call: Call) -> None:
    task = asyncio.ensure_future(call())
    cancel = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            cancel = cancel or exc
    if cancel is not None:
        raise cancel


async def by_hand_with_call(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with asyncio.timeout(None), AsyncExitStack() as stack:
            stack.push_async_callback(_shielded_by_hand, _nothing)
    return perf_counter() - started


async def by_scope_with_call(n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        async with cleanup_scope() as scope:
            scope.defer(_nothing)
    return perf_counter() - started


async def _sleeping(n: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(n)]
    await asyncio.sleep(0)
    return tasks


async def cancel_by_hand(n: int) -> float:
    tasks = await _sleeping(n)
    started = perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return perf_counter() - started


async def cancel_by_one_call(n: int) -> float:
    tasks = await _sleeping(n)
    started = perf_counter()
    await cancel_and_wait(*tasks)
    return perf_counter() - started


async def ratio(ours: Timed, by_hand: Timed, n: int, repeats: int) -> float:
    """Return the median time of `ours` over that by hand, each warmed up, by turns."""
    times: dict[Timed, list[float]] = {ours: [], by_hand: []}
    for _ in range(repeats):
        for way in random.sample([*times], len(times)):
            await way(n)
            gc.collect()
            times[way].append(await way(n))
    return median(times[ours]) / median(times[by_hand])
