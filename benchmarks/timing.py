"""How long each of several ways takes, in one run."""

import gc
import random
from collections.abc import Iterable
from time import perf_counter
from typing import final

import attrs

from .ways import WAYS, Func


@attrs.frozen
@final
class Plan:
    """How often to repeat.

    Attributes:
        repeats: How often at most.
        seconds: After which a way is slow, and is repeated no more.
        least: How often a slow one too.
        warm_up: How many items at most to warm up with; None: as many as are timed.
    """

    repeats: int
    seconds: float
    least: int
    warm_up: int | None = None

    def wants_more(self, times: list[float]) -> bool:
        """Tell whether to repeat what took `times` so far."""
        if len(times) < self.least:
            return True
        return len(times) < self.repeats and sum(times) < self.seconds


async def time_ways(
    names: Iterable[str], func: Func, n: int, plan: Plan
) -> dict[str, list[float]]:
    """Time the ways on `n` items, in rounds, each round in an order of its own."""
    times: dict[str, list[float]] = {name: [] for name in names}
    due = list(times)
    while due:
        for name in random.sample(due, len(due)):
            times[name].append(await _time(name, func, n, plan.warm_up or n))
        due = [name for name in due if plan.wants_more(times[name])]
    return times


async def _time(name: str, func: Func, n: int, warm_up: int) -> float:
    # Without a warm-up of the same way, a way pays for the heap that the one before it
    # left: what runs right after semaphore + gather is slowed.
    way = WAYS[name]
    warm = min(n, warm_up)
    results = await way(func, warm)
    assert sorted(results) == list(range(warm)), f"{name} lost results"
    del results
    gc.collect()
    started = perf_counter()
    await way(func, n)
    return perf_counter() - started
