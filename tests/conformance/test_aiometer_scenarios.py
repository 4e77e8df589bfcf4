"""What aiometer promises, as far as it applies to `bounded_map` and `bounded_stream`."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest

from safeaio import RateLimiter, bounded_map, bounded_stream


@attrs.define
class Spy:
    """An async function that remembers when it was called, and how many calls ran at once."""

    args: list[int] = attrs.field(factory=list)
    started: list[float] = attrs.field(factory=list)
    running: int = 0
    most: int = 0
    cancelled: list[int] = attrs.field(factory=list)

    async def double(self, n: int, takes: float = 0) -> int:
        self.args.append(n)
        self.started.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(takes)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled.append(n)
            raise
        finally:
            self.running -= 1
        return 2 * n


# run_on_each, run_all


async def test_run_on_each() -> None:
    """The function is called once on each item."""
    spy = Spy()
    await bounded_map(spy.double, [1, 2, 3])
    assert sorted(spy.args) == [1, 2, 3]


async def test_run_all() -> None:
    """Functions with arguments of their own are run by a map over partials."""
    spy = Spy()
    calls = [functools.partial(spy.double, n) for n in range(5)]

    def call(func: Callable[[], Awaitable[int]]) -> Awaitable[int]:
        return func()

    assert await bounded_map(call, calls) == [0, 2, 4, 6, 8]


@pytest.mark.virtual_time
async def test_results_in_order() -> None:
    """Results come in the order of the items, though the last ends first."""
    spy = Spy()

    async def slower_first(n: int) -> int:
        return await spy.double(n, takes=10 - n)

    assert await bounded_map(slower_first, range(10)) == [2 * n for n in range(10)]
    assert asyncio.get_running_loop().time() == 10


async def test_no_items() -> None:
    """Without items there is nothing to wait for."""
    spy = Spy()
    assert await bounded_map(spy.double, []) == []
    nothing: list[int] = []
    async with bounded_stream(spy.double, nothing) as results:
        assert [result async for result in results] == []
    assert spy.args == []


# amap


async def test_amap() -> None:
    """Results can be read one by one, with the item that each belongs to."""
    spy = Spy()
    async with bounded_stream(spy.double, range(10)) as results:
        assert {n: doubled async for n, doubled in results} == {
            n: 2 * n for n in range(10)
        }


@pytest.mark.virtual_time
async def test_amap_as_completed() -> None:
    """What is done first is read first."""
    spy = Spy()

    async def slower_first(n: int) -> int:
        return await spy.double(n, takes=10 - n)

    async with bounded_stream(slower_first, range(5)) as results:
        assert [n async for n, _ in results] == [4, 3, 2, 1, 0]


@pytest.mark.virtual_time
async def test_amap_ignoring_results() -> None:
    """Leaving early cancels what runs, and does not wait for all of it."""
    spy = Spy()

    async def slow(n: int) -> int:
        return await spy.double(n, takes=60)

    async with bounded_stream(slow, range(10), limit=3):
        await asyncio.sleep(1)
    assert asyncio.get_running_loop().time() == 1
    assert sorted(spy.cancelled) == [0, 1, 2]
    assert spy.args == [0, 1, 2]


@pytest.mark.virtual_time
async def test_amap_break() -> None:
    """Breaking out of the loop leaves nothing running, and closes the source."""
    spy = Spy()
    closed = False

    async def numbers() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for n in range(1000):
                yield n
        finally:
            closed = True

    async def later(n: int) -> int:
        return await spy.double(n, takes=n + 1)

    async with bounded_stream(later, numbers(), limit=4) as results:
        async for n, _ in results:
            if n == 2:
                break
    assert spy.running == 0
    assert spy.cancelled
    assert closed


async def test_amap_over_an_async_source() -> None:
    """An async source is pulled only as slots come free."""
    spy = Spy()
    unfinished: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for n in range(20):
            unfinished.append(n + 1 - (len(spy.args) - spy.running))
            yield n

    assert await bounded_map(spy.double, numbers(), limit=3) == [*range(0, 40, 2)]
    assert max(unfinished) <= 3


# run_any


@pytest.mark.virtual_time
async def test_run_any() -> None:
    """The first result of a stream is the first to be ready; the others are cancelled."""
    spy = Spy()

    async def takes(n: int) -> int:
        return await spy.double(n, takes=n)

    async with bounded_stream(takes, [50, 1, 70]) as results:
        assert await anext(results) == (1, 2)
    assert asyncio.get_running_loop().time() == 1
    assert sorted(spy.cancelled) == [50, 70]


# max_at_once


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_max_at_once(limit: int) -> None:
    """At most `limit` run at once, and that many do."""
    spy = Spy()

    async def one_second(n: int) -> int:
        return await spy.double(n, takes=1)

    await bounded_map(one_second, range(10), limit=limit)
    assert spy.most == limit
    assert asyncio.get_running_loop().time() == -(-10 // limit)


@pytest.mark.parametrize("wrong", [0, -1])
async def test_max_at_once_is_positive(wrong: int) -> None:
    """A limit below 1 is refused at the call."""
    with pytest.raises(ValueError, match=f"limit must be at least 1, got {wrong}"):
        await bounded_map(Spy().double, range(3), limit=wrong)


# max_per_second


@pytest.mark.virtual_time
@pytest.mark.parametrize("rate", [0.5, 1, 4, 16])
async def test_max_per_second(rate: float) -> None:
    """Calls start `rate` times a second, evenly, without a burst at the beginning."""
    spy = Spy()
    await bounded_map(spy.double, range(10), rate=RateLimiter(rate))
    assert spy.started == [n / rate for n in range(10)]


@pytest.mark.virtual_time
async def test_max_per_second_of_slow_calls() -> None:
    """The rate holds while calls overlap."""
    spy = Spy()

    async def slow(n: int) -> int:
        return await spy.double(n, takes=5)

    async with bounded_stream(slow, range(8), rate=RateLimiter(2)) as results:
        assert len([result async for result in results]) == 8
    assert spy.started == [n / 2 for n in range(8)]
    assert spy.most == 8


@pytest.mark.virtual_time
async def test_max_at_once_and_max_per_second() -> None:
    """Together both hold: the slower of the two sets the pace."""
    spy = Spy()

    async def slow(n: int) -> int:
        return await spy.double(n, takes=4)

    await bounded_map(slow, range(6), limit=2, rate=RateLimiter(1))
    assert spy.most == 2
    assert spy.started == [0, 1, 4, 5, 8, 9]


@pytest.mark.parametrize("wrong", [0, -1])
def test_max_per_second_is_positive(wrong: int) -> None:
    """A rate that is not positive is refused at once."""
    with pytest.raises(ValueError, match=f"rate must be positive .* got {wrong}"):
        RateLimiter(wrong)


# Errors


@pytest.mark.virtual_time
async def test_error_is_bare() -> None:
    """An error leaves as it was raised, in no group, after the others were cancelled."""
    spy, boom = Spy(), ValueError("x")

    async def fails(n: int) -> int:
        if n == 3:
            raise boom
        return await spy.double(n, takes=60)

    with pytest.raises(ValueError, match="x") as caught:
        await bounded_map(fails, range(10))
    assert caught.value is boom
    assert asyncio.get_running_loop().time() == 0
    assert spy.running == 0


@pytest.mark.virtual_time
async def test_cancelled_from_outside() -> None:
    """Cancelling the caller cancels the calls and waits for them."""
    spy = Spy()

    async def slow(n: int) -> int:
        return await spy.double(n, takes=60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await bounded_map(slow, range(10), limit=4)
    assert sorted(spy.cancelled) == [0, 1, 2, 3]
    assert spy.running == 0
