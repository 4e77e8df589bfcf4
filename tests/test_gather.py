"""`bounded_gather`: guarantees 1 to 6 of bounded concurrency, by the number."""

import asyncio
import contextlib
import gc
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from inspect import CORO_CLOSED, CORO_CREATED, getcoroutinestate
from typing import Any

import anyio
import attrs
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

import safeaio
from safeaio import ChildCancelled, TaskStuckWarning, bounded_group, bounded_map
from safeaio.testing import Route, Run, VirtualClockLoop, cancel_sweep

# Its types are proved in tests/typing; here they would hide what is tested.
bounded_gather: Any = safeaio.bounded_gather

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Coro = Coroutine[Any, Any, Any]


class Boom(Exception):
    pass


async def give(value: object, ticks: int = 1) -> Any:
    for _ in range(ticks):
        await asyncio.sleep(0)
    return value


async def fail(error: BaseException, ticks: int = 1) -> None:
    await give(None, ticks)
    raise error


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def closed(*coros: Coro) -> bool:
    return all(getcoroutinestate(coro) == CORO_CLOSED for coro in coros)


@attrs.define
class Load:
    """Counts how many run at once."""

    now: int = 0
    peak: int = 0
    started: int = 0

    async def child(self, ticks: int = 3) -> None:
        self.started += 1
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await give(None, ticks)
        finally:
            self.now -= 1


@attrs.define
class Diary:
    """What children did, in order; each has a cleanup of two awaits."""

    lines: list[str] = attrs.field(factory=list)

    async def child(self, name: str = "child", work: Coro | None = None) -> Any:
        self.lines.append(f"{name} starts")
        try:
            return await (forever() if work is None else work)
        except asyncio.CancelledError:
            self.lines.append(f"{name} cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.lines.append(f"{name} cleaned up")


# 1. What it takes and gives.


async def test_results_in_order() -> None:
    """Results come in the order of the arguments, whichever ends first."""
    first, second = asyncio.Event(), asyncio.Event()

    async def last() -> str:
        await second.wait()
        return "last"

    async def middle() -> str:
        await first.wait()
        second.set()
        return "middle"

    async def soonest() -> str:
        first.set()
        return "soonest"

    assert await bounded_gather(last(), middle(), soonest()) == [
        "last",
        "middle",
        "soonest",
    ]


async def test_nothing_to_do() -> None:
    """Without arguments it gives an empty list."""
    assert await bounded_gather() == []
    assert await bounded_gather(limit=None, return_exceptions=True) == []


class Later:
    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, object]:
        yield from asyncio.sleep(0).__await__()
        return self.value


async def test_every_kind_of_awaitable() -> None:
    """Coroutines, tasks, futures, other awaitables and calls of itself can be mixed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    done.set_result("done")
    pending: asyncio.Future[str] = loop.create_future()
    loop.call_soon(pending.set_result, "pending")
    assert await bounded_gather(
        give("coroutine"),
        asyncio.create_task(give("task")),
        done,
        pending,
        Later("awaitable"),
        asyncio.gather(give("gathered"), give("too")),
        bounded_gather(give("bounded"), give("too")),
    ) == [
        "coroutine",
        "task",
        "done",
        "pending",
        "awaitable",
        ["gathered", "too"],
        ["bounded", "too"],
    ]


async def test_duplicates_run_once() -> None:
    """What is given twice runs once, and its result stands in both places."""
    load = Load()
    twice, task, other = load.child(), asyncio.create_task(give(1)), Later(2)
    results = await bounded_gather(twice, task, other, twice, task, other, give(3))
    assert results == [None, 1, 2, None, 1, 2, 3]
    assert load.started == 1


async def test_duplicates_keep_the_number_of_their_argument(
    reported: list[Any],
) -> None:
    """A failure is named after the argument's place, also behind duplicates."""
    twice, boom = give(None), Boom("first")
    with pytest.raises(Boom) as caught:
        await bounded_gather(twice, twice, fail(boom), fail(Boom("x")))
    assert caught.value is boom
    assert notes(boom) == ["also raised by argument 3: Boom('x')"]
    assert len(reported) == 1
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    again = give(None)
    with pytest.raises(ChildCancelled) as stray:
        await bounded_gather(again, again, cancelled)
    assert stray.value.child == "argument 2"


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def test_needs_no_loop_at_the_call(loop_factory: LoopFactory) -> None:
    """It can be called outside a loop, and passed to whatever runs a coroutine."""
    call = bounded_gather(give(1), give(2), limit=1)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(call) == [1, 2]


async def test_nothing_starts_before_the_first_step() -> None:
    """Calling it starts nothing."""
    load = Load()
    call = bounded_gather(load.child(), load.child())
    await give(None, 5)
    assert load.started == 0
    await call
    assert load.started == 2


async def test_each_coroutine_has_a_task_of_its_own() -> None:
    """Children run in tasks of their own, also those that never suspend."""

    async def me() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    async def me_later() -> asyncio.Task[Any] | None:
        await asyncio.sleep(0)
        return asyncio.current_task()

    tasks = await bounded_gather(me(), me_later(), me(), me_later())
    assert None not in tasks
    assert len({*tasks, asyncio.current_task()}) == 5


number: ContextVar[int] = ContextVar("number", default=0)


@pytest.mark.parametrize("limit", [1, None, "limiter"])
async def test_contexts_are_apart(limit: Any) -> None:
    """Each child sees the context of the task that awaits, and nobody else's changes."""

    async def change(value: int, ticks: int) -> int:
        seen = number.get()
        number.set(value)
        await give(None, ticks)
        assert number.get() == value
        return seen

    if limit == "limiter":
        limit = anyio.CapacityLimiter(2)
    call = bounded_gather(*[change(n, n % 3) for n in range(2, 12)], limit=limit)
    number.set(1)
    assert await call == [1] * 10
    assert number.get() == 1


def test_runs_in_the_context_of_whoever_awaits(loop_factory: LoopFactory) -> None:
    """What counts is the context at the first step, not that of the call."""

    async def read() -> int:
        await asyncio.sleep(0)
        return number.get()

    async def set_and_await(call: Awaitable[list[int]]) -> list[int]:
        number.set(7)
        return await call

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        call = bounded_gather(*[read(), read()])
        assert runner.run(set_and_await(call)) == [7, 7]


# 1. The object.


async def test_is_a_coroutine() -> None:
    """It goes wherever a coroutine goes, and shows its name there."""
    call = bounded_gather(give(1))
    assert isinstance(call, Coroutine)
    assert asyncio.iscoroutine(call)
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert "coro=<bounded_gather() running at " in repr(task)
    assert await task == [1]
    assert "coro=<bounded_gather() done" in repr(task)
    async with asyncio.TaskGroup() as group:
        in_group = group.create_task(bounded_gather(give(2)))
    assert in_group.result() == [2]
    timed = await asyncio.wait_for(bounded_gather(give(3)), 1)
    assert timed == [3]
    shielded = await asyncio.shield(bounded_gather(give(4)))
    assert shielded == [4]


