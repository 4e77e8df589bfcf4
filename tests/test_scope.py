"""A block whose cleanup runs to its end, whatever cancels it, and however often."""

# ruff: noqa: PT012 - what is raised here leaves a block, not a statement

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from math import inf, nan
from types import CoroutineType, FrameType, TracebackType
from typing import Any

import anyio
import attrs
import pytest
import uvloop

from safeaio import (
    BoundedGroup,
    CleanupError,
    CleanupScope,
    TaskStuckError,
    bounded_group,
    cancel_and_wait,
    cleanup_scope,
)
from safeaio.testing import Route, Run, VirtualClockLoop, cancel_sweep

Reports = list[dict[str, Any]]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


def fail(error: BaseException) -> None:
    raise error


async def fail_later(error: BaseException) -> None:
    await turns(2)
    raise error


def host() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def forget_cancels() -> None:
    """Take back the cancels that a test has sent to itself."""
    while host().uncancel():
        pass


def later(func: Callable[..., object], *args: object) -> None:
    asyncio.get_running_loop().call_soon(func, *args)


# What leaves the block


@attrs.frozen
class Body:
    """How the body ends, and what that means."""

    end: Callable[[CleanupScope], Awaitable[object]]
    timeout: float | None = None
    interrupt: BaseException | None = None
    error: Exception | None = None
    outside: bool = False
    late: bool = False


async def _cancel_host(scope: CleanupScope) -> None:
    later(host().cancel, "by the body")
    await forever()


async def _cancel_scope(scope: CleanupScope) -> None:
    scope.cancel()
    await forever()


def _raises(error: BaseException) -> Callable[[CleanupScope], Awaitable[object]]:
    return lambda _: fail_later(error)


ERROR, INTERRUPT, EXIT = ValueError("body"), KeyboardInterrupt(), SystemExit()
BODIES = {
    "returns": Body(lambda _: turns(1)),
    "raises": Body(_raises(ERROR), error=ERROR),
    "KeyboardInterrupt": Body(_raises(INTERRUPT), interrupt=INTERRUPT),
    "SystemExit": Body(_raises(EXIT), interrupt=EXIT),
    "is cancelled": Body(_cancel_host, outside=True),
    "cancels itself": Body(_cancel_scope),
    "is late": Body(lambda _: forever(), timeout=0, late=True),
}


@attrs.frozen
class Steps:
    """What is deferred, and what comes of it."""

    calls: tuple[tuple[Callable[..., object], *tuple[object, ...]], ...] = ()
    cleanup_timeout: float | None = None
    failures: tuple[object, ...] = ()
    interrupt: BaseException | None = None
    outside: bool = False


async def _is_cancelled(main: list[asyncio.Task[Any]]) -> None:
    for n in range(3):
        main[0].cancel(f"in the cleanup {n}")
        await turns(2)


MAIN: list[asyncio.Task[Any]] = []
SYNC, ASYNC, STOP = KeyError("sync"), OSError("async"), KeyboardInterrupt()
STEPS = {
    "succeed": Steps(((turns, 3), (len, ""))),
    "fail": Steps(((fail, SYNC), (fail_later, ASYNC)), failures=(ASYNC, SYNC)),
    "are cut": Steps(
        ((turns, 0), (forever,)), cleanup_timeout=0, failures=(TimeoutError,)
    ),
    "KeyboardInterrupt": Steps(((turns, 3), (fail, STOP)), interrupt=STOP),
    "later KeyboardInterrupt": Steps(
        ((fail, SYNC), (fail_later, STOP)), failures=(SYNC,), interrupt=STOP
    ),
    "are cancelled": Steps(((turns, 3), (_is_cancelled, MAIN)), outside=True),
    "are cancelled and fail": Steps(
        ((fail_later, ASYNC), (_is_cancelled, MAIN), (fail, SYNC)),
        failures=(SYNC, ASYNC),
        outside=True,
    ),
    "KeyboardInterrupt, are cancelled and fail": Steps(
        ((fail_later, ASYNC), (_is_cancelled, MAIN), (fail_later, STOP)),
        failures=(ASYNC,),
        interrupt=STOP,
        outside=True,
    ),
}


def leaves_match(group: BaseException | None, expected: list[object]) -> None:
    assert isinstance(group, CleanupError)
    assert len(group.exceptions) == len(expected)
    for leaf, match in zip(group.exceptions, expected, strict=True):
        assert leaf is match or type(leaf) is match


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
async def test_what_leaves_the_block(
    body: Body, steps: Steps, reported: Reports
) -> None:
    """Interrupt, outside cancel, CleanupError, body's error, TimeoutError, nothing."""
    MAIN[:] = [host()]
    caught: BaseException | None = None
    try:
        async with cleanup_scope(
            timeout=body.timeout, cleanup_timeout=steps.cleanup_timeout
        ) as scope:
            for func, *args in steps.calls:
                scope.defer(func, *args)
            await body.end(scope)
    except BaseException as exc:  # noqa: BLE001 - compared
        caught = exc
    failures = [*steps.failures]
    if failures and body.error:
        failures.insert(0, body.error)
    interrupt = body.interrupt or steps.interrupt
    outside = body.outside or steps.outside
    if interrupt or outside:
        assert caught is not None
        if interrupt:
            assert caught is interrupt
        else:
            assert isinstance(caught, asyncio.CancelledError)
            assert caught.args == (
                "by the body" if body.outside else "in the cleanup 0",
            )
        assert len(reported) == bool(failures)
        if failures:
            leaves_match(caught.__context__, failures)
            assert reported[0]["exception"] is caught.__context__
    else:
        assert reported == []
        if failures:
            leaves_match(caught, failures)
        elif body.error:
            assert caught is body.error
        else:
            assert type(caught) is (TimeoutError if body.late else type(None))
    assert scope.timed_out is body.late
    assert scope.cancel_called is (body.end is _cancel_scope)
    assert host().cancelling() == body.outside + 3 * steps.outside
    forget_cancels()
    for used in (ERROR, INTERRUPT, EXIT, SYNC, ASYNC, STOP):
        used.__traceback__ = used.__context__ = None


