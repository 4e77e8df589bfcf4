"""`bounded_map` takes its types from the function and the source."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable
from functools import partial
from typing import Any, assert_type

import anyio

from safeaio import RateLimiter, bounded_map


async def length(text: str) -> int:
    return len(text)


async def scale(factor: float, text: str) -> float:
    return factor * len(text)


def call_length(text: str) -> Awaitable[int]:
    return length(text)


def not_async(text: str) -> int:
    return len(text)


async def texts() -> AsyncIterator[str]:
    yield ""


async def sources(
    some: Iterable[str], later: AsyncIterable[str], stream: asyncio.StreamReader
) -> None:
    """Any iterable and any async iterable of what the function takes."""
    assert_type(await bounded_map(length, ["a", "b"]), list[int])
    assert_type(await bounded_map(length, ("a", "b")), list[int])
    assert_type(await bounded_map(length, {"a": 1}), list[int])
    assert_type(await bounded_map(length, (text for text in "ab")), list[int])
    assert_type(await bounded_map(length, some), list[int])
    assert_type(await bounded_map(length, texts()), list[int])
    assert_type(await bounded_map(length, later), list[int])
    await bounded_map(length, stream)  # type: ignore[arg-type]
    await bounded_map(length, 3)  # type: ignore[call-overload]
    await bounded_map(length, [1, 2])  # type: ignore[arg-type]


async def functions() -> None:
    """Any function of one item that returns an awaitable."""
    assert_type(await bounded_map(call_length, ["a"]), list[int])
    assert_type(await bounded_map(partial(scale, 2.0), ["a"]), list[float])
    assert_type(await bounded_map(lambda text: length(text), ["a"]), list[int])
    await bounded_map(not_async, ["a"])  # type: ignore[arg-type]
    await bounded_map(length("a"), ["a"])  # type: ignore[call-overload]
    await bounded_map(scale, ["a"])  # type: ignore[arg-type]


async def exceptions(flag: bool) -> None:
    """Exceptions are among the results if they may be."""
    assert_type(await bounded_map(length, ["a"], return_exceptions=False), list[int])
    assert_type(
        await bounded_map(length, ["a"], return_exceptions=True),
        list[int | BaseException],
    )
    assert_type(
        await bounded_map(length, ["a"], return_exceptions=flag),
        list[int | BaseException],
    )


async def options(shared: anyio.CapacityLimiter, rate: RateLimiter) -> None:
    """A limit is a number or a limiter, and never None: a map needs one."""
    assert_type(await bounded_map(length, ["a"], limit=3, rate=rate), list[int])
    assert_type(await bounded_map(length, ["a"], limit=shared, rate=None), list[int])
    call = bounded_map(length, ["a"])
    await assert_type(call, Coroutine[Any, Any, list[int]])
    await bounded_map(length, ["a"], limit=None)  # type: ignore[call-overload]
    await bounded_map(length, ["a"], rate=10)  # type: ignore[call-overload]
    await bounded_map(length, ["a"], 3)  # type: ignore[call-overload]