async def test_children_are_named_after_what_they_run() -> None:
    """A child's task shows the coroutine that it runs, a nested call too."""

    async def me() -> str:
        await asyncio.sleep(0)
        return repr(asyncio.current_task())

    async def everybody() -> list[str]:
        await give(None, 3)
        return [repr(task) for task in asyncio.all_tasks()]

    (shown,) = await bounded_gather(me())
    assert "me() running at" in shown
    _, shows = await bounded_gather(bounded_gather(give(None, 9)), everybody())
    assert any("coro=<bounded_gather() running at" in task for task in shows)


async def test_where_it_stands_can_be_seen() -> None:
    """Debuggers can look into it as into a native coroutine."""
    call: Any = bounded_gather(give(1, 5))
    assert getcoroutinestate(call) == CORO_CREATED
    assert call.cr_code.co_name == "run"
    assert call.cr_await is None
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert call.cr_await is not None
    assert call.cr_frame is not None
    assert not call.cr_running
    await task
    assert getcoroutinestate(call) == CORO_CLOSED


async def test_works_in_debug_mode() -> None:
    """It runs on a loop in debug mode."""
    asyncio.get_running_loop().set_debug(True)
    assert await bounded_gather(give(1), bounded_gather(give(2))) == [1, [2]]


@pytest.mark.parametrize("of_a_loop", [False, True])
async def test_close_before_the_first_step(of_a_loop: bool) -> None:
    """Closing it before its first step closes what has not started, without a word."""
    coros = [give(1), give(2)]
    task = [asyncio.create_task(give(3))] if of_a_loop else []
    call = bounded_gather(*coros, *task, bounded_gather(nested := give(4)))
    call.close()
    assert closed(*coros, nested)
    call.close()
    del call
    gc.collect()
    for one in task:
        assert await one == 3


async def test_throw_before_the_first_step() -> None:
    """An error thrown in before the first step comes out; nothing has started."""
    coros, boom = [give(1), give(2)], Boom()
    call = bounded_gather(*coros)
    with pytest.raises(Boom) as caught:
        call.throw(boom)
    assert caught.value is boom
    assert closed(*coros)
    del call
    gc.collect()


async def test_cancel_before_the_first_step() -> None:
    """A task cancelled before its first step starts nothing, but cancels what ran already."""
    diary = Diary()
    running = asyncio.create_task(diary.child("task"))
    future = asyncio.get_running_loop().create_future()
    await asyncio.sleep(0)
    coro = diary.child("coroutine")
    task = asyncio.Task(bounded_gather(running, coro, future))
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert diary.lines == ["task starts", "task cancelled", "task cleaned up"]
    assert closed(coro)
    assert future.cancelled()


