"""`supervise` under attack: cancelled at any tick, for ever restarted, and held to its cost."""

import asyncio
import gc
import logging
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    Service,
    SupervisionError,
    SupervisorClosed,
    supervise,
)
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep

AT_ONCE = Backoff(base=0)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = VirtualClockLoop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


every_loop = pytest.mark.parametrize(
    "factory",
    [VirtualClockLoop, uvloop.new_event_loop, eager_loop],
    ids=["asyncio", "uvloop", "eager"],
)


# Cancelled at any tick


class Lives:
    """Services that count what began, and what was cleaned up."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cleaned: list[str] = []
        self.overlaps = 0
        self.cancelled = 0
        self.unhurt = 0
        self._live: set[str] = set()

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def service(self, name: str, length: int | None = None, **options: Any) -> Service:
        """One that reports when it is ready; it fails after some turns, if it is to."""

        async def serve(*, task_status: TaskStatus[None]) -> None:
            self.overlaps += name in self._live
            self._live.add(name)
            self.begun.append(name)
            try:
                await turns(2)
                task_status.started()
                if length is None:
                    await waiting()
                await turns(length or 0)
            except asyncio.CancelledError:
                await turns(3)
                self.unhurt += 1
                raise
            finally:
                self.cleaned.append(name)
                self.cancelled += isinstance(sys.exception(), asyncio.CancelledError)
                self._live.discard(name)
            raise OSError(name)

        return Service(serve, name=name, backoff=AT_ONCE, **options)

    def all_were_cleaned_up(self, run: Run) -> None:
        assert sorted(self.begun) == sorted(self.cleaned)
        assert self.overlaps == 0
        assert self.cancelled == self.unhurt


async def job() -> None:
    await turns(12)


strategies = pytest.mark.parametrize(
    "strategy", ["one_for_one", "one_for_all", "rest_for_one"]
)


@every_loop
@strategies
def test_sweep_of_the_awaited_form(factory: Any, strategy: Any) -> None:
    """Whenever it is cancelled, all cleanup is done, and nobody is left."""
    lives = Lives()

    async def scenario() -> None:
        lives.clear()
        await supervise(
            lives.service("a"),
            lives.service("b", 1, max_restarts=2),
            lives.service("c"),
            strategy=strategy,
        )

    cancel_sweep(
        scenario,
        lives.all_were_cleaned_up,
        may_raise=SupervisionError,
        loop_factory=factory,
    )


@every_loop
def test_sweep_of_the_block(factory: Any) -> None:
    """The same with starts, stops and restarts in its body."""
    lives = Lives()

    async def scenario() -> None:
        lives.clear()
        async with supervise(lives.service("a"), job) as sup:
            await sup.start(lives.service("b"))
            await sup.restart("a")
            await sup.stop("b")
            await sup.start(lives.service("c", 1, restart="never"))
            await sup.start(Service(supervise, lives.service("d"), name="inner"))
            await turns(3)

    cancel_sweep(scenario, lives.all_were_cleaned_up, loop_factory=factory)


@every_loop
def test_sweep_of_a_block_whose_services_give_up(factory: Any) -> None:
    """Our cancel of the body meets that from outside."""
    lives = Lives()

    async def scenario() -> None:
        lives.clear()
        async with supervise(lives.service("a"), lives.service("b", 2, max_restarts=0)):
            try:
                await waiting()
            finally:
                await turns(2)

    cancel_sweep(
        scenario,
        lives.all_were_cleaned_up,
        may_raise=SupervisionError,
        loop_factory=factory,
    )


@every_loop
def test_sweep_of_a_block_that_an_essential_service_ends(factory: Any) -> None:
    """Silently, unless it was cancelled."""
    lives = Lives()

    async def scenario() -> None:
        lives.clear()
        async with supervise(lives.service("a"), Service(job, essential=True)):
            await waiting()

    cancel_sweep(
        scenario,
        lives.all_were_cleaned_up,
        may_raise=SupervisorClosed,
        loop_factory=factory,
    )


# For ever restarted


async def memory_of(
    run: Callable[[int], Awaitable[object]], few: int, many: int
) -> int:
    """Return by how much more memory is in use after many than after few."""

    async def used(count: int) -> int:
        await run(count)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        await used(few)
        before = await used(few)
        return await used(many) - before
    finally:
        tracemalloc.stop()


@pytest.mark.virtual_time
@strategies
@pytest.mark.parametrize("last", [False, True])
async def test_memory_is_flat_over_many_lives(
    *, last: bool, strategy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A crashing child leaves nothing of its lives but the last few texts."""
    caplog.set_level(logging.CRITICAL, "safeaio.supervise")
    left = 4000
    seen: list[int] = []

    async def crash() -> None:
        nonlocal left
        left -= 1
        if left in (3500, 0):  # not after the end, when all would be gone
            gc.collect()
            seen.append(tracemalloc.get_traced_memory()[0])
        if left:
            raise OSError("x" * 100)

    service = Service(crash, max_restarts=10**9, backoff=AT_ONCE, essential=True)
    tracemalloc.start()
    try:
        services = (waiting, service) if last else (service, waiting)
        await supervise(*services, strategy=strategy)
    finally:
        tracemalloc.stop()
    assert seen[1] - seen[0] < 10_000


