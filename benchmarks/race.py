"""Every way, side by side: speed and peak memory, as ratios to asyncio.gather's."""

import asyncio
from statistics import median

from .memory import peak_memory
from .report import Cell
from .timing import Plan, time_ways
from .ways import GATHER, WAYS, Func

NEVER = "never awaits"
ONCE = "awaits once"
ROUND_TRIP = "makes a loopback round trip"


async def never(number: int) -> int:
    return number


async def once(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def race(loop: str, item: str, func: Func, n: int, plan: Plan) -> list[Cell]:
    """Measure every way on `n` items."""
    times = await time_ways(WAYS, func, n, plan)
    peaks = {name: await _peak(name, func, n) for name in WAYS}
    seconds = {name: median(times[name]) for name in WAYS}
    return [
        Cell(
            loop,
            item,
            n,
            name,
            repeats=len(times[name]),
            seconds=seconds[name],
            spread=(max(times[name]) - min(times[name])) / seconds[name],
            speed=seconds[GATHER] / seconds[name],
            peak=peaks[name],
            memory=peaks[name] / peaks[GATHER],
        )
        for name in WAYS
    ]


async def _peak(name: str, func: Func, n: int) -> int:
    return await peak_memory(lambda: WAYS[name](func, n))
