"""Cancels that are waited for, and work that outlasts them."""

import asyncio
import gc
import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from math import nan
from typing import Any

import anyio
import pytest

from safeaio import (
    CancellationSwallowedWarning,
    ChildCancelled,
    TaskStuckError,
    TaskStuckWarning,
    cancel_and_wait,
    shielded,
)
from safeaio.testing import Route, Run, VirtualClockLoop, cancel_sweep

from .conftest import LOOPS, LoopFactory

Reports = list[dict[str, Any]]
EVERY_LOOP = pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS.keys())


class Error(Exception):
    """What work raises."""


class Target:
    """Cleans up for some turns when it is cancelled, and counts how often it is."""

    def __init__(self, cleanup: int = 3, error: BaseException | None = None) -> None:
        self.cleanup = cleanup
        self.error = error
        self.started = self.ended = False
        self.cancels: list[asyncio.CancelledError] = []

    async def run(self) -> None:
        self.started = True
        try:
            await forever()
        except asyncio.CancelledError as exc:
            self.cancels.append(exc)
        await self.clean_up()
        self.ended = True
        raise self.error or asyncio.CancelledError

    async def clean_up(self) -> None:
        for _ in range(self.cleanup):
            try:
                await turns(1)
            except asyncio.CancelledError as exc:
                self.cancels.append(exc)


class Work:
    """Takes some turns, and counts the cancels that it gets on the way."""

    def __init__(self, length: int = 4, error: BaseException | None = None) -> None:
        self.length = length
        self.error = error
        self.started = self.ended = False
        self.cancels = 0

    async def run(self) -> str:
        self.started = True
        for _ in range(self.length):
            try:
                await turns(1)
            except asyncio.CancelledError:
                self.cancels += 1
        self.ended = True
        if self.error is not None:
            raise self.error
        return "result"


class Stubborn:
    """Takes no notice of any cancel until it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cancels = 0

    async def run(self) -> None:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancels += 1
        raise asyncio.CancelledError


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


async def swallow() -> str:
    with suppress(asyncio.CancelledError):
        await forever()
    return "swallowed"


async def fail(error: BaseException, after: int = 1) -> None:
    await turns(after)
    raise error


async def fail_as(kind: type[BaseException]) -> None:
    await turns(1)
    raise kind


def host() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def start(*works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(work) for work in works]
    await turns(1)
    return tasks


async def raised_by(work: Awaitable[object]) -> BaseException | None:
    """Run `work` here; take back the cancels of this task that it lets through."""
    before = host().cancelling()
    try:
        await work
    except BaseException as exc:  # noqa: BLE001 - looked at by the test
        while host().cancelling() > before:
            host().uncancel()
        return exc
    return None


# cancel_and_wait: what it is for


async def test_waits_until_targets_have_ended() -> None:
    """When it returns, all cleanup has run."""
    targets = [Target(n) for n in range(5)]
    tasks = await start(*[target.run() for target in targets])
    await cancel_and_wait(*tasks)
    assert all(target.ended and len(target.cancels) == 1 for target in targets)
    assert all(task.cancelled() for task in tasks)


async def test_cancels_all_before_the_first_wait() -> None:
    """No target gets to run between the cancels of two others."""
    seen: list[list[int]] = []

    async def main() -> None:
        try:
            await forever()
        finally:
            seen.append([task.cancelling() for task in tasks])

    tasks = await start(*[main() for _ in range(4)])
    await cancel_and_wait(*tasks)
    assert seen == [[1] * 4] * 4


async def test_passes_its_message_on() -> None:
    """Targets get what `Task.cancel` takes as `msg`."""
    target = Target()
    await cancel_and_wait(*await start(target.run()), msg="enough")
    assert [cancel.args for cancel in target.cancels] == [("enough",)]


async def test_cancels_before_the_first_step() -> None:
    """A target that has not started never does."""
    target = Target()
    task = asyncio.create_task(target.run())
    eager = target.started
    await cancel_and_wait(task)
    assert task.cancelled()
    assert target.ended == eager


async def test_nothing_to_cancel() -> None:
    """Without tasks, or with done ones, it returns at once, and cancels nothing."""

    async def done() -> str:
        return "result"

    task = asyncio.create_task(done())
    gone = asyncio.create_task(forever())
    gone.cancel()
    await asyncio.wait([task, gone])
    other: list[str] = []
    asyncio.get_running_loop().call_soon(other.append, "ran")
    await cancel_and_wait()
    await cancel_and_wait(task, gone)
    assert other == []
    assert task.cancelling() == 0
    assert task.result() == "result"


async def test_same_target_twice() -> None:
    """One that is named twice, or beside a done one, gets one cancel."""
    target = Target()
    [task] = await start(target.run())
    await cancel_and_wait(task, task)
    await cancel_and_wait(task)
    assert len(target.cancels) == 1


async def test_two_callers_of_one_target() -> None:
    """Each of two callers waits for its end."""
    [task] = await start(Target(6).run())
    callers = await start(cancel_and_wait(task), cancel_and_wait(task))
    await asyncio.wait(callers)
    assert task.cancelled()
    assert [caller.exception() for caller in callers] == [None, None]


async def test_error_of_a_target_is_not_raised(reported: Reports) -> None:
    """It stays unretrieved: asyncio reports it, unless the target's owner asks."""
    tasks = await start(Target(error=Error("one")).run(), Target(error=Error()).run())
    await cancel_and_wait(*tasks)
    assert isinstance(tasks[1].exception(), Error)
    tasks.clear()
    gc.collect()
    assert [report["message"] for report in reported] == [
        "Task exception was never retrieved"
    ]