@pytest.mark.parametrize("of_a_loop", [False, True])
async def test_never_awaited(of_a_loop: bool) -> None:
    """Never awaited, it closes what it was given, with one warning that names it."""
    coros = [give(1), give(2)]
    task = [asyncio.create_task(give(3))] if of_a_loop else []
    call = bounded_gather(*coros, *task, bounded_gather(give(4)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del call
        gc.collect()
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(warning.message) == (
        "bounded_gather() was never awaited and nothing ran; "
        "write `await bounded_gather(...)`"
    )
    assert closed(*coros)
    for one in task:
        assert await one == 3


AWAITED_ALREADY = r"bounded_gather\(\) was awaited already; call it again"


async def test_awaited_again_after_its_end() -> None:
    """Awaiting it a second time is an error, as for any coroutine."""
    call = bounded_gather(give(1))
    await call
    with pytest.raises(RuntimeError, match=AWAITED_ALREADY):
        await call


async def test_awaited_again_while_it_runs() -> None:
    """Awaiting it while another task does is an error, and disturbs nobody."""
    call = bounded_gather(give(1, 5), give(2))
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=AWAITED_ALREADY):
        await call
    assert await task == [1, 2]


async def test_closed_and_then_awaited() -> None:
    """Awaiting a closed one is an error."""
    call = bounded_gather(give(1))
    call.close()
    with pytest.raises(RuntimeError, match=AWAITED_ALREADY):
        await call


# 2. The limit.


@pytest.mark.parametrize(
    ("limit", "peak"), [(1, 1), (3, 3), (100, 20), (None, 20), ("limiter", 4)]
)
async def test_at_most_limit_run(limit: Any, peak: int) -> None:
    """At most `limit` children run, and never fewer without need."""
    load = Load()
    if limit == "limiter":
        limit = anyio.CapacityLimiter(4)
    await bounded_gather(*[load.child(ticks=9) for _ in range(20)], limit=limit)
    assert load == Load(now=0, peak=peak, started=20)


async def test_the_limit_is_100_unless_said() -> None:
    """Without a `limit` 100 run."""
    load = Load()
    await bounded_gather(*[load.child() for _ in range(150)])
    assert load.peak == 100


async def test_the_next_starts_when_one_ends() -> None:
    """The rest are not started before a slot is free, and start in order."""
    gates = [asyncio.Event() for _ in range(4)]
    started: list[int] = []

    async def child(n: int) -> None:
        started.append(n)
        await gates[n].wait()

    task = asyncio.create_task(bounded_gather(*[child(n) for n in range(4)], limit=2))
    await give(None, 5)
    assert started == [0, 1]
    gates[1].set()
    await give(None, 5)
    assert started == [0, 1, 2]
    gates[0].set()
    gates[2].set()
    await give(None, 5)
    assert started == [0, 1, 2, 3]
    gates[3].set()
    await task


async def test_futures_take_no_slot() -> None:
    """Tasks and futures that are passed in run already: they take no slot."""
    load = Load()
    event = asyncio.Event()

    async def wait() -> None:
        await event.wait()

    async def free() -> None:
        event.set()

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await bounded_gather(*tasks, load.child(), free(), load.child(), limit=1)
    assert load.peak == 1


async def test_children_that_wait_for_each_other() -> None:
    """Without a limit children may wait for one another."""
    barrier = asyncio.Barrier(150)
    waits = [barrier.wait() for _ in range(150)]
    assert sorted(await bounded_gather(*waits, limit=None)) == [*range(150)]


async def test_children_that_never_suspend_let_others_run() -> None:
    """Children that never suspend do not hold the loop, unless the loop starts them at once."""
    if asyncio.get_running_loop().get_task_factory() is not None:
        pytest.skip("an eager task factory runs them all in one turn")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def busy() -> None:
        for _ in range(2000):
            pass

    ticker = asyncio.create_task(turn())
    await bounded_gather(*[busy() for _ in range(5000)])
    ticker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ticker
    assert turns > 2


async def test_limiter_shared_by_two_calls() -> None:
    """A limiter bounds all the calls that share it, under borrowers of ours."""
    limiter = anyio.CapacityLimiter(3)
    load = Load()
    borrowers: set[object] = set()

    async def child() -> None:
        borrowers.update(limiter.statistics().borrowers)
        assert limiter.borrowed_tokens <= 3
        await load.child()

    await bounded_gather(
        bounded_gather(*[child() for _ in range(10)], limit=limiter),
        bounded_gather(*[child() for _ in range(10)], limit=limiter),
        bounded_map(lambda _: child(), range(10), limit=limiter),
    )
    assert load == Load(now=0, peak=3, started=30)
    assert len(borrowers) >= 20
    assert not any(isinstance(borrower, asyncio.Task) for borrower in borrowers)
    assert limiter.borrowed_tokens == 0


async def test_limiter_shared_with_others() -> None:
    """A token that somebody else holds is waited for."""
    limiter = anyio.CapacityLimiter(1)
    load = Load()
    async with limiter:
        task = asyncio.create_task(
            bounded_gather(load.child(), load.child(), limit=limiter)
        )
        await give(None, 5)
        assert load.started == 0
    await task
    assert load.peak == 1


async def test_limiter_resized_while_running() -> None:
    """More tokens are used at once; fewer are, as children end."""
    limiter = anyio.CapacityLimiter(2)
    running = 0
    gates = [asyncio.Event() for _ in range(8)]

    async def child(gate: asyncio.Event) -> None:
        nonlocal running
        running += 1
        await gate.wait()
        running -= 1

    task = asyncio.create_task(
        bounded_gather(*[child(gate) for gate in gates], limit=limiter)
    )
    await give(None, 10)
    assert running == 2
    limiter.total_tokens = 4
    await give(None, 10)
    assert running == 4
    limiter.total_tokens = 1
    for gate in gates[:3]:
        gate.set()
    await give(None, 10)
    assert running == 1
    for gate in gates[3:]:
        gate.set()
    await task
    assert limiter.borrowed_tokens == 0


async def test_limiter_without_tokens() -> None:
    """At zero tokens nothing starts, until there are some."""
    limiter = anyio.CapacityLimiter(1)
    limiter.total_tokens = 0
    load = Load()
    task = asyncio.create_task(bounded_gather(*[load.child()] * 1, limit=limiter))
    await give(None, 9)
    assert load.started == 0
    limiter.total_tokens = 1
    await task
    assert load.started == 1


async def test_limiter_gets_its_tokens_back(reported: list[Any]) -> None:
    """No token is lost, however the call ends."""
    limiter = anyio.CapacityLimiter(2)
    await bounded_gather(*[give(n) for n in range(5)], limit=limiter)
    assert limiter.borrowed_tokens == 0
    with pytest.raises(Boom):
        await bounded_gather(
            *[fail(Boom()) for _ in range(5)], forever(), limit=limiter
        )
    assert limiter.borrowed_tokens == 0
    call = bounded_gather(*[forever() for _ in range(5)], limit=limiter)
    task = asyncio.create_task(call)
    await give(None, 5)
    assert limiter.borrowed_tokens == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.borrowed_tokens == 0


async def test_limiter_and_futures() -> None:
    """What takes no slot takes no token: done futures, tasks, duplicates."""
    limiter = anyio.CapacityLimiter(1)
    task = asyncio.create_task(give(1, 5))
    coro = give(2)
    results = await bounded_gather(task, coro, coro, task, limit=limiter)
    assert results == [1, 2, 2, 1]


async def test_nested_call_on_a_held_limiter() -> None:
    """A child's call on the limiter whose token it holds is refused at the call."""
    limiter = anyio.CapacityLimiter(2)
    coro = give(1)

    async def child() -> None:
        bounded_gather(coro, limit=limiter)

    with pytest.raises(RuntimeError, match=r"bounded_gather\(\): .* already holds"):
        await bounded_gather(child(), limit=limiter)
    assert closed(coro)
    assert limiter.borrowed_tokens == 0


async def test_nested_call_made_outside() -> None:
    """It is refused at its first step if it was made where the token was not held."""
    limiter = anyio.CapacityLimiter(2)
    coro = give(1)
    call = bounded_gather(coro, limit=limiter)
    with pytest.raises(RuntimeError, match="already holds a token"):
        await bounded_gather(call, limit=limiter)
    assert closed(coro)


async def test_nested_call_further_down() -> None:
    """It is refused through calls in between, and through tasks that a child started."""
    limiter = anyio.CapacityLimiter(2)

    async def innermost() -> None:
        await bounded_gather(give(1), limit=limiter)

    async def own_task() -> None:
        await asyncio.create_task(innermost())

    for between in (bounded_gather(innermost()), own_task()):
        with pytest.raises(RuntimeError, match="already holds a token"):
            await bounded_gather(between, limit=limiter)
    with pytest.raises(RuntimeError, match="already holds a token"):
        await bounded_map(lambda _: innermost(), [1], limit=limiter)
    with pytest.raises(RuntimeError, match="already holds a token"):
        async with bounded_group(limit=limiter) as group:
            await group.start_soon(innermost)


async def test_limiter_of_a_child_that_ended() -> None:
    """A task that outlives the child may use the limiter whose token the child held."""
    limiter = anyio.CapacityLimiter(1)
    event = asyncio.Event()

    async def later() -> Any:
        await event.wait()
        return await bounded_gather(*[give(1)], limit=limiter)

    async def child() -> asyncio.Task[Any]:
        return asyncio.create_task(later())

    (task,) = await bounded_gather(child(), limit=limiter)
    event.set()
    assert await task == [1]


# 3. The first failure.


async def test_first_error_same_object(reported: list[Any]) -> None:
    """The first error leaves bare, the same object, without a context of ours."""
    boom = Boom("first")
    with pytest.raises(Boom) as caught:
        await bounded_gather(forever(), fail(boom), fail(Boom("second"), 2))
    assert caught.value is boom
    assert boom.__cause__ is None
    assert boom.__context__ is None
    assert reported == []


@pytest.mark.parametrize("limit", [2, None, "limiter"])
async def test_siblings_are_cancelled_once_and_awaited(limit: Any) -> None:
    """The others are cancelled once, and their cleanup completes before the error leaves."""
    if limit == "limiter":
        limit = anyio.CapacityLimiter(2)
    diary = Diary()
    coros = [diary.child(), fail(Boom(), 4), *[give(None) for _ in range(10)]]
    rest = coros[2:] if limit == 2 else coros[-1:]
    with pytest.raises(Boom):
        await bounded_gather(*coros, limit=limit)
    assert diary.lines == ["child starts", "child cancelled", "child cleaned up"]
    assert closed(*rest)
    gc.collect()


async def test_nothing_starts_after_a_failure() -> None:
    """What has not started is closed: it neither runs nor warns."""
    load = Load()
    waiting = [load.child() for _ in range(5)]
    with pytest.raises(Boom):
        await bounded_gather(fail(Boom()), *waiting, limit=1)
    assert load.started == 0
    assert closed(*waiting)
    gc.collect()


async def test_futures_are_cancelled_with_the_others() -> None:
    """Tasks and futures that were passed in are cancelled and awaited like children."""
    diary = Diary()
    task = asyncio.create_task(diary.child("task"))
    future = asyncio.get_running_loop().create_future()
    await asyncio.sleep(0)
    with pytest.raises(Boom):
        await bounded_gather(task, fail(Boom()), future)
    assert diary.lines == ["task starts", "task cancelled", "task cleaned up"]
    assert future.cancelled()


async def test_future_that_failed_before() -> None:
    """A future that has failed already stops everything before it starts."""
    future = asyncio.get_running_loop().create_future()
    boom = Boom()
    future.set_exception(boom)
    coro = give(1)
    with pytest.raises(Boom) as caught:
        await bounded_gather(coro, future)
    assert caught.value is boom
    assert closed(coro)


async def test_later_errors_are_notes(reported: list[Any]) -> None:
    """Each later error is a note on the first, and goes to the exception handler."""
    first, second, third = Boom("first"), ValueError("x"), ValueError("y")

    async def fail_in_cleanup(error: Exception) -> None:
        try:
            await forever()
        finally:
            raise error

    with pytest.raises(Boom) as caught:
        await bounded_gather(
            fail_in_cleanup(second), forever(), fail(first), fail_in_cleanup(third)
        )
    assert caught.value is first
    assert notes(first) == [
        "also raised by argument 0: ValueError('x')",
        "also raised by argument 3: ValueError('y')",
    ]
    assert [context["exception"] for context in reported] == [second, third]
    assert [context["message"] for context in reported] == [
        "bounded_gather(): argument 0 raised beside another error",
        "bounded_gather(): argument 3 raised beside another error",
    ]


async def test_ten_notes_and_a_count(reported: list[Any]) -> None:
    """Ten later errors are noted, the rest are counted; all are reported."""
    errors = [ValueError(n) for n in range(14)]
    with pytest.raises(ValueError, match="0") as caught:
        await bounded_gather(*[fail(error) for error in errors])
    assert caught.value is errors[0]
    assert notes(errors[0]) == [
        *[f"also raised by argument {n}: ValueError({n})" for n in range(1, 11)],
        "and 3 more",
    ]
    assert [context["exception"] for context in reported] == errors[1:]


async def test_the_same_object_is_no_later_error() -> None:
    """One error object that several children raise is one error."""
    boom = Boom()
    with pytest.raises(Boom):
        await bounded_gather(fail(boom), fail(boom), fail(boom))
    assert notes(boom) == []


async def test_error_without_a_repr(reported: list[Any]) -> None:
    """An error whose repr fails is noted all the same."""

    class Nasty(Exception):
        def __repr__(self) -> str:
            raise ValueError("no")

    with pytest.raises(Boom) as caught:
        await bounded_gather(fail(Boom()), fail(Nasty()))
    (note,) = notes(caught.value)
    assert note.startswith("also raised by argument 1: <Nasty instance at")


async def test_error_while_the_call_is_awaited_in_an_except_block() -> None:
    """The error's context is what the caller was handling, as for any await."""
    before = Boom("before")
    try:
        raise before
    except Boom:
        with pytest.raises(ValueError, match="x") as caught:
            await bounded_gather(fail(ValueError("x")))
    assert caught.value.__context__ is before


async def test_a_task_factory_that_fails() -> None:
    """An error of the loop's task factory is a failure like any: nothing is left."""
    loop = asyncio.get_running_loop()
    boom, diary, made = Boom(), Diary(), 0

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        nonlocal made
        made += 1
        if made == 2:
            raise boom
        return asyncio.Task(coro, loop=loop, **options)

    limiter = anyio.CapacityLimiter(3)
    try:
        loop.set_task_factory(factory)
        coros = [diary.child(), give(1), give(2)]
        with pytest.raises(Boom) as caught:
            await bounded_gather(*coros)
        assert caught.value is boom
        assert closed(*coros)
        made = 0  # The first is what waits for tokens.
        coros = [give(0), give(1), give(2)]
        with pytest.raises(Boom):
            await bounded_gather(*coros, limit=limiter)
    finally:
        loop.set_task_factory(None)
    assert closed(*coros)
    assert limiter.borrowed_tokens == 0
    gc.collect()


# 4. Exceptions as results.


async def test_return_exceptions() -> None:
    """Exceptions stand in the list, and stop nobody."""
    boom, bang = Boom(), Boom()
    future = asyncio.get_running_loop().create_future()
    future.set_exception(bang)
    results = await bounded_gather(
        fail(boom), give(1), future, give(2, 5), limit=1, return_exceptions=True
    )
    assert results == [boom, 1, bang, 2]


async def test_return_exceptions_of_cancelled_children() -> None:
    """A child's own CancelledError stands in the list, as it does with gather."""

    async def stray() -> None:
        raise asyncio.CancelledError("mine")

    future = asyncio.get_running_loop().create_future()
    future.cancel("theirs")
    one, two, three = await bounded_gather(
        stray(), future, give(1), return_exceptions=True
    )
    assert isinstance(one, asyncio.CancelledError)
    assert isinstance(two, asyncio.CancelledError)
    assert (one.args, two.args, three) == (("mine",), ("theirs",), 1)


async def test_return_exceptions_and_a_cancel_of_the_caller() -> None:
    """Cancelling the caller is raised, whatever the list could take."""
    diary = Diary()
    task = asyncio.create_task(
        bounded_gather(diary.child(), fail(Boom()), return_exceptions=True)
    )
    await give(None, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary.lines[-1] == "child cleaned up"


# 3. KeyboardInterrupt and SystemExit.


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("ticks", [0, 2])
async def test_interrupts_are_carried(
    interrupt: type[BaseException], return_exceptions: bool, ticks: int
) -> None:
    """An interrupt in a child leaves bare after the others have been cancelled and ended."""
    diary, error = Diary(), interrupt("now")
    with pytest.raises(interrupt) as caught:
        await bounded_gather(
            diary.child(), fail(error, ticks), return_exceptions=return_exceptions
        )
    assert caught.value is error
    assert error.__context__ is None
    assert diary.lines == ["child starts", "child cancelled", "child cleaned up"]


async def test_interrupts_go_before_other_errors(reported: list[Any]) -> None:
    """An interrupt is raised over an earlier error, which becomes its note."""
    error, boom = KeyboardInterrupt(), Boom()

    async def interrupt_in_cleanup() -> None:
        try:
            await forever()
        finally:
            raise error

    with pytest.raises(KeyboardInterrupt) as caught:
        await bounded_gather(interrupt_in_cleanup(), fail(boom))
    assert caught.value is error
    assert notes(error) == ["also raised by argument 1: Boom()"]
    assert [context["exception"] for context in reported] == [boom]


async def test_interrupts_go_before_the_callers_cancel() -> None:
    """An interrupt is raised over the caller's own cancel."""
    error = SystemExit(3)

    async def interrupt_in_cleanup() -> None:
        try:
            await forever()
        finally:
            raise error

    async def main() -> None:
        with pytest.raises(SystemExit) as caught:
            await bounded_gather(interrupt_in_cleanup())
        assert caught.value is error

    task = asyncio.create_task(main())
    await give(None, 3)
    task.cancel()
    await task
    assert task.cancelling() == 1


# 5. Strays.


async def test_stray_cancel_of_a_child() -> None:
    """A child that ends cancelled by itself is an error with that cancel as its cause."""
    stray, diary = asyncio.CancelledError("lost"), Diary()
    with pytest.raises(ChildCancelled, match="argument 1 ended cancelled") as caught:
        await bounded_gather(diary.child(), fail(stray))
    assert caught.value.child == "argument 1"
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.__cause__.args == ("lost",)
    assert diary.lines[-1] == "child cleaned up"


async def test_stray_cancel_of_a_task() -> None:
    """So is a task that somebody else has cancelled."""
    task = asyncio.create_task(forever())
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(ChildCancelled, match="argument 0"):
        await bounded_gather(task)


async def test_stray_cancel_inside_a_cancelled_task() -> None:
    """A caller that was cancelled before, and cleans up now, tells a stray all the same."""

    async def main() -> None:
        try:
            await forever()
        finally:
            with pytest.raises(ChildCancelled):
                await bounded_gather(fail(asyncio.CancelledError()))

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancels_that_we_caused_are_no_news() -> None:
    """Children that we have cancelled add no note."""
    with pytest.raises(Boom) as caught:
        await bounded_gather(forever(), forever(), fail(Boom()), forever())
    assert notes(caught.value) == []


# 6. Cancelling the call.


async def test_child_in_its_cleanup_gets_the_one_cancel_there() -> None:
    """A child inside its own `finally` gets the one cancel there, and may go on."""
    lines: list[str] = []

    async def child() -> None:
        try:
            lines.append("works")
        finally:
            try:
                await forever()
            except asyncio.CancelledError:
                lines.append("cancelled in cleanup")
                await give(None, 5)
                lines.append("cleaned up")
                raise

    task = asyncio.create_task(bounded_gather(child()))
    await give(None, 3)
    for _ in range(4):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines == ["works", "cancelled in cleanup", "cleaned up"]


async def test_cancel_message() -> None:
    """The message of the cancel reaches children and caller, with its first object."""
    seen: list[object] = []

    async def child() -> None:
        try:
            await forever()
        except asyncio.CancelledError as exc:
            seen.append(exc.args)
            raise

    task = asyncio.create_task(bounded_gather(child(), child()))
    await give(None, 3)
    task.cancel("the reason")
    await asyncio.sleep(0)
    task.cancel("another")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert seen == [("the reason",), ("the reason",)]
    assert caught.value.args == ("the reason",)


async def test_errors_beside_the_callers_cancel(reported: list[Any]) -> None:
    """Errors that the caller's cancel hides are noted on it and reported."""
    boom = Boom()

    async def fail_in_cleanup() -> None:
        try:
            await forever()
        finally:
            raise boom

    task = asyncio.create_task(bounded_gather(forever(), fail_in_cleanup()))
    await give(None, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert notes(caught.value) == ["also raised by argument 1: Boom()"]
    assert [context["exception"] for context in reported] == [boom]


async def test_close_midway(reported: list[Any]) -> None:
    """Closing it midway cancels the children and closes the rest; it cannot wait."""
    diary, rest = Diary(), give(1)
    task = asyncio.create_task(diary.child("task"))
    call = bounded_gather(diary.child(), task, rest, limit=1)
    call.send(None)
    await give(None, 3)
    call.close()
    assert closed(rest)
    await give(None, 9)
    assert sorted(diary.lines[-2:]) == ["child cleaned up", "task cleaned up"]
    assert task.cancelled()


async def test_errors_after_close(reported: list[Any]) -> None:
    """What children raise after it was closed midway is reported: nobody else will see it."""
    boom = Boom()

    async def fail_in_cleanup() -> None:
        try:
            await forever()
        finally:
            raise boom

    call = bounded_gather(fail_in_cleanup(), forever())
    call.send(None)
    await give(None, 3)
    call.close()
    await give(None, 3)
    assert [context["exception"] for context in reported] == [boom]


async def test_close_midway_with_a_limiter() -> None:
    """Closing it midway gives every token back."""
    limiter = anyio.CapacityLimiter(1)
    call = bounded_gather(forever(), forever(), limit=limiter)
    call.send(None)
    await give(None, 4)
    assert limiter.borrowed_tokens == 1
    call.close()
    await give(None, 4)
    assert limiter.borrowed_tokens == 0


async def test_nested_call_cancelled_before_it_starts() -> None:
    """A nested call that a sibling's failure stops at once has closed all it was given."""
    coros = [give(1), give(2)]
    nested = bounded_gather(coros[0], bounded_gather(coros[1]))
    with pytest.raises(Boom):
        await bounded_gather(nested, fail(Boom(), 0))
    assert closed(*coros)
    gc.collect()


@pytest.mark.parametrize("limited", [False, True])
async def test_close_by_a_child_that_starts(limited: bool) -> None:
    """A child whose first step closes the call is cancelled, too."""
    diary = Diary()
    gate = asyncio.Event()

    async def closer() -> None:
        call.close()
        await diary.child("closer")

    rest = give(1)
    limit = anyio.CapacityLimiter(1) if limited else 1
    call = bounded_gather(gate.wait(), closer(), rest, limit=limit)
    call.send(None)
    await give(None, 3)
    gate.set()
    await give(None, 9)
    assert closed(rest)
    assert diary.lines in (
        [],  # without eager start it is cancelled before its first step
        ["closer starts", "closer cancelled", "closer cleaned up"],
    )


SWEPT_LOOPS: dict[str, LoopFactory] = {
    "asyncio": VirtualClockLoop,
    "uvloop": uvloop.new_event_loop,
}
if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = VirtualClockLoop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    SWEPT_LOOPS["eager"] = eager_loop


@attrs.define
class Household:
    """Children with a cleanup, a limiter, and what became of them."""

    limiter: anyio.CapacityLimiter = attrs.field(
        factory=lambda: anyio.CapacityLimiter(2)
    )
    cancelled: int = 0
    cleaned_up: int = 0
    coros: list[Coro] = attrs.field(factory=list)
    futures: list[asyncio.Future[Any]] = attrs.field(factory=list)

    def child(self, ticks: int, error: BaseException | None = None) -> Coro:
        coro = self._child(ticks, error)
        self.coros.append(coro)
        return coro

    def task(self, ticks: int) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.child(ticks))
        self.futures.append(task)
        return task

    async def _child(self, ticks: int, error: BaseException | None) -> int:
        try:
            await give(None, ticks)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.cleaned_up += 1
            raise
        if error is not None:
            raise error
        return ticks


home = Household()


async def plain() -> None:
    await bounded_gather(*[home.child(ticks) for ticks in (2, 0, 1)], limit=2)


async def with_limiter() -> None:
    await bounded_gather(
        *[home.child(ticks) for ticks in (1, 0, 2)], limit=home.limiter
    )


async def with_failure() -> None:
    await bounded_gather(home.child(9), home.child(1, Boom()), home.child(0), limit=2)


async def with_failure_and_limiter() -> None:
    coros = [home.child(9), home.child(1, Boom()), home.child(0)]
    await bounded_gather(*coros, limit=home.limiter)


async def with_exceptions_returned() -> None:
    coros = [home.child(1, Boom()), home.child(2), home.child(0, Boom())]
    await bounded_gather(*coros, limit=2, return_exceptions=True)


async def with_stray() -> None:
    stray = asyncio.CancelledError()
    await bounded_gather(home.child(9), home.child(1, stray), limit=2)


async def with_interrupt() -> None:
    await bounded_gather(home.child(9), home.child(1, KeyboardInterrupt()), limit=2)


async def with_tasks() -> None:
    await bounded_gather(home.task(2), home.child(1), home.task(1), limit=1)


async def nested() -> None:
    await bounded_gather(
        bounded_gather(home.child(1), home.child(0)), home.child(1), limit=None
    )


async def in_a_scope() -> None:
    with anyio.move_on_after(1):
        await bounded_gather(home.child(1), home.child(0))
    async with asyncio.timeout(1):
        await bounded_gather(home.child(1))


@pytest.mark.parametrize("loop", SWEPT_LOOPS)
@pytest.mark.parametrize(
    ("scenario", "may_raise"),
    [
        (plain, ()),
        (with_limiter, ()),
        (with_failure, Boom),
        (with_failure_and_limiter, Boom),
        (with_exceptions_returned, ()),
        (with_stray, ChildCancelled),
        (with_interrupt, KeyboardInterrupt),
        (with_tasks, ()),
        (nested, ()),
        (in_a_scope, ()),
    ],
)
def test_cancelled_at_every_tick(
    scenario: Callable[[], Awaitable[None]],
    may_raise: Any,
    loop: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever tick a cancel comes in, by whichever route, everything ends cleanly."""

    def fresh() -> Awaitable[None]:
        monkeypatch.setitem(globals(), "home", Household())
        return scenario()

    def everything_ended(run: Run) -> None:
        assert closed(*home.coros)
        assert home.cancelled == home.cleaned_up
        assert all(future.done() for future in home.futures)
        assert home.limiter.borrowed_tokens == 0

    def nothing_else_reported(run: Run) -> None:
        errors = [context.get("exception") for context in run.reported]
        assert all(isinstance(error, Boom) for error in errors)
        assert [str(warning.message) for warning in run.warnings] == []

    routes = tuple(Route)
    if loop != "asyncio":
        routes = (Route.NATIVE, Route.SCOPE, Route.SCOPE_AND_NATIVE, Route.TIMEOUT)
    cancel_sweep(
        fresh,
        everything_ended,
        nothing_else_reported,
        routes=routes,
        may_raise=may_raise,
        loop_factory=SWEPT_LOOPS[loop],
    )


# 2. The stuck.


@pytest.mark.virtual_time
async def test_stuck_child_is_reported(reported: list[Any]) -> None:
    """A child that ignores its cancel is reported and cancelled again every ten seconds."""
    loop = asyncio.get_running_loop()
    cancels: list[float] = []

    async def stubborn() -> None:
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                cancels.append(loop.time())
                if len(cancels) == 4:
                    raise

    with pytest.warns(TaskStuckWarning) as caught, pytest.raises(Boom):
        await bounded_gather(stubborn(), fail(Boom()))
    assert cancels == [0, 10, 20, 30]
    assert loop.time() == 30
    texts = [str(warning.message) for warning in caught]
    assert [context["message"] for context in reported] == texts
    for text, age in zip(texts, (10, 20, 30), strict=True):
        assert f"still running {age}.0 s after it was cancelled" in text
        assert text.startswith("bounded_gather() waits for task '")
        assert "in stubborn" in text
        assert "in forever" in text


@pytest.mark.virtual_time
async def test_slow_cleanup_is_awaited() -> None:
    """A cleanup may take its time, and more cancels of the caller do not cut it."""
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    async def child() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(9)
            ended.append(loop.time())

    task = asyncio.create_task(bounded_gather(child(), child()))
    for _ in range(5):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [10, 10]


@pytest.mark.virtual_time
async def test_timeout() -> None:
    """`asyncio.timeout` around it raises its own error, after every cleanup."""
    diary = Diary()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await bounded_gather(diary.child("a"), diary.child("b"))
    assert diary.lines[-2:] == ["a cleaned up", "b cleaned up"]
    with anyio.move_on_after(5) as scope:
        await bounded_gather(diary.child("c"))
    assert scope.cancelled_caught
    assert diary.lines[-1] == "c cleaned up"


# What is left behind.


@contextlib.contextmanager
def no_garbage() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Owned:
    """Something that a caller's frame holds."""


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("limit", [3, "limiter"])
async def test_error_leaves_no_cycle(
    error: type[BaseException], limit: Any, reported: list[Any]
) -> None:
    """An error that left the call is freed as soon as the caller drops it."""
    if limit == "limiter":
        limit = anyio.CapacityLimiter(3)

    async def fail_with(error: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise error

    async def caller() -> weakref.ref[object]:
        owned = Owned()
        try:
            await bounded_gather(
                fail_with(error), fail_with(ValueError), forever(), limit=limit
            )
        except (Boom, KeyboardInterrupt, ChildCancelled):
            return weakref.ref(owned)
        raise AssertionError

    with no_garbage():
        owned = await caller()
        reported.clear()
        await give(None, 5)
        assert owned() is None


async def test_returned_exceptions_leave_no_cycle() -> None:
    """Nor do exceptions that are results, cancels among them."""

    async def stray() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    with no_garbage():
        (error,) = await bounded_gather(stray(), return_exceptions=True)
        gone = weakref.ref(error)
        del error
        await give(None, 5)
        assert gone() is None


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("ticks", [0, 4])
async def test_cancel_leaves_no_cycle(ticks: int, cancels: int) -> None:
    """Nor does a cancel of the caller leave any, from before the first step on."""

    async def caller() -> weakref.ref[object]:
        owned = Owned()
        try:
            await bounded_gather(Diary().child(), Diary().child())
        except asyncio.CancelledError:
            return weakref.ref(owned)
        raise AssertionError

    async def cancelled_early(call: Coro) -> weakref.ref[object]:
        owned = Owned()
        task = asyncio.Task(call)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return weakref.ref(owned)
        raise AssertionError

    with no_garbage():
        if ticks:
            task = asyncio.create_task(caller())
            await give(None, ticks)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            owned = await task
            del task
        else:
            running = [asyncio.create_task(forever()) for _ in range(cancels)]
            owned = await cancelled_early(bounded_gather(*running))
            del running
        await give(None, 5)
        assert owned() is None


async def test_success_leaves_no_cycle() -> None:
    """A call that went well leaves nothing to the garbage collector."""

    class Result:
        pass

    async def child() -> Result:
        await asyncio.sleep(0)
        return Result()

    with no_garbage():
        (result, _) = await bounded_gather(child(), child())
        gone = weakref.ref(result)
        del result, _
        await give(None, 2)
        assert gone() is None


# Depth.


@pytest.mark.parametrize("limit", [100, None, "limiter"])
@pytest.mark.parametrize("ticks", [0, 1])
async def test_deeply_nested(limit: Any, ticks: int) -> None:
    """Calls in calls, 500 deep, do not recurse."""

    async def deep(level: int) -> Any:
        await give(None, ticks)
        if level == 0:
            return 0
        own = anyio.CapacityLimiter(1) if limit == "limiter" else limit
        (below,) = await bounded_gather(deep(level - 1), limit=own)
        return below + 1

    assert await deep(500) == 500


async def test_deeply_nested_objects() -> None:
    """Calls passed to calls can be closed unstarted, 50 deep."""
    call = bounded_gather(give(1))
    for _ in range(50):
        call = bounded_gather(call)
    call.close()


# Bad input.


async def a_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (
            0,
            ValueError,
            "limit must be at least 1, got 0; write limit=None for no limit",
        ),
        (-1, ValueError, "limit must be at least 1, got -1"),
        (float("nan"), ValueError, "limit must be a number of children, got nan"),
        (1.5, TypeError, "limit must be an int or an anyio.CapacityLimiter, got 1.5"),
        (float("inf"), TypeError, "got inf; write limit=None for no limit"),
        (True, TypeError, "limit must be an int or an anyio.CapacityLimiter, got True"),
        (False, TypeError, "got False"),
        ("3", TypeError, "got '3'"),
        (asyncio.Semaphore, TypeError, "got <class 'asyncio.locks.Semaphore'>"),
    ],
)
def test_bad_limit(limit: Any, error: type[Exception], message: str) -> None:
    """A limit that is none is refused at the call, without a loop."""
    coros = [give(1), give(2)]
    with pytest.raises(error) as caught:
        bounded_gather(*coros, limit=limit)
    assert str(caught.value).startswith("bounded_gather(): limit must be ")
    assert message in str(caught.value)
    assert closed(*coros)
    gc.collect()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (give, "write bounded_gather(give(...)), not bounded_gather(give)"),
        (3, "bounded_gather() takes awaitables, got 3 as argument 1"),
        (None, "got None as argument 1"),
        ("ab", "got 'ab' as argument 1"),
        ([], "write bounded_gather(*aws), not bounded_gather(aws)"),
        ((), "write bounded_gather(*aws), not bounded_gather(aws)"),
        (a_generator, "write bounded_gather(a_generator(...))"),
        (Load, "write bounded_gather(Load(...))"),
    ],
)
def test_bad_argument(wrong: Any, message: str) -> None:
    """What cannot be awaited is refused at the call, and how to mend it is said."""
    coros = [give(1), give(2)]
    with pytest.raises(TypeError) as caught:
        bounded_gather(coros[0], wrong, coros[1])
    assert message in str(caught.value)
    assert closed(*coros)
    gc.collect()


