"""What a pool of many items needs in memory."""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from safeaio import bounded_map, bounded_stream

from .test_pool import same, same_later


async def drain(func: Any, items: Any, **options: Any) -> None:
    async with bounded_stream(func, items, **options) as stream:
        async for _ in stream:
            pass


async def peak_beyond(
    way: Callable[[int], Coroutine[Any, Any, object]], length: int
) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await way(length)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("func", [same, same_later])
async def test_stream_memory_does_not_depend_on_the_length(func: Any) -> None:
    """A stream of twenty times the items needs no more memory."""

    async def stream(length: int) -> None:
        await drain(func, (n & 0xFF for n in range(length)), limit=20)

    await stream(3_000)
    short = await peak_beyond(stream, 3_000)
    long = await peak_beyond(stream, 60_000)
    assert long - short < 64 * 1024


@pytest.mark.virtual_time
@pytest.mark.parametrize("func", [same, same_later])
async def test_map_memory_is_the_list_of_results(func: Any) -> None:
    """Beyond the list that it returns, a map needs next to nothing."""

    async def beyond(length: int) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            results = await bounded_map(func, (n & 0xFF for n in range(length)))
            # A list that grows is for a moment there twice.
            kept = 2 * sys.getsizeof(results)
            return tracemalloc.get_traced_memory()[1] - before - kept
        finally:
            tracemalloc.stop()

    await bounded_map(func, range(1_000))
    assert await beyond(100_000) < 256 * 1024
