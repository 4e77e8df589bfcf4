"""The stack of a `cleanup_scope`: deferred calls, and context managers."""

# ruff: noqa: PT012 - what is raised here leaves a block, not a statement

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import product
from typing import Any

import anyio
import pytest

from safeaio import (
    CancellationSwallowedWarning,
    ChildCancelled,
    CleanupError,
    CleanupScope,
    TaskStuckError,
    cleanup_scope,
)
from safeaio.testing import VirtualClockLoop

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


# Deferred calls


async def test_deferred_calls_run_once_in_reverse() -> None:
    """Functions, async or not, run one after the other, the last first."""
    log: list[object] = []

    async def close(name: str) -> None:
        log.append(f"{name} starts")
        await turns(3)
        log.append(f"{name} ends")

    async with cleanup_scope() as scope:
        scope.defer(log.append, 1)
        scope.defer(close, "a")
        scope.defer(log.append, 2)
        scope.defer(close, "b")
        scope.defer(partial(log.append, 3))
    assert log == [3, "b starts", "b ends", 2, "a starts", "a ends", 1]


async def test_one_stack_for_calls_and_context_managers() -> None:
    """Both are undone in the reverse order in which they were asked for."""
    log: list[str] = []

    @contextmanager
    def sync(name: str) -> Generator[str]:
        yield name
        log.append(name)

    @asynccontextmanager
    async def async_(name: str) -> AsyncGenerator[str]:
        yield name
        await turns(2)
        log.append(name)

    async with cleanup_scope() as scope:
        scope.defer(log.append, "1")
        assert scope.enter_context(sync("2")) == "2"
        assert await scope.enter_async_context(async_("3")) == "3"
        scope.defer(log.append, "4")
        assert scope.enter_context(sync("5")) == "5"
    assert log == ["5", "4", "3", "2", "1"]


async def test_where_a_deferred_call_runs() -> None:
    """It is called in the task and context of the block, and awaited in one of its own."""
    var = ContextVar("var", default="unset")
    seen: list[object] = []

    def close() -> Coroutine[Any, Any, None]:
        assert host() is main
        var.set("by the call")
        return close_async()

    async def close_async() -> None:
        assert host() is not main
        seen.append(var.get())
        var.set("in its task")

    main = host()
    async with cleanup_scope() as scope:
        scope.defer(close)
    assert seen == ["by the call"]
    assert var.get() == "by the call"


async def test_what_a_call_returns_is_awaited() -> None:
    """A task, a future or another awaitable is waited for to its end."""
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    async def work(name: str) -> None:
        await turns(4)
        ended.append(name)

    class Awaits:
        def __await__(self) -> Generator[Any, Any, None]:
            yield from work("object").__await__()

    def future() -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _: ended.append("future"))
        loop.call_soon(future.set_result, None)
        return future

    async with cleanup_scope() as scope:
        scope.defer(Awaits)
        scope.defer(lambda: loop.create_task(work("task")))
        scope.defer(future)
        scope.defer(lambda: 3)
    assert ended == ["future", "task", "object"]


async def test_a_task_that_a_call_returns_may_fail() -> None:
    """Its error is one of the cleanup, and so is its cancel."""
    loop = asyncio.get_running_loop()
    error = ValueError()
    cancelled = loop.create_future()
    cancelled.cancel("by somebody")
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope() as scope:
            scope.defer(lambda: cancelled)
            scope.defer(lambda: loop.create_task(fail_later(error)))
    first, second = caught.value.exceptions
    assert first is error
    assert isinstance(second, ChildCancelled)
    assert "test_a_task_that_a_call_returns" in second.child
    assert isinstance(second.__cause__, asyncio.CancelledError)


async def test_a_failing_call_does_not_stop_the_rest() -> None:
    """Every failure is a leaf of one CleanupError, in the order in which they came."""
    errors = [ValueError("a"), KeyError("b"), OSError("c")]
    log: list[int] = []
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.defer(fail, errors[2])
            scope.defer(log.append, 2)
            scope.defer(fail_later, errors[1])
            scope.defer(log.append, 3)
            scope.defer(fail, errors[0])
    assert list(caught.value.exceptions) == errors
    assert log == [3, 2, 1]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("func", [fail, fail_later])
async def test_an_interrupt_does_not_stop_the_rest(
    interrupt: type[BaseException], func: Callable[[BaseException], Any]
) -> None:
    """Nobody is left behind, and then the same object comes out bare."""
    log: list[int] = []
    error = interrupt()
    with pytest.raises(interrupt) as caught:
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.defer(func, error)
            scope.defer(log.append, 2)
    assert caught.value is error
    assert log == [2, 1]