@pytest.mark.virtual_time
async def test_targets_that_cancel_each_other_end() -> None:
    """Of two tasks that wait for each other the deadline frees both."""
    tasks: list[asyncio.Task[None]] = []

    async def main(other: int) -> None:
        try:
            await forever()
        finally:
            await cancel_and_wait(tasks[other], timeout=1 + other)

    tasks += await start(main(1), main(0))
    await cancel_and_wait(*tasks)
    assert all(task.done() for task in tasks)
    for task in tasks:
        task.cancelled() or task.exception()


# cancel_and_wait: the caller's cancel


@pytest.mark.parametrize("when", range(1, 10))
async def test_cancel_of_the_caller_comes_when_targets_have_ended(when: int) -> None:
    """It is raised, the first one, and not before the last cleanup has run."""
    target = Target(5)
    tasks = await start(target.run())

    async def call() -> None:
        try:
            await cancel_and_wait(*tasks)
        finally:
            assert target.ended
        await turns(20)

    [caller] = await start(call())
    await turns(when - 1)
    caller.cancel("first")
    await turns(1)
    caller.cancel("second")
    error = await raised_by(caller)
    assert isinstance(error, asyncio.CancelledError)
    assert target.ended
    assert len(target.cancels) == 1


async def test_caller_that_was_cancelled_before() -> None:
    """In the `finally` of a cancelled task it waits, and its count is left alone."""
    target = Target(5)
    tasks = await start(target.run())
    counts: list[int] = []

    async def call() -> None:
        try:
            await forever()
        finally:
            await cancel_and_wait(*tasks)
            counts.append(host().cancelling())

    [caller] = await start(call())
    caller.cancel()
    await asyncio.wait([caller])
    assert target.ended
    assert counts == [1]
    assert caller.cancelled()


async def test_native_cancel_goes_before_a_scope() -> None:
    """Of both it is the one that is raised, though it comes later."""
    target = Target(5)
    tasks = await start(target.run())
    raised: list[asyncio.CancelledError] = []

    async def call() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await cancel_and_wait(*tasks)
            except asyncio.CancelledError as exc:
                raised.append(exc)
                raise

    [caller] = await start(call())
    await turns(2)
    caller.cancel("native")
    await asyncio.wait([caller])
    assert [cancel.args for cancel in raised] == [("native",)]
    assert target.ended


@pytest.mark.virtual_time
async def test_stuck_target_while_the_caller_is_cancelled() -> None:
    """The cancel is raised after the timeout; before it in the chain stand the others."""
    stubborn = Stubborn()
    [task] = await start(stubborn.run())
    asyncio.get_running_loop().call_later(1, host().cancel)

    async def call() -> None:
        try:
            raise Error
        except Error:
            await cancel_and_wait(task, timeout=5)

    error = await raised_by(call())
    assert isinstance(error, asyncio.CancelledError)
    assert isinstance(error.__context__, TaskStuckError)
    assert isinstance(error.__context__.__context__, Error)
    assert asyncio.get_running_loop().time() == 5
    assert stubborn.cancels == 1
    stubborn.gate.set()
    await asyncio.wait([task])


# cancel_and_wait: the stuck, and those who swallow


@pytest.mark.virtual_time
async def test_stuck_targets_are_given_up() -> None:
    """After the timeout each is named with where it stands; it runs on."""
    stubborn = Stubborn()
    tasks = await start(stubborn.run(), Target().run())
    tasks[0].set_name("mule")
    with pytest.raises(TaskStuckError) as caught:
        await cancel_and_wait(*tasks, timeout=2.5)
    [report] = caught.value.reports
    assert "cancel_and_wait() waits for task 'mule', still running 2.5 s" in report
    assert "in run" in report
    assert "self.gate.wait()" in report
    assert asyncio.get_running_loop().time() == 2.5
    assert not tasks[0].done()
    assert tasks[1].cancelled()
    stubborn.gate.set()
    await asyncio.wait(tasks)
    assert stubborn.cancels == 1


