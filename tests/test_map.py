"""`bounded_map`."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeaio import ChildCancelled, RateLimiter, bounded_map, bounded_stream
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


async def double(item: int) -> int:
    await asyncio.sleep(0)
    return 2 * item


async def test_results_in_order() -> None:
    """The list has one result for each item, in the order of the items."""
    assert await bounded_map(double, range(1000)) == list(range(0, 2000, 2))


@pytest.mark.virtual_time
async def test_slots_are_refilled_at_once() -> None:
    """A free slot takes the next item without waiting for the slots beside it."""
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    async def call(delay: int) -> None:
        starts.append(loop.time())
        await asyncio.sleep(delay)

    await bounded_map(call, [10, 1, 1, 1, 1, 1], limit=2)
    assert starts == [0, 0, 1, 2, 3, 4]
    assert loop.time() == 10


async def test_nothing_happens_before_the_first_step() -> None:
    """The call itself neither pulls nor starts anything; it takes the loop that awaits it."""
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for item in range(3):
            pulled.append(item)
            yield item

    coro = bounded_map(double, source())
    await asyncio.sleep(0)
    assert pulled == []
    assert await coro == [0, 2, 4]


def test_call_needs_no_loop() -> None:
    """A call outside any loop can be handed to one."""
    coro = bounded_map(double, range(3))
    assert asyncio.run(coro) == [0, 2, 4]
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        asyncio.run(coro)


def test_closed_before_the_first_step() -> None:
    """A call that is closed before it starts leaves nothing behind."""
    coro: Any = bounded_map(double, range(3))
    assert coro.__name__ == coro.__qualname__ == "bounded_map"
    coro.close()


async def test_thrown_away_while_it_runs() -> None:
    """A call that is closed while it waits cancels its calls, which then end."""
    ended: list[int] = []

    async def call(item: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(item)

    coro = bounded_map(call, range(3), limit=2)
    coro.send(None)
    for _ in range(10):
        await asyncio.sleep(0)
    coro.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == [0, 1]


async def test_outside_a_task() -> None:
    """Somebody has to wait for the calls: without a task there is nobody."""
    loop = asyncio.get_running_loop()
    errors: list[BaseException] = []

    def step() -> None:
        try:
            bounded_map(double, range(3)).send(None)
        except RuntimeError as exc:
            errors.append(exc)

    loop.call_soon(step)
    await asyncio.sleep(0)
    assert "inside an asyncio task" in str(errors[0])


async def agen(item: int) -> AsyncIterator[int]:
    yield item


NOT_A_LIMIT = [0, -1, 1.5, True, float("nan"), "3", None, asyncio.Semaphore(3)]

calls = pytest.mark.parametrize(
    "call", [bounded_map, bounded_stream], ids=["map", "stream"]
)


@calls
@pytest.mark.parametrize("limit", NOT_A_LIMIT, ids=repr)
def test_bad_limit(call: Any, limit: Any) -> None:
    """What is no limit is refused at the call, and shown."""
    error = ValueError if repr(limit) in ("0", "-1", "nan") else TypeError
    limit_is = repr(limit).replace("(", r"\(").replace("[", r"\[").split(" at ")[0]
    with pytest.raises(
        error, match=rf"{call.__name__}\(\).*limit must be .*{limit_is}"
    ):
        call(double, range(3), limit=limit)


@calls
def test_coroutine_instead_of_a_function(call: Any) -> None:
    """A call in place of the function is refused with the corrected line, and closed."""
    line = rf"write {call.__name__}\(double, items\), not {call.__name__}\(double\(\.\.\.\), items\)"
    with pytest.raises(TypeError, match=line):
        call(double(1), range(3))
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        call(double(1), double(2), limit=0)


@calls
def test_coroutine_instead_of_items(call: Any) -> None:
    """A coroutine that would give the items has to be awaited first, and is closed."""
    with pytest.raises(TypeError, match=r"items must be an iterable.*; await it first"):
        call(double, double(1))


@calls
@pytest.mark.parametrize("func", [agen, partial(agen)], ids=["function", "partial"])
def test_generator_instead_of_a_function(call: Any, func: Any) -> None:
    """An async generator function is refused: it has many results."""
    with pytest.raises(TypeError, match=r"async generator function .*agen.* not yield"):
        call(func, range(3))


@calls
@pytest.mark.parametrize("func", [None, 3, "double"])
def test_no_function(call: Any, func: Any) -> None:
    """What cannot be called is refused, and shown."""
    with pytest.raises(TypeError, match=f"takes an async function, got {func!r}"):
        call(func, range(3))


@calls
@pytest.mark.parametrize("items", [None, 3, double], ids=["None", "3", "function"])
def test_items_that_are_none(call: Any, items: Any) -> None:
    """What cannot be iterated over is refused, and shown."""
    with pytest.raises(
        TypeError, match="must be an iterable or an async iterable, got "
    ) as info:
        call(double, items)
    assert repr(items) in str(info.value)


@calls
@pytest.mark.parametrize("rate", [3, 1.5, "fast", RateLimiter])
def test_bad_rate(call: Any, rate: Any) -> None:
    """A number is no rate: per second, or per what?"""
    with pytest.raises(TypeError, match="rate must be a RateLimiter, got ") as info:
        call(double, range(3), rate=rate)
    assert repr(rate) in str(info.value)


def test_source_is_untouched_by_a_refused_call() -> None:
    """Nothing is pulled by a call that is refused, and nothing closed."""
    items = iter(range(3))
    with pytest.raises(ValueError, match="limit"):
        asyncio.run(bounded_map(double, items, limit=0))
    assert list(items) == [0, 1, 2]


async def test_nested_call_on_a_held_limiter() -> None:
    """A call that would wait for its caller's own token is refused, at the call."""
    limiter = anyio.CapacityLimiter(2)

    async def nested(item: int) -> None:
        for call in (bounded_map, bounded_stream):
            with pytest.raises(RuntimeError, match="already holds a token of"):
                call(double, range(item), limit=limiter)
        other = anyio.CapacityLimiter(1)
        assert await bounded_map(double, range(item), limit=other) == [0, 2][:item]

    await bounded_map(nested, range(3), limit=limiter)
    assert limiter.borrowed_tokens == 0


