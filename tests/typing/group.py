"""`start_soon` checks the arguments against the function."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import assert_type

import anyio

from safeaio import BoundedGroup, bounded_group


async def visit(url: str, depth: int) -> bytes:
    return b""


async def visit_with_default(url: str, depth: int = 0) -> None: ...


async def nothing() -> None: ...


async def many(*urls: str) -> None: ...


async def by_keyword(*, url: str) -> None: ...


def not_async(url: str) -> None: ...


def returns_awaitable(url: str) -> Awaitable[None]:
    return many(url)


async def arguments() -> None:
    """Positional arguments, as many and of the types that the function takes."""
    async with bounded_group(limit=10) as group:
        assert_type(group, BoundedGroup)
        await group.start_soon(visit, "/", 0)
        await group.start_soon(nothing)
        await group.start_soon(visit_with_default, "/", 0)
        await group.start_soon(visit_with_default, "/")
        await group.start_soon(many, "/", "/a")
        await group.start_soon(returns_awaitable, "/")
        await group.start_soon(partial(by_keyword, url="/"))
        await group.start_soon(group.start_soon, nothing)


async def wrong_arguments(group: BoundedGroup) -> None:
    """Anything else is an error."""
    await group.start_soon(visit, "/", "0")  # type: ignore[arg-type]
    await group.start_soon(visit, "/")  # type: ignore[arg-type]
    await group.start_soon(nothing, "/")  # type: ignore[arg-type]
    await group.start_soon(visit, url="/", depth=0)  # type: ignore[call-arg, arg-type]
    await group.start_soon(nothing())  # type: ignore[arg-type]
    await group.start_soon(not_async, "/")  # type: ignore[arg-type]


async def options(shared: anyio.CapacityLimiter) -> None:
    """A limit is a number, a limiter or None, by keyword alone."""
    assert_type(bounded_group(), AbstractAsyncContextManager[BoundedGroup])
    bounded_group(limit=shared)
    bounded_group(limit=None)
    bounded_group(10)  # type: ignore[call-arg]
    bounded_group(limit=1.5)  # type: ignore[arg-type]
