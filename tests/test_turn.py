"""The time budget of a turn of the loop, and eager starts."""

import asyncio
import gc
import sys
import weakref
from typing import Any

import pytest
import uvloop

from safeaio import bounded_gather
from safeaio._turn import SLICE, eager_start, turn_of

LOOPS = pytest.mark.parametrize(
    "factory",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


async def test_one_budget_for_each_loop() -> None:
    """Whoever runs in a loop shares its budget; another loop has its own."""
    loop = asyncio.get_running_loop()
    other = asyncio.new_event_loop()
    assert turn_of(loop) is turn_of(loop)
    assert turn_of(loop) is not turn_of(other)
    other.close()


async def test_spent_when_the_slice_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to ask opens the budget; it is spent a slice later, and new each turn."""
    loop, now = asyncio.get_running_loop(), 1000.0
    monkeypatch.setattr("safeaio._turn.perf_counter", lambda: now)
    turn = turn_of(loop)
    assert not turn.spent(loop)
    now += SLICE / 2
    assert not turn.spent(loop)
    now += SLICE
    assert turn.spent(loop)
    assert turn.spent(loop)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turn.ends < 0
    assert not turn.spent(loop)


@LOOPS
@pytest.mark.parametrize("midway", [False, True])
def test_closed_loop_is_collected(factory: Any, midway: bool) -> None:
    """The budget does not keep its loop alive."""
    loop = factory()
    turn_of(loop).spent(loop)
    if not midway:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None


async def first_steps(loop: asyncio.AbstractEventLoop) -> list[str]:
    steps: list[str] = []

    async def child() -> None:
        steps.append("child")

    task = eager_start(loop)(child())
    steps.append("starter")
    await task
    return steps


@LOOPS
def test_eager_where_nothing_speaks_against_it(factory: Any) -> None:
    """A task runs at once, where Python can do that."""
    with asyncio.Runner(loop_factory=factory) as runner:
        steps = runner.run(first_steps(runner.get_loop()))
    eager = ["child", "starter"]
    assert steps == (eager if sys.version_info >= (3, 12) else eager[::-1])


@LOOPS
def test_task_factory_is_not_bypassed(factory: Any) -> None:
    """Where the loop has a task factory, that makes the task."""
    made: list[str] = []

    def make(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **kwargs)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_task_factory(make)
        steps = runner.run(first_steps(runner.get_loop()))
    assert steps == ["starter", "child"]
    assert "child" in made


async def test_flag_is_restored_when_a_start_fails() -> None:
    """After an error in a first step children are started eagerly again."""
    loop = asyncio.get_running_loop()

    async def fail() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await bounded_gather(fail())
    assert not turn_of(loop).starting