async def test_nested_call_made_elsewhere() -> None:
    """Made outside and awaited inside, such a call is refused at its first step."""
    limiter = anyio.CapacityLimiter(2)
    made = bounded_map(double, range(3), limit=limiter)
    block = bounded_stream(double, range(3), limit=limiter)

    async def nested(item: int) -> None:
        with pytest.raises(RuntimeError, match="already holds a token of"):
            await made
        with pytest.raises(RuntimeError, match="already holds a token of"):
            async with block:
                pass

    await bounded_map(nested, range(1), limit=limiter)
    async with block as stream:  # it may be entered where the token is not held
        assert sorted([result async for _, result in stream]) == [0, 2, 4]


async def test_token_of_an_ended_call_does_not_count() -> None:
    """A task that outlives the call which started it holds no token any more."""
    limiter = anyio.CapacityLimiter(1)
    go = asyncio.Event()
    left: list[asyncio.Task[list[int]]] = []

    async def later() -> list[int]:
        await go.wait()
        return await bounded_map(double, range(3), limit=limiter)

    async def start(item: int) -> None:
        left.append(asyncio.create_task(later()))

    await bounded_map(start, [0], limit=limiter)
    go.set()
    assert await left[0] == [0, 2, 4]


async def test_stray_cancel_beside_the_callers_own() -> None:
    """With the caller cancelled as well, no stray is told of: its own cancel comes out."""

    async def call(item: int) -> None:
        await asyncio.sleep(0)
        task.cancel("outside")
        raise asyncio.CancelledError("own")

    task = asyncio.create_task(bounded_map(call, range(3), limit=1))
    with pytest.raises(asyncio.CancelledError, match="outside"):
        await task
    with pytest.raises(ChildCancelled):
        await bounded_map(call, range(3), limit=1)


async def test_return_exceptions_does_not_hold_off_the_caller() -> None:
    """A cancel of the caller is raised, though those of the calls would be results."""
    started = asyncio.Event()

    async def call(item: int) -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(
        bounded_map(call, range(9), limit=3, return_exceptions=True)
    )
    await started.wait()
    task.cancel("outside")
    with pytest.raises(asyncio.CancelledError, match="outside"):
        await task


async def test_caller_cancelled_twice_lets_cleanup_finish() -> None:
    """However often the caller is cancelled, its calls are so once, and clean up."""
    cleaned: list[int] = []
    cancels = 0

    async def call(item: int) -> None:
        nonlocal cancels
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancels += 1
            for _ in range(5):
                await asyncio.sleep(0)
            cleaned.append(item)
            raise

    task = asyncio.create_task(bounded_map(call, range(9), limit=3))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel("first")
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel("again")
    with pytest.raises(asyncio.CancelledError, match="first"):
        await task
    assert cleaned == [0, 1, 2]
    assert cancels == 3