async def test_a_late_body_that_raises_something_else() -> None:
    """What it raises of its own goes before the TimeoutError, which would hide it."""
    error = ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with cleanup_scope(timeout=0) as scope:
            try:
                await forever()
            finally:
                raise error
    assert caught.value is error
    assert scope.timed_out


async def test_a_late_body_that_returns() -> None:
    """One that swallows the cancel has ended by itself, as under asyncio.timeout."""
    async with cleanup_scope(timeout=0) as scope:
        with suppress(asyncio.CancelledError):
            await forever()
    assert scope.timed_out
    assert host().cancelling() == 0


async def test_the_timeout_error_says_why() -> None:
    """Its cause is the cancel that ended the body, and shows where that was."""
    with pytest.raises(TimeoutError, match="the deadline came before") as caught:
        async with cleanup_scope(timeout=0):
            await forever()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_a_stray_cancel_of_the_body() -> None:
    """A CancelledError that nobody sent leaves as it came."""
    error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError) as caught:
        async with cleanup_scope():
            raise error
    assert caught.value is error


async def test_the_body_s_error_is_seen_beside_a_cancel() -> None:
    """A cancel that comes in the cleanup shows what it hides."""
    MAIN[:] = [host()]
    with pytest.raises(asyncio.CancelledError) as caught:
        async with cleanup_scope() as scope:
            scope.defer(_is_cancelled, MAIN)
            raise ERROR
    assert caught.value.__context__ is ERROR
    forget_cancels()
    ERROR.__traceback__ = None


# Deadline and cancel


@pytest.mark.virtual_time
async def test_deadline_can_be_moved() -> None:
    """It is an absolute time, later, sooner, and not at all."""
    loop = asyncio.get_running_loop()
    async with cleanup_scope(timeout=3) as scope:
        assert scope.deadline == 3
        scope.deadline = 10
        await asyncio.sleep(5)
        scope.deadline = inf
        await asyncio.sleep(50)
        scope.deadline = 60
        assert not scope.timed_out
    assert scope.deadline == 60
    assert not scope.timed_out
    with pytest.raises(TimeoutError):
        async with cleanup_scope() as scope:
            assert scope.deadline == inf
            scope.deadline = loop.time() + 2
            await forever()
    assert loop.time() == 57


@pytest.mark.parametrize("when", [-inf, -1, 0])
async def test_a_deadline_in_the_past(when: float) -> None:
    """The body is cancelled where it next waits, and not at all if it does not."""
    with pytest.raises(TimeoutError):
        async with cleanup_scope() as scope:
            scope.deadline = when
            await forever()
    async with cleanup_scope(timeout=0) as scope:
        scope.deadline = when
    assert not scope.timed_out


@pytest.mark.virtual_time
async def test_the_deadline_does_not_count_for_the_cleanup() -> None:
    """Once the body has ended nothing more comes of it."""
    async with cleanup_scope(timeout=3, cleanup_timeout=None) as scope:
        scope.defer(asyncio.sleep, 10)
    assert not scope.timed_out


async def test_cancel_ends_the_body_silently() -> None:
    """Once, wherever it stands; the text reaches it."""
    async with cleanup_scope() as scope:
        scope.cancel("enough")
        scope.cancel("again")
        assert scope.cancel_called
        with pytest.raises(asyncio.CancelledError, match="enough") as caught:
            await forever()
        await turns(3)
        raise caught.value
    assert host().cancelling() == 0


async def test_cancel_by_somebody_else() -> None:
    """Another task may cancel the block, a callback too."""

    async def calls(scope: CleanupScope) -> None:
        await turns(2)
        scope.cancel()

    loop = asyncio.get_running_loop()
    ways: list[Callable[[CleanupScope], object]] = [
        lambda scope: later(scope.cancel),
        lambda scope: loop.create_task(calls(scope)),
    ]
    for cancels in ways:
        async with cleanup_scope() as scope:
            cancels(scope)
            await forever()
        assert scope.cancel_called


async def test_cancel_after_the_body() -> None:
    """In the cleanup, and later, it does nothing."""
    ended: list[bool] = []

    async def close() -> None:
        scope.cancel()
        await turns(3)
        ended.append(scope.cancel_called)

    async with cleanup_scope() as scope:
        scope.defer(close)
        scope.defer(scope.cancel)
    scope.cancel()
    assert ended == [False]
    assert not scope.cancel_called