def test_async_generator() -> None:
    """An async generator is a source of items, not an awaitable."""
    with pytest.raises(TypeError, match=r"source of items: bounded_map\(func, items\)"):
        bounded_gather(a_generator())


@pytest.mark.parametrize("kind", [list, tuple, set])
def test_collection_of_coroutines(kind: Callable[[Any], Any]) -> None:
    """A collection without its star is refused, and the coroutines in it are closed."""
    coros = [give(1), give(2)]
    with pytest.raises(TypeError, match=r"write bounded_gather\(\*aws\)"):
        bounded_gather(kind(coros))
    assert closed(*coros)
    gc.collect()


async def test_bad_argument_beside_tasks() -> None:
    """Tasks beside a bad argument are left alone."""
    task = asyncio.create_task(give(1))
    with pytest.raises(TypeError):
        bounded_gather(task, 3)
    assert await task == 1


async def test_future_of_another_loop() -> None:
    """A future of another loop is refused at the call, where a loop runs."""
    other = asyncio.new_event_loop()
    coro = give(1)
    try:
        with pytest.raises(ValueError, match="belongs to another loop"):
            bounded_gather(coro, other.create_future())
    finally:
        other.close()
    assert closed(coro)
    gc.collect()


def test_futures_of_two_loops() -> None:
    """Futures of two loops are refused at the call even where none runs."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        with pytest.raises(ValueError, match="belongs to another loop"):
            bounded_gather(*[loop.create_future() for loop in loops])
    finally:
        for loop in loops:
            loop.close()


def test_awaited_on_another_loop(loop_factory: LoopFactory) -> None:
    """Made without a loop, it refuses a future of another one when it is awaited."""
    other = asyncio.new_event_loop()
    coro, future = give(1), other.create_future()
    try:
        call = bounded_gather(coro, future)
        with (
            asyncio.Runner(loop_factory=loop_factory) as runner,
            pytest.raises(ValueError, match="belongs to another loop than the caller"),
        ):
            runner.run(call)
    finally:
        other.close()
    assert closed(coro)
    assert not future.cancelled()
    gc.collect()


async def test_waiting_for_oneself() -> None:
    """The task that awaits it cannot be among its arguments; the others are left alone."""
    loop = asyncio.get_running_loop()
    one, two, coro = loop.create_future(), loop.create_future(), give(1)
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(RuntimeError, match="would wait for itself"):
        await bounded_gather(one, two, task, coro)
    one.set_exception(Boom())
    await give(None, 3)
    assert not two.done()
    assert closed(coro)
    assert isinstance(one.exception(), Boom)


def test_outside_a_task() -> None:
    """Driven by hand without a loop, it says what is missing and starts nothing."""
    coro = give(1)
    call = bounded_gather(coro)
    with pytest.raises(RuntimeError, match="no running event loop"):
        call.send(None)
    assert closed(coro)
    gc.collect()


async def test_coroutine_that_ran_already() -> None:
    """A coroutine that has been awaited before is that child's error."""
    coro = give(1)
    await coro
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await bounded_gather(coro, give(2))