@pytest.mark.parametrize("interrupt", [False, True])
async def test_failure_beside_the_callers_cancel(
    interrupt: bool, reported: list[dict[str, Any]]
) -> None:
    """The caller's cancel goes before a failure, but an interrupt before both."""
    error = KeyboardInterrupt() if interrupt else OSError("cleanup")

    async def call(item: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise error

    async def run() -> None:
        with pytest.raises(
            KeyboardInterrupt if interrupt else asyncio.CancelledError
        ) as info:
            await bounded_map(call, range(1))
        if not interrupt:
            assert info.value.__notes__ == ["also raised by item 0: OSError('cleanup')"]

    task = asyncio.create_task(run())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await task
    assert len(reported) == (0 if interrupt else 1)


SWEPT: list[str] = []


async def careful(item: int) -> int:
    """Do a little, and clean up over several turns."""
    SWEPT.append("opened")
    try:
        await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        SWEPT.append("closed")
    return item


async def few() -> AsyncIterator[int]:
    SWEPT.append("opened")
    try:
        for item in range(3):
            yield item
            await asyncio.sleep(0)
    finally:
        SWEPT.append("closed")


@pytest.mark.parametrize("source", ["sync", "async"])
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("limiter", [False, True])
def test_cancelled_at_every_tick(
    loop_factory: LoopFactory, source: str, return_exceptions: bool, limiter: bool
) -> None:
    """Whenever and however the caller is cancelled, every call and the source is done."""
    limiters: list[anyio.CapacityLimiter] = []

    async def scenario() -> list[int | BaseException]:
        SWEPT.clear()
        limiters[:] = [anyio.CapacityLimiter(2)]
        return await bounded_map(
            careful,
            range(3) if source == "sync" else few(),
            limit=limiters[0] if limiter else 2,
            return_exceptions=return_exceptions,
        )

    def closed_what_was_opened(run: Run) -> None:
        # `careful` may get its one cancel within its own `finally`.
        assert limiters[0].borrowed_tokens == 0
        if run.raised is None:
            assert run.value == [0, 1, 2]
            assert SWEPT.count("opened") == SWEPT.count("closed")

    cancel_sweep(scenario, closed_what_was_opened, loop_factory=loop_factory)


@pytest.mark.parametrize("source", ["sync", "async"])
def test_failure_cancelled_at_every_tick(
    loop_factory: LoopFactory, source: str
) -> None:
    """Nor does a failure change that."""

    async def fail(item: int) -> int:
        if await careful(item) == 1:
            raise OSError("broken")
        return item

    async def scenario() -> None:
        SWEPT.clear()
        with pytest.raises(OSError, match="broken"):
            await bounded_map(fail, range(3) if source == "sync" else few(), limit=2)

    cancel_sweep(scenario, loop_factory=loop_factory)


@settings(max_examples=150, deadline=None)
@given(
    delays=st.lists(st.integers(0, 3), max_size=12),
    source_delay=st.integers(0, 2),
    source=st.sampled_from(["sync", "async"]),
    limit=st.integers(1, 4),
    limiter=st.booleans(),
    failing=st.sets(st.integers(0, 11), max_size=2),
    return_exceptions=st.booleans(),
    cancel_at=st.none() | st.integers(0, 8),
)
def test_against_a_model(
    delays: list[int],
    source_delay: int,
    source: str,
    limit: int,
    limiter: bool,
    failing: set[int],
    return_exceptions: bool,
    cancel_at: int | None,
) -> None:
    """Whatever takes however long and fails: the limit holds, and the outcome is right."""
    pulled: list[int] = []
    running: set[int] = set()
    ended: list[int] = []
    failures: list[OSError] = []
    peak = 0

    def sync_items() -> Iterator[int]:
        for item in range(len(delays)):
            pulled.append(item)
            yield item

    async def async_items() -> AsyncIterator[int]:
        for item in sync_items():
            await asyncio.sleep(source_delay)
            yield item

    async def call(item: int) -> int:
        nonlocal peak
        assert item not in running
        assert item not in ended
        running.add(item)
        peak = max(peak, len(running))
        assert len(pulled) - len(ended) <= limit
        try:
            await asyncio.sleep(delays[item])
            if item in failing:
                failures.append(OSError(item))
                raise failures[-1]
        finally:
            running.remove(item)
            ended.append(item)
        return item

    async def main() -> None:
        shared = anyio.CapacityLimiter(limit)
        task = asyncio.create_task(
            bounded_map(
                call,
                sync_items() if source == "sync" else async_items(),
                limit=shared if limiter else limit,
                return_exceptions=return_exceptions,
            )
        )
        if cancel_at is not None:
            await asyncio.sleep(cancel_at + 0.5)
            cancelled = task.cancel()
        else:
            cancelled = False
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert shared.borrowed_tokens == 0
        assert not running
        assert peak <= limit
        if cancelled:
            assert task.cancelled()
        elif failures and not return_exceptions:
            assert task.exception() is failures[0]
        else:
            by_item = {failure.args[0]: failure for failure in failures}
            assert task.result() == [by_item.get(n, n) for n in range(len(delays))]

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


async def test_never_awaited_says_so() -> None:
    """A call that is never awaited warns, as every coroutine does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del [bounded_map(double, range(3))][0]
    (warning,) = caught
    assert str(warning.message) == "coroutine 'bounded_map' was never awaited"
