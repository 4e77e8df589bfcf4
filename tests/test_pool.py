"""What `bounded_map` and `bounded_stream` share: limits, sources, contexts, fairness."""

import asyncio
import gc
import itertools
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from contextvars import Context, ContextVar, copy_context
from typing import Any, Self
from weakref import ref

import anyio
import pytest

from safeaio import (
    CancellationSwallowedWarning,
    ChildCancelled,
    RateLimiter,
    bounded_map,
    bounded_stream,
)

from .clock import Clock

RunAll = Callable[..., Coroutine[Any, Any, list[Any]]]
Reports = list[dict[str, Any]]


async def by_map(func: Any, items: Any, **options: Any) -> list[Any]:
    results: list[Any] = await bounded_map(func, items, **options)
    return results


async def by_stream(func: Any, items: Any, **options: Any) -> list[Any]:
    options.setdefault("ordered", True)
    async with bounded_stream(func, items, **options) as stream:
        return [result async for _, result in stream]


both = pytest.mark.parametrize("run_all", [by_map, by_stream], ids=["map", "stream"])


async def settle(turns: int = 40) -> None:
    """Let everything happen that needs nobody else."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def same(item: Any) -> Any:
    return item


async def same_later(item: Any) -> Any:
    await asyncio.sleep(0)
    return item


class Calls:
    """An async function whose calls stand still until they are let go."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.finished: list[Any] = []
        self.cancelled: list[Any] = []
        self.cleaned: list[Any] = []
        self.peak = 0
        self._gates: dict[Any, asyncio.Future[None]] = {}
        self._open = False

    @property
    def running(self) -> int:
        return len(self._gates)

    async def __call__(self, item: Any) -> Any:
        self.started.append(item)
        gate = asyncio.get_running_loop().create_future()
        self._gates[item] = gate
        self.peak = max(self.peak, len(self._gates))
        try:
            if not self._open:
                await gate
        except asyncio.CancelledError:
            self.cancelled.append(item)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.cleaned.append(item)
            raise
        finally:
            del self._gates[item]
        self.finished.append(item)
        return item

    def let_go(self, *items: Any) -> None:
        for item in items:
            if not self._gates[item].done():
                self._gates[item].set_result(None)

    def fail(self, item: Any, error: BaseException) -> None:
        self._gates[item].set_exception(error)

    def open(self) -> None:
        self._open = True
        self.let_go(*self._gates)


class Source:
    """Items on demand: counts the pulls, and what is open."""

    def __init__(
        self, items: Iterable[Any], fail_with: BaseException | None = None
    ) -> None:
        self.items = iter(items)
        self.fail_with = fail_with
        self.pulls = 0
        self.pullers: set[asyncio.Task[Any] | None] = set()
        self.closers: list[asyncio.Task[Any] | None] = []
        self.pulling = False

    def pull(self) -> Any:
        self.pulls += 1
        try:
            return next(self.items)
        except StopIteration:
            if self.fail_with is not None:
                raise self.fail_with from None
            raise

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                item = self.pull()
            except StopIteration:
                return
            yield item

    async def stream(self) -> AsyncIterator[Any]:
        try:
            while True:
                assert not self.pulling
                self.pulling = True
                self.pullers.add(asyncio.current_task())
                await asyncio.sleep(0)
                try:
                    item = self.pull()
                except StopIteration:
                    return
                self.pulling = False
                yield item
        finally:
            self.closers.append(asyncio.current_task())
            await asyncio.sleep(0)
            self.closers.append(asyncio.current_task())


def sync_source(source: Source) -> Iterable[Any]:
    return source


def async_source(source: Source) -> AsyncIterable[Any]:
    return source.stream()


def an_int(limit: int) -> int:
    return limit


any_source = pytest.mark.parametrize(
    "make", [sync_source, async_source], ids=["sync", "async"]
)
any_limit = pytest.mark.parametrize(
    "limit_of", [an_int, anyio.CapacityLimiter], ids=["int", "limiter"]
)


@both
@any_source
@any_limit
async def test_results_come_in_the_order_of_the_items(
    run_all: RunAll, make: Callable[[Source], Any], limit_of: Callable[[int], Any]
) -> None:
    """The list is in the order of the items, though the last finished first."""
    calls = Calls()
    task = asyncio.create_task(
        run_all(calls, make(Source(range(5))), limit=limit_of(5))
    )
    await settle()
    for item in (4, 2, 3, 0, 1):
        calls.let_go(item)
        await settle()
    assert await task == [0, 1, 2, 3, 4]
    assert calls.finished == [4, 2, 3, 0, 1]


@both
@any_source
@any_limit
@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_limit_is_reached_and_never_exceeded(
    run_all: RunAll,
    make: Callable[[Source], Any],
    limit_of: Callable[[int], Any],
    limit: int,
) -> None:
    """As many calls run at once as the limit says, and not one more."""
    calls = Calls()
    task = asyncio.create_task(
        run_all(calls, make(Source(range(30))), limit=limit_of(limit))
    )
    for finished in range(30):
        await settle(60)
        assert calls.running == min(limit, 30 - finished)
        calls.let_go(finished)
    assert await task == list(range(30))
    assert calls.peak == limit


