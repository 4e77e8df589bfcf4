"""For how long calls and sources that never suspend hold the loop."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from safeaio import bounded_map

from .clock import Clock
from .test_pool import same
from .test_pool_memory import drain

SLICE = 0.05  # seconds


class Ticker:
    """Measures for how long the loop is held at most."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.worst = 0.0
        self.ticks = 0
        self._stop = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        sys.setprofile(self.clock.profile)
        return self

    async def _tick(self) -> None:
        last = self.clock()
        while not self._stop:
            await asyncio.sleep(0)
            now = self.clock()
            self.worst = max(self.worst, now - last)
            self.ticks += 1
            last = now

    async def __aexit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._stop = True
        await self._task


@pytest.fixture
def ticker(clock: Clock) -> Ticker:
    return Ticker(clock)


async def endless(length: int) -> AsyncIterator[int]:
    for item in range(length):
        yield item


ways = pytest.mark.parametrize("way", [bounded_map, drain], ids=["map", "stream"])


@ways
@pytest.mark.parametrize("limit", [1, 100, 10**6])
async def test_items_that_never_suspend_let_the_loop_turn(
    way: Any, limit: int, ticker: Ticker
) -> None:
    """No-op items do not hold the loop for more than a moment, under any limit."""
    async with ticker:
        await way(same, range(100_000), limit=limit)
    assert ticker.ticks > 3
    assert ticker.worst < SLICE


async def test_a_million_items_let_the_loop_turn(ticker: Ticker) -> None:
    """A million no-op items do not hold the loop for more than a moment."""
    async with ticker:
        assert len(await bounded_map(same, range(1_000_000))) == 1_000_000
    assert ticker.worst < SLICE


@ways
async def test_calls_side_by_side_let_the_loop_turn(way: Any, ticker: Ticker) -> None:
    """Eight calls at once hold the loop no longer than one."""
    async with ticker:
        await asyncio.gather(*(way(same, range(25_000)) for _ in range(8)))
    assert ticker.worst < SLICE


@ways
@pytest.mark.parametrize("limit", [1, 100])
async def test_heavy_items_let_the_loop_turn(
    way: Any, limit: int, ticker: Ticker
) -> None:
    """Items of 5 ms of CPU each hold the loop for a few of them, whatever the limit."""

    async def heavy(item: int) -> None:
        ticker.clock.burn(0.005)

    async with ticker:
        await way(heavy, range(60), limit=limit)
    assert ticker.worst < SLICE


@ways
@pytest.mark.parametrize("limit", [100, 10**6])
async def test_async_source_that_never_suspends_lets_the_loop_turn(
    way: Any, limit: int, ticker: Ticker
) -> None:
    """Nor does a source that always has the next item at hand, under any limit."""
    async with ticker:
        await way(same, endless(20_000), limit=limit)
    assert ticker.worst < SLICE


async def test_eager_reader_lets_the_loop_turn(ticker: Ticker) -> None:
    """A large buffer of results is not read in one go."""
    async with ticker:
        await drain(same, range(200_000), buffer=10**6)
    assert ticker.worst < SLICE
