"""Tasks that nobody awaits."""

import asyncio
import gc
import inspect
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest

from safeaio import background, run
from safeaio._background import is_background

from .conftest import LoopFactory

Reports = list[dict[str, Any]]


class Error(Exception):
    """What a task raises."""


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


async def value(result: object = "result") -> object:
    await turns(1)
    return result


async def fail() -> None:
    await turns(1)
    raise Error


# In any loop


async def test_coroutine() -> None:
    """It gets a task of its own, and a name if one is given."""
    task = background(value(), name="named")
    assert isinstance(task, asyncio.Task)
    assert task.get_name() == "named"
    assert await task == "result"


async def test_task() -> None:
    """A task is taken as it is, and keeps its name unless another is given."""
    task = asyncio.create_task(value(), name="before")
    assert background(task) is task
    assert task.get_name() == "before"
    assert background(task, name="after") is task
    assert task.get_name() == "after"
    assert await task == "result"


async def test_done_task() -> None:
    """There is nothing to hold."""
    task = asyncio.create_task(value())
    await task
    assert background(task) is task
    await turns(2)
    assert not is_background(task)


async def test_held_until_it_ends() -> None:
    """The loop alone would let go of a task that nobody else knows."""
    waits = asyncio.get_running_loop().create_future()

    async def wait(future: "asyncio.Future[None]") -> None:
        await future

    task = weakref.ref(background(wait(waits)))
    future = weakref.ref(waits)
    del waits
    await turns(2)
    gc.collect()
    held = task()
    assert held is not None
    assert is_background(held)
    waiter = future()
    assert waiter is not None
    waiter.set_result(None)
    await turns(3)
    assert not is_background(held)
    del held, waiter
    gc.collect()
    assert task() is None


async def test_failure_is_reported_at_once(reported: Reports) -> None:
    """Once, though somebody holds the task and could still ask."""
    task = background(fail(), name="worker")
    await asyncio.wait([task])
    await turns(2)
    [report] = reported
    assert report["message"] == "background(): task 'worker' raised"
    assert isinstance(report["exception"], Error)
    assert report["task"] is task


async def test_same_task_twice(reported: Reports) -> None:
    """Its failure is reported once."""
    task = asyncio.create_task(fail())
    background(task)
    background(task)
    await asyncio.wait([task])
    await turns(2)
    assert len(reported) == 1


async def test_cancelled() -> None:
    """That is no failure."""
    task = background(forever())
    await turns(1)
    task.cancel()
    await asyncio.wait([task])
    await turns(2)
    assert not is_background(task)


# What it refuses


@pytest.mark.parametrize("given", [None, 1, "text", asyncio.Event])
async def test_neither_coroutine_nor_task(given: Any) -> None:
    """It says what it got."""
    with pytest.raises(TypeError, match="takes a coroutine or a task, got"):
        background(given)


async def test_function() -> None:
    """A call is missing."""
    with pytest.raises(TypeError, match=r"write background\(func\(\.\.\.\)\)"):
        background(value)  # type: ignore[arg-type]


async def test_future() -> None:
    """A future runs nothing."""
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="takes a coroutine or a task"):
        background(future)  # type: ignore[arg-type]


def test_without_loop() -> None:
    """The coroutine is closed."""
    coro = value()
    with pytest.raises(RuntimeError, match=r"call it below safeaio\.run\(main\)"):
        background(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_task_of_another_loop() -> None:
    """It cannot be waited for here."""
    other = asyncio.new_event_loop()
    task = other.create_task(value())
    with pytest.raises(ValueError, match="belongs to another loop"):
        background(task)
    task.cancel()
    await asyncio.to_thread(_end, other, task)


def _end(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[object]") -> None:
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


async def test_task_factory_that_raises() -> None:
    """The coroutine is closed then, too."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def factory(*_: Any, **__: Any) -> asyncio.Task[Any]:
        raise Error

    coro = value()
    loop.set_task_factory(factory)
    with pytest.raises(Error):
        background(coro)
    loop.set_task_factory(before)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# Below run


class Worker:
    """Runs until it is cancelled, and cleans up for some turns."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.cancels = 0
        self.ended = False

    async def run(self) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            self.cancels += 1
        await turns(5)
        self.ended = True
        raise self.error or asyncio.CancelledError


def strictly(main: Coroutine[Any, Any, object], loop_factory: LoopFactory) -> Reports:
    """Run with every leak an error; return what was reported."""
    reports: Reports = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reports.append(context)
        )
        await main

    run(watched, on_leak="raise", loop_factory=loop_factory)
    return reports


def test_cancelled_and_awaited_by_run(loop_factory: LoopFactory) -> None:
    """Once, in the teardown; it is no leak."""
    workers = [Worker() for _ in range(3)]

    async def main() -> None:
        for worker in workers:
            background(worker.run())
        await turns(1)

    assert strictly(main(), loop_factory) == []
    assert all(worker.ended and worker.cancels == 1 for worker in workers)


def test_failure_in_the_teardown(loop_factory: LoopFactory) -> None:
    """It is reported once."""

    async def main() -> None:
        background(Worker(Error()).run(), name="worker")
        await turns(1)

    [report] = strictly(main(), loop_factory)
    assert report["message"] == "background(): task 'worker' raised"


def test_task_that_was_given_to_it(loop_factory: LoopFactory) -> None:
    """A task that somebody else created is no leak either."""
    worker = Worker()

    async def main() -> None:
        background(asyncio.create_task(worker.run()))
        await turns(1)

    assert strictly(main(), loop_factory) == []
    assert worker.ended


def test_other_tasks_are_leaks(loop_factory: LoopFactory) -> None:
    """Of two leftovers the one that was not given to it is named."""
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        background(Worker().run(), name="given")
        tasks.append(asyncio.create_task(Worker().run(), name="dropped"))
        await turns(1)

    with pytest.raises(Exception, match="main left behind") as caught:
        strictly(main(), loop_factory)
    assert "'dropped'" in str(caught.value)
    assert "'given'" not in str(caught.value)


def test_stuck_in_the_teardown() -> None:
    """It is named when its share is over, and run ends."""

    async def stubborn() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await forever()

    reports: Reports = []
    tasks: list[asyncio.Task[None]] = []

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reports.append(context)
        )
        tasks.append(background(stubborn(), name="mule"))
        await turns(1)
        return "result"

    assert run(main, grace=0.2, on_leak="raise") == "result"
    [report] = reports
    assert report["message"].startswith("safeaio.run() waits for task 'mule', still ")