@pytest.mark.virtual_time
async def test_timeout_is_ten_seconds_unless_told() -> None:
    """The default is finite."""
    stubborn = Stubborn()
    [task] = await start(stubborn.run())
    with pytest.raises(TaskStuckError):
        await cancel_and_wait(task)
    assert asyncio.get_running_loop().time() == 10
    stubborn.gate.set()
    await asyncio.wait([task])


async def test_timeout_of_zero_gives_one_turn() -> None:
    """Who ends in that turn is not stuck, though it is the turn of the alarm."""
    stubborn = Stubborn()
    tasks = await start(stubborn.run(), forever())
    with pytest.raises(TaskStuckError) as caught:
        await cancel_and_wait(*tasks, timeout=0)
    assert len(caught.value.reports) == 1
    assert tasks[0].get_name() in caught.value.reports[0]
    await cancel_and_wait(*await start(forever()), timeout=0)
    stubborn.gate.set()
    await asyncio.wait(tasks)


@pytest.mark.virtual_time
async def test_without_timeout_the_stuck_are_named_every_ten_seconds(
    reported: Reports,
) -> None:
    """It goes on waiting; each report cancels once more."""
    stubborn = Stubborn()
    [task] = await start(stubborn.run())
    asyncio.get_running_loop().call_later(35, stubborn.gate.set)
    with pytest.warns(TaskStuckWarning) as caught:
        await cancel_and_wait(task, timeout=None)
    ages = [str(warning.message).split(" s after")[0][-4:] for warning in caught]
    assert ages == ["10.0", "20.0", "30.0"]
    assert [report["message"] for report in reported] == [
        str(warning.message) for warning in caught
    ]
    assert stubborn.cancels == 4
    assert task.cancelled()


async def test_swallowed_cancel_is_named() -> None:
    """A target that returned a result instead is named, with where it stood."""
    [task] = await start(swallow())
    with pytest.warns(CancellationSwallowedWarning) as caught:
        await cancel_and_wait(task)
    [warning] = caught
    text = str(warning.message)
    assert "cancel_and_wait() cancelled task" in text
    assert task.get_name() in text
    assert "swallow" in text
    assert __file__ in text
    assert task.result() == "swallowed"


async def test_cancel_that_was_taken_back_is_not_swallowed() -> None:
    """With `uncancel` a target may return a result."""

    async def refuse() -> None:
        with suppress(asyncio.CancelledError):
            await forever()
        host().uncancel()

    await cancel_and_wait(*await start(refuse()))


async def test_target_that_fails_has_swallowed_nothing(reported: Reports) -> None:
    """An error is an end like any other, whatever became of the cancel."""
    [task] = await start(Target(error=Error()).run())
    await cancel_and_wait(task)
    assert isinstance(task.exception(), Error)
    assert reported == []


# cancel_and_wait: bad input


async def test_refuses_the_current_task() -> None:
    """It would wait for itself; nothing else is cancelled then."""
    [task] = await start(forever())
    with pytest.raises(RuntimeError, match="would wait for itself"):
        await cancel_and_wait(task, host())
    assert task.cancelling() == 0
    await cancel_and_wait(task)


@pytest.mark.parametrize("make", [list, tuple, set, frozenset])
async def test_refuses_a_collection(make: Callable[[Any], Any]) -> None:
    """The message shows the star."""
    [task] = await start(forever())
    with pytest.raises(TypeError, match=r"write cancel_and_wait\(\*tasks\)"):
        await cancel_and_wait(make([task]))
    assert task.cancelling() == 0
    await cancel_and_wait(task)


@pytest.mark.parametrize("thing", [None, "task", forever, 3])
async def test_refuses_what_is_no_task(thing: Any) -> None:
    """The message shows what was given."""
    with pytest.raises(TypeError) as caught:
        await cancel_and_wait(thing)
    assert str(caught.value) == f"cancel_and_wait() takes tasks, got {thing!r}"


async def test_refuses_a_future() -> None:
    """A future that is no task has no cleanup to wait for."""
    future: Any = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="takes tasks, got <Future"):
        await cancel_and_wait(future)
    assert not future.cancelled()