@both
async def test_huge_limit_costs_nothing(run_all: RunAll) -> None:
    """Three items under a limit of a billion start a handful of tasks."""
    tasks = 0

    async def count_tasks(item: int) -> int:
        nonlocal tasks
        await settle()
        tasks = max(tasks, len(asyncio.all_tasks()))
        return item

    assert await run_all(count_tasks, range(3), limit=10**9) == [0, 1, 2]
    assert tasks <= 8


@both
@any_source
@any_limit
@pytest.mark.parametrize("length", [0, 1])
async def test_short_sources(
    run_all: RunAll,
    make: Callable[[Source], Any],
    limit_of: Callable[[int], Any],
    length: int,
) -> None:
    """An empty source gives an empty list, one item a list of one."""
    items = list(range(length))
    for func in (same, same_later):
        assert await run_all(func, make(Source(items)), limit=limit_of(3)) == items


@pytest.mark.parametrize(
    "items",
    [[], (), "", {}, range(0), iter(())],
    ids=lambda items: type(items).__name__,
)
async def test_empty_collections(items: Any) -> None:
    """Whatever is empty gives an empty list."""
    assert await bounded_map(same, items) == []


async def test_old_sequences_are_sources() -> None:
    """An object with nothing but `__getitem__` is iterable, here as in a `for`."""

    class Old:
        def __getitem__(self, index: int) -> int:
            return [5, 6, 7][index]

    items: Any = Old()
    assert await bounded_map(same, items) == [5, 6, 7]


@both
@pytest.mark.parametrize("kind", ["int", "limiter"])
@pytest.mark.parametrize("ticks", [0, 1])
async def test_deeply_nested(run_all: RunAll, kind: str, ticks: int) -> None:
    """Calls in calls, 500 deep, do not recurse, not with an eager task factory either."""

    async def deep(level: int) -> int:
        for _ in range(ticks):
            await asyncio.sleep(0)
        if level == 0:
            return 0
        limit = anyio.CapacityLimiter(1) if kind == "limiter" else 100
        (below,) = await run_all(deep, [level - 1], limit=limit)
        return int(below) + 1

    assert await deep(500) == 500


@both
async def test_limiter_is_shared_between_calls(run_all: RunAll) -> None:
    """Calls that share a limiter never run more at once than it has tokens."""
    calls, limiter = Calls(), anyio.CapacityLimiter(3)
    tasks = [
        asyncio.create_task(run_all(calls, range(start, start + 6), limit=limiter))
        for start in (0, 10, 20)
    ]
    done = 0
    while done < 18:
        await settle()
        assert calls.running == min(3, 18 - done)
        assert limiter.borrowed_tokens == calls.running
        calls.let_go(calls.started[done])
        done += 1
    assert [await task for task in tasks] == [
        list(range(start, start + 6)) for start in (0, 10, 20)
    ]
    assert calls.peak == 3
    assert limiter.borrowed_tokens == 0


@both
async def test_limiter_is_resized_under_way(run_all: RunAll) -> None:
    """More tokens start more calls at once; fewer take effect as calls end."""
    calls, limiter = Calls(), anyio.CapacityLimiter(1)
    task = asyncio.create_task(run_all(calls, range(12), limit=limiter))
    await settle()
    assert calls.running == 1
    limiter.total_tokens = 4
    await settle()
    assert calls.running == 4
    limiter.total_tokens = 2
    await settle()
    assert calls.running == 4
    calls.let_go(0, 1)
    await settle()
    assert calls.running == 2
    calls.let_go(2)
    await settle()
    assert calls.running == 2
    calls.open()
    assert await task == list(range(12))
    assert limiter.borrowed_tokens == 0


@both
async def test_limiter_without_tokens_starts_nothing(run_all: RunAll) -> None:
    """With no token at all nothing starts, and nothing is pulled, until there is one."""
    calls, source = Calls(), Source(range(3))
    limiter = anyio.CapacityLimiter(1)
    limiter.total_tokens = 0
    task = asyncio.create_task(run_all(calls, source, limit=limiter))
    await settle()
    assert calls.started == []
    assert source.pulls == 0
    limiter.total_tokens = 2
    await settle()
    assert calls.running == 2
    calls.open()
    assert await task == [0, 1, 2]
    assert limiter.borrowed_tokens == 0


@both
@any_source
@pytest.mark.parametrize("how", ["item fails", "source fails", "cancelled"])
async def test_tokens_come_back_whatever_happens(
    run_all: RunAll, make: Callable[[Source], Any], how: str
) -> None:
    """Every token is back when the call ends."""
    calls, limiter = Calls(), anyio.CapacityLimiter(3)
    source = Source(range(20), fail_with=OSError("lost"))
    task = asyncio.create_task(run_all(calls, make(source), limit=limiter))
    await settle()
    assert limiter.borrowed_tokens == 3
    if how == "item fails":
        calls.fail(1, OSError("broken"))
    elif how == "source fails":
        calls.open()
    else:
        task.cancel()
    with pytest.raises((OSError, asyncio.CancelledError)):
        await task
    assert limiter.borrowed_tokens == 0
    assert limiter.statistics().tasks_waiting == 0


