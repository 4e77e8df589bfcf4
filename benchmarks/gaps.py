"""How long a loop leaves a ticker waiting while it works."""

import asyncio
from collections.abc import Awaitable
from itertools import pairwise
from time import perf_counter, thread_time
from typing import final

import attrs

TICK = 0.001


@attrs.frozen
@final
class Gaps:
    """The longest times between two ticks, in seconds.

    Attributes:
        wall: As a clock shows it: other processes on the machine add to it.
        cpu: What the thread of the loop spent computing.
    """

    wall: float
    cpu: float


async def longest_gaps(work: Awaitable[object]) -> Gaps:
    """Wait for `work` beside a ticker, and return its longest gaps."""
    ticks = [_now()]
    ticker = asyncio.create_task(_tick(ticks))
    await work
    ticker.cancel()
    await asyncio.wait([ticker])
    ticks.append(_now())  # or work that never lets go would leave no gap at all
    return Gaps(
        *(max(b - a for a, b in pairwise(clock)) for clock in zip(*ticks, strict=True))
    )


async def _tick(ticks: list[tuple[float, float]]) -> None:
    while True:
        await asyncio.sleep(TICK)
        ticks.append(_now())


def _now() -> tuple[float, float]:
    return perf_counter(), thread_time()
