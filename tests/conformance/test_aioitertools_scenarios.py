"""What `aioitertools.asyncio` promises, as far as it applies to us."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import safeaio
from safeaio import ChildCancelled, bounded_map, bounded_stream

# Its types are proved in tests/typing; here they would hide what is tested.
bounded_gather: Any = safeaio.bounded_gather


async def sleepy(n: float) -> float:
    await asyncio.sleep(n)
    return n


# as_completed


@pytest.mark.virtual_time
async def test_as_completed() -> None:
    """Results come as they are ready."""
    async with bounded_stream(sleepy, [0.5, 0.1, 0.3]) as results:
        assert [n async for n, _ in results] == [0.1, 0.3, 0.5]


@pytest.mark.virtual_time
async def test_as_completed_timeout() -> None:
    """A timeout around the loop keeps what came in time, and leaves nothing running."""
    read: list[float] = []

    async def read_all() -> None:
        async with bounded_stream(sleepy, [10, 1, 5]) as results:
            async for n, _ in results:
                read.append(n)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_all(), 2)
    assert read == [1]
    assert asyncio.get_running_loop().time() == 2


async def test_as_completed_raises() -> None:
    """An error comes out of the loop, after the results that were ready before it."""
    gate = asyncio.Event()

    async def work(n: int) -> int:
        if n == 2:
            await gate.wait()
            raise ValueError("x")
        return n

    read: list[int] = []

    async def read_all() -> None:
        async with bounded_stream(work, range(3)) as results:
            async for n, _ in results:
                read.append(n)
                if len(read) == 2:
                    gate.set()

    with pytest.raises(ValueError, match="x"):
        await read_all()
    assert sorted(read) == [0, 1]


# gather


async def test_gather_input_types() -> None:
    """Coroutines, tasks and futures may be mixed."""

    async def fn(arg: int) -> int:
        await asyncio.sleep(0)
        return arg

    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    task = asyncio.create_task(fn(2))
    assert await bounded_gather(fn(1), task, future) == [1, 2, 3]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("limit", "takes"), [(1, 12), (2, 6), (5, 3), (12, 1)])
async def test_gather_limited(limit: int, takes: float) -> None:
    """At most `limit` run at once, and no slot stays empty."""
    running = most = 0

    async def fn(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return n

    results = await bounded_gather(*[fn(n) for n in range(12)], limit=limit)
    assert results == [*range(12)]
    assert most == limit
    assert asyncio.get_running_loop().time() == takes


async def test_gather_limited_dupes() -> None:
    """The same object given several times runs once, and its result comes several times."""
    runs = 0

    async def fn(n: int) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return n

    one, two = fn(1), fn(2)
    assert await bounded_gather(one, two, one, two, one, limit=1) == [1, 2, 1, 2, 1]
    assert runs == 2


async def test_gather_raises() -> None:
    """The error of a child is raised, whichever position it has."""

    async def fn(n: int) -> int:
        await asyncio.sleep(0)
        if n == 5:
            raise ValueError("five")
        return n

    for limit in (1, 3, None):
        with pytest.raises(ValueError, match="five"):
            await bounded_gather(*[fn(n) for n in range(10)], limit=limit)


async def test_gather_returns_exceptions() -> None:
    """Exceptions are results, a child's own CancelledError among them."""

    async def fn(n: int) -> int:
        await asyncio.sleep(0)
        if n == 1:
            raise ValueError("one")
        if n == 2:
            raise asyncio.CancelledError("two")
        return n

    results = await bounded_gather(
        *[fn(n) for n in range(4)], limit=2, return_exceptions=True
    )
    assert [type(result) for result in results] == [
        int,
        ValueError,
        asyncio.CancelledError,
        int,
    ]


async def test_gather_child_cancelled() -> None:
    """Without that a child's own CancelledError is an error, and not the caller's."""

    async def fn() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ChildCancelled):
        await bounded_gather(fn())


@pytest.mark.virtual_time
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_gather_propagates_cancellation(return_exceptions: bool) -> None:
    """A cancel of the caller reaches every child that has started."""
    cancelled: list[int] = []
    started: list[int] = []

    async def fn(n: int) -> None:
        started.append(n)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    call = bounded_gather(
        *[fn(n) for n in range(5)], limit=3, return_exceptions=return_exceptions
    )
    task = asyncio.create_task(call)
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started == [0, 1, 2]
    assert sorted(cancelled) == [0, 1, 2]


@pytest.mark.virtual_time
async def test_gather_leaves_no_siblings() -> None:
    """After an error no child is left running."""
    ended: list[int] = []

    async def fn(n: int) -> None:
        try:
            await asyncio.sleep(n)
            if n == 1:
                raise ValueError("one")
        finally:
            ended.append(n)

    with pytest.raises(ValueError, match="one"):
        await bounded_gather(*[fn(n) for n in range(1, 5)])
    assert sorted(ended) == [1, 2, 3, 4]
    assert asyncio.get_running_loop().time() == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("limit", [0, -1])
async def test_gather_limit_below_one(limit: int) -> None:
    """A limit that would never start anything is refused, and does not freeze."""
    coro = sleepy(0)
    with pytest.raises(ValueError, match=f"limit must be at least 1, got {limit}"):
        await bounded_gather(coro, limit=limit)


# gather_iter


async def test_gather_iter() -> None:
    """A source is gathered by a map, an async one too."""

    async def fn(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    async def numbers() -> AsyncIterator[int]:
        for n in range(5):
            yield n

    assert await bounded_map(fn, iter(range(5))) == [1, 2, 3, 4, 5]
    assert await bounded_map(fn, numbers()) == [1, 2, 3, 4, 5]
