"""`bounded_stream`: the results of a bounded map, one by one as they come."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, final, overload

import anyio as anyio  # noqa: PLC0414  # for whoever resolves the annotations
import attrs

from ._failures import Failure
from ._limit import Limit
from ._map import check_source
from ._pool import Pool
from ._rate import RateLimiter, check_count

T = TypeVar("T")
R = TypeVar("R")

_OWNER = "bounded_stream()"


@attrs.define(eq=False, repr=False)
@final
class _Stream(Generic[T, R]):
    """The block, and the iterator over its results."""

    _make_pool: Callable[..., Pool[T]]
    _ordered: bool
    _pool: Pool[T] = attrs.field(init=False)
    _ready: list[tuple[int, T, R]] = attrs.field(
        factory=lambda: [], init=False
    )  # a heap
    _finished: "count[int]" = attrs.field(factory=count, init=False)
    _next: int = attrs.field(default=0, init=False)
    _reader: asyncio.Future[None] | None = attrs.field(default=None, init=False)
    _entered: bool = attrs.field(default=False, init=False)
    _exited: bool = attrs.field(default=False, init=False)
    _failure_read: bool = attrs.field(default=False, init=False)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(
                f"{_OWNER} can be entered once; call it again for another run"
            )
        self._pool = self._make_pool(record=self._record, idle=self._wake_reader)
        await self._pool.open()
        self._entered = True
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[T, R]:
        self._check_open()
        if self._reader is not None:
            raise RuntimeError(
                f"another task reads this {_OWNER} already; one may at a time"
            )
        while not self._is_readable():
            if self._pool.finished:
                self._end()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
            self._check_open()
        position, item, result = heappop(self._ready)
        self._next = position + 1
        self._pool.unread -= 1
        self._pool.grow()
        return item, result

    def _check_open(self) -> None:
        if self._exited or not self._entered:
            raise RuntimeError(
                f"{_OWNER} can be read inside its `async with` block only"
            )

    def _record(self, index: int, item: T, result: R) -> None:
        position = index if self._ordered else next(self._finished)
        heappush(self._ready, (position, item, result))
        self._pool.unread += 1
        if self._is_readable():
            self._wake_reader()

    def _is_readable(self) -> bool:
        # After a failure, what is missing in the order will never come.
        ready = self._ready
        return bool(ready) and (
            ready[0][0] == self._next or self._pool.crew.children.cancelled
        )

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _end(self) -> None:
        if not self._failure_read:
            self._failure_read = True
            try:
                self._pool.crew.conclude()
            except StopAsyncIteration as exc:  # it would pass for the end
                raise RuntimeError(f"{_OWNER}: a call raised {exc!r}") from exc
        raise StopAsyncIteration

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exited = True
        crew = self._pool.crew
        crew.children.cancel()
        cancel = exc if isinstance(exc, asyncio.CancelledError) else None
        try:
            if not isinstance(exc, GeneratorExit):
                cancel = await crew.wait(cancel)
            self._ready.clear()
            if self._failure_read:
                crew.failures.clear()
            if exc is not None and exc is not cancel:
                crew.failures.add_first(Failure("the body", exc))
            crew.conclude(cancel, leaving=exc)
        finally:
            if self._pool.finished:
                del self._pool  # it holds this
            del exc, cancel  # their tracebacks hold this frame


@overload
def bounded_stream(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    ordered: bool = False,
    buffer: int | None = None,
    return_exceptions: Literal[False] = False,
) -> AbstractAsyncContextManager[AsyncIterator[tuple[T, R]]]: ...
@overload
def bounded_stream(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    ordered: bool = False,
    buffer: int | None = None,
    return_exceptions: bool,
) -> AbstractAsyncContextManager[AsyncIterator[tuple[T, R | BaseException]]]: ...
def bounded_stream(
    func: Callable[[T], Awaitable[Any]],
    items: Iterable[T] | AsyncIterable[T],
    /,
    *,
    limit: Limit = 100,
    rate: RateLimiter | None = None,
    ordered: bool = False,
    buffer: int | None = None,
    return_exceptions: bool = False,
) -> AbstractAsyncContextManager[AsyncIterator[tuple[T, Any]]]:
    """Call `func` on every item, at most `limit` at once, and read the results as they come.

    The source may be infinite: it is pulled as results are read.

    >>> import asyncio
    >>> async def double(n: int) -> int:
    ...     await asyncio.sleep(0)
    ...     return 2 * n
    >>> async def main() -> None:
    ...     async with bounded_stream(double, range(3), limit=2, ordered=True) as results:
    ...         async for n, doubled in results:
    ...             print(n, doubled)
    >>> asyncio.run(main())
    0 0
    1 2
    2 4

    Args:
        func: An async function of one item. Calls share tasks, but not their context:
            each sees that in which the block was entered. A call must not hand out
            `asyncio.current_task()`.
        items: The source. An async generator, or the iterator of an async iterable, is
            closed at the end; nothing else is.
        limit: How many calls may run at once. An `anyio.CapacityLimiter` gives one
            token to each, and may be shared.
        rate: A limit on how often a call may start.
        ordered: Yield in the order of the items, instead of that of completion.
        buffer: How many finished results may be unread, those included that wait for
            their turn in the order: a call starts only while fewer than
            `limit + buffer` run or are unread. None: as many as `limit`.
        return_exceptions: Yield exceptions in place of results.

    Returns:
        An async context manager for an async iterator over `(item, result)`. One task
        at a time may read it.

    Raises:
        TypeError: At the call, if `func` is no function or `items` no iterable, or for
            the wrong type of a limit.
        ValueError: At the call, if the limit is below 1, or the buffer below 0.
        RuntimeError: On entering, if the caller holds a token of `limit` itself, or the
            second time; on reading outside the block, or while another task reads.
        ChildCancelled: If a call ended cancelled though nobody had cancelled this one.
        BaseException: The first error of a call or of the source, the same object, after
            the others have been cancelled and have ended. It is raised once: by reading,
            after what had finished before it, or else by leaving the block. An error of
            the block itself goes first, and gets it as a note. The body is never
            cancelled.

    Cancellation:
        Leaving the block, for whatever reason, cancels every running call once and
        waits until all have ended; the cleanup that this starts completes. A cancelled
        read loses no result.
    """
    check_source(_OWNER, func, items, limit, rate)
    if buffer is not None:
        check_count(f"{_OWNER}: buffer", buffer, least=0)
    make_pool = partial(
        Pool[T], _OWNER, func, items, limit, rate, return_exceptions, buffer=buffer
    )
    return _Stream[T, Any](make_pool, ordered)