@both
@any_source
@any_limit
async def test_no_more_is_pulled_than_may_run(
    run_all: RunAll, make: Callable[[Source], Any], limit_of: Callable[[int], Any]
) -> None:
    """An item is pulled when a call may start with it, and not before."""
    calls, source = Calls(), Source(range(20))
    task = asyncio.create_task(run_all(calls, make(source), limit=limit_of(3)))
    for finished in range(17):
        await settle()
        assert source.pulls == finished + 3
        calls.let_go(finished)
    calls.open()
    assert await task == list(range(20))


@both
@any_source
@any_limit
async def test_nothing_is_pulled_after_a_failure(
    run_all: RunAll, make: Callable[[Source], Any], limit_of: Callable[[int], Any]
) -> None:
    """Once a call has failed, the source is left alone."""
    calls, source = Calls(), Source(itertools.count())
    task = asyncio.create_task(run_all(calls, make(source), limit=limit_of(3)))
    await settle()
    calls.let_go(1)
    await settle()
    calls.fail(2, OSError("broken"))
    await settle()
    with pytest.raises(OSError, match="broken"):
        await task
    assert source.pulls == 4
    assert calls.started == [0, 1, 2, 3]
    assert calls.cancelled == calls.cleaned
    assert sorted(calls.cancelled) == [0, 3]


async def never_suspending(pulled: list[int]) -> AsyncIterator[int]:
    for item in itertools.count():
        pulled.append(item)
        yield item


def sync_counting(pulled: list[int]) -> Iterator[int]:
    for item in itertools.count():
        pulled.append(item)
        yield item


@both
@any_limit
@pytest.mark.parametrize("count", [never_suspending, sync_counting])
async def test_nothing_is_pulled_after_a_failure_at_once(
    run_all: RunAll, limit_of: Callable[[int], Any], count: Callable[[list[int]], Any]
) -> None:
    """A call that fails in its first step stops an infinite source that never suspends."""
    pulled: list[int] = []
    failed_at: list[int] = []

    async def fail(item: int) -> None:
        failed_at.append(len(pulled))
        raise OSError(item)

    with pytest.raises(OSError, match="0"):
        await run_all(fail, count(pulled), limit=limit_of(10))
    assert len(pulled) == failed_at[-1]


@both
@any_limit
async def test_source_that_swallows_the_cancel_is_left_alone(
    run_all: RunAll, limit_of: Callable[[int], Any]
) -> None:
    """A source that answers its cancel with an item is named, not asked for another."""
    answers: list[str] = []

    async def stubborn() -> AsyncIterator[int]:
        yield 0
        for item in itertools.count(1):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                answers.append("swallowed")
            yield item

    calls = Calls()
    task = asyncio.create_task(run_all(calls, stubborn(), limit=limit_of(3)))
    await settle()
    calls.fail(0, OSError("broken"))
    with (
        pytest.warns(CancellationSwallowedWarning, match="in stubborn"),
        pytest.raises(OSError, match="broken"),
    ):
        await task
    assert answers == ["swallowed"]
    assert calls.started == [0]


@both
@any_limit
async def test_async_source_is_pulled_and_closed_by_one_task(
    run_all: RunAll, limit_of: Callable[[int], Any]
) -> None:
    """One task asks for one item at a time, and the same one closes the generator, once."""
    source = Source(range(20))
    assert await run_all(same_later, source.stream(), limit=limit_of(4)) == list(
        range(20)
    )
    (feeder,) = source.pullers
    assert feeder is not asyncio.current_task()
    assert source.closers == [feeder, feeder]


class Plain:
    """An async iterator, and no generator; somebody else may want to go on with it."""

    def __init__(self, fail_with: BaseException | None = None) -> None:
        self.source = Source(range(10), fail_with)
        self.closed = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return self.source.pull()
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class Opened:
    """An async iterable that makes an iterator for each loop over it."""

    def __init__(self, fail_with: BaseException | None = None) -> None:
        self.fail_with = fail_with
        self.opened: list[Plain] = []

    def __aiter__(self) -> Plain:
        self.opened.append(Plain(self.fail_with))
        return self.opened[-1]


@both
@any_limit
@pytest.mark.parametrize("how", ["ends", "source fails", "item fails", "cancelled"])
async def test_closes_what_it_has_opened_and_nothing_else(
    run_all: RunAll, limit_of: Callable[[int], Any], how: str
) -> None:
    """Closed once is the iterator made for the call, and no iterator of the caller's."""
    source_fails = OSError("lost") if how == "source fails" else None

    async def call(item: int) -> int:
        if item == 3 and how == "item fails":
            raise OSError("broken")
        if item == 3 and how == "cancelled":
            tasks[-1].cancel()
        await asyncio.sleep(0)
        return item

    opened, plain, generator = (
        Opened(source_fails),
        Plain(source_fails),
        Source(range(10)),
    )

    def sync_generator() -> Generator[Any]:
        try:
            yield from range(10)
        finally:
            closed_generator.append(True)

    closed_generator: list[bool] = []
    kept = sync_generator()
    tasks: list[asyncio.Task[Any]] = []
    for items in (opened, plain, generator.stream(), kept):
        tasks.append(asyncio.create_task(run_all(call, items, limit=limit_of(2))))
        if how == "ends" or (how == "source fails" and len(tasks) > 2):
            assert await tasks[-1] == list(range(10))
        else:
            with pytest.raises((OSError, asyncio.CancelledError)):
                await tasks[-1]
    assert [it.closed for it in opened.opened] == [1]
    assert plain.closed == 0
    assert len(generator.closers) == 2
    assert len(set(generator.closers)) == 1
    assert closed_generator == ([True] if how in ("ends", "source fails") else [])
    kept.close()


