"""`bounded_stream` yields pairs of what goes in and what comes out."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import assert_type

import anyio

from safeaio import RateLimiter, bounded_stream


async def length(text: str) -> int:
    return len(text)


async def texts() -> AsyncIterator[str]:
    yield ""


async def sources(later: AsyncIterable[str]) -> None:
    """The item's type comes from the source, the result's from the function."""
    async with bounded_stream(length, ["a"]) as results:
        assert_type(results, AsyncIterator[tuple[str, int]])
        async for item, result in results:
            assert_type(item, str)
            assert_type(result, int)
    async with bounded_stream(length, texts()) as results:
        assert_type(results, AsyncIterator[tuple[str, int]])
    async with bounded_stream(length, later) as results:
        assert_type(await anext(results), tuple[str, int])
    assert_type(
        bounded_stream(length, ["a"]),
        AbstractAsyncContextManager[AsyncIterator[tuple[str, int]]],
    )


async def exceptions(flag: bool) -> None:
    """Exceptions take the place of results if they may."""
    async with bounded_stream(length, ["a"], return_exceptions=True) as some:
        assert_type(some, AsyncIterator[tuple[str, int | BaseException]])
    async with bounded_stream(length, ["a"], return_exceptions=flag) as some:
        assert_type(some, AsyncIterator[tuple[str, int | BaseException]])
    async with bounded_stream(length, ["a"], return_exceptions=False) as results:
        assert_type(results, AsyncIterator[tuple[str, int]])


async def options(shared: anyio.CapacityLimiter, rate: RateLimiter) -> None:
    """Every option, by keyword alone."""
    async with bounded_stream(
        length, ["a"], limit=shared, rate=rate, ordered=True, buffer=0
    ) as results:
        assert_type(results, AsyncIterator[tuple[str, int]])
    async with bounded_stream(length, ["a"], limit=3, buffer=None) as results:
        assert_type(results, AsyncIterator[tuple[str, int]])
    bounded_stream(length, ["a"], limit=None)  # type: ignore[call-overload]
    bounded_stream(length, ["a"], buffer=0.5)  # type: ignore[call-overload]
    bounded_stream(length, ["a"], 3)  # type: ignore[call-overload]


async def misuse() -> None:
    """It is a block, and its source fits its function."""
    bounded_stream(length, [1])  # type: ignore[arg-type]
    async for _ in bounded_stream(length, ["a"]):  # type: ignore[attr-defined]
        pass
    await bounded_stream(length, ["a"])  # type: ignore[misc]