async def test_defer_during_the_cleanup() -> None:
    """What a deferred call defers runs next, however deep that goes."""
    log: list[str] = []

    async def close(name: str, depth: int) -> None:
        if depth:  # in the first step, which an eager task takes at once
            scope.defer(close, f"{name}>", depth - 1)
            scope.defer(close_at_once, f"{name}-", depth - 1)
        await turns(2)
        log.append(name)

    def close_at_once(name: str, depth: int) -> None:
        if depth:
            scope.defer(close, f"{name}>", depth - 1)
        log.append(name)

    async with cleanup_scope() as scope:
        scope.defer(log.append, "last")
        scope.defer(close, "a", 2)
    assert log == ["a", "a-", "a->", "a>", "a>-", "a>>", "last"]


async def test_a_context_manager_entered_during_the_cleanup() -> None:
    """It is left next."""
    log: list[str] = []

    class Tracks:
        def __enter__(self) -> None:
            log.append("entered")

        def __exit__(self, *_: object) -> None:
            log.append("left")

    async with cleanup_scope() as scope:
        scope.defer(log.append, "last")
        scope.defer(scope.enter_context, Tracks())
    assert log == ["entered", "left", "last"]


async def test_somebody_else_defers_during_the_cleanup() -> None:
    """Only the deferred call itself may, not a task that it has started."""
    refused = 0

    async def defer() -> None:
        nonlocal refused
        with pytest.raises(RuntimeError, match="belongs to another task"):
            scope.defer(forever)
        refused += 1

    async def close() -> None:
        await asyncio.create_task(defer())

    async with cleanup_scope() as scope:
        scope.defer(close)
    assert refused == 1


async def test_a_call_is_never_named_by_its_repr() -> None:
    """A repr may fail, and may be as large as the arguments of a partial."""

    class Hostile:
        def __repr__(self) -> str:
            raise ZeroDivisionError

        def __call__(self) -> None:
            raise asyncio.CancelledError

    async def close(_: object) -> None:
        raise asyncio.CancelledError

    log: list[int] = []
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.defer(partial(close, Hostile()))
            scope.defer(Hostile())
    names = [getattr(leaf, "child", "") for leaf in caught.value.exceptions]
    assert names[0].endswith("Hostile()")
    assert names[1].endswith(".close()")
    assert log == [1]


# Slow calls


@pytest.mark.virtual_time
async def test_a_slow_call_is_cut() -> None:
    """After `cleanup_timeout` it is cancelled, once, and the rest runs."""
    log: list[object] = []
    loop = asyncio.get_running_loop()

    async def slow() -> None:
        try:
            await forever()
        except asyncio.CancelledError as exc:
            log.append(loop.time())
            await asyncio.sleep(2)
            log.append(host().cancelling())
            raise ValueError from exc

    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope(cleanup_timeout=3) as scope:
            scope.defer(lambda: log.append(loop.time()))
            scope.defer(slow)
            scope.defer(asyncio.sleep, 2)  # each call has a time of its own
    (late,) = caught.value.exceptions
    assert isinstance(late, TimeoutError)
    assert str(late).endswith("slow() was cut after 3 s")
    assert isinstance(late.__cause__, ValueError)
    assert log == [5, 1, 7]


async def test_a_cleanup_timeout_of_zero() -> None:
    """It gives every call its first step, and lets it end by its cancel."""
    log: list[int] = []

    async def slow(n: int) -> None:
        log.append(n)
        await forever()

    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope(cleanup_timeout=0) as scope:
            scope.defer(slow, 1)
            scope.defer(log.append, 2)
            scope.defer(slow, 3)
    assert [type(leaf) for leaf in caught.value.exceptions] == [TimeoutError] * 2
    assert log == [3, 2, 1]


@pytest.mark.virtual_time
@pytest.mark.parametrize("returned", ["coroutine", "task", "future"])
async def test_a_slow_call_of_any_kind_is_cut(returned: str) -> None:
    """Also what is not ours, but was given to us."""
    loop = asyncio.get_running_loop()
    make: dict[str, Callable[[], Awaitable[None]]] = {
        "coroutine": forever,
        "task": lambda: loop.create_task(forever()),
        "future": loop.create_future,
    }
    log: list[int] = []
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope(cleanup_timeout=1) as scope:
            scope.defer(log.append, 1)
            scope.defer(make[returned])
            scope.defer(log.append, 2)
    assert [type(leaf) for leaf in caught.value.exceptions] == [TimeoutError]
    assert log == [2, 1]