@pytest.mark.parametrize("timeout", [10.0, -1])
async def test_refused_coroutines_are_closed(timeout: float) -> None:
    """Each of them, whatever the first objection was."""
    coros: list[Any] = [forever(), forever()]
    with pytest.raises((TypeError, ValueError)):
        await cancel_and_wait(*coros, timeout=timeout)
    states = [inspect.getcoroutinestate(coro) for coro in coros]
    assert states == [inspect.CORO_CLOSED] * 2


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (nan, ValueError), ("3", TypeError)]
)
async def test_refuses_a_bad_timeout(timeout: Any, error: type[Exception]) -> None:
    """Before anything is cancelled."""
    [task] = await start(forever())
    with pytest.raises(error, match=r"cancel_and_wait\(\): timeout must be"):
        await cancel_and_wait(task, timeout=timeout)
    assert task.cancelling() == 0
    await cancel_and_wait(task)


async def test_refuses_what_belongs_to_another_loop() -> None:
    """A task or future of another loop would never wake this one."""
    other = asyncio.new_event_loop()
    other.set_task_factory(None)
    future = other.create_future()
    task = other.create_task(turns(1))
    try:
        with pytest.raises(ValueError, match="belongs to another loop"):
            await cancel_and_wait(task)
        for work in (task, future):
            with pytest.raises(ValueError, match="belongs to another loop"):
                await shielded(work)
        assert task.cancelling() == 0
    finally:
        task.cancel()
        await asyncio.to_thread(other.run_until_complete, asyncio.wait([task]))
        other.close()


# cancel_and_wait: many


async def test_many_targets_get_one_cancel_each() -> None:
    """Ten thousand of them, and all have ended when it returns."""
    targets = [Target(1) for _ in range(10_000)]
    tasks = await start(*[target.run() for target in targets])
    await cancel_and_wait(*tasks, timeout=60)
    assert {len(target.cancels) for target in targets} == {1}
    assert all(task.cancelled() for task in tasks)


@pytest.mark.virtual_time
async def test_cost_grows_with_the_number_of_targets() -> None:
    """Eight times as many take about eight times as many calls, not sixty-four."""

    async def calls(count: int) -> int:
        tasks = await start(*[forever() for _ in range(count)])
        called = 0

        def profile(*_: object) -> None:
            nonlocal called
            called += 1

        gc.disable()  # what it frees is not ours
        sys.setprofile(profile)
        try:
            await cancel_and_wait(*tasks)
        finally:
            sys.setprofile(None)
            gc.enable()
        return called

    few, many = await calls(500), await calls(4_000)
    assert 500 < few < many < 9 * few


# shielded: what it is for


async def test_returns_the_result() -> None:
    """Of a coroutine, a task, a future, or whatever else can be awaited."""

    class Thing:
        def __await__(self) -> Generator[Any, Any, str]:
            return Work().run().__await__()

    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    loop.call_soon(future.set_result, "result")
    work: list[Awaitable[str]] = [
        Work().run(),
        asyncio.create_task(Work().run()),
        future,
        Thing(),
    ]
    assert [await shielded(aw) for aw in work] == ["result"] * 4
    assert await shielded(future) == "result"


@pytest.mark.parametrize("when", range(1, 10))
@pytest.mark.parametrize("given", [False, True], ids=["coroutine", "task"])
async def test_work_outlasts_any_number_of_cancels(when: int, given: bool) -> None:
    """The first is raised, the same object, after the work's end."""
    work = Work(8)
    caller = asyncio.create_task(
        shielded(asyncio.create_task(work.run()) if given else work.run())
    )
    await turns(when)
    caller.cancel("first")
    for _ in range(8):
        await turns(1)
        caller.cancel("again")
    error = await raised_by(caller)
    assert isinstance(error, asyncio.CancelledError)
    assert work.ended
    assert work.cancels == 0


async def test_first_cancel_is_raised() -> None:
    """Its message tells which of several it was."""
    [caller] = await start(shielded(Work(9).run()))
    for message in ("first", "second", "third"):
        await turns(1)
        caller.cancel(message)
    with pytest.raises(asyncio.CancelledError, match="first"):
        await caller


async def test_error_is_raised_as_it_is() -> None:
    """The same object, with neither context nor cause."""
    error = Error()
    assert await raised_by(shielded(fail(error))) is error
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_error_of_a_given_task() -> None:
    """Whoever else asks for it gets the same object."""
    error = Error()
    task = asyncio.create_task(fail(error))
    assert await raised_by(shielded(task)) is error
    assert task.exception() is error


async def test_error_that_a_cancel_hides_is_reported(reported: Reports) -> None:
    """Once, by the loop's exception handler."""
    error = Error()
    [caller] = await start(shielded(fail(error, 3)))
    caller.cancel()
    assert isinstance(await raised_by(caller), asyncio.CancelledError)
    [report] = reported
    assert report["exception"] is error
    assert "shielded()" in report["message"]


