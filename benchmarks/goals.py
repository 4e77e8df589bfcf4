"""What safeaio must reach, as data, and how each figure is measured."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from typing import TypeAlias, TypeVar, final

import attrs

from safeaio import bounded_gather, bounded_map, bounded_stream

from . import cleanup, runner, supervision
from .gaps import Gaps, longest_gaps
from .memory import peak_memory
from .race import NEVER, ONCE, never, once
from .report import Verdict
from .timing import Plan, time_ways
from .ways import (
    AIOMETER,
    BOUNDED_GATHER,
    BOUNDED_MAP,
    BOUNDED_STREAM,
    GATHER,
    LIMIT,
    POOL,
    SEMAPHORE,
    Func,
)

R = TypeVar("R")
Run: TypeAlias = Callable[[int], Awaitable[object]]

_FUNCS: dict[str, Func] = {NEVER: never, ONCE: once}
_MILLION = 1_000_000
_TIME_IMPORT = """
import asyncio, time, anyio
started = time.perf_counter()
import safeaio
print(time.perf_counter() - started)
"""


@attrs.define(eq=False)
@final
class Figures:
    """The figures behind the goals, each measured once.

    Attributes:
        scale: What every number of items is divided by.
        samples: How often to measure a gap or an import.
    """

    plan: Plan
    scale: int
    samples: int
    _times: dict[tuple[tuple[str, ...], str, int], dict[str, float]] = attrs.field(
        factory=dict[tuple[tuple[str, ...], str, int], dict[str, float]], init=False
    )
    _gaps: dict[str, Gaps] = attrs.field(factory=dict[str, Gaps], init=False)

    async def times(self, ways: tuple[str, ...], item: str, n: int) -> dict[str, float]:
        """Return the median seconds of each way."""
        key = ways, item, n
        if key not in self._times:
            times = await time_ways(ways, _FUNCS[item], n // self.scale, self.plan)
            self._times[key] = {way: median(times[way]) for way in ways}
        return self._times[key]

    async def gaps(self, name: str, run: Run) -> Gaps:
        """Return the median of the longest gaps beside a million items."""
        if name not in self._gaps:
            gaps = [
                await longest_gaps(run(_MILLION // self.scale))
                for _ in range(self.samples)
            ]
            self._gaps[name] = Gaps(
                median(gap.wall for gap in gaps), median(gap.cpu for gap in gaps)
            )
        return self._gaps[name]


Measure: TypeAlias = Callable[[Figures], Awaitable[float]]


@attrs.frozen
@final
class Goal:
    """A figure and its bound, stated for one version of CPython, on asyncio."""

    name: str
    measure: Measure
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    python: tuple[int, int] = (3, 13)

    async def judge(self, figures: Figures) -> Verdict:
        """Measure. The bound holds at full scale only."""
        return Verdict(
            self.name,
            await self.measure(figures),
            self.unit,
            at_least=self.at_least,
            at_most=self.at_most,
            judged=figures.scale == 1,
        )


def _compare(
    way: str,
    item: str,
    n: int,
    faster_than: dict[str, float],
    within: dict[str, float] | None = None,
    python: tuple[int, int] = (3, 13),
) -> list[Goal]:
    """State how `way` compares with others, all of them timed in one run."""
    within = within or {}
    ways = (way, *faster_than, *within)

    async def speed(other: str, figures: Figures) -> float:
        times = await figures.times(ways, item, n)
        return times[other] / times[way]

    async def time(other: str, figures: Figures) -> float:
        return 1 / await speed(other, figures)

    case = f"({n:,}, each {item})"
    return [
        Goal(
            f"{way}: speed over {other} {case}",
            partial(speed, other),
            "x",
            at_least=bound,
            python=python,
        )
        for other, bound in faster_than.items()
    ] + [
        Goal(
            f"{way}: time over {other} {case}",
            partial(time, other),
            "x",
            at_most=bound,
            python=python,
        )
        for other, bound in within.items()
    ]


async def _gather_memory(item: str, figures: Figures) -> float:
    """Return the peak over gather's, both above the coroutine objects themselves."""
    func, numbers = _FUNCS[item], range(10_000 // figures.scale)
    coros = [func(number) for number in numbers]
    ours = await peak_memory(lambda: bounded_gather(*coros, limit=LIMIT))
    coros = [func(number) for number in numbers]
    theirs = await peak_memory(lambda: asyncio.gather(*coros))
    return ours / theirs


async def _map(func: Callable[[int], Awaitable[R]], n: int) -> list[R]:
    return await bounded_map(func, (number for number in range(n)), limit=LIMIT)


async def _stream(func: Callable[[int], Awaitable[object]], n: int) -> None:
    source = (number for number in range(n))
    async with bounded_stream(func, source, limit=LIMIT) as results:
        async for _ in results:
            pass


async def _sleep(_: int) -> None:
    await asyncio.sleep(0)


async def _map_growth(figures: Figures) -> float:
    # The results are a list of nothing: what it takes is the one thing to leave out.
    async def beyond_results(n: int) -> int:
        sizes = []

        async def run() -> None:
            sizes.append(sys.getsizeof(await _map(_sleep, n)))

        return await peak_memory(run) - sizes[0]

    return await _growth(beyond_results, figures)


async def _stream_growth(figures: Figures) -> float:
    return await _growth(lambda n: peak_memory(lambda: _stream(_sleep, n)), figures)


async def _growth(peak: Callable[[int], Awaitable[int]], figures: Figures) -> float:
    """Return how many KiB more a million items take at their peak than 10 000."""
    few, many = 10_000 // figures.scale, _MILLION // figures.scale
    await peak(few)
    fewer = await peak(few)
    return (await peak(many) - fewer) / 1024


async def _wall_gap(name: str, run: Run, figures: Figures) -> float:
    return (await figures.gaps(name, run)).wall * 1000


async def _cpu_gap(name: str, run: Run, figures: Figures) -> float:
    return (await figures.gaps(name, run)).cpu * 1000


async def _cleanup_cost(
    ours: cleanup.Timed, by_hand: cleanup.Timed, n: int, figures: Figures
) -> float:
    return await cleanup.ratio(ours, by_hand, n // figures.scale, figures.plan.repeats)


async def _run_cost(figure: str, n: int, repeats: int, figures: Figures) -> float:
    scaled = max(n // figures.scale, 1), max(repeats // figures.scale, 3)
    return await runner.measure(figure, *scaled)


async def _supervision_cost(
    ours: supervision.Timed, theirs: supervision.Timed, figures: Figures
) -> float:
    n = 10_000 // figures.scale
    return await supervision.ratio(ours, theirs, n, figures.plan.repeats)


async def _restarts(figures: Figures) -> float:
    n = 100_000 // figures.scale
    return await supervision.restarts_per_second(n, figures.samples)


async def _restarts_slow_down(figures: Figures) -> float:
    n = 100_000 // figures.scale
    few = await supervision.restarts_per_second(n // 10, figures.samples)
    return few / await supervision.restarts_per_second(n, figures.samples)


async def _restarts_memory(figures: Figures) -> float:
    n = 100_000 // figures.scale
    work = partial(supervision.quietly, supervision.restarts, n)
    return await peak_memory(work) / 1024


async def _import_time(figures: Figures) -> float:
    """Return the milliseconds that the import adds to a process which has anyio."""
    times = [await _time_import() for _ in range(1 + figures.samples * 10)]
    return median(times[1:]) * 1000  # the first one may have compiled it


async def _time_import() -> float:
    # With bytecode, as pip installs it; an environment may forbid to write any.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _TIME_IMPORT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    out, _ = await process.communicate()
    return float(out)


GOALS = [
    *_compare(
        BOUNDED_MAP,
        ONCE,
        100_000,
        faster_than={GATHER: 3.5, SEMAPHORE: 6, AIOMETER: 20},
        within={POOL: 1.35},
    ),
    *_compare(BOUNDED_MAP, NEVER, 100_000, {GATHER: 10}, within={POOL: 4}),
    *_compare(BOUNDED_GATHER, ONCE, 10_000, {GATHER: 1.2, SEMAPHORE: 1.8}),
    *_compare(BOUNDED_GATHER, NEVER, 10_000, {GATHER: 1.2, SEMAPHORE: 1.8}),
    *_compare(BOUNDED_GATHER, ONCE, 10_000, {GATHER: 0.9}, python=(3, 11)),
    *_compare(BOUNDED_GATHER, NEVER, 10_000, {GATHER: 0.9}, python=(3, 11)),
    *[
        Goal(
            f"{BOUNDED_GATHER}: memory over {GATHER}'s (10,000, each {item})",
            partial(_gather_memory, item),
            "x",
            at_most=0.1,
        )
        for item in (ONCE, NEVER)
    ],
    Goal(
        f"{BOUNDED_MAP}: memory for 1,000,000 items beyond that for 10,000",
        _map_growth,
        "KiB",
        at_most=64,
    ),
    Goal(
        f"{BOUNDED_STREAM}: memory for 1,000,000 items beyond that for 10,000",
        _stream_growth,
        "KiB",
        at_most=64,
    ),
    *[
        Goal(
            f"{name}: longest gap of the loop, {clock} (1,000,000, each {NEVER})",
            partial(gap, name, partial(run, never)),
            "ms",
            at_most=50,
        )
        for name, run in ((BOUNDED_MAP, _map), (BOUNDED_STREAM, _stream))
        for clock, gap in (("wall clock", _wall_gap), ("CPU time", _cpu_gap))
    ],
    *[
        Goal(name, partial(_cleanup_cost, ours, by_hand, n), "x", at_most=bound)
        for name, ours, by_hand, n, bound in (
            (
                "cleanup_scope, empty: time over timeout(None) + AsyncExitStack",
                cleanup.by_scope,
                cleanup.by_hand,
                20_000,
                3,
            ),
            (
                "cleanup_scope, empty: the same, both with a deadline",
                cleanup.by_scope_with_deadline,
                cleanup.by_hand_with_deadline,
                20_000,
                2,
            ),
            (
                "cleanup_scope, an async call: the same, with a shielded task by hand",
                cleanup.by_scope_with_call,
                cleanup.by_hand_with_call,
                5_000,
                1.5,
            ),
            (
                "cancel_and_wait: time over cancel + asyncio.wait (10,000 tasks)",
                cleanup.cancel_by_one_call,
                cleanup.cancel_by_hand,
                10_000,
                1.2,
            ),
        )
    ],
    *[
        Goal(name, partial(_run_cost, figure, n, repeats), unit, at_most=bound)
        for name, figure, n, repeats, unit, bound in (
            (
                "run, empty: time beyond asyncio.run's",
                "again",
                1,
                501,
                "ms",
                1.0,
            ),
            (
                "run, empty: the same, the first one in a process",
                "fresh",
                1,
                101,
                "ms",
                1.0,
            ),
            (
                "run: CPU time over asyncio.run's beside an idle thread (20,000 turns)",
                "turns",
                20_000,
                61,
                "x",
                1.02,
            ),
            ("run: the same (8,000 tasks)", "tasks", 8_000, 61, "x", 1.02),
            (
                "run: CPU time over asyncio.run's alone (20,000 turns)",
                "turns alone",
                20_000,
                61,
                "x",
                1.08,
            ),
        )
    ],
    Goal(
        "supervise: time over TaskGroup's, started and stopped in order (10,000)",
        partial(
            _supervision_cost,
            supervision.services_in_order,
            supervision.group_that_is_cancelled,
        ),
        "x",
        at_most=3,
    ),
    Goal(
        "supervise: the same, a pool of short-lived ones (10,000, each awaits once)",
        partial(
            _supervision_cost,
            supervision.pool_of_short_lived,
            supervision.group_of_short_lived,
        ),
        "x",
        at_most=2,
    ),
    Goal(
        "supervise: restarts of a child that crashes, no delay (100,000)",
        _restarts,
        "/s",
        at_least=15_000,
    ),
    Goal(
        "supervise: time of 100,000 restarts over ten times that of 10,000",
        _restarts_slow_down,
        "x",
        at_most=1.1,
    ),
    Goal(
        "supervise: peak memory of 100,000 restarts",
        _restarts_memory,
        "KiB",
        at_most=1024,
    ),
    Goal(
        "import safeaio: time after asyncio and anyio", _import_time, "ms", at_most=40
    ),
]