@pytest.mark.virtual_time
async def test_a_call_that_ends_beside_its_cut_is_not_cut() -> None:
    """What has ended when the time is up was in time, though it blocked the loop."""
    loop = asyncio.get_running_loop()

    async def blocks(until: float) -> None:
        loop.time = lambda: until  # type: ignore[method-assign]

    try:
        async with cleanup_scope(cleanup_timeout=10) as scope:
            scope.defer(blocks, loop.time() + 11)
    finally:
        del loop.time


@pytest.mark.virtual_time
async def test_a_stubborn_call_is_given_up() -> None:
    """Ignoring its cut it gets as long again, is reported as stuck, and left alone."""
    log: list[object] = []
    loop = asyncio.get_running_loop()
    free = asyncio.Event()
    stubborn_task: list[asyncio.Task[Any]] = []

    async def stubborn() -> None:
        stubborn_task.append(host())
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()

    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope(cleanup_timeout=3) as scope:
            scope.defer(lambda: log.append(loop.time()))
            scope.defer(stubborn)
    assert log == [6]
    (stuck,) = caught.value.exceptions
    assert isinstance(stuck, TaskStuckError)
    assert "still running 3.0 s after it was cancelled" in str(stuck)
    assert "in stubborn" in str(stuck)
    assert stubborn_task[0].cancelling() == 1
    free.set()
    await asyncio.wait(stubborn_task)


async def test_a_call_that_swallows_its_cut_is_named() -> None:
    """It is reported as late, and as one that has swallowed its cancel."""

    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()

    with (
        pytest.raises(CleanupError) as caught,
        pytest.warns(CancellationSwallowedWarning, match=r"swallows\(\) at"),
    ):
        async with cleanup_scope(cleanup_timeout=0) as scope:
            scope.defer(swallows)
    (late,) = caught.value.exceptions
    assert isinstance(late, TimeoutError)


@pytest.mark.virtual_time
async def test_no_cleanup_timeout() -> None:
    """None waits for as long as it takes, and so does inf."""
    for never in (None, float("inf")):
        async with cleanup_scope(cleanup_timeout=never) as scope:
            scope.defer(asyncio.sleep, 1e6)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_of_a_call_that_was_cut(
    interrupt: type[BaseException],
) -> None:
    """It is raised bare, and not as the cause of a TimeoutError."""

    async def stop() -> None:
        try:
            await forever()
        finally:
            raise interrupt

    with pytest.raises(interrupt):
        async with cleanup_scope(cleanup_timeout=0) as scope:
            scope.defer(stop)


@pytest.mark.virtual_time
async def test_a_slow_context_manager_is_cut() -> None:
    """Its `__aexit__` is cancelled after `cleanup_timeout`, and the rest runs."""
    log: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncGenerator[None]:
        yield
        await forever()

    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope(cleanup_timeout=3) as scope:
            scope.defer(log.append, "rest")
            await scope.enter_async_context(slow())
    (late,) = caught.value.exceptions
    assert isinstance(late, TimeoutError)
    assert "__aexit__() was cut after 3 s" in str(late)
    assert isinstance(late.__cause__, asyncio.CancelledError)
    assert log == ["rest"]


# Context managers, as in AsyncExitStack


class Behaves:
    """A context manager that treats what it sees in a given way."""

    def __init__(self, how: str, name: str, log: list[str]) -> None:
        self.how, self.name, self.log = how, name, log

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, seen: BaseException | None, tb: object) -> bool:
        self.log.append(f"{self.name} sees {seen!r}")
        if self.how == "suppresses":
            return True
        if self.how == "raises":
            raise KeyError(self.name)
        if self.how == "raises from":
            raise KeyError(self.name) from seen
        if self.how == "raises again" and seen is not None:
            raise seen
        if self.how == "handles":
            try:
                raise IndexError(self.name)
            except IndexError:
                raise KeyError(self.name) from None
        if self.how == "raises an older one" and seen is not None:
            raise seen.__context__ or seen
        return False

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: object, seen: BaseException | None, tb: object
    ) -> bool:
        await turns(1)
        return self.__exit__(kind, seen, tb)


HOW = [
    "suppresses",
    "raises",
    "raises from",
    "raises again",
    "handles",
    "looks",
    "raises an older one",
]


CIRCLE = "and so on for ever"