async def test_error_of_a_given_task_is_left_to_its_owner(reported: Reports) -> None:
    """It is neither reported nor marked as retrieved while somebody may ask for it."""
    task = asyncio.create_task(fail(Error(), 3))
    [caller] = await start(shielded(task))
    caller.cancel()
    await asyncio.wait([caller, task])
    assert reported == []
    del task, caller
    gc.collect()
    assert [report["message"] for report in reported] == [
        "Task exception was never retrieved"
    ]


async def test_work_cancelled_with_its_caller_is_no_error() -> None:
    """When all tasks are cancelled, as at the end of a program, nothing is reported."""
    [caller] = await start(shielded(forever()))
    await turns(1)
    for task in asyncio.all_tasks() - {host()}:
        task.cancel()
    assert isinstance(await raised_by(caller), asyncio.CancelledError)


async def test_work_that_ends_cancelled_is_an_error() -> None:
    """A cancel that was not the caller's never looks like one."""
    stray = asyncio.CancelledError()
    error = await raised_by(shielded(fail(stray)))
    assert isinstance(error, ChildCancelled)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    task = asyncio.create_task(forever())
    task.cancel()
    assert isinstance(await raised_by(shielded(task)), ChildCancelled)
    assert isinstance(await raised_by(shielded(task)), ChildCancelled)


async def test_work_that_cancels_its_caller() -> None:
    """That is a cancel of the caller like any other."""
    caller = host()

    async def work() -> None:
        await turns(1)
        caller.cancel()
        await turns(2)

    assert isinstance(await raised_by(shielded(work())), asyncio.CancelledError)


async def test_work_has_a_copy_of_the_context() -> None:
    """What it sets stays its own."""
    var = ContextVar("var", default="outside")
    var.set("caller")
    seen: list[str] = []

    async def work() -> None:
        seen.append(var.get())
        await turns(1)
        var.set("work")

    await shielded(work())
    assert seen == ["caller"]
    assert var.get() == "caller"


async def test_work_has_a_task_of_its_own() -> None:
    """A coroutine's own task bears the coroutine's name."""
    seen: list[Any] = []

    async def work() -> None:
        seen.append(host())
        await turns(1)
        seen.append(host().get_coro())

    await shielded(work())
    task, coro = seen
    assert task is not host()
    assert coro.__qualname__ == work.__qualname__


async def test_work_cancelled_before_its_first_step_is_closed() -> None:
    """A coroutine that never ran is not reported as never awaited."""
    work = Work()
    caller = asyncio.create_task(shielded(work.run()))

    def cancel_the_new() -> None:
        for task in asyncio.all_tasks() - {host_task, caller}:
            task.cancel()

    host_task = host()
    asyncio.get_running_loop().call_soon(cancel_the_new)
    error = await raised_by(caller)
    gc.collect()
    if work.started:  # eager
        assert error is None
    else:
        assert isinstance(error, ChildCancelled)


async def test_caller_cancelled_before_its_first_step() -> None:
    """Nothing runs then: the call has not been made."""
    work = Work()
    coro = work.run()
    caller = asyncio.create_task(shielded(coro))
    eager = work.started
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert work.started == work.ended == eager
    coro.close()  # or Python says that it was never awaited


# shielded: the timeout


@pytest.mark.virtual_time
@pytest.mark.parametrize("given", [False, True], ids=["coroutine", "task"])
async def test_timeout_cancels_once_and_waits(given: bool) -> None:
    """The work cleans up to its end, then TimeoutError is raised."""
    cancels: list[float] = []
    loop = asyncio.get_running_loop()

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancels.append(loop.time())
            await asyncio.sleep(3)
            raise

    task = asyncio.create_task(work())
    with pytest.raises(
        TimeoutError, match=r"shielded\(\): not done after 2 s"
    ) as caught:
        await shielded(task if given else work(), timeout=2)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert loop.time() == 5
    assert cancels == [2]
    await cancel_and_wait(task)


@pytest.mark.virtual_time
async def test_timeout_cancels_a_given_future() -> None:
    """Also one that is no task."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await shielded(future, timeout=1)
    assert future.cancelled()


@pytest.mark.virtual_time
async def test_error_after_the_timeout_is_its_cause() -> None:
    """It is not lost."""
    error = Error()
    raised = await raised_by(shielded(Target(error=error).run(), timeout=1))
    assert isinstance(raised, TimeoutError)
    assert raised.__cause__ is error


@pytest.mark.virtual_time
async def test_result_in_the_turn_of_the_timeout_counts() -> None:
    """What has ended when the alarm rings was in time, and nothing cancels it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    loop.call_at(1, future.set_result, "in time")
    assert await shielded(future, timeout=1) == "in time"