def test_no_stray_warnings() -> None:
    """None of this leaves a coroutine that was never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in (0, "3", None):
            with contextlib.suppress(TypeError, ValueError):
                bounded_gather(give(1), 3, limit=limit)
        gc.collect()


# All at once, against a model.


@attrs.frozen
class Child:
    """What one argument does, in powers of two so that no two things happen at once."""

    index: int
    is_future: bool
    delay: int
    fails: bool
    strays: bool
    fails_in_cleanup: bool

    @property
    def lasts(self) -> float:
        return self.delay + 2.0 ** -(self.index + 1)

    @property
    def cleanup_lasts(self) -> float:
        return self.delay + 2.0 ** -(self.index + 9)


@attrs.frozen
class Plan:
    """One call: its arguments, some given twice, and when it is cancelled."""

    children: tuple[Child, ...]
    arguments: tuple[int, ...]
    limit: int | None
    use_limiter: bool
    return_exceptions: bool
    cancelled: int | None

    @property
    def cancelled_at(self) -> float | None:
        return None if self.cancelled is None else self.cancelled + 2.0**-20


@attrs.define
class Happened:
    """What came of a call; errors by their text."""

    results: list[str] | None = None
    raised: str | None = None
    notes: list[str] = attrs.field(factory=list)
    at: float = 0.0


def expected(plan: Plan) -> Happened:
    """Say what a plan has to come to, event by event."""
    waiting = [child for child in plan.children if not child.is_future]
    ends = {child.index: child.lasts for child in plan.children if child.is_future}
    results: dict[int, str] = {}
    errors: dict[int, str] = {}
    now, stopped, cancelled = 0.0, False, False

    def stop() -> None:
        nonlocal stopped
        if stopped:
            return
        stopped = True
        waiting.clear()
        for index in [*ends]:
            child = plan.children[index]
            if child.is_future:
                del ends[index]
            else:
                ends[index] = now + child.cleanup_lasts

    while True:
        running = sum(not plan.children[index].is_future for index in ends)
        while waiting and (plan.limit is None or running < plan.limit):
            child = waiting.pop(0)
            ends[child.index] = now + child.lasts
            running += 1
        if not ends:
            break
        index = min(ends, key=ends.__getitem__)
        if plan.cancelled_at is not None and now < plan.cancelled_at < ends[index]:
            now, cancelled = plan.cancelled_at, True
            stop()
            continue
        child, now = plan.children[index], ends.pop(index)
        if stopped:
            if child.fails_in_cleanup:
                errors[index] = f"cleanup {index}"
        elif child.fails or child.strays:
            error = "CancelledError" if child.strays else f"child {index}"
            if plan.return_exceptions:
                results[index] = error
            else:
                errors[index] = error
                stop()
        else:
            results[index] = f"result {index}"
    happened = Happened(at=now)
    first = None
    if cancelled:
        happened.raised = "CancelledError"
    elif errors and not plan.return_exceptions:
        first = next(iter(errors))
        happened.raised = errors[first].replace("CancelledError", "ChildCancelled")
    else:
        happened.results = [results[index] for index in plan.arguments]
        return happened
    if not plan.return_exceptions:
        happened.notes = [
            f"also raised by argument {plan.arguments.index(index)}: Boom('{error}')"
            for index, error in errors.items()
            if index != first and error != "CancelledError"
        ]
    return happened


def text(result: object) -> str:
    if isinstance(result, Boom):
        return str(result)
    return type(result).__name__ if isinstance(result, BaseException) else str(result)


async def perform(plan: Plan, gather: Callable[..., Any]) -> Happened:
    """Do what a plan says, and check what holds for every plan."""
    loop = asyncio.get_running_loop()
    load, limiter = Load(), anyio.CapacityLimiter(plan.limit or 1)
    bounded = plan.limit is not None

    async def work(child: Child) -> str:
        load.now += 1
        load.peak = max(load.peak, load.now)
        try:
            await asyncio.sleep(child.lasts)
        except asyncio.CancelledError:
            await asyncio.sleep(child.cleanup_lasts)
            if child.fails_in_cleanup:
                raise Boom(f"cleanup {child.index}") from None
            raise
        finally:
            load.now -= 1
        if child.strays:
            raise asyncio.CancelledError
        if child.fails:
            raise Boom(f"child {child.index}")
        return f"result {child.index}"

    def resolve(child: Child, future: asyncio.Future[str]) -> None:
        if future.done():
            return
        if child.strays:
            future.cancel()
        elif child.fails:
            future.set_exception(Boom(f"child {child.index}"))
        else:
            future.set_result(f"result {child.index}")

    aws: list[Any] = []
    for child in plan.children:
        if child.is_future:
            aws.append(loop.create_future())
            loop.call_later(child.lasts, resolve, child, aws[-1])
        else:
            aws.append(work(child))
    task = asyncio.ensure_future(
        gather(
            *[aws[index] for index in plan.arguments],
            return_exceptions=plan.return_exceptions,
            limit=limiter if plan.use_limiter and bounded else plan.limit,
        )
    )
    if plan.cancelled_at is not None:
        loop.call_later(plan.cancelled_at, task.cancel)
    happened = Happened()
    try:
        happened.results = [text(result) for result in await task]
    except (Boom, ChildCancelled, asyncio.CancelledError) as exc:
        happened.raised = text(exc)
        happened.notes = notes(exc)
    happened.at = loop.time()
    assert plan.limit is None or load.peak <= plan.limit
    assert load.now == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(aw.done() if asyncio.isfuture(aw) else closed(aw) for aw in aws)
    assert limiter.borrowed_tokens == 0
    return happened


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    small = st.integers(0, 3)
    rarely = st.sampled_from([False, False, False, True])
    count = draw(st.integers(0, 7))
    children = tuple(
        Child(
            index,
            is_future=draw(rarely),
            delay=draw(small),
            fails=draw(rarely),
            strays=draw(rarely),
            fails_in_cleanup=draw(rarely),
        )
        for index in range(count)
    )
    arguments = [*range(count)]
    for index in (
        draw(st.lists(st.sampled_from(arguments), max_size=2)) if count else ()
    ):
        after_itself = st.integers(arguments.index(index) + 1, len(arguments))
        arguments.insert(draw(after_itself), index)
    return Plan(
        children,
        tuple(arguments),
        limit=draw(st.sampled_from([None, 1, 2, 3])),
        use_limiter=draw(st.booleans()),
        return_exceptions=draw(st.booleans()),
        cancelled=draw(st.none() | st.integers(0, 6)),
    )


def run_plan(plan: Plan, gather: Callable[..., Any]) -> tuple[Happened, list[str]]:
    reported: list[str] = []

    async def main() -> Happened:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(text(context["exception"]))
        )
        return await perform(plan, gather)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main()), reported


@settings(max_examples=250, deadline=None, derandomize=True)
@given(plan=plans())
def test_any_call_does_what_the_model_says(plan: Plan) -> None:
    """Whatever the children do, and whenever it is cancelled: results, errors, notes, time."""
    happened, reported = run_plan(plan, bounded_gather)
    assert happened == expected(plan)
    assert [note.split("'")[1] for note in happened.notes] == reported


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plan=plans())
def test_gives_what_gather_gives(plan: Plan) -> None:
    """Where nothing fails, or failures are results, it gives what `asyncio.gather` gives."""

    def gather(*aws: Any, limit: object, return_exceptions: bool) -> Any:
        return asyncio.gather(*aws, return_exceptions=return_exceptions)

    harmless = attrs.evolve(plan, cancelled=None)
    if not plan.return_exceptions:
        children = [
            attrs.evolve(child, fails=False, strays=False) for child in plan.children
        ]
        harmless = attrs.evolve(harmless, children=tuple(children))
    happened, _ = run_plan(harmless, bounded_gather)
    original, _ = run_plan(attrs.evolve(harmless, limit=None), gather)
    assert happened.results == original.results
    assert happened.results is not None
