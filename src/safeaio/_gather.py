"""`asyncio.gather` with a limit, where no child is left behind."""

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine
from itertools import islice
from operator import eq
from types import CoroutineType
from typing import Any, Literal, TypeVar, overload

import anyio as anyio  # noqa: PLC0414  # for whoever resolves the annotations

from ._gathering import OWNER, GatherCall, Gathering, close
from ._limit import LimitOrNone, check_limit, refuse_nested

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")


# typeshed's overloads of asyncio.gather, so that code which awaits it type-checks unchanged.
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1, T2]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1, T2, T3]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4, T5]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    aw6: Awaitable[T6],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4, T5, T6]]: ...
@overload
def bounded_gather(  # type: ignore[overload-overlap]
    *aws: Awaitable[T],
    limit: LimitOrNone = 100,
    return_exceptions: Literal[False] = False,
) -> Coroutine[Any, Any, list[T]]: ...
@overload
def bounded_gather(  # pyright: ignore[reportOverlappingOverload]
    aw1: Awaitable[T1],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[Any, Any, tuple[T1 | BaseException]]: ...
@overload
def bounded_gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[Any, Any, tuple[T1 | BaseException, T2 | BaseException]]: ...
@overload
def bounded_gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[
    Any, Any, tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException]
]: ...
@overload
def bounded_gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[
    Any,
    Any,
    tuple[
        T1 | BaseException, T2 | BaseException, T3 | BaseException, T4 | BaseException
    ],
]: ...
@overload
def bounded_gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[
    Any,
    Any,
    tuple[
        T1 | BaseException,
        T2 | BaseException,
        T3 | BaseException,
        T4 | BaseException,
        T5 | BaseException,
    ],
]: ...
@overload
def bounded_gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    aw6: Awaitable[T6],
    /,
    *,
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[
    Any,
    Any,
    tuple[
        T1 | BaseException,
        T2 | BaseException,
        T3 | BaseException,
        T4 | BaseException,
        T5 | BaseException,
        T6 | BaseException,
    ],
]: ...
@overload
def bounded_gather(
    *aws: Awaitable[T],
    limit: LimitOrNone = 100,
    return_exceptions: bool,
) -> Coroutine[Any, Any, list[T | BaseException]]: ...
def bounded_gather(
    *aws: Awaitable[Any], limit: LimitOrNone = 100, return_exceptions: bool = False
) -> Coroutine[Any, Any, Any]:
    """Run awaitables, at most `limit` at once, and return their results in order.

    A drop-in for `asyncio.gather` that bounds the load, and whose children have all
    ended when it returns or raises. Every coroutine runs in a task of its own, with a
    copy of the context of the task that awaits this; the others are not started before
    a slot is free.

    >>> import asyncio
    >>> async def double(n: int) -> int:
    ...     await asyncio.sleep(0)
    ...     return 2 * n
    >>> async def main() -> list[int]:
    ...     return await bounded_gather(*[double(n) for n in range(5)], limit=2)
    >>> asyncio.run(main())
    [0, 2, 4, 6, 8]

    Args:
        *aws: Coroutines, tasks, futures or other awaitables. One that is given twice
            runs once. Tasks and futures run already: they take no slot, and are
            cancelled with the others.
        limit: How many may run at once. An `anyio.CapacityLimiter` gives one token to
            each, and may be shared between calls. None: all at once, as they must if
            they wait for each other.
        return_exceptions: Put exceptions in the list instead of raising the first one.

    Returns:
        A coroutine for the list of results, in the order of the arguments. It is no
        future: it has no `cancel` or callbacks. `asyncio.create_task` makes it a task.

    Raises:
        TypeError: At the call, if an argument cannot be awaited, or for the wrong type
            of limit.
        ValueError: At the call, if the limit is below 1, or a future belongs to
            another loop than the running one.
        RuntimeError: If it is awaited twice, if the caller holds a token of `limit`
            itself, or if it waits for the task that awaits it.
        ChildCancelled: If a child ended cancelled though nobody had cancelled this call.
        BaseException: The first error of a child, the same object, after the others
            have been cancelled and have ended. Their errors are noted on it, and go to
            the loop's exception handler. `KeyboardInterrupt` and `SystemExit` go
            before any other error, and before a cancel of the caller.

    Cancellation:
        Cancelling the caller, natively or through an anyio scope, cancels every child
        once and waits until all have ended; the cleanup that this starts completes.
        Coroutines that have not started are closed. Results are lost. If every child
        ends without suspending, this does not checkpoint.
    """
    try:
        check_limit(OWNER, limit, unbounded=True)
        refuse_nested(OWNER, limit)
        # Most are native coroutines: nothing more is asked about those.
        others = [(i, aw) for i, aw in enumerate(aws) if type(aw) is not CoroutineType]
        _check_awaitables(others)
        _check_loops([aw for _, aw in others if asyncio.isfuture(aw)])
    except BaseException:
        for aw in aws:
            close(aw)
        raise
    if not _has_duplicates(aws):
        return Gathering(GatherCall([*aws], None, limit, return_exceptions))
    unique = {id(aw): aw for aw in aws}
    index_of = {key: index for index, key in enumerate(unique)}
    positions = [index_of[id(aw)] for aw in aws]
    return Gathering(
        GatherCall([*unique.values()], positions, limit, return_exceptions)
    )


def _has_duplicates(aws: tuple[object, ...]) -> bool:
    # A set of them would be the largest thing that a call allocates.
    ids = sorted(map(id, aws))
    return any(map(eq, ids, islice(ids, 1, None)))


def _check_awaitables(aws: list[tuple[int, Awaitable[Any]]]) -> None:
    for index, aw in aws:
        if not inspect.isawaitable(aw):
            raise TypeError(
                f"{OWNER} takes awaitables, got {aw!r} as argument {index}{_fix(aw)}"
            )


def _fix(aw: object) -> str:
    if isinstance(aw, list | tuple | set):
        return "; write bounded_gather(*aws), not bounded_gather(aws)"
    if inspect.isasyncgen(aw):
        return "; an async generator is a source of items: bounded_map(func, items)"
    if callable(aw):
        name = getattr(aw, "__name__", "func")
        return f"; write bounded_gather({name}(...)), not bounded_gather({name})"
    return ""


def _check_loops(futures: list[asyncio.Future[Any]]) -> None:
    if not futures:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = futures[0].get_loop()
    for future in futures:
        if future.get_loop() is not loop:
            raise ValueError(f"{OWNER}: {future!r} belongs to another loop")