async def test_cancel_in_the_last_tick_of_the_body() -> None:
    """A body that does not wait any more is not cancelled, nor is what follows."""
    async with cleanup_scope() as scope:
        scope.cancel()
    await turns(3)
    assert scope.cancel_called
    assert host().cancelling() == 0


async def test_only_the_first_of_cancel_and_deadline_counts() -> None:
    """A cancelled body is not late, and a late one not cancelled."""
    async with cleanup_scope(timeout=0) as scope:
        scope.cancel()
        await forever()
    assert not scope.timed_out
    with pytest.raises(TimeoutError):
        async with cleanup_scope(timeout=0) as scope:
            try:
                await forever()
            finally:
                scope.cancel()
    assert not scope.cancel_called


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("route", ["cancel", "deadline"])
async def test_a_cancel_from_outside_in_the_tick_of_ours(
    *, ours_first: bool, route: str
) -> None:
    """It is not taken for ours, whichever came first."""
    main = host()
    with pytest.raises(asyncio.CancelledError) as caught:
        async with cleanup_scope() as scope:
            if not ours_first:
                later(main.cancel, "outside")
            if route == "cancel":
                scope.cancel()
            else:
                scope.deadline = 0
            if ours_first:
                later(main.cancel, "outside")
            await forever()
    assert caught.value.args == (() if ours_first else ("outside",))
    assert host().cancelling() == 1
    forget_cancels()


async def test_a_cancel_from_outside_after_ours() -> None:
    """Delivered while the body ends by our cancel, it is found behind that or before it."""
    main = host()
    with pytest.raises(asyncio.CancelledError, match="outside"):
        async with cleanup_scope() as scope:
            scope.cancel()
            try:
                await forever()
            finally:
                main.cancel("outside")
                await turns(1)
    forget_cancels()
    with pytest.raises(asyncio.CancelledError, match="outside"):
        async with cleanup_scope() as scope:
            try:
                main.cancel("outside")
                await turns(1)
            finally:
                scope.cancel()
                await turns(2)
    forget_cancels()


# Misuse


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (-inf, ValueError),
        (nan, ValueError),
        (True, TypeError),
        ("3", TypeError),
    ],
)
@pytest.mark.parametrize("name", ["timeout", "cleanup_timeout"])
def test_refuses_a_timeout_that_is_none(
    name: str, value: Any, error: type[Exception]
) -> None:
    """It is refused at the call, by its name."""
    with pytest.raises(error, match=rf"cleanup_scope\(\): {name} must be"):
        cleanup_scope(**{name: value})


@pytest.mark.parametrize(
    ("value", "error"), [(nan, ValueError), (True, TypeError), (None, TypeError)]
)
async def test_refuses_a_deadline_that_is_none(
    value: Any, error: type[Exception]
) -> None:
    """The one before stays."""
    async with cleanup_scope() as scope:
        with pytest.raises(error, match=r"deadline must .*write inf for none"):
            scope.deadline = value
        assert scope.deadline == inf


async def test_refuses_a_deadline_that_comes_too_late() -> None:
    """A body that is cancelled, or has ended, gets no other."""
    ended: list[bool] = []

    def close() -> None:
        with pytest.raises(RuntimeError, match=r"is being left"):
            scope.deadline = 3
        ended.append(True)

    unentered = cleanup_scope()
    assert isinstance(unentered, CleanupScope)
    with pytest.raises(RuntimeError, match="has not been entered"):
        unentered.deadline = 3
    async with cleanup_scope() as scope:
        scope.defer(close)
        scope.cancel()
        with pytest.raises(RuntimeError, match="is cancelled"):
            scope.deadline = 3
    with pytest.raises(RuntimeError, match="has been left"):
        scope.deadline = 3
    assert ended == [True]


async def test_refuses_to_defer_what_is_no_function() -> None:
    """A coroutine object is closed, and the message shows the corrected line."""
    async with cleanup_scope() as scope:
        with pytest.raises(
            TypeError, match=r"write defer\(turns, \.\.\.\), not defer\(turns\("
        ):
            scope.defer(turns(1))  # type: ignore[arg-type]
        wrong: list[Any] = [3, None, "x"]
        for func in wrong:
            with pytest.raises(TypeError, match="takes a function, got"):
                scope.defer(func)


async def test_refuses_to_enter_the_wrong_kind() -> None:
    """The message names the method for the other kind, if it is of that."""

    class Sync:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    class Async:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    wrong: list[Any] = [Sync(), Async(), 3]
    async with cleanup_scope() as scope:
        with pytest.raises(TypeError, match=r"async context .*; use enter_context\(\)"):
            await scope.enter_async_context(wrong[0])
        with pytest.raises(TypeError, match=r"; use enter_async_context\(\)"):
            scope.enter_context(wrong[1])
        with pytest.raises(TypeError, match=r"got 3$"):
            scope.enter_context(wrong[2])
        with pytest.raises(TypeError, match=r"got 3$"):
            await scope.enter_async_context(wrong[2])