async def test_iterator_without_aclose_is_a_source() -> None:
    """The protocol of async iterators has no `aclose`, and none is needed."""

    class Bare:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    class BareOnes:
        def __aiter__(self) -> Bare:
            return Bare()

    assert await bounded_map(same, Bare()) == [2, 1, 0]
    assert await bounded_map(same, BareOnes()) == [2, 1, 0]


async def test_plain_iterator_can_be_gone_on_with() -> None:
    """After a failure the caller may read on from its own iterator."""
    plain = Plain()

    async def fail(item: int) -> None:
        raise OSError(item)

    with pytest.raises(OSError, match="0"):
        await bounded_map(fail, plain, limit=1)
    assert await bounded_map(same, plain) == list(range(1, 10))


@both
async def test_iterable_is_opened_once(run_all: RunAll) -> None:
    """`__iter__` may be a query to a database: it is called once."""
    opened = 0

    class Query:
        def __iter__(self) -> Iterator[int]:
            nonlocal opened
            opened += 1
            return iter(range(3))

    assert await run_all(same, Query()) == [0, 1, 2]
    assert opened == 1


def raising(error: BaseException, at: int) -> Iterator[int]:
    yield from range(at)
    raise error


async def raising_async(error: BaseException, at: int) -> AsyncIterator[int]:
    for item in range(at):
        await asyncio.sleep(0)
        yield item
    raise error


class Raising:
    """An iterator by hand: a generator may not raise StopIteration, for instance."""

    def __init__(self, error: BaseException, at: int) -> None:
        self.items = iter(range(at))
        self.error = error

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        for item in self.items:
            return item
        raise self.error


class RaisingAsync(Raising):
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        return Raising.__next__(self)


failing_source = pytest.mark.parametrize(
    "make_failing", [raising, raising_async, Raising, RaisingAsync]
)


@both
@failing_source
@any_limit
@pytest.mark.parametrize("error_type", [OSError, KeyboardInterrupt, GeneratorExit])
async def test_failing_source_fails_the_call(
    run_all: RunAll,
    make_failing: Callable[[BaseException, int], Any],
    limit_of: Callable[[int], Any],
    error_type: type[BaseException],
) -> None:
    """What the source raises comes out, the same object, also under return_exceptions."""
    for return_exceptions, at in itertools.product((False, True), (0, 1, 7)):
        error = error_type("mine")
        calls = Calls()
        calls.open()
        with pytest.raises(error_type) as info:
            await run_all(
                calls,
                make_failing(error, at),
                limit=limit_of(3),
                return_exceptions=return_exceptions,
            )
        assert info.value is error
        assert calls.started == list(range(len(calls.started)))
        assert len(calls.started) <= at
        assert not hasattr(error, "__notes__")


@both
@failing_source
@any_limit
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_source_that_raises_cancelled_error_fails_the_call(
    run_all: RunAll,
    make_failing: Callable[[BaseException, int], Any],
    limit_of: Callable[[int], Any],
    return_exceptions: bool,
) -> None:
    """A CancelledError of the source is a stray, and says where it came from."""
    error = asyncio.CancelledError("mine")
    with pytest.raises(ChildCancelled) as info:
        await run_all(
            same_later,
            make_failing(error, 4),
            limit=limit_of(3),
            return_exceptions=return_exceptions,
        )
    assert info.value.child == "the source of items"
    assert info.value.__cause__ is error


@both
@failing_source
@any_limit
async def test_failing_source_cancels_the_running_calls(
    run_all: RunAll,
    make_failing: Callable[[BaseException, int], Any],
    limit_of: Callable[[int], Any],
) -> None:
    """Calls that run when the source fails are cancelled, once, and clean up."""
    calls = Calls()
    error = OSError("lost")
    with pytest.raises(OSError, match="lost") as info:
        await run_all(calls, make_failing(error, 3), limit=limit_of(10))
    assert info.value is error
    assert sorted(calls.cleaned) == sorted(calls.started)


@both
async def test_stop_iteration_ends_a_source_by_hand(run_all: RunAll) -> None:
    """StopIteration from `__next__`, and StopAsyncIteration from `__anext__`, is the end."""
    assert await run_all(same, Raising(StopIteration(), 3), limit=2) == [0, 1, 2]
    assert await run_all(same, RaisingAsync(StopAsyncIteration(), 3), limit=2) == [
        0,
        1,
        2,
    ]


