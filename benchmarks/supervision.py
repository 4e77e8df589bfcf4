"""What supervised services cost, beside those of an `asyncio.TaskGroup`."""

import asyncio
import gc
import logging
import random
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import TypeAlias

from safeaio import Backoff, Service, supervise

# Takes how many, and returns the seconds of what counts.
Timed: TypeAlias = Callable[[int], Awaitable[float]]


class _Enough(Exception):
    pass


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _never() -> None:
    pass


async def _once() -> None:
    await asyncio.sleep(0)


async def group_that_is_cancelled(n: int) -> float:
    started = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(n):
                group.create_task(_forever())
            await asyncio.sleep(0)
            raise _Enough
    except* _Enough:
        pass
    return perf_counter() - started


async def services_in_order(n: int) -> float:
    services = [Service(_forever, name=str(number)) for number in range(n)]
    started = perf_counter()
    async with supervise(*services):
        await asyncio.sleep(0)
    return perf_counter() - started


async def group_of_short_lived(n: int) -> float:
    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(n):
            group.create_task(_once())
            if number % 100 == 0:
                await asyncio.sleep(0)
    return perf_counter() - started


async def pool_of_short_lived(n: int) -> float:
    started = perf_counter()
    async with supervise() as sup:
        for number in range(n):
            await sup.start(_once, restart="never")
            if number % 100 == 0:
                await asyncio.sleep(0)
        await sup.wait()
    return perf_counter() - started


async def restarts(n: int) -> float:
    left = n

    async def crash() -> None:
        nonlocal left
        left -= 1
        if left:
            raise OSError

    started = perf_counter()
    await supervise(Service(crash, max_restarts=n, backoff=Backoff(base=0)))
    return perf_counter() - started


async def ratio(ours: Timed, theirs: Timed, n: int, repeats: int) -> float:
    """Return the median of our time over that of the median of theirs, by turns."""
    times: dict[Timed, list[float]] = {ours: [], theirs: []}
    for timed in times:
        await quietly(timed, n)
    for _ in range(repeats):
        for timed in random.sample([*times], len(times)):
            times[timed].append(await quietly(timed, n))
    return median(times[ours]) / median(times[theirs])


async def restarts_per_second(n: int, repeats: int) -> float:
    return n / median([await quietly(restarts, n) for _ in range(1 + repeats)][1:])


async def quietly(timed: Timed, n: int) -> float:
    """Time it without what a log costs, and without the garbage of the one before."""
    logger = logging.getLogger("safeaio.supervise")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    gc.collect()
    try:
        return await timed(n)
    finally:
        logger.setLevel(level)