async def test_use_outside_of_the_block() -> None:
    """Before it is entered, and after it was left, nothing is taken."""
    block = cleanup_scope()
    assert isinstance(block, CleanupScope)
    manager = suppress(KeyError)
    for state in ("has not been entered", "has been left"):
        with pytest.raises(RuntimeError, match=state):
            block.defer(forever)
        with pytest.raises(RuntimeError, match=state):
            block.enter_context(manager)
        with pytest.raises(RuntimeError, match=state):
            await block.enter_async_context(cleanup_scope())
        with pytest.raises(RuntimeError, match=state):
            await block.__aexit__(None, None, None)
        if state == "has not been entered":
            with pytest.raises(RuntimeError, match=state):
                block.cancel()
            async with block:
                with pytest.raises(RuntimeError, match="entered once"):
                    await block.__aenter__()
    with pytest.raises(RuntimeError, match="entered once"):
        await block.__aenter__()


async def test_use_in_another_task() -> None:
    """Each task needs a scope of its own; the block's is not disturbed."""
    log: list[int] = []

    async def use(scope: CleanupScope) -> None:
        with pytest.raises(RuntimeError, match=r"defer\(\): .*belongs to another task"):
            scope.defer(forever)
        with pytest.raises(RuntimeError, match="belongs to another task"):
            scope.enter_context(suppress(KeyError))
        with pytest.raises(RuntimeError, match="belongs to another task"):
            await scope.enter_async_context(cleanup_scope())

    async with cleanup_scope() as scope:
        scope.defer(log.append, 1)
        await asyncio.create_task(use(scope))
    assert log == [1]


def test_use_in_another_loop() -> None:
    """A scope belongs to the task that entered it, and that to its loop."""

    async def use() -> None:
        with pytest.raises(RuntimeError, match="belongs to another task"):
            scopes[0].defer(forever)

    async def main() -> CleanupScope:
        async with cleanup_scope() as scope:
            await asyncio.to_thread(run, use, lambda: None, scope)
        return scope

    def run(main: Any, _: Any, entered: CleanupScope) -> None:
        scopes.append(entered)
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(main())

    scopes: list[CleanupScope] = []
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main())


async def test_left_in_another_task() -> None:
    """The cleanup is complete, and the error tells what is not."""
    ended: list[str] = []

    async def close() -> None:
        await turns(3)
        ended.append("closed")

    async def enter() -> CleanupScope:
        scope = await cleanup_scope().__aenter__()
        scope.defer(close)
        return scope

    error = ValueError()
    for raised in (None, error):
        scope = await asyncio.create_task(enter())
        with pytest.raises(RuntimeError, match="in the task that entered it") as caught:
            await scope.__aexit__(
                None if raised is None else type(raised), raised, None
            )
        assert caught.value.__cause__ is raised
    assert ended == ["closed"] * 2
    async with cleanup_scope() as scope:  # nothing of ours is still entered here
        scope.cancel()
        await forever()


async def test_left_in_another_task_while_the_first_goes_on() -> None:
    """That one is not shielded for ever from the scopes around it."""
    scope: CleanupScope
    entered, left = asyncio.Event(), asyncio.Event()

    async def enter() -> None:
        nonlocal scope
        with anyio.CancelScope() as outer:
            scope = await cleanup_scope().__aenter__()
            entered.set()
            await left.wait()
            outer.cancel()
            with suppress(RuntimeError):
                await forever()
            raise asyncio.CancelledError

    task = asyncio.create_task(enter())
    await entered.wait()
    with pytest.raises(RuntimeError):
        await scope.__aexit__(None, None, None)
    left.set()
    await asyncio.wait([task])


# GeneratorExit


def drive(main: Coroutine[Any, Any, object], steps: int) -> None:
    """Take the first steps of a coroutine by hand, inside of the running task."""
    for _ in range(steps):
        main.send(None)


def close_inside(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], steps: int
) -> None:
    async def main() -> None:
        drive(coro, steps)
        coro.close()

    loop.run_until_complete(main())


def close_in_another_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], steps: int
) -> None:
    async def enter() -> None:
        drive(coro, steps)

    async def close() -> None:
        coro.close()

    loop.run_until_complete(enter())
    loop.run_until_complete(close())


def close_without_a_loop(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], steps: int
) -> None:
    async def enter() -> None:
        drive(coro, steps)

    loop.run_until_complete(enter())
    coro.close()


@pytest.mark.parametrize(
    "close", [close_inside, close_in_another_task, close_without_a_loop]
)
@pytest.mark.parametrize("where", ["body", "call", "context manager"])
def test_closed(close: Callable[..., None], where: str, loop_factory: Any) -> None:
    """What needs no await is done, wherever Python closes the coroutine."""
    log: list[object] = []

    async def slow(name: str) -> None:
        log.append(f"{name} starts")
        await forever()

    class Manager:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: object, *_: object) -> None:
            log.append(kind)

        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            await asyncio.sleep(3600)

    async def main() -> None:
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.defer(slow, "never")
            scope.defer(loop.create_future)
            scope.enter_context(Manager())
            await scope.enter_async_context(Manager())
            scope.defer(log.append, 2)
            if where == "body":
                await forever()
            elif where == "call":
                scope.defer(loop.create_future)
            else:
                await scope.enter_async_context(Manager())
            log.append("left")

    loop = loop_factory()
    close(loop, main(), 1)
    loop.run_until_complete(turns(5))
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert asyncio.all_tasks(loop) == set()
    loop.close()
    left = [] if where == "body" else ["left"]
    assert log == [*left, 2, GeneratorExit, 1]