@both
async def test_generator_that_raises_stop_iteration_fails(run_all: RunAll) -> None:
    """Python turns StopIteration within a generator into a RuntimeError, which comes out."""
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        await run_all(same, raising(StopIteration(), 3), limit=2)
    with pytest.raises(RuntimeError, match="async generator raised StopAsyncIteration"):
        await run_all(same, raising_async(StopAsyncIteration(), 3), limit=2)


@both
@any_limit
@pytest.mark.parametrize("error_type", [OSError, TypeError, KeyboardInterrupt])
async def test_source_that_cannot_be_opened_fails_the_call(
    run_all: RunAll, limit_of: Callable[[int], Any], error_type: type[BaseException]
) -> None:
    """What `__iter__` or `__aiter__` raises comes out, the same object."""
    error = error_type("no such table")

    class Closed:
        def __iter__(self) -> Iterator[int]:
            raise error

    class ClosedAsync:
        def __aiter__(self) -> AsyncIterator[int]:
            raise error

    for items in (Closed(), ClosedAsync()):
        with pytest.raises(error_type) as info:
            await run_all(same, items, limit=limit_of(3))
        assert info.value is error


@both
async def test_source_and_call_both_fail(run_all: RunAll, reported: Reports) -> None:
    """The first failure comes out; what the source raises later is a note on it."""

    async def source() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.get_running_loop().create_future()
        finally:
            raise OSError("source")

    async def fail(item: int) -> None:
        raise OSError("call")

    with pytest.raises(OSError, match="call") as info:
        await run_all(fail, source(), limit=3)
    assert info.value.__notes__ == [
        "also raised by the source of items: OSError('source')"
    ]
    assert [type(report["exception"]) for report in reported] == [OSError]


class OwnAwaitable:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.value


def future_of(value: Any) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, value)
    return future