@pytest.mark.virtual_time
async def test_cancel_of_the_caller_goes_before_the_timeout() -> None:
    """Whether it comes before the timeout or while the work cleans up after it."""
    loop = asyncio.get_running_loop()

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(2)

    for delay in (1, 3):
        loop.call_later(delay, host().cancel)
        error = await raised_by(shielded(work(), timeout=2))
        assert isinstance(error, asyncio.CancelledError)
    assert loop.time() == 8


@pytest.mark.virtual_time
async def test_swallowed_timeout_is_named() -> None:
    """Work that returns a result after its cancel is too late, and named."""
    with pytest.warns(CancellationSwallowedWarning, match="swallow") as caught:  # noqa: SIM117
        with pytest.raises(TimeoutError):
            await shielded(swallow(), timeout=1)
    assert "shielded() cancelled task" in str(caught[0].message)


@pytest.mark.virtual_time
async def test_stuck_work_is_named_and_waited_for(reported: Reports) -> None:
    """Each ten seconds after the timeout; it is cancelled again then."""
    stubborn = Stubborn()
    asyncio.get_running_loop().call_later(26, stubborn.gate.set)
    with pytest.warns(TaskStuckWarning) as caught, pytest.raises(TimeoutError):
        await shielded(stubborn.run(), timeout=5)
    assert len(caught) == len(reported) == 2
    assert stubborn.cancels == 3
    assert asyncio.get_running_loop().time() == 26


async def test_timer_dies_with_the_call() -> None:
    """A timeout that is not needed any more holds nothing."""
    error = Error()
    ref = weakref.ref(error)
    assert await raised_by(shielded(fail(error), timeout=3600)) is error
    del error
    await turns(1)
    gc.collect()
    assert ref() is None


# shielded: bad input


@pytest.mark.parametrize("thing", [None, 3, "work", [1]])
async def test_refuses_what_cannot_be_awaited(thing: Any) -> None:
    """The message shows what was given."""
    with pytest.raises(TypeError) as caught:
        await shielded(thing)
    assert str(caught.value) == f"shielded() takes an awaitable, got {thing!r}"


async def test_refuses_a_function() -> None:
    """The message shows the parentheses that were forgotten."""
    function: Any = forever
    with pytest.raises(TypeError, match=r"shielded\(forever\(\.\.\.\)\), not shielded"):
        await shielded(function)


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (nan, ValueError), (True, TypeError)]
)
async def test_shielded_refuses_a_bad_timeout(
    timeout: Any, error: type[Exception]
) -> None:
    """The coroutine is closed, and has not started."""
    work = Work()
    coro = work.run()
    with pytest.raises(error, match=r"shielded\(\): timeout must be"):
        await shielded(coro, timeout=timeout)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert not work.started


async def test_shielded_refuses_the_current_task() -> None:
    """It would wait for itself."""
    with pytest.raises(RuntimeError, match="would wait for itself"):
        await shielded(host())


def test_shielded_needs_a_task() -> None:
    """Without one there is no caller to shield from; the coroutine is closed."""
    coro = forever()
    with pytest.raises(RuntimeError):
        shielded(coro).send(None)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# Inside other scopes