def test_a_call_that_fails_while_the_coroutine_is_closed() -> None:
    """It is reported, since nothing else can be raised, and the rest runs."""
    log: list[int] = []
    reported: Reports = []
    loop = VirtualClockLoop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def main() -> None:
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.defer(fail, ERROR)
            scope.defer(fail, INTERRUPT)
            await forever()

    close_without_a_loop(loop, main(), 1)
    loop.close()
    assert [report["exception"] for report in reported] == [INTERRUPT, ERROR]
    assert "raised while its coroutine was closed" in reported[0]["message"]
    assert log == [1]
    ERROR.__traceback__ = INTERRUPT.__traceback__ = None


async def test_an_async_generator_that_is_closed() -> None:
    """Its GeneratorExit leaves bare, though it may be closed in another task."""
    log: list[str] = []

    async def generate() -> AsyncGenerator[int]:
        async with cleanup_scope() as scope:
            scope.defer(log.append, "closed")
            yield 1

    generator = generate()
    assert await anext(generator) == 1
    await generator.aclose()
    assert log == ["closed"]


async def test_generator_exit_raised_by_hand() -> None:
    """It leaves bare, as the same object."""
    log: list[str] = []
    error = GeneratorExit()
    with pytest.raises(GeneratorExit) as caught:
        async with cleanup_scope() as scope:
            scope.defer(log.append, "closed")
            raise error
    assert caught.value is error
    assert log == ["closed"]


# Nesting


def test_cancelled_before_the_first_step(loop_factory: Any) -> None:
    """The block is never entered: nothing is deferred, nothing is left entered."""
    entered: list[int] = []

    async def child() -> None:
        async with cleanup_scope():
            entered.append(1)
            await forever()

    async def main() -> None:
        task = asyncio.create_task(child())
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert len(entered) <= 1  # an eager task takes its first step at once


@pytest.mark.parametrize("how", ["returns", "deadline", "cancel", "again"])
async def test_in_finally_of_a_cancelled_task(how: str) -> None:
    """An earlier cancel is not taken for a new one, nor a new one for that."""
    log: list[str] = []
    main = host()

    async def close() -> None:
        await turns(3)
        log.append("closed")

    async def clean_up() -> None:
        async with cleanup_scope(timeout=0 if how == "deadline" else None) as scope:
            scope.defer(close)
            if how == "cancel":
                scope.cancel()
            if how == "again":
                later(main.cancel, "again")
            if how != "returns":
                await forever()

    with pytest.raises(asyncio.CancelledError):
        try:
            main.cancel("before")
            await turns(1)
        finally:
            if how == "deadline":
                with pytest.raises(TimeoutError):
                    await clean_up()
            elif how == "again":
                with pytest.raises(asyncio.CancelledError, match="again"):
                    await clean_up()
            else:
                await clean_up()
            log.append("went on")
    assert log == ["closed", "went on"]
    assert main.cancelling() == 1 + (how == "again")
    forget_cancels()


async def test_a_deadline_of_an_outer_scope() -> None:
    """The inner one lets it through: only the scope whose time is up raises TimeoutError."""
    log: list[str] = []
    with pytest.raises(TimeoutError):
        async with cleanup_scope(timeout=0) as outer:
            outer.defer(log.append, "outer")
            with pytest.raises(asyncio.CancelledError):
                async with cleanup_scope() as inner:
                    inner.defer(log.append, "inner")
                    await forever()
            raise asyncio.CancelledError
    assert (outer.timed_out, inner.timed_out) == (True, False)
    assert log == ["inner", "outer"]


@pytest.mark.parametrize("order", ["outer first", "inner first"])
@pytest.mark.parametrize("outside", ["scope", "asyncio.timeout", "anyio scope"])
async def test_two_deadlines_in_one_tick(order: str, outside: str) -> None:
    """The outer one wins, and takes back its own cancel."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with cleanup_scope() as outer:
            scope = outer.enter_context(anyio.CancelScope())
            timeout = await outer.enter_async_context(asyncio.timeout(None))
            cut: dict[str, Callable[[], object]] = {
                "scope": outer.cancel,
                "asyncio.timeout": lambda: timeout.reschedule(loop.time()),
                "anyio scope": lambda: later(scope.cancel),
            }
            async with cleanup_scope() as inner:
                actions = [cut[outside], inner.cancel]
                if order == "inner first":
                    actions.reverse()
                for action in actions:
                    action()
                await forever()
            await forever()
    assert inner.cancel_called
    assert outer.cancel_called is (outside == "scope")
    assert timeout.expired() is (outside == "asyncio.timeout")
    assert host().cancelling() == 0
    await turns(3)


@pytest.mark.virtual_time
async def test_inside_an_anyio_scope_the_loop_rests() -> None:
    """A cancelled scope delivers in every tick: the cleanup waits in a shield."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    log: list[float] = []

    async def close() -> None:
        await asyncio.sleep(4)
        log.append(loop.time())

    with anyio.move_on_after(1):
        async with cleanup_scope() as scope:
            scope.defer(close)
            scope.defer(close)
            ticks = loop.ticks
            await forever()
    assert log == [5, 9]
    assert loop.ticks - ticks < 40