def task_of(value: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(same_later(value))


@both
@pytest.mark.parametrize("func", [same, same_later, OwnAwaitable, future_of, task_of])
async def test_function_may_return_any_awaitable(run_all: RunAll, func: Any) -> None:
    """Coroutines, futures, tasks and awaitables of one's own are all awaited."""
    assert await run_all(func, range(10), limit=3) == list(range(10))


@both
@pytest.mark.parametrize("returned", [None, 7, [1], iter(())])
async def test_function_that_returns_no_awaitable(
    run_all: RunAll, returned: Any
) -> None:
    """The error shows the function and what it returned, and says what to do."""

    def plain(item: int) -> Any:
        return returned

    with pytest.raises(
        TypeError, match=r"takes an async function, but .*plain.* returned"
    ) as info:
        await run_all(plain, range(3), limit=2)
    assert repr(returned) in str(info.value)
    assert "asyncio.to_thread(func, item)" in str(info.value)


@both
@pytest.mark.parametrize("error_type", [OSError, KeyboardInterrupt, SystemExit])
async def test_function_that_raises_before_it_returns(
    run_all: RunAll, error_type: type[BaseException]
) -> None:
    """What the function raises in place of an awaitable fails its item."""
    error = error_type("mine")

    def fail(item: int) -> Awaitable[int]:
        if item == 3:
            raise error
        return same_later(item)

    with pytest.raises(error_type) as info:
        await run_all(fail, range(10), limit=2)
    assert info.value is error


@both
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_generator_exit_in_a_call_fails_it(
    run_all: RunAll, return_exceptions: bool
) -> None:
    """GeneratorExit may mean that the call is closed: it ends the call, and comes out."""
    error = GeneratorExit("mine")

    async def call(item: int) -> None:
        await asyncio.sleep(0)
        if item == 3:
            raise error

    with pytest.raises(GeneratorExit) as info:
        await run_all(call, range(9), limit=2, return_exceptions=return_exceptions)
    assert info.value is error


@both
async def test_return_exceptions_puts_errors_among_results(run_all: RunAll) -> None:
    """Errors, of whatever kind, and cancels of a call by itself stand in for its result."""
    error, own = OSError("mine"), asyncio.CancelledError("own")

    async def call(item: int) -> int:
        await asyncio.sleep(0)
        if item == 2:
            raise error
        if item == 4:
            raise own
        return item

    results = await run_all(call, range(6), limit=2, return_exceptions=True)
    assert results == [0, 1, error, 3, own, 5]


@both
@pytest.mark.parametrize("error_type", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_interrupt_stops_everything_and_comes_out(
    run_all: RunAll, error_type: type[BaseException], return_exceptions: bool
) -> None:
    """An interrupt in a call stops and awaits the others, and is raised, the same object."""
    calls, error = Calls(), error_type("mine")
    task = asyncio.create_task(
        expect(
            error,
            run_all(calls, range(9), limit=3, return_exceptions=return_exceptions),
        )
    )
    await settle()
    calls.fail(1, error)
    await task
    assert calls.cleaned == calls.cancelled == [0, 2]
    assert calls.started == [0, 1, 2]


async def expect(error: BaseException, call: Awaitable[Any]) -> None:
    # Not by the test: asyncio throws these two out of the loop.
    with pytest.raises(type(error)) as info:
        await call
    assert info.value is error


@both
@any_source
@any_limit
async def test_first_failure_comes_out_after_all_have_ended(
    run_all: RunAll,
    make: Callable[[Source], Any],
    limit_of: Callable[[int], Any],
    reported: Reports,
) -> None:
    """The first error is raised bare, once all cleanup is done, with later ones as notes."""
    first, second = OSError("first"), KeyError("second")
    cleaned: list[int] = []
    go = asyncio.Event()

    async def call(item: int) -> int:
        try:
            await go.wait()
            if item == 2:
                raise first
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await settle(5)
            cleaned.append(item)
            if item == 1:
                raise second from None
            raise
        return item

    task = asyncio.create_task(run_all(call, make(Source(range(9))), limit=limit_of(4)))
    await settle()
    go.set()
    with pytest.raises(OSError, match="first") as info:
        await task
    assert info.value is first
    assert sorted(cleaned) == [0, 1, 3]
    assert first.__notes__ == ["also raised by item 1: KeyError('second')"]
    assert [report["exception"] for report in reported] == [second]
    assert "item 1 raised beside another error" in reported[0]["message"]


@both
async def test_later_interrupt_goes_before_the_first_failure(
    run_all: RunAll, reported: Reports
) -> None:
    """An interrupt in the cleanup of a call wins over the error that started it all."""
    error = KeyboardInterrupt()

    async def call(item: int) -> None:
        if item == 0:
            await settle()
            raise OSError("first")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            raise error

    await expect(error, run_all(call, range(5), limit=2))
    assert error.__notes__ == ["also raised by item 0: OSError('first')"]
    assert len(reported) == 1


@both
async def test_same_error_twice_is_one_failure(run_all: RunAll) -> None:
    """One exception object raised by several calls is neither noted on itself nor reported."""
    error = OSError("shared")

    async def call(item: int) -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(OSError, match="shared") as info:
        await run_all(call, range(5), limit=5)
    assert info.value is error
    assert not hasattr(error, "__notes__")


@both
@pytest.mark.parametrize("error_type", [asyncio.CancelledError, OSError])
async def test_stray_cancel_is_told_apart(
    run_all: RunAll, error_type: type[BaseException]
) -> None:
    """A call that ends cancelled though nobody cancelled the caller is an error of its own."""

    async def call(item: int) -> None:
        await asyncio.sleep(0)
        if item == 3:
            victim = asyncio.ensure_future(same_later(item))
            victim.cancel()
            await victim

    with pytest.raises(ChildCancelled) as info:
        await run_all(call, range(9), limit=2)
    assert info.value.child == "item 3"
    assert isinstance(info.value.__cause__, asyncio.CancelledError)


@both
@any_limit
async def test_failing_call_leaves_no_cycle(
    run_all: RunAll, limit_of: Callable[[int], Any]
) -> None:
    """What failed is freed at once: no traceback keeps itself alive."""

    class Witness:
        pass

    class Error(Exception):
        pass

    async def call(item: int) -> None:
        witness = Witness()
        witnesses.append(ref(witness))
        await asyncio.sleep(0)
        if item == 2:
            raise Error
        await asyncio.get_running_loop().create_future()

    async def run() -> None:
        witness = Witness()
        witnesses.append(ref(witness))
        try:
            await run_all(call, range(9), limit=limit_of(3))
        except Error as exc:
            witnesses.append(ref(exc))

    witnesses: list[ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        await run()
        await settle(3)
        alive = [witness() for witness in witnesses]
    finally:
        gc.enable()
    assert len(alive) == 5
    assert not any(alive)


@both
@any_limit
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_failed_task_is_part_of_no_cycle(
    run_all: RunAll, limit_of: Callable[[int], Any], return_exceptions: bool
) -> None:
    """Not even if the error leaves the task, or stands among the results that it returns."""

    class Error(Exception):
        pass

    async def call(item: int) -> None:
        await asyncio.sleep(0)
        error = Error()
        errors.append(ref(error))
        try:
            raise error
        finally:
            del error

    async def run() -> object:
        return await run_all(
            call, range(3), limit=limit_of(1), return_exceptions=return_exceptions
        )

    errors: list[ref[Error]] = []
    gc.collect()
    gc.disable()
    try:
        task = asyncio.create_task(run())
        await asyncio.wait([task])
        assert return_exceptions is (task.exception() is None)
        del task
        await settle(3)
        alive = [error() for error in errors]
    finally:
        gc.enable()
    assert alive == [None] * (3 if return_exceptions else 1)


name: ContextVar[Any] = ContextVar("name", default="nobody")


def set_equal() -> None:
    name.set([])


def set_and_reset() -> None:
    name.reset(name.set("changed"))


def set_same() -> None:
    name.set(name.get())


def set_quarrelsome() -> None:
    name.set(Quarrelsome())


class Quarrelsome:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")


@both
@any_source
@any_limit
@pytest.mark.parametrize("caller", [[], "caller"], ids=["list", "str"])
@pytest.mark.parametrize(
    "change",
    [set_equal, set_and_reset, set_same, set_quarrelsome, lambda: name.set("item")],
)
async def test_items_do_not_see_each_others_context(
    run_all: RunAll,
    make: Callable[[Source], Any],
    limit_of: Callable[[int], Any],
    caller: Any,
    change: Callable[[], object],
) -> None:
    """Each item sees the caller's context, the very same objects, whatever others set."""
    seen: list[Any] = []

    async def call(item: int) -> None:
        seen.append(name.get())
        if item % 2:
            await asyncio.sleep(0)
        change()
        if item % 3:
            await asyncio.sleep(0)

    token = name.set(caller)
    await run_all(call, make(Source(range(12))), limit=limit_of(2))
    assert len(seen) == 12
    assert all(value is caller for value in seen)
    assert name.get() is caller
    name.reset(token)


@both
async def test_variable_unset_for_the_caller_is_unset_for_items(
    run_all: RunAll,
) -> None:
    """What one item sets for the first time is not there for the next."""
    fresh: ContextVar[int] = ContextVar("fresh")
    seen: list[int | None] = []

    async def call(item: int) -> None:
        seen.append(fresh.get(None))
        fresh.set(item)

    await run_all(call, range(5), limit=1)
    assert seen == [None] * 5
    assert fresh.get(None) is None


@both
async def test_item_keeps_its_own_context(run_all: RunAll) -> None:
    """An item and its own child tasks see what it set, across its awaits."""

    async def child() -> Any:
        seen = name.get()
        name.set("child")
        return seen

    async def call(item: int) -> Any:
        name.set(item)
        await settle(item)
        seen = await asyncio.create_task(child())
        return seen, name.get()

    assert await run_all(call, range(5), limit=2) == [(n, n) for n in range(5)]


@both
async def test_child_task_of_an_item_has_the_items_context(run_all: RunAll) -> None:
    """A task left behind by one item does not change what a later item sees."""
    seen: list[Any] = []
    late: list[asyncio.Task[None]] = []

    async def set_later() -> None:
        await asyncio.sleep(0)
        name.set("late")

    async def call(item: int) -> None:
        seen.append(name.get())
        late.append(asyncio.create_task(set_later()))
        await settle(3)

    await run_all(call, range(5), limit=1)
    assert seen == ["nobody"] * 5
    await asyncio.wait(late)


@both
@any_limit
@pytest.mark.parametrize("in_task", [False, True], ids=["sync", "async"])
async def test_items_do_not_see_the_context_of_the_source(
    run_all: RunAll, limit_of: Callable[[int], Any], in_task: bool
) -> None:
    """A source keeps what it sets to itself, and finds it again at each pull."""
    seen: list[Any] = []

    def source() -> Iterator[int]:
        token = name.set("source")
        for item in range(6):
            assert name.get() == "source"
            yield item
        name.reset(token)

    async def source_async() -> AsyncIterator[int]:
        for item in source():
            await asyncio.sleep(0)
            yield item

    async def call(item: int) -> None:
        seen.append(name.get())
        await asyncio.sleep(0)

    items: Any = source_async() if in_task else source()
    await run_all(call, items, limit=limit_of(2))
    assert seen == ["nobody"] * 6


async def test_stream_has_the_context_of_its_entry() -> None:
    """Items see what was set when the block was entered, not what the reader sets later."""
    seen: list[Any] = []

    async def call(item: int) -> None:
        seen.append(name.get())

    token = name.set("entry")
    async with bounded_stream(call, range(9), limit=1, buffer=0) as stream:
        name.set("reader")
        async for _ in stream:
            name.set("body")
    assert seen == ["entry"] * 9
    name.reset(token)


# The two private doors


def root() -> object:
    return gc.get_referents(copy_context())[0]


def test_context_root_changes_with_every_change() -> None:
    """The mapping inside a context is another object if and only if a variable was set."""
    other: ContextVar[Any] = ContextVar("other")

    def check() -> None:
        before = root()
        assert root() is before
        name.get()
        other.get(None)
        assert root() is before
        token = name.set([])
        assert root() is not before
        again = root()
        name.set([])
        assert root() is not again
        again = root()
        name.set(name.get())
        assert root() is again or root() is not again  # an identical value may be kept
        name.reset(token)
        assert root() is not again
        inner = root()
        copy_context().run(name.set, "inside another")
        assert root() is inner
        other.set(1)
        assert root() is not inner

    copy_context().run(check)
    Context().run(check)
    copy_context().run(lambda: copy_context().run(check))


async def test_context_root_is_kept_across_awaits() -> None:
    """A context that nobody changes keeps its mapping, in a task that is suspended."""
    before = root()
    await settle(3)
    await asyncio.create_task(same_later(1))
    assert root() is before
    token = name.set(1)
    assert root() is not before
    name.reset(token)


def has_pending_cancel(task: asyncio.Task[Any]) -> object:
    return task._must_cancel  # type: ignore[attr-defined]


async def test_must_cancel_tells_a_pending_cancel() -> None:
    """`Task._must_cancel` is true from a cancel of the running task to its delivery."""
    task = asyncio.current_task()
    assert task is not None
    assert has_pending_cancel(task) is False
    task.cancel()
    assert has_pending_cancel(task) is True
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert has_pending_cancel(task) is False
    task.uncancel()
    await asyncio.sleep(0)


@both
@any_limit
@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("way", ["cancel", "cancel and uncancel", "swallow", "twice"])
async def test_item_that_cancels_its_task_harms_no_other(
    run_all: RunAll, limit_of: Callable[[int], Any], suspends: bool, way: str
) -> None:
    """A cancel that an item leaves behind hits no other item, and its result is kept."""

    async def call(item: int) -> int:
        if suspends:
            await asyncio.sleep(0)
        if item % 3 == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if way == "twice":
                task.cancel()
            if way == "cancel and uncancel":
                task.uncancel()
            if way == "swallow":
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(0)
        elif suspends:
            await settle(2)
        return item

    assert await run_all(call, range(10), limit=limit_of(2)) == list(range(10))


def workers() -> set[asyncio.Task[Any]]:
    return {
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "") == "Pool._work"
    }


@both
@any_source
@any_limit
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_cancel_of_a_worker_from_outside_loses_no_item(
    run_all: RunAll,
    make: Callable[[Source], Any],
    limit_of: Callable[[int], Any],
    return_exceptions: bool,
) -> None:
    """Whoever cancels a worker, as `all_tasks` lets him, cancels its item, and is told so."""
    for turns in range(25):
        calls = Calls()
        task = asyncio.create_task(
            run_all(
                calls,
                make(Source(range(6))),
                limit=limit_of(2),
                return_exceptions=return_exceptions,
            )
        )
        await settle(turns)
        found = workers()
        for worker in found:
            worker.cancel()
        await settle()
        calls.open()
        try:
            results = await task
        except ChildCancelled:
            assert found
            assert not return_exceptions
            continue
        assert len(results) == 6
        for item, result in enumerate(results):
            if result != item:
                assert return_exceptions
                assert isinstance(result, asyncio.CancelledError)
        assert calls.started == sorted(calls.started)
        if isinstance(results[0], int) and found:
            assert calls.cancelled == [] or return_exceptions


@both
async def test_cancel_of_a_worker_between_items(run_all: RunAll, clock: Clock) -> None:
    """A worker cancelled while it lets the loop turn holds no item, and loses none."""
    cancelled = 0

    async def heavy(item: int) -> int:
        clock.burn(0.006)  # more than a worker may take before it lets the loop turn
        return item

    async def harass() -> None:
        nonlocal cancelled
        while not task.done():
            for worker in workers():
                cancelled += worker.cancel()
            for _ in range(3):
                await asyncio.sleep(0)

    options = {"buffer": 50} if run_all is by_stream else {}
    task = asyncio.create_task(run_all(heavy, range(20), limit=2, **options))
    await harass()
    assert await task == list(range(20))
    assert cancelled


@both
@any_limit
async def test_cancel_of_the_feeder_from_outside(
    run_all: RunAll, limit_of: Callable[[int], Any]
) -> None:
    """Whoever cancels the task that pulls an async source fails the call, at any time."""
    for turns in range(12):
        source, before = Source(itertools.count()), asyncio.all_tasks()
        calls = Calls()
        task = asyncio.create_task(run_all(calls, source.stream(), limit=limit_of(3)))
        await settle(turns)
        feeders = asyncio.all_tasks() - before - workers() - {task}
        if not feeders:
            calls.open()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            continue
        (feeder,) = feeders
        feeder.cancel()
        with pytest.raises(ChildCancelled, match="the source of items"):
            await task
        assert len(source.closers) in (0, 2)
    gc.collect()


@both
@any_source
@any_limit
@pytest.mark.virtual_time
async def test_rate_limits_how_often_calls_start(
    run_all: RunAll, make: Callable[[Source], Any], limit_of: Callable[[int], Any]
) -> None:
    """Calls start no more often than the rate allows, and their slots wait for that."""
    loop = asyncio.get_running_loop()
    starts: list[float] = []
    source = Source(range(8))

    async def call(item: int) -> None:
        starts.append(loop.time())
        assert source.pulls <= len(starts) + 2
        await asyncio.sleep(0.1)

    await run_all(call, make(source), limit=limit_of(3), rate=RateLimiter(2, burst=2))
    assert starts == pytest.approx([0, 0, 0.5, 1, 1.5, 2, 2.5, 3])


@both
@pytest.mark.virtual_time
async def test_rate_is_given_back_on_failure(run_all: RunAll) -> None:
    """Calls that wait for the rate when another fails never start, and use nothing up."""
    rate = RateLimiter(1, per=10)
    started: list[int] = []

    async def call(item: int) -> None:
        started.append(item)
        await asyncio.sleep(1)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await run_all(call, range(9), limit=3, rate=rate)
    assert started == [0]
    await asyncio.sleep(9)
    assert rate.try_acquire()


@both
async def test_quick_items_do_not_keep_slow_ones_waiting(
    run_all: RunAll, clock: Clock
) -> None:
    """Items that never suspend among those that do leave the limit within reach."""
    calls = Calls()

    async def call(item: int) -> int:
        if item % 2:
            return item
        clock.burn(0.001)
        return int(await calls(item))

    task = asyncio.create_task(run_all(call, range(40), limit=8))
    await settle(200)
    assert calls.running == 8
    calls.open()
    assert await task == list(range(40))