@strategies
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("way", ["raises", "returns", "is-stopped"])
def test_lives_leave_nothing_to_the_garbage_collector(
    way: str, steps: int, strategy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even one that raises in an eager first step: its traceback leads to our frames.

    A task factory's leads to those of asyncio, too, some of which keep the task.
    """
    caplog.set_level(logging.CRITICAL, "safeaio.supervise")

    async def garbage_of(lives: int) -> int:
        left = lives

        async def live() -> None:
            nonlocal left
            left -= 1
            for _ in range(steps):
                await asyncio.sleep(0)
            if left and way == "raises":
                raise OSError
            if way == "is-stopped":
                await asyncio.Event().wait()

        service = Service(
            live, name="a", restart="always", max_restarts=10**9, backoff=AT_ONCE
        )
        async with supervise(waiting, service, strategy=strategy) as sup:
            while left > 0:
                if way == "is-stopped":
                    await sup.restart("a")
                await asyncio.sleep(0)
            await sup.stop("a")
        return gc.collect()

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            few = runner.run(garbage_of(20))
            assert runner.run(garbage_of(320)) - few < 300
    finally:
        gc.enable()


async def test_memory_is_flat_over_many_short_lived_children() -> None:
    """A pool leaves nothing of those that have ended."""

    async def run(count: int) -> None:
        async with supervise() as sup:
            for n in range(count):
                await sup.start(turns, 1, restart="never")
                if n % 50 == 0:
                    await sup.wait()
            await sup.wait()
            gc.collect()
            peak = tracemalloc.get_traced_memory()[0]
            peaks.append(peak)

    peaks: list[int] = []
    await memory_of(run, 100, 5000)
    assert peaks[-1] - peaks[0] < 20_000


async def test_endless_restarts_let_the_loop_turn() -> None:
    """Whoever asks is answered at once, however a child fails."""
    lives = 0

    async def crash() -> None:
        nonlocal lives
        lives += 1
        raise OSError

    service = Service(crash, max_restarts=10**9, backoff=AT_ONCE)
    async with supervise(service) as sup:
        for _ in range(50):
            await asyncio.sleep(0)
        before = lives
        await asyncio.sleep(0)
        assert lives - before <= 2
        assert len(sup.snapshot().children) == 1
        await sup.stop("crash")
        after = lives
        await turns(20)
        assert lives == after


@pytest.mark.virtual_time  # on uvloop nobody can count the timers
async def test_nothing_runs_while_nothing_happens() -> None:
    """Neither a task beyond the service's own, nor a timer."""
    loop = asyncio.get_running_loop()
    before = len(asyncio.all_tasks())
    async with supervise(waiting, waiting, waiting):
        await turns(10)
        assert len(asyncio.all_tasks()) == before + 3
        timers: Any = loop._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in timers if not timer.cancelled()] == []