@pytest.mark.virtual_time
async def test_an_anyio_scope_cancelled_during_the_cleanup() -> None:
    """It waits until the cleanup is done, and is not lost."""
    log: list[str] = []

    async def close() -> None:
        later(outer.cancel)
        await asyncio.sleep(4)
        log.append("closed")

    with anyio.CancelScope() as outer:
        async with cleanup_scope() as scope:
            scope.defer(close)
        log.append("left")
        await forever()
    assert log == ["closed", "left"]
    assert outer.cancelled_caught


async def test_in_a_task_group_that_fails() -> None:
    """The group's cancel ends the body, and the group waits for the cleanup."""
    log: list[str] = []

    async def close() -> None:
        await turns(9)
        log.append("closed")

    async def child() -> None:
        async with cleanup_scope() as scope:
            scope.defer(close)
            await forever()

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as native:
            native.create_task(child())
            native.create_task(fail_later(ValueError()))
    forget_cancels()  # before 3.13 the native group leaves its own behind
    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(fail_later, ValueError())
    with pytest.raises(ValueError):  # noqa: PT011
        async with bounded_group() as ours:
            assert isinstance(ours, BoundedGroup)
            await ours.start_soon(child)
            await ours.start_soon(fail_later, ValueError())
    assert log == ["closed"] * 3


# Cancelled at every tick


LOOPS = pytest.mark.parametrize(
    "factory",
    [VirtualClockLoop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


@attrs.define
class Ledger:
    """What was deferred, and what of it ran."""

    deferred: list[str] = attrs.field(factory=list[str])
    log: list[str] = attrs.field(factory=list[str])
    seen: int = 0

    def defer(self, scope: CleanupScope, name: str, count: int = 0) -> None:
        self.deferred.append(name)
        if count:
            scope.defer(self.close, name, count)
        else:
            scope.defer(self.close_at_once, name)

    async def close(self, name: str, count: int) -> None:
        self.log.append(f"{name} starts")
        try:
            await turns(count)
            if isinstance(asyncio.get_running_loop(), VirtualClockLoop):
                await asyncio.sleep(1)
        finally:
            await turns(1)
        self.log.append(name)

    def close_at_once(self, name: str) -> None:
        self.log += [f"{name} starts", name]

    def check(self, run: Run) -> None:
        """Every deferred call ran exactly once, in reverse, to its end."""
        expected = [
            entry
            for name in reversed(self.deferred)
            for entry in (f"{name} starts", name)
        ]
        assert self.log == expected


Scenario = Callable[[Ledger], Awaitable[object]]


def sweep(
    scenario: Scenario,
    factory: Callable[[], asyncio.AbstractEventLoop],
    *,
    may_raise: Any = (),
    **options: Any,
) -> None:
    ledger = Ledger()
    most = 0

    async def reset_and_run() -> object:
        nonlocal ledger
        ledger = Ledger()
        return await scenario(ledger)

    def every_call_ran(run: Run) -> None:
        ledger.check(run)

    def does_not_spin(run: Run) -> None:
        nonlocal most
        if run.route is None:
            most = run.ticks + 20
        assert run.ticks <= most or factory is not VirtualClockLoop

    def reports_nothing(run: Run) -> None:
        assert may_raise or not run.reported

    cancel_sweep(
        reset_and_run,
        every_call_ran,
        does_not_spin,
        reports_nothing,
        may_raise=may_raise,
        loop_factory=factory,
        **options,
    )


@LOOPS
def test_swept(factory: Any) -> None:
    """Whenever and however it is cancelled, every deferred call runs to its end."""

    async def scenario(ledger: Ledger) -> None:
        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 3)
            await turns(2)
            ledger.defer(scope, "b")
            ledger.defer(scope, "c", 2)
            await turns(1)

    sweep(scenario, factory)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
def test_swept_with_eager_tasks() -> None:
    """So it is where tasks take their first step at once."""

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = VirtualClockLoop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    async def scenario(ledger: Ledger) -> None:
        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 2)
            await turns(2)
            ledger.defer(scope, "b")
            ledger.defer(scope, "c", 1)

    sweep(scenario, eager_loop)


@LOOPS
def test_swept_with_scopes_in_scopes(factory: Any) -> None:
    """In its body, and on its stack."""

    async def scenario(ledger: Ledger) -> None:
        async with cleanup_scope() as outer:
            ledger.defer(outer, "a", 1)
            async with cleanup_scope() as inner:
                ledger.defer(inner, "b", 2)
                await turns(1)

    sweep(scenario, factory)