async def leave(
    stack: Any, hows: tuple[str, ...], error: BaseException | None, *, is_async: bool
) -> list[str]:
    log: list[str] = []
    try:
        async with stack as entered:
            for n, how in enumerate(hows):
                manager = Behaves(how, str(n), log)
                if is_async:
                    await entered.enter_async_context(manager)
                else:
                    entered.enter_context(manager)
            if error is not None:
                raise error
        log.append("nothing left it")
    except BaseException as exc:  # noqa: BLE001 - described
        link: BaseException | None = exc
        links: list[BaseException] = []
        while link is not None and link not in links:
            links.append(link)
            log.append(f"{link!r}, from {link.__cause__!r}")
            link = link.__context__ if error is not None else None
        if link is not None:
            log.append(CIRCLE)
    return log


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [None, ValueError])
async def test_context_managers_behave_as_in_async_exit_stack(
    *, is_async: bool, error: type[Exception] | None
) -> None:
    """They see, replace and suppress the same, and contexts and causes are the same."""
    # Where the body raises nothing AsyncExitStack makes no chain, so none is older.
    for hows in product(HOW if error else HOW[:-1], repeat=3):
        ours, theirs = [
            await leave(
                stack, hows, None if error is None else error("body"), is_async=is_async
            )
            for stack in (cleanup_scope(), AsyncExitStack())
        ]
        assert CIRCLE not in ours
        if CIRCLE not in theirs:  # which it makes of a `raise` of what it was shown
            assert ours == theirs, hows


async def test_errors_of_context_managers_are_chained() -> None:
    """Also where the body raised nothing, as with nested `with` statements."""
    log: list[str] = []
    with pytest.raises(KeyError, match="0") as caught:
        async with cleanup_scope() as scope:
            scope.enter_context(Behaves("raises", "0", log))
            scope.enter_context(Behaves("raises", "1", log))
    assert repr(caught.value.__context__) == "KeyError('1')"


async def test_context_managers_see_the_failures_of_calls() -> None:
    """One that is left after a failed call sees a CleanupError, with the body's error."""
    body, failed = ValueError(), OSError()
    log: list[str] = []
    async with cleanup_scope() as scope:
        scope.enter_context(Behaves("looks", "after", log))
        scope.enter_context(Behaves("suppresses", "0", log))
        scope.defer(fail, failed)
        scope.enter_context(Behaves("looks", "before", log))
        raise body
    assert log == [
        "before sees ValueError()",
        "0 sees CleanupError('cleanup failed', [ValueError(), OSError()])",
        "after sees None",
    ]


async def test_a_context_manager_unwraps_the_failures() -> None:
    """It may raise a leaf of what it saw: that is then no part of a circle."""

    class Unwraps:
        def __enter__(self) -> None:
            pass

        def __exit__(self, _: object, seen: BaseException | None, tb: object) -> None:
            assert isinstance(seen, CleanupError)
            raise seen.exceptions[-1]

    failed = OSError()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        async with cleanup_scope() as scope:
            scope.enter_context(Unwraps())
            scope.defer(fail, failed)
    assert caught.value is failed
    assert failed.__context__ is None


async def test_a_truth_value_that_fails() -> None:
    """What `__exit__` returns is asked whether it is true; that may fail as well."""

    class Hostile:
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    class Manager:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> Any:
            return Hostile()

    log: list[int] = []
    with pytest.raises(ZeroDivisionError):
        async with cleanup_scope() as scope:
            scope.defer(log.append, 1)
            scope.enter_context(Manager())
    assert log == [1]


async def test_a_context_manager_that_raises_an_interrupt() -> None:
    """It goes before all, and the rest runs."""
    log: list[str] = []

    @contextmanager
    def stop() -> Generator[None]:
        try:
            yield
        finally:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with cleanup_scope() as scope:
            scope.enter_context(Behaves("suppresses nothing", "0", log))
            scope.defer(log.append, "rest")
            scope.enter_context(stop())
            raise ValueError
    assert log == ["rest", "0 sees KeyboardInterrupt()"]


async def test_a_context_manager_suppresses_a_cancel() -> None:
    """It is obeyed, as in AsyncExitStack; the scope keeps no count of its own."""
    async with cleanup_scope() as scope:
        scope.enter_context(contextlib.suppress(asyncio.CancelledError))
        host().cancel()
        await turns(1)
    assert host().uncancel() == 0


async def test_failures_that_a_suppressed_cancel_hid() -> None:
    """They are not lost with the cancel: nobody has seen them."""
    failed = OSError()
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope() as scope:
            scope.enter_context(contextlib.suppress(asyncio.CancelledError))
            scope.defer(fail, failed)
            host().cancel()
            await turns(1)
    assert caught.value.exceptions == (failed,)
    assert host().uncancel() == 0


