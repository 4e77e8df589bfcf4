"""`bounded_stream`."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeaio import bounded_stream
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Reports = list[dict[str, Any]]


async def settle(turns: int = 40) -> None:
    """Let everything happen that needs nobody else."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def same(item: int) -> int:
    return item


class Calls:
    """An async function whose calls stand still until they are let go."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.finished: list[int] = []
        self.cleaned: list[int] = []
        self._gates: dict[int, asyncio.Future[None]] = {}

    @property
    def running(self) -> list[int]:
        return sorted(self._gates)

    async def __call__(self, item: int) -> int:
        self.started.append(item)
        gate = self._gates[item] = asyncio.get_running_loop().create_future()
        try:
            await gate
        except asyncio.CancelledError:
            await settle(3)
            self.cleaned.append(item)
            raise
        finally:
            del self._gates[item]
        self.finished.append(item)
        return 10 * item

    def let_go(self, *items: int) -> None:
        for item in items:
            self._gates[item].set_result(None)

    def fail(self, item: int, error: BaseException) -> None:
        self._gates[item].set_exception(error)


async def test_yields_as_calls_finish() -> None:
    """Results come with their items in the order in which the calls finish."""
    calls = Calls()
    async with bounded_stream(calls, range(4), limit=4) as stream:
        await settle()
        seen: list[tuple[int, int]] = []
        for item in (2, 0, 3, 1):
            calls.let_go(item)
            seen.append(await anext(stream))
        assert seen == [(2, 20), (0, 0), (3, 30), (1, 10)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_yields_in_order_of_the_items() -> None:
    """With `ordered=True` a result waits for those before it."""
    calls = Calls()
    async with bounded_stream(calls, range(3), limit=3, ordered=True) as stream:
        await settle()
        calls.let_go(1, 2)
        first = asyncio.ensure_future(anext(stream))
        await settle()
        assert not first.done()
        calls.let_go(0)
        assert await first == (0, 0)
        assert [result async for result in stream] == [(1, 10), (2, 20)]


async def test_infinite_source() -> None:
    """A source may be infinite: only what is read for is pulled."""
    source = itertools.count()
    async with bounded_stream(same, source, limit=3, ordered=True) as stream:
        async for item, _ in stream:
            if item == 500:
                break
    assert next(source) <= 501 + 3 + 3 + 1


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("buffer", [None, 0, 1, 5])
@pytest.mark.parametrize("limiter", [False, True])
@pytest.mark.parametrize("sync", [False, True])
async def test_running_and_unread_fill_the_window_exactly(
    ordered: bool, limit: int, buffer: int | None, limiter: bool, sync: bool
) -> None:
    """Calls start while those running and unread are fewer than limit + buffer; no later."""
    window = limit + (limit if buffer is None else buffer)
    calls, pulled = Calls(), itertools.count()

    async def pull() -> AsyncIterator[int]:
        for item in pulled:
            yield item

    async with bounded_stream(
        calls,
        pulled if sync else pull(),
        limit=anyio.CapacityLimiter(limit) if limiter else limit,
        ordered=ordered,
        buffer=buffer,
    ) as stream:
        for read in range(6):
            # Nobody reads: calls finish until the window is full of results.
            while True:
                await settle()
                unread = len(calls.finished) - read
                assert len(calls.running) == min(limit, window - unread)
                if not calls.running:
                    break
                calls.let_go(calls.running[0])
            assert len(calls.finished) - read == window
            assert await anext(stream) == (read, 10 * read)
    assert next(pulled) == len(calls.started)


async def test_slow_head_stops_an_ordered_stream_at_the_window() -> None:
    """While the first item is slow the others run on, up to the window and no further."""
    calls = Calls()
    async with bounded_stream(
        calls, itertools.count(), limit=3, buffer=2, ordered=True
    ) as stream:
        await settle()
        while len(calls.running) > 1:
            calls.let_go(*calls.running[1:])
            await settle()
        assert calls.started == [0, 1, 2, 3, 4]
        calls.let_go(0)
        assert [await anext(stream) for _ in range(5)] == [
            (n, 10 * n) for n in range(5)
        ]
        await settle()
        assert calls.running == [5, 6, 7]


async def test_results_before_a_failure_come_first() -> None:
    """What had finished is yielded, then the failure is raised once, then it is the end."""
    calls, error = Calls(), OSError("broken")
    async with bounded_stream(calls, itertools.count(), limit=4) as stream:
        await settle()
        calls.let_go(0, 3)
        await settle()
        calls.fail(1, error)
        assert [await anext(stream), await anext(stream)] == [(0, 0), (3, 30)]
        with pytest.raises(OSError, match="broken") as info:
            await anext(stream)
        assert info.value is error
        assert sorted(calls.cleaned) == [2, 4, 5]
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_results_before_a_failure_come_first_in_order() -> None:
    """In an ordered stream, too, though those in between will never come."""
    calls = Calls()
    async with bounded_stream(
        calls, itertools.count(), limit=4, ordered=True
    ) as stream:
        await settle()
        calls.let_go(3, 1)
        await settle()
        calls.fail(0, OSError("broken"))
        assert [await anext(stream), await anext(stream)] == [(1, 10), (3, 30)]
        with pytest.raises(OSError, match="broken"):
            await anext(stream)


async def test_body_is_never_cancelled() -> None:
    """A failure waits until the body reads, or leaves."""
    calls = Calls()

    async def run() -> None:
        async with bounded_stream(calls, range(9), limit=2):
            await settle()
            calls.fail(0, OSError("broken"))
            await settle()
            assert sorted(calls.cleaned) == [1]
            assert calls.running == []
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()

    with pytest.raises(OSError, match="broken"):
        await run()


async def test_failure_read_and_caught_is_not_raised_again() -> None:
    """A failure that the body has seen and handled does not leave the block."""
    calls = Calls()
    async with bounded_stream(calls, range(9), limit=2) as stream:
        await settle()
        calls.fail(0, OSError("broken"))
        with pytest.raises(OSError, match="broken"):
            await anext(stream)


async def test_failure_read_leaves_the_block_unchanged() -> None:
    """A failure that the body does not handle leaves the block as it is, with no note."""
    calls, error = Calls(), OSError("broken")

    async def run() -> None:
        async with bounded_stream(calls, range(9), limit=2) as stream:
            await settle()
            calls.fail(0, error)
            async for _ in stream:
                pass

    with pytest.raises(OSError, match="broken") as info:
        await run()
    assert info.value is error
    assert not hasattr(error, "__notes__")


async def test_later_failures_are_noted_and_reported(reported: Reports) -> None:
    """Errors of the cleanup after the first are notes on it, and reported, once."""

    async def call(item: int) -> None:
        try:
            await settle(item + 5)
            raise OSError("first")
        except asyncio.CancelledError:
            raise KeyError(item) from None

    async with bounded_stream(call, range(9), limit=3) as stream:
        with pytest.raises(OSError, match="first") as info:
            await anext(stream)
    assert info.value.__notes__ == [
        "also raised by item 1: KeyError(1)",
        "also raised by item 2: KeyError(2)",
    ]
    assert [str(report["exception"]) for report in reported] == ["1", "2"]


@pytest.mark.parametrize("way", ["break", "return", "raise", "at once"])
async def test_leaving_early_cancels_and_waits(way: str) -> None:
    """Leaving the block cancels what runs, and waits for its cleanup."""
    calls = Calls()

    async def leave() -> None:
        async with bounded_stream(calls, itertools.count(), limit=3) as stream:
            if way == "at once":
                return
            await settle()
            calls.let_go(0)
            async for _ in stream:
                await settle()
                if way == "return":
                    return
                if way == "raise":
                    raise OSError("body")
                break
            assert calls.running

    if way == "raise":
        with pytest.raises(OSError, match="body") as info:
            await leave()
        assert not hasattr(info.value, "__notes__")
    else:
        await leave()
    assert calls.running == []
    assert sorted(calls.cleaned) == sorted(set(calls.started) - set(calls.finished))


@pytest.mark.parametrize("limit", [3, anyio.CapacityLimiter])
async def test_leaving_at_once_leaves_the_source_alone(limit: Any) -> None:
    """A block left in the tick of its entry pulls nothing and leaves no coroutine."""
    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        for item in range(3):
            pulled.append(item)
            await asyncio.get_running_loop().create_future()
            yield item

    limit = limit if isinstance(limit, int) else limit(3)
    async with bounded_stream(same, source(), limit=limit):
        pass
    assert pulled in ([], [0])


async def test_error_of_the_body_goes_before_an_unread_failure(
    reported: Reports,
) -> None:
    """An error of the body leaves the block, with the failure it had not read as a note."""
    calls, failure = Calls(), KeyError("call")

    async def run() -> None:
        async with bounded_stream(calls, range(9), limit=2):
            await settle()
            calls.fail(0, failure)
            await settle()
            raise OSError("body")

    with pytest.raises(OSError, match="body") as info:
        await run()
    assert info.value.__notes__ == ["also raised by item 0: KeyError('call')"]
    assert [report["exception"] for report in reported] == [failure]


@pytest.mark.parametrize("error_type", [KeyboardInterrupt, SystemExit])
async def test_interrupt_goes_before_the_error_of_the_body(
    error_type: type[BaseException], reported: Reports
) -> None:
    """An unread interrupt of a call is raised over whatever left the body."""
    error, calls = error_type(), Calls()

    async def leave() -> None:
        async with bounded_stream(calls, range(9), limit=2):
            await settle()
            calls.fail(0, error)
            await settle()
            raise OSError("body")

    async def run() -> None:
        with pytest.raises(error_type) as info:
            await leave()
        assert info.value is error

    await asyncio.create_task(run())
    assert error.__notes__ == ["also raised by the body: OSError('body')"]
    assert len(reported) == 1


async def test_interrupt_is_raised_by_reading() -> None:
    """An interrupt of a call is raised by the read, in the task that reads."""
    error, calls = KeyboardInterrupt(), Calls()

    async def run() -> None:
        async with bounded_stream(calls, range(9), limit=2) as stream:
            await settle()
            calls.fail(0, error)
            with pytest.raises(KeyboardInterrupt) as info:
                await anext(stream)
            assert info.value is error

    await asyncio.create_task(run())


@pytest.mark.parametrize("by_source", [False, True])
async def test_stop_async_iteration_of_a_call_is_no_end(by_source: bool) -> None:
    """StopAsyncIteration, which `anext` raises in a call, does not pass for the end."""
    error = StopAsyncIteration("mine")

    async def call(item: int) -> int:
        if item == 3:
            raise error
        return item

    class Source:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise error

    items = Source() if by_source else range(9)
    async with bounded_stream(call, items, limit=2) as stream:
        with pytest.raises(
            RuntimeError, match=r"raised StopAsyncIteration\('mine'\)"
        ) as info:
            async for _ in stream:
                pass
        assert info.value.__cause__ is error


async def test_return_exceptions_yields_them() -> None:
    """With `return_exceptions` an error stands in for the result, and nothing stops."""
    calls, error = Calls(), OSError("broken")
    async with bounded_stream(
        calls, range(3), limit=3, return_exceptions=True
    ) as stream:
        await settle()
        calls.fail(1, error)
        calls.let_go(0, 2)
        assert sorted([item async for item in stream], key=str) == [
            (0, 0),
            (1, error),
            (2, 20),
        ]


async def test_misuse() -> None:
    """Reading outside the block, and entering it twice, is refused."""
    block = bounded_stream(same, range(3))
    unentered: Any = block
    with pytest.raises(RuntimeError, match=r"inside its `async with` block only"):
        await anext(unentered)
    async with block as stream:
        assert aiter(stream) is stream
        with pytest.raises(RuntimeError, match="can be entered once; call it again"):
            async with block:
                pass
        assert len([item async for item in stream]) == 3
    with pytest.raises(RuntimeError, match=r"inside its `async with` block only"):
        await anext(stream)
    with pytest.raises(RuntimeError, match="can be entered once; call it again"):
        async with block:
            pass


@pytest.mark.parametrize("buffer", [-1, True, 1.5, "3", float("inf")])
def test_bad_buffer(buffer: Any) -> None:
    """What is no number of results is refused at the call, and shown."""
    error = ValueError if buffer == -1 else TypeError
    with pytest.raises(error, match=r"bounded_stream\(\): buffer must be") as info:
        bounded_stream(same, range(3), buffer=buffer)
    assert repr(buffer) in str(info.value)


def test_never_entered() -> None:
    """A block that is never entered does nothing, and leaves nothing behind."""
    source = iter(range(3))
    bounded_stream(same, source)
    assert list(source) == [0, 1, 2]


async def test_second_reader_is_refused() -> None:
    """While one task waits for a result, another may not read; afterwards it may."""
    calls = Calls()
    async with bounded_stream(calls, range(2), limit=2) as stream:
        first = asyncio.ensure_future(anext(stream))
        await settle()
        with pytest.raises(RuntimeError, match="another task reads this"):
            await anext(stream)
        calls.let_go(1)
        assert await first == (1, 10)
        calls.let_go(0)
        assert await anext(stream) == (0, 0)


async def test_cancelled_read_loses_nothing() -> None:
    """A read that is cancelled, also in the tick of its result, leaves that to the next."""
    calls = Calls()
    async with bounded_stream(calls, range(30), limit=1, ordered=True) as stream:
        for turns in range(20):
            read = asyncio.ensure_future(anext(stream))
            await settle()
            calls.let_go(turns)
            await settle(turns % 7)
            read.cancel()
            await asyncio.wait([read])
            result = await anext(stream) if read.cancelled() else read.result()
            assert result == (turns, 10 * turns)


@pytest.mark.virtual_time
async def test_read_with_a_timeout_loses_nothing() -> None:
    """Nor does one within a timeout or a scope."""

    async def slow(item: int) -> int:
        await asyncio.sleep(1)
        return item

    seen: list[int] = []
    timeouts = 0
    async with bounded_stream(slow, range(9), limit=2) as stream:
        while len(seen) < 9:
            try:
                async with asyncio.timeout(0.3):
                    seen.append((await anext(stream))[0])
            except TimeoutError:
                timeouts += 1
            with anyio.move_on_after(0.3):
                seen.append((await anext(stream))[0])
    assert sorted(seen) == list(range(9))
    assert timeouts > 5


async def test_other_task_may_read() -> None:
    """A task of the body may do the reading, and gets the failure."""
    calls = Calls()

    async def read() -> list[int]:
        return [item async for item, _ in stream]

    async with bounded_stream(calls, range(3), limit=1, buffer=0) as stream:
        reader = asyncio.create_task(read())
        for item in range(3):
            await settle()
            calls.let_go(item)
        assert await reader == [0, 1, 2]

    async with bounded_stream(calls, range(3), limit=1, buffer=0) as stream:
        reader = asyncio.create_task(read())
        await settle()
        calls.fail(0, OSError("broken"))
        with pytest.raises(OSError, match="broken"):
            await reader


@pytest.mark.parametrize("fails", [False, True])
async def test_reader_that_waits_when_the_block_is_left(fails: bool) -> None:
    """A read that waits when the block is left ends; a failure is raised once, by the block."""
    calls = Calls()

    async def run() -> None:
        async with bounded_stream(calls, range(9), limit=2) as stream:
            readers.append(asyncio.ensure_future(anext(stream)))
            await settle()
            if fails:
                calls.fail(0, OSError("broken"))
                await settle(1)

    readers: list[asyncio.Future[tuple[int, int]]] = []
    if fails:
        with pytest.raises(OSError, match="broken"):
            await run()
    else:
        await run()
    with pytest.raises(RuntimeError, match=r"inside its `async with` block only"):
        await readers[0]


async def test_cancelled_while_leaving() -> None:
    """Cancels that arrive while the block is left do not cut the cleanup short."""
    calls = Calls()

    async def run() -> None:
        async with bounded_stream(calls, itertools.count(), limit=3):
            await settle()
            leaving.set()

    leaving = asyncio.Event()
    task = asyncio.create_task(run())
    await leaving.wait()
    assert not task.done()
    task.cancel("first")
    await settle(1)
    task.cancel("second")
    with pytest.raises(asyncio.CancelledError, match="first"):
        await task
    assert sorted(calls.cleaned) == [0, 1, 2]


async def test_cancel_of_the_body_and_again_while_leaving() -> None:
    """The first cancel comes out, after the cleanup, however many follow."""
    calls = Calls()

    async def run() -> None:
        async with bounded_stream(calls, itertools.count(), limit=3) as stream:
            await anext(stream)

    task = asyncio.create_task(run())
    await settle()
    for message in ("first", "second", "third"):
        task.cancel(message)
        await settle(1)
    with pytest.raises(asyncio.CancelledError, match="first"):
        await task
    assert task.cancelling() == 3
    assert sorted(calls.cleaned) == [0, 1, 2]


async def test_error_of_the_body_and_a_cancel_while_leaving(reported: Reports) -> None:
    """A cancel that arrives while an error leaves the block goes first, and notes it."""
    calls = Calls()

    async def run() -> None:
        async with bounded_stream(calls, itertools.count(), limit=3):
            await settle()
            leaving.set()
            raise OSError("body")

    leaving = asyncio.Event()
    task = asyncio.create_task(run())
    await leaving.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as info:
        await task
    assert info.value.__notes__ == ["also raised by the body: OSError('body')"]
    assert len(reported) == 1


async def test_stray_cancel_of_the_body_leaves_as_it_is() -> None:
    """A CancelledError that the body raises by itself is not ours to judge."""
    error = asyncio.CancelledError("own")
    with pytest.raises(asyncio.CancelledError) as info:
        async with bounded_stream(same, range(3)):
            raise error
    assert info.value is error


async def careful(item: int) -> int:
    try:
        await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
    return item


async def few() -> AsyncIterator[int]:
    for item in range(3):
        yield item
        await asyncio.sleep(0)


@pytest.mark.parametrize("source", ["sync", "async"])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("leave", ["at the end", "early", "failure"])
def test_cancelled_at_every_tick(
    loop_factory: LoopFactory, source: str, ordered: bool, leave: str
) -> None:
    """Whenever and however the reader is cancelled, every call has ended when it has."""
    seen: list[int] = []
    tokens: list[anyio.CapacityLimiter] = []

    async def call(item: int) -> int:
        if await careful(item) == 2 and leave == "failure":
            raise OSError("broken")
        return item

    async def scenario() -> None:
        seen.clear()
        tokens[:] = [anyio.CapacityLimiter(2)]
        limit = tokens[0] if source == "async" else 2
        items = range(3) if source == "sync" else few()
        async with bounded_stream(call, items, limit=limit, ordered=ordered) as stream:
            async for item, _ in stream:
                seen.append(item)
                if leave == "early":
                    break

    def invariant(run: Run) -> None:
        assert len(seen) == len(set(seen))
        assert tokens[0].borrowed_tokens == 0
        if run.raised is None and leave == "at the end":
            assert sorted(seen) == [0, 1, 2]

    cancel_sweep(
        scenario,
        invariant,
        may_raise=OSError if leave == "failure" else (),
        loop_factory=loop_factory,
    )


read_steps = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "read", "pause", "cancelled read"]),
        st.integers(0, 4),
    ),
    max_size=25,
)


@settings(max_examples=250, deadline=None)
@given(
    length=st.integers(0, 10),
    delays=st.lists(st.integers(0, 3), min_size=10, max_size=10),
    source_delay=st.integers(0, 2),
    source=st.sampled_from(["sync", "async"]),
    limit=st.integers(1, 4),
    limiter=st.booleans(),
    buffer=st.none() | st.integers(0, 3),
    ordered=st.booleans(),
    failing=st.sets(st.integers(0, 9), max_size=2),
    return_exceptions=st.booleans(),
    steps=read_steps,
    drain=st.booleans(),
    cancel_at=st.none() | st.integers(0, 15),
)
def test_against_a_model(
    length: int,
    delays: list[int],
    source_delay: int,
    source: str,
    limit: int,
    limiter: bool,
    buffer: int | None,
    ordered: bool,
    failing: set[int],
    return_exceptions: bool,
    steps: list[tuple[str, int]],
    drain: bool,
    cancel_at: int | None,
) -> None:
    """However it is read, left and cancelled: window, order and outcome are as promised."""
    window = limit + (limit if buffer is None else buffer)
    pulled: list[int] = []
    running: set[int] = set()
    finished: list[int] = []
    failures: list[OSError] = []
    yielded: list[int] = []

    def sync_items() -> Iterator[int]:
        for item in range(length):
            assert len(running) + len(finished) - len(yielded) < window
            pulled.append(item)
            yield item

    async def async_items() -> AsyncIterator[int]:
        for item in sync_items():
            await asyncio.sleep(source_delay)
            yield item

    async def call(item: int) -> int:
        assert item not in running
        assert item not in finished
        assert not (failures and not return_exceptions)
        running.add(item)
        assert len(running) <= limit
        assert len(running) + len(finished) - len(yielded) <= window
        try:
            await asyncio.sleep(delays[item])
        except asyncio.CancelledError:
            running.remove(item)
            await asyncio.sleep(1)
            raise
        running.remove(item)
        if item in failing:
            failures.append(OSError(item))
            if not return_exceptions:
                raise failures[-1]
        finished.append(item)
        if item in failing:
            raise failures[-1]
        return item

    async def read(stream: AsyncIterator[tuple[int, Any]]) -> None:
        item, result = await anext(stream)
        assert item in finished
        assert (
            result is failures[[f.args[0] for f in failures].index(item)]
            if (item in failing)
            else result == item
        )
        yielded.append(item)

    async def step(
        stream: AsyncIterator[tuple[int, Any]], what: str, time: int
    ) -> None:
        if what == "read":
            await read(stream)
        elif what == "pause":
            await asyncio.sleep(time)
        else:
            reader = asyncio.ensure_future(read(stream))
            await asyncio.sleep(time)
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                reader.result()

    async def use(shared: anyio.CapacityLimiter) -> None:
        ended = False
        async with bounded_stream(
            call,
            sync_items() if source == "sync" else async_items(),
            limit=shared if limiter else limit,
            buffer=buffer,
            ordered=ordered,
            return_exceptions=return_exceptions,
        ) as stream:
            try:
                for what, time in steps:
                    await step(stream, what, time)
                while drain:
                    await read(stream)
            except StopAsyncIteration:
                ended = True
        if ended:
            assert sorted(yielded) == list(range(length))
            assert not failures or return_exceptions

    async def main() -> None:
        shared = anyio.CapacityLimiter(limit)
        task = asyncio.create_task(use(shared))
        cancelled = False
        if cancel_at is not None:
            await asyncio.sleep(cancel_at + 0.5)
            cancelled = task.cancel()
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert shared.borrowed_tokens == 0
        assert not running
        assert len(set(yielded)) == len(yielded)
        if ordered:
            assert yielded == sorted(yielded)
        else:
            assert yielded == finished[: len(yielded)]
        if cancelled:
            assert task.cancelled()
        elif task.exception() is not None:
            assert task.exception() is failures[0]
            assert not return_exceptions
        else:
            assert not failures or return_exceptions

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("where", ["reading", "body"])
async def test_coroutine_that_is_closed_in_the_block(where: str) -> None:
    """The calls are told to stop; nobody can wait for them any more."""
    calls = Calls()

    async def block() -> None:
        async with bounded_stream(calls, range(3), limit=2) as stream:
            if where == "reading":
                await anext(stream)
            await asyncio.get_running_loop().create_future()

    coro = block()
    waits_for = coro.send(None)  # as a task would, but one that gives up on it
    assert asyncio.isfuture(waits_for)
    await settle()
    assert calls.running == [0, 1]
    coro.close()
    await settle()
    assert calls.cleaned == [0, 1]