@LOOPS
@pytest.mark.parametrize("around", ["timeout", "task group", "anyio group", "scope"])
def test_swept_inside_other_blocks(factory: Any, around: str) -> None:
    """Inside the blocks of others, and around a block of its own."""

    async def work(ledger: Ledger) -> None:
        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(turns(2))
            ledger.defer(scope, "b", 1)

    async def scenario(ledger: Ledger) -> None:
        if around == "timeout":
            async with asyncio.timeout(None):
                await work(ledger)
        elif around == "task group":
            async with asyncio.TaskGroup() as native:
                native.create_task(work(ledger))
        elif around == "anyio group":
            async with anyio.create_task_group() as group:
                group.start_soon(work, ledger)
        else:
            with anyio.CancelScope():
                await work(ledger)

    # A task group waits in a busy loop while a scope of anyio around it is cancelled.
    native = [Route.NATIVE, Route.NATIVE_TWICE, Route.TIMEOUT]
    sweep(scenario, factory, routes=native if around == "task group" else Route)


@LOOPS
def test_swept_while_its_own_cancel_is_under_way(factory: Any) -> None:
    """A cancel from outside that comes beside ours is not taken for it."""

    async def scenario(ledger: Ledger) -> None:
        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 2)
            await turns(1)
            scope.cancel()
            await forever()

    sweep(scenario, factory)


@LOOPS
def test_swept_around_its_deadline(factory: Any) -> None:
    """A cancel beside the deadline is raised, not the TimeoutError."""

    async def scenario(ledger: Ledger) -> None:
        with suppress(TimeoutError):
            async with cleanup_scope(timeout=0) as scope:
                ledger.defer(scope, "a", 2)
                await forever()

    sweep(scenario, factory)


@LOOPS
def test_swept_around_failures(factory: Any) -> None:
    """What fails does not stop the rest, whenever the cancel comes."""

    async def scenario(ledger: Ledger) -> None:
        with suppress(CleanupError):
            async with cleanup_scope() as scope:
                ledger.defer(scope, "a", 1)
                scope.defer(fail_later, KeyError())
                ledger.defer(scope, "b", 1)
                scope.defer(fail, OSError())
                await turns(1)

    sweep(scenario, factory, may_raise=CleanupError)


def test_swept_around_an_interrupt() -> None:
    """KeyboardInterrupt in the cleanup waits for the rest, and goes before a cancel."""

    async def scenario(ledger: Ledger) -> None:
        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 1)
            scope.defer(fail_later, KeyboardInterrupt())
            ledger.defer(scope, "b", 1)
            await turns(1)

    sweep(scenario, VirtualClockLoop, may_raise=KeyboardInterrupt)


def test_swept_with_calls_that_defer() -> None:
    """What is deferred in the cleanup runs next, whenever the cancel comes."""

    async def scenario(ledger: Ledger) -> None:
        async def again(scope: CleanupScope) -> None:
            await turns(1)
            scope.defer(ledger.close, "late", 2)
            await turns(1)

        async with cleanup_scope() as scope:
            ledger.defer(scope, "a", 1)
            ledger.deferred.append("late")
            scope.defer(again, scope)
            await turns(1)

    sweep(scenario, VirtualClockLoop)


def test_swept_with_calls_that_are_cut() -> None:
    """A slow and a stubborn call end the same, whenever the cancel comes."""

    async def stubborn() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(25)

    async def scenario(ledger: Ledger) -> None:
        try:
            async with cleanup_scope(cleanup_timeout=10) as scope:
                ledger.defer(scope, "a", 1)
                scope.defer(stubborn)
                scope.defer(forever)
                ledger.defer(scope, "b", 1)
                await turns(1)
        except CleanupError as exc:
            assert [type(leaf) for leaf in exc.exceptions] == [  # noqa: PT017
                TimeoutError,
                TaskStuckError,
            ]
        finally:
            rest = asyncio.all_tasks() - {host()}
            await cancel_and_wait(*rest, timeout=None)

    sweep(scenario, VirtualClockLoop, may_raise=CleanupError)


def test_swept_in_finally_of_a_cancelled_task() -> None:
    """Earlier cancels leave the counts right."""

    async def scenario(ledger: Ledger) -> None:
        try:
            await turns(2)
        finally:
            async with cleanup_scope() as scope:
                ledger.defer(scope, "a", 2)
                ledger.defer(scope, "b", 1)

    sweep(scenario, VirtualClockLoop)


# Memory


