"""`bounded_map`: call a function on every item of a source, some at once."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from itertools import repeat
from typing import Any, Literal, TypeVar, overload

import anyio as anyio  # noqa: PLC0414  # for whoever resolves the annotations

from ._limit import Limit, check_limit, refuse_nested
from ._pool import Pool
from ._rate import RateLimiter

T = TypeVar("T")
R = TypeVar("R")

_OWNER = "bounded_map()"


@overload
def bounded_map(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, list[R]]: ...
@overload
def bounded_map(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    return_exceptions: bool,
) -> Coroutine[Any, Any, list[R | BaseException]]: ...
def bounded_map(
    func: Callable[[T], Awaitable[Any]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    return_exceptions: bool = False,
) -> Coroutine[Any, Any, list[Any]]:
    """Call `func` on every item, at most `limit` at once, and return the results in order.

    The source is pulled as slots become free, so that what is alive beside the results
    does not depend on how long it is.

    >>> import asyncio
    >>> async def double(n: int) -> int:
    ...     await asyncio.sleep(0)
    ...     return 2 * n
    >>> async def main() -> list[int]:
    ...     return await bounded_map(double, range(5), limit=2)
    >>> asyncio.run(main())
    [0, 2, 4, 6, 8]

    Args:
        func: An async function of one item. Calls share tasks, but not their context:
            each sees the caller's, whatever another one has set. A call must not hand
            out `asyncio.current_task()`.
        items: The source. An async generator, or the iterator of an async iterable, is
            closed at the end; nothing else is.
        limit: How many calls may run at once. An `anyio.CapacityLimiter` gives one
            token to each, and may be shared.
        rate: A limit on how often a call may start.
        return_exceptions: Put exceptions in the list instead of raising the first one.

    Returns:
        A coroutine for the list of results, in the order of the items.

    Raises:
        TypeError: At the call, if `func` is no function or `items` no iterable, or for
            the wrong type of limit.
        ValueError: At the call, if the limit is below 1.
        RuntimeError: If the caller holds a token of `limit` itself.
        ChildCancelled: If a call ended cancelled though nobody had cancelled this one.
        BaseException: The first error of a call or of the source, the same object, after
            the others have been cancelled and have ended. Their errors are noted on it,
            and go to the loop's exception handler. An error of the source is raised
            under `return_exceptions` too. `KeyboardInterrupt` and `SystemExit` go
            before any other error, and before a cancel of the caller.

    Cancellation:
        Cancelling the caller, natively or through an anyio scope, cancels every running
        call once and waits until all have ended; the cleanup that this starts
        completes. Results are lost. Calls that never suspend let the loop turn every
        few milliseconds.
    """
    check_source(_OWNER, func, items, limit, rate)
    coro: Any = _map(func, items, limit, rate, return_exceptions)
    coro.__qualname__ = coro.__name__ = "bounded_map"
    return coro  # type: ignore[no-any-return]


async def _map(
    func: Callable[[T], Awaitable[Any]],
    items: Iterable[T] | AsyncIterable[T],
    limit: Limit,
    rate: RateLimiter | None,
    return_exceptions: bool,
) -> list[Any]:
    results: list[Any] = []

    def record(index: int, _item: T, result: Any) -> None:
        if index < len(results):
            results[index] = result
        else:
            results.extend(repeat(None, index - len(results)))
            results.append(result)

    pool = Pool(_OWNER, func, items, limit, rate, return_exceptions, record, results)
    await pool.open()
    await pool.crew.join()
    return results


def check_source(
    owner: str,
    func: object,
    items: object,
    limit: object,
    rate: object,
) -> None:
    """Refuse arguments of a map that cannot work, and close coroutines among them.

    Raises:
        TypeError: If one has the wrong type.
        ValueError: If the limit is out of range.
        RuntimeError: If the caller holds a token of the limiter.
    """
    try:
        check_limit(owner, limit, unbounded=False)
        refuse_nested(owner, limit)
        _check_function(owner, func)
        _check_items(owner, items)
        if rate is not None and not isinstance(rate, RateLimiter):
            raise TypeError(f"{owner}: rate must be a RateLimiter, got {rate!r}")
    except BaseException:
        for argument in (func, items):
            if inspect.iscoroutine(argument):
                argument.close()
        raise


def _check_function(owner: str, func: object) -> None:
    name = owner.removesuffix("()")
    if inspect.iscoroutine(func):
        called = func.__name__
        raise TypeError(
            f"{owner} takes an async function, got {func!r}; "
            f"write {name}({called}, items), not {name}({called}(...), items)"
        )
    if inspect.isasyncgenfunction(func):
        raise TypeError(
            f"{owner} takes an async function, got the async generator function {func!r}; "
            "it must return one result for each item, not yield"
        )
    if not callable(func):
        raise TypeError(f"{owner} takes an async function, got {func!r}")


def _check_items(owner: str, items: object) -> None:
    # `iter(items)` would tell more, but it may be a query to a database.
    if not isinstance(items, AsyncIterable | Iterable) and not hasattr(
        type(items), "__getitem__"
    ):
        fix = "; await it first" if inspect.isawaitable(items) else ""
        raise TypeError(
            f"{owner}: items must be an iterable or an async iterable, got {items!r}{fix}"
        )
