"""Ways to call an async function on `range(n)`, at most `LIMIT` at once if they can."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

import aioitertools.asyncio
import aiometer

from safeaio import bounded_gather, bounded_map, bounded_stream

Func: TypeAlias = Callable[[int], Coroutine[Any, Any, int]]
Way: TypeAlias = Callable[[Func, int], Awaitable[list[int]]]

LIMIT = 100

GATHER = "asyncio.gather"
TASK_GROUP = "asyncio.TaskGroup"
SEMAPHORE = "semaphore + gather"
POOL = "bare worker pool"
AIOMETER = "aiometer.run_all"
AIOITERTOOLS = "aioitertools.gather"
BOUNDED_GATHER = "bounded_gather"
BOUNDED_MAP = "bounded_map"
BOUNDED_STREAM = "bounded_stream"


async def _gather(func: Func, n: int) -> list[int]:
    return await asyncio.gather(*[func(i) for i in range(n)])


async def _task_group(func: Func, n: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(func(i)) for i in range(n)]
    return [task.result() for task in tasks]


async def _semaphore(func: Func, n: int) -> list[int]:
    semaphore = asyncio.Semaphore(LIMIT)

    async def call(i: int) -> int:
        async with semaphore:
            return await func(i)

    return await asyncio.gather(*[call(i) for i in range(n)])


async def _pool(func: Func, n: int) -> list[int]:
    # What one writes by hand: whatever an item does to its context, the next one sees.
    results = [0] * n
    items = enumerate(range(n))

    async def work() -> None:
        for index, item in items:
            results[index] = await func(item)

    await asyncio.gather(*[work() for _ in range(LIMIT)])
    return results


async def _aiometer(func: Func, n: int) -> list[int]:
    return await aiometer.run_all(
        [partial(func, i) for i in range(n)], max_at_once=LIMIT
    )


async def _aioitertools(func: Func, n: int) -> list[int]:
    return await aioitertools.asyncio.gather(*[func(i) for i in range(n)], limit=LIMIT)


async def _bounded_gather(func: Func, n: int) -> list[int]:
    return await bounded_gather(*[func(i) for i in range(n)], limit=LIMIT)


async def _bounded_map(func: Func, n: int) -> list[int]:
    return await bounded_map(func, range(n), limit=LIMIT)


async def _bounded_stream(func: Func, n: int) -> list[int]:
    async with bounded_stream(func, range(n), limit=LIMIT) as results:
        return [result async for _, result in results]


WAYS: dict[str, Way] = {
    GATHER: _gather,
    TASK_GROUP: _task_group,
    SEMAPHORE: _semaphore,
    POOL: _pool,
    AIOMETER: _aiometer,
    AIOITERTOOLS: _aioitertools,
    BOUNDED_GATHER: _bounded_gather,
    BOUNDED_MAP: _bounded_map,
    BOUNDED_STREAM: _bounded_stream,
}
