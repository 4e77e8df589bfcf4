"""What `safeaio.run` costs over `asyncio.run`, each figure measured in a process of its own.

Below a running loop neither can be called: `python -m benchmarks.runner FIGURE N REPEATS`
prints one figure.
"""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeAlias

import safeaio

Main: TypeAlias = Callable[[], Coroutine[Any, Any, float]]
Runner: TypeAlias = Callable[[Main], float]
# Takes how often to do it, and returns the seconds of what counts.
Timed: TypeAlias = Callable[[Runner, int], float]

_FRESH = """
import asyncio, safeaio, time
async def main():
    pass
started = time.perf_counter()
{}
print(time.perf_counter() - started)
"""


async def measure(figure: str, n: int, repeats: int) -> float:
    """Have a process measure a figure."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.runner", figure, str(n), str(repeats)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return float(out)


def _raw(main: Main) -> float:
    return asyncio.run(main())


def _beside_idle_thread(main: Main) -> float:
    """Run like a program that has used `asyncio.to_thread`: with one more thread."""
    ended = threading.Event()
    idle = threading.Thread(target=ended.wait)
    idle.start()
    try:
        return asyncio.run(main())
    finally:
        ended.set()
        idle.join()


def _ours(main: Main) -> float:
    return safeaio.run(main)


async def _nothing() -> float:
    return 0.0


def _start_and_end(runner: Runner, n: int) -> float:
    started = perf_counter()
    for _ in range(n):
        runner(_nothing)
    return (perf_counter() - started) / n


def _start_and_end_fresh(runner: Runner, _: int) -> float:
    call = "safeaio.run(main)" if runner is _ours else "asyncio.run(main())"
    out = subprocess.check_output([sys.executable, "-c", _FRESH.format(call)])
    return float(out)


# CPU time of all threads: a poll anywhere would show, and other processes do not.


async def _turns(n: int) -> float:
    started = process_time()
    for _ in range(n):
        await asyncio.sleep(0)
    return process_time() - started


async def _tasks(n: int) -> float:
    started = process_time()
    for _ in range(n):
        await asyncio.create_task(_nothing())
    return process_time() - started


def _run_turns(runner: Runner, n: int) -> float:
    return runner(partial(_turns, n))


def _run_tasks(runner: Runner, n: int) -> float:
    return runner(partial(_tasks, n))


def _by_turns(
    timed: Timed, other: Runner, n: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Return the seconds under `safeaio.run`, and under another one."""
    times: dict[Runner, list[float]] = {_ours: [], other: []}
    for runner in times:
        timed(runner, n)
    for _ in range(repeats):
        for runner in random.sample([*times], len(times)):
            times[runner].append(timed(runner, n))
    return times[_ours], times[other]


def difference(timed: Timed, n: int, repeats: int) -> float:
    """Return by how many milliseconds the medians differ."""
    ours, raw = _by_turns(timed, _raw, n, repeats)
    return (median(ours) - median(raw)) * 1000


def ratio(timed: Timed, other: Runner, n: int, repeats: int) -> float:
    """Return the median ratio of two neighbours: what else runs slows both of them."""
    pairs = zip(*_by_turns(timed, other, n, repeats), strict=True)
    return median(ours / others for ours, others in pairs)


FIGURES: dict[str, Callable[[int, int], float]] = {
    "again": partial(difference, _start_and_end),
    "fresh": partial(difference, _start_and_end_fresh),
    "turns": partial(ratio, _run_turns, _beside_idle_thread),
    "tasks": partial(ratio, _run_tasks, _beside_idle_thread),
    "turns alone": partial(ratio, _run_turns, _raw),
}

if __name__ == "__main__":
    name, n, repeats = sys.argv[1:]
    print(FIGURES[name](int(n), int(repeats)))