async def test_a_timeout_entered_in_the_scope() -> None:
    """It takes back its cancel; a call that failed meanwhile comes out beside it."""
    failed = OSError()
    with pytest.raises(CleanupError) as caught:
        async with cleanup_scope() as scope:
            await scope.enter_async_context(asyncio.timeout(0))
            scope.defer(fail, failed)
            await forever()
    assert [type(leaf) for leaf in caught.value.exceptions] == [TimeoutError, OSError]
    with pytest.raises(TimeoutError):
        async with cleanup_scope() as scope:
            await scope.enter_async_context(asyncio.timeout(0))
            scope.defer(turns, 9)  # and ends, though the timeout expires meanwhile
    assert host().cancelling() == 0


async def test_a_task_group_entered_in_the_scope() -> None:
    """It cancels the block when a child fails, and its group comes out."""
    ended: list[str] = []

    async def close() -> None:
        await turns(9)
        ended.append("closed")

    with pytest.raises(ExceptionGroup) as caught:
        async with cleanup_scope() as scope:
            group = await scope.enter_async_context(asyncio.TaskGroup())
            scope.defer(close)
            group.create_task(fail_later(ValueError("child")))
            await forever()
    assert [str(leaf) for leaf in caught.value.exceptions] == ["child"]
    assert ended == ["closed"]


async def test_anyio_managers_entered_in_the_scope() -> None:
    """A group and a cancelled scope of anyio are left in the task that entered them."""
    ended: list[str] = []

    async def close(name: str) -> None:
        await turns(9)
        ended.append(name)

    async with cleanup_scope() as scope:
        scope.defer(close, "outer")
        group = await scope.enter_async_context(anyio.create_task_group())
        cut = scope.enter_context(anyio.CancelScope())
        scope.defer(close, "inner")
        group.start_soon(forever)
        cut.cancel()
        group.cancel_scope.cancel()
        await turns(1)
    assert ended == ["inner", "outer"]


@pytest.mark.parametrize("again", [False, True])
async def test_a_native_cancel_cuts_the_exit_of_a_context_manager(
    *, again: bool
) -> None:
    """Nothing can prevent that; whatever is below it runs."""
    log: list[str] = []
    main = host()

    @asynccontextmanager
    async def slow() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            main.get_loop().call_soon(main.cancel, "in __aexit__")
            try:
                await forever()
            finally:
                log.append("cut")

    async def close() -> None:
        await turns(3)
        log.append("closed")

    with pytest.raises(asyncio.CancelledError) as caught:
        async with cleanup_scope() as scope:
            scope.defer(close)
            await scope.enter_async_context(slow())
            if again:
                main.cancel("in the body")
                await turns(1)
    assert caught.value.args == ("in the body" if again else "in __aexit__",)
    assert log == ["cut", "closed"]
    assert main.cancelling() == 1 + again
    while main.uncancel():
        pass


@pytest.mark.virtual_time
async def test_an_anyio_scope_does_not_cut_a_context_manager() -> None:
    """Its `__aexit__` runs shielded, and the loop rests meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    log: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            before = loop.ticks
            await asyncio.sleep(3)
            ticks.append(loop.ticks - before)
            log.append("closed")

    ticks: list[int] = []
    with anyio.CancelScope() as outer:
        async with cleanup_scope() as scope:
            await scope.enter_async_context(slow())
            outer.cancel()
            await forever()
    assert log == ["closed"]
    assert ticks[0] < 20


# Entering


async def test_what_cannot_be_entered_is_not_left() -> None:
    """A context manager whose `__enter__` raises never joins the stack."""

    class Broken:
        def __enter__(self) -> None:
            raise ValueError

        async def __aenter__(self) -> None:
            raise KeyError

        def __exit__(self, *_: object) -> None:
            raise AssertionError

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError

    async with cleanup_scope() as scope:
        with pytest.raises(ValueError):  # noqa: PT011
            scope.enter_context(Broken())
        with pytest.raises(KeyError):
            await scope.enter_async_context(Broken())


async def test_scopes_in_one_stack() -> None:
    """A scope is a context manager like any other."""
    log: list[str] = []

    async def close(name: str) -> None:
        await turns(2)
        log.append(name)

    async with cleanup_scope() as scope:
        scope.defer(close, "outer")
        inner = await scope.enter_async_context(cleanup_scope())
        assert isinstance(inner, CleanupScope)
        inner.defer(close, "inner")
        scope.defer(close, "first")
    assert log == ["first", "inner", "outer"]