def garbage_of(
    main: Callable[[], Coroutine[Any, Any, object]], loop_factory: Any
) -> list[object]:
    """Run `main`, and return what of ours only the collector could free."""
    ours = BaseException | FrameType | TracebackType | CoroutineType  # type: ignore[type-arg]
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda *_: None)
            runner.run(main())
            gc.collect()
            found = [
                one
                for one in gc.garbage
                if isinstance(one, ours) or type(one).__module__.startswith("safeaio")
            ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return found


def make_error(name: str) -> BaseException:
    errors: dict[str, BaseException] = {
        "error": ValueError(),
        "interrupt": KeyboardInterrupt(),
    }
    return errors[name]


async def end_body(how: str, scope: CleanupScope) -> None:
    if how in ("error", "interrupt"):
        raise make_error(how)
    if how == "outside":
        later(host().cancel)
    elif how == "cancel":
        scope.cancel()
    elif how == "deadline":
        scope.deadline = 0
    if how != "returns":
        await forever()


class Replaces:
    """Raises something else than it saw."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: object) -> None:
        del details  # else its frame is what holds what it saw
        raise KeyError


def defer_steps(how: str, scope: CleanupScope) -> None:
    main = host()

    def fail_in_a_frame() -> None:
        frame = sys._getframe()
        assert frame.f_back is not None
        del frame
        raise OSError

    async def fail_in_a_task() -> None:
        await turns(2)
        raise OSError

    def interrupt() -> None:
        raise KeyboardInterrupt

    scope.defer(turns, 2)
    if how == "sync failure":
        scope.defer(fail_in_a_frame)
        scope.defer(fail_in_a_frame)
    elif how == "async failure":
        scope.defer(fail_in_a_task)
    elif how == "replaced":
        scope.enter_context(Replaces())
        scope.enter_context(Replaces())
        scope.defer(fail_in_a_frame)
    elif how == "interrupted":
        scope.enter_context(Replaces())
        scope.defer(fail_in_a_frame)
        scope.defer(interrupt)
        scope.defer(fail_in_a_frame)
    elif how == "cancelled":
        scope.defer(fail_in_a_frame)
        scope.defer(lambda: later(main.cancel))
        scope.defer(turns, 2)
        scope.defer(lambda: later(main.cancel))
    elif how == "cut":
        scope.defer(forever)


@pytest.mark.parametrize(
    "body", ["returns", "error", "interrupt", "outside", "cancel", "deadline"]
)
@pytest.mark.parametrize(
    "steps",
    [
        "success",
        "sync failure",
        "async failure",
        "replaced",
        "interrupted",
        "cancelled",
        "cut",
    ],
)
def test_leaves_no_cycles(body: str, steps: str, loop_factory: Any) -> None:
    """What leaves the block, and all it holds, is freed when it is dropped."""

    async def main() -> None:
        cleanup_timeout = 0 if steps == "cut" else None
        with suppress(BaseException):
            async with cleanup_scope(cleanup_timeout=cleanup_timeout) as scope:
                defer_steps(steps, scope)
                await end_body(body, scope)
        forget_cancels()

    assert garbage_of(main, loop_factory) == []


def test_memory_is_flat() -> None:
    """A hundred thousand scopes leave nothing behind, not even cycles to collect."""

    async def main() -> None:
        for n in range(100_000):
            async with cleanup_scope(timeout=60) as scope:
                scope.defer(len, "")
            await turns(1)  # in which a loop forgets the timers that were cancelled
            if n == 90_000:
                gc.collect()
                gc.disable()
                tracemalloc.start()
        used, _ = tracemalloc.get_traced_memory()
        assert used < 64 * 1024

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            runner.run(main())
        finally:
            tracemalloc.stop()
            gc.enable()


@pytest.mark.virtual_time
async def test_failures_are_the_context_of_a_cancel_in_any_turn(
    reported: list[dict[str, Any]],
) -> None:
    """Also in the last one, in which Python would put there what left the body."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("failed")

    async def block() -> None:
        try:
            async with cleanup_scope() as scope:
                scope.defer(fail)
                raise ValueError("body")
        except asyncio.CancelledError as exc:
            contexts.append(exc.__context__)
            raise

    contexts: list[BaseException | None] = []
    for turn in range(12):
        task = asyncio.create_task(block())
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert isinstance(task.exception(), CleanupError)
    assert len(contexts) >= 3
    assert {type(context) for context in contexts} == {CleanupError}
    assert len(reported) == len(contexts)


@pytest.mark.virtual_time
async def test_own_cancel_in_the_turn_of_a_scope() -> None:
    """What leaves the block is the cancel of the scope around it, which takes it back."""
    with anyio.move_on_after(0) as around:
        async with cleanup_scope() as scope:
            scope.cancel()
            await asyncio.sleep(0)
    assert around.cancelled_caught


async def test_a_deferred_call_enters_nothing() -> None:
    """Its task is not the one in which a context manager would be left."""

    async def enter(scope: CleanupScope) -> None:
        with pytest.raises(RuntimeError, match="belongs to another task"):
            scope.enter_context(suppress(OSError))
        with pytest.raises(RuntimeError, match="belongs to another task"):
            await scope.enter_async_context(cleanup_scope())
        refused.append(True)

    refused: list[bool] = []
    async with cleanup_scope() as scope:
        scope.defer(enter, scope)
    assert refused == [True]


def test_task_factory_that_raises_is_a_failure() -> None:
    """The call has failed, its coroutine is closed, and the rest of the cleanup runs."""

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        if coro.__qualname__.endswith("close"):
            raise OSError("no more tasks")
        return asyncio.Task(coro, loop=loop, **options)

    async def close() -> None:
        raise AssertionError("never starts")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        with pytest.raises(CleanupError) as caught:
            async with cleanup_scope() as scope:
                scope.defer(ran.append, "rest")
                scope.defer(close)
        assert [type(leaf) for leaf in caught.value.exceptions] == [OSError]

    ran: list[str] = []
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())
    assert ran == ["rest"]