@pytest.mark.virtual_time
async def test_inside_a_timeout() -> None:
    """An expired `asyncio.timeout` waits for the work, then raises its TimeoutError."""
    loop = asyncio.get_running_loop()
    [task] = await start(asyncio.sleep(0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await shielded(asyncio.sleep(5))
    assert loop.time() == 5

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(5)

    [task] = await start(slow())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await cancel_and_wait(task)
    assert loop.time() == 10
    assert task.cancelled()


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_inside_a_task_group(group: str) -> None:
    """A sibling that fails cancels both; the group waits, and raises only its error."""
    work, target = Work(9), Target(9)
    [task] = await start(target.run())
    error = Error()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        if group == "asyncio":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(shielded(work.run()))
                tasks.create_task(cancel_and_wait(task))
                await turns(2)
                raise error
        else:
            async with anyio.create_task_group() as scopes:
                scopes.start_soon(shielded, work.run())
                scopes.start_soon(cancel_and_wait, task)
                await turns(2)
                raise error
    assert caught.value.exceptions == (error,)
    assert work.ended
    assert work.cancels == 0
    assert target.ended


@pytest.mark.virtual_time
@pytest.mark.parametrize("call", ["cancel_and_wait", "shielded"])
async def test_waits_without_spinning(call: str) -> None:
    """A cancelled anyio scope delivers in each turn; no turn of ours comes of it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    length = 200
    tasks = await start(Target(length).run())
    before = loop.ticks
    with anyio.CancelScope() as scope:
        scope.cancel()
        if call == "shielded":
            await shielded(Work(length).run())
        else:
            await cancel_and_wait(*tasks)
    assert scope.cancelled_caught
    assert length <= loop.ticks - before < length + 30
    await cancel_and_wait(*tasks)


async def test_nested() -> None:
    """Shielded in shielded in cancel_and_wait: the innermost work still ends."""
    work = Work(6)
    tasks = await start(shielded(shielded(work.run())))
    await turns(2)
    [canceller] = await start(cancel_and_wait(*tasks))
    canceller.cancel()
    await asyncio.wait([canceller])
    assert canceller.cancelled()
    assert tasks[0].cancelled()
    assert work.ended


# Interrupts, and coroutines that are closed


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("cancelled", [False, True], ids=["left alone", "cancelled"])
async def test_interrupt_from_the_work(
    kind: type[BaseException], cancelled: bool
) -> None:
    """It comes out bare, the same object, and before a cancel."""
    error = kind()
    raised: list[BaseException | None] = []

    async def call() -> None:
        raised.append(await raised_by(shielded(fail(error, 4))))

    [caller] = await start(call())
    if cancelled:
        caller.cancel()
    await caller
    assert raised == [error]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_interrupt_goes_before_the_timeout(kind: type[BaseException]) -> None:
    """The work raises it while it is cut."""
    error = kind()
    assert await raised_by(shielded(Target(error=error).run(), timeout=0)) is error


@EVERY_LOOP
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_from_a_target(
    kind: type[BaseException], factory: LoopFactory
) -> None:
    """asyncio throws it out of the loop; when that goes on, the others are waited for."""
    target = Target(5)
    ended: list[str] = []

    async def main() -> None:
        tasks = await start(Target(1, kind()).run(), target.run())
        try:
            await cancel_and_wait(*tasks)
        finally:
            assert target.ended
            tasks[0].exception()
            ended.append("main")

    with pytest.raises(kind), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert ended == ["main"]


@EVERY_LOOP
@pytest.mark.parametrize("call", ["cancel_and_wait", "shielded"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["at once", "cancelled"])
def test_closed_while_it_waits(
    call: str, cancelled: bool, factory: LoopFactory
) -> None:
    """Python lets a closed coroutine await nothing: the work is cancelled, once."""
    target = Target()

    async def main() -> None:
        if call == "shielded":
            coro: Coroutine[Any, Any, None] = shielded(target.run())
        else:
            coro = cancel_and_wait(*await start(target.run()))
        coro.send(None)
        await turns(1)
        if cancelled:
            with suppress(StopIteration):
                coro.throw(asyncio.CancelledError())
        coro.close()
        await turns(10)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert target.ended
    assert len(target.cancels) == 1


# Cycles


@pytest.mark.parametrize(
    "call", ["error", "cancelled", "late", "stray", "interrupt", "stuck", "stuck late"]
)
def test_no_cycle_holds_what_is_raised(call: str) -> None:
    """An error that nobody holds any more is freed without the garbage collector."""
    refs: list[weakref.ref[Any]] = []

    async def stuck(cancelled: bool) -> None:
        stubborn = Stubborn()
        [task] = await start(stubborn.run())
        if cancelled:
            asyncio.get_running_loop().call_later(1, host().cancel)
        try:
            await cancel_and_wait(task, timeout=2)
        finally:
            stubborn.gate.set()

    async def cancelled() -> None:
        asyncio.get_running_loop().call_later(1, host().cancel)
        await shielded(asyncio.sleep(2))

    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "error": lambda: shielded(fail_as(Error)),
        "cancelled": cancelled,
        "late": lambda: shielded(forever(), timeout=1),
        "stray": lambda: shielded(fail_as(asyncio.CancelledError)),
        "interrupt": lambda: shielded(fail_as(KeyboardInterrupt)),
        "stuck": lambda: stuck(False),
        "stuck late": lambda: stuck(True),
    }

    async def main() -> None:
        probe = Target()  # what is raised holds this frame
        refs.append(weakref.ref(probe))
        await calls[call]()

    async def outside() -> None:
        with suppress(BaseException):
            await main()
        if host().cancelling():
            host().uncancel()
        await turns(3)

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(outside())
        assert [ref() for ref in refs] == [None]
    finally:
        gc.enable()


# Cancelled at every tick


def each_once(targets: list[Target]) -> Callable[[Run], None]:
    """Every target has ended, after one cancel."""

    def ended_after_one_cancel(run: Run) -> None:
        assert all(target.ended == target.started for target in targets)
        assert all(len(target.cancels) == target.started for target in targets)

    return ended_after_one_cancel


def reports_nothing(run: Run) -> None:
    assert run.reported == ()
    assert run.warnings == ()


@EVERY_LOOP
def test_sweep_of_cancel_and_wait(factory: LoopFactory) -> None:
    """Whenever and however the caller is cancelled, all targets end after one cancel."""
    targets: list[Target] = []

    async def scenario() -> None:
        targets[:] = [Target(n) for n in (0, 1, 4)]
        tasks = [asyncio.create_task(target.run()) for target in targets]
        try:
            await turns(2)
        finally:
            await cancel_and_wait(*tasks, timeout=None)
        await turns(2)

    report = cancel_sweep(
        scenario, each_once(targets), reports_nothing, loop_factory=factory
    )
    assert report.runs > 5 * report.ticks


@EVERY_LOOP
def test_sweep_beside_a_third_party(factory: LoopFactory) -> None:
    """The same while somebody else cancels a target, at any time."""

    targets: list[Target] = []

    def later(count: int, task: asyncio.Task[None]) -> None:
        if count:
            asyncio.get_running_loop().call_soon(later, count - 1, task)
        else:
            task.cancel()

    async def scenario() -> None:
        targets[:] = [Target(n) for n in range(6)]
        tasks = [asyncio.create_task(target.run()) for target in targets]
        for count, task in enumerate(tasks):
            later(count, task)
        try:
            await turns(2)
        finally:
            await cancel_and_wait(*tasks, timeout=None)

    def ended(run: Run) -> None:
        assert all(target.ended == target.started for target in targets)

    cancel_sweep(scenario, ended, reports_nothing, loop_factory=factory)


def test_sweep_of_stuck_targets() -> None:
    """A target that is given up changes nothing about the caller's cancel."""

    async def scenario() -> None:
        stubborn = Stubborn()
        task = asyncio.create_task(stubborn.run())
        try:
            await turns(1)
        finally:
            try:
                await cancel_and_wait(task, timeout=5)
            finally:
                stubborn.gate.set()
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([task])

    cancel_sweep(scenario, may_raise=TaskStuckError, routes=[Route.NATIVE])


@EVERY_LOOP
@pytest.mark.parametrize("given", [False, True], ids=["coroutine", "task"])
def test_sweep_of_shielded(factory: LoopFactory, given: bool) -> None:
    """What `shielded` was called with runs to its end, and gets no cancel."""
    work = Work()

    async def scenario() -> str:
        work.__init__()  # type: ignore[misc]
        aw = asyncio.create_task(work.run()) if given else work.run()
        return await shielded(aw)

    def unhurt(run: Run) -> None:
        assert work.ended
        assert work.cancels == 0

    cancel_sweep(scenario, unhurt, reports_nothing, loop_factory=factory)


@EVERY_LOOP
def test_sweep_of_shielded_work_that_fails(factory: LoopFactory) -> None:
    """Its error is raised, or reported once if a cancel hides it."""
    error = Error()

    async def scenario() -> None:
        await shielded(Work(error=error).run())

    def seen_once(run: Run) -> None:
        hidden = isinstance(run.raised, asyncio.CancelledError)
        assert [report["exception"] for report in run.reported] == [error] * hidden
        assert hidden or run.raised is error

    cancel_sweep(scenario, seen_once, may_raise=Error, loop_factory=factory)


@pytest.mark.parametrize("timeout", [0, 1.0])
def test_sweep_of_shielded_work_that_is_late(timeout: float) -> None:
    """The timeout cancels it once, whatever comes beside."""
    target = Target()

    async def scenario() -> None:
        target.__init__()  # type: ignore[misc]
        await shielded(target.run(), timeout=timeout)

    cancel_sweep(scenario, each_once([target]), may_raise=TimeoutError)


@EVERY_LOOP
def test_sweep_of_both_in_one(factory: LoopFactory) -> None:
    """Shielded work that cancels others in its turn, in the `finally` of its caller."""
    target, work = Target(), Work()

    async def commit(task: asyncio.Task[None]) -> None:
        await cancel_and_wait(task, timeout=None)
        await work.run()

    async def scenario() -> None:
        target.__init__()  # type: ignore[misc]
        work.__init__()  # type: ignore[misc]
        task = asyncio.create_task(target.run())
        try:
            await turns(1)
        finally:
            await shielded(commit(task))

    def ended(run: Run) -> None:
        assert work.ended
        assert work.cancels == 0

    cancel_sweep(
        scenario, ended, each_once([target]), reports_nothing, loop_factory=factory
    )
