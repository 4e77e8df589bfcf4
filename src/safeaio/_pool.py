"""The worker pool under `bounded_map` and `bounded_stream`."""

# Invariants; the code names them where it keeps them.
#
# 1. An item that was pulled is recorded once: as a result, as a stored exception, or as
#    the failure that stops the pool. Nothing is pulled after that.
# 2. An item starts only while those running and those unread are fewer than the window;
#    and no more than `limit` run. What is alive does not depend on how long the source is.
# 3. Items share the task of a worker, never its context: after one that changed it, or
#    left a cancel behind, the worker ends, and a fresh one takes its place. This goes
#    through two private doors of CPython, each with a guard test. The mapping inside a
#    context is immutable, and another one after each change; comparing contexts instead
#    would run the `__eq__` of every value, and find two lists of the same length the same.
#    And a cancel that was taken back is delivered all the same before Python 3.13.
# 4. Callbacks of the loop start workers. If a worker did, an eager task factory would run
#    the new one inside it, and so on.
# 5. Under a number, a sync source is pulled by the workers. Whoever has to wait, for an
#    async source or for a token of a limiter, is the feeder; it starts a worker an item.
# 6. Where items never suspend, one worker does as much as many, and in each turn of the
#    loop holds it for one item: there are no more before every one waits in an item.

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
)
from contextvars import Context, copy_context
from gc import get_referents
from inspect import isasyncgen, isawaitable
from itertools import repeat
from time import perf_counter
from types import CoroutineType
from typing import Any, Generic, TypeVar, final

import anyio
import attrs

from ._crew import Crew, error_of
from ._limit import Limit, Token, refuse_nested, token_chain
from ._rate import RateLimiter
from ._turn import SLICE, Turn, turn_of
from ._wait import current_task

T = TypeVar("T")

_SOURCE = "the source of items"
_STRIDE = 16  # items between two looks at the clock, where they are quick


def _nothing() -> None:
    pass


@attrs.define(eq=False, repr=False)
@final
class Pool(Generic[T]):
    """Calls a function on every item of a source, some at once.

    Attributes:
        record: Called with the position of an item, the item, and its result.
        results: Where a result goes that is next in order, instead of to `record`.
        idle: Called when the last worker has ended.
        buffer: How many results may be unread, beside `limit` that run; None: as many.
        unread: How many are; kept by whoever reads them, who calls `grow` after.
    """

    owner: str
    func: Callable[[T], Awaitable[Any]]
    items: Iterable[T] | AsyncIterable[T]
    limit: Limit
    rate: RateLimiter | None
    return_exceptions: bool
    record: Callable[[int, T, Any], None]
    results: list[Any] | None = None
    idle: Callable[[], None] = _nothing
    buffer: float | None = float("inf")
    unread: int = attrs.field(default=0, init=False)
    crew: Crew[Iterator[tuple[int, T]]] = attrs.field(init=False)
    _source: Iterator[tuple[int, T]] | None = attrs.field(default=None, init=False)
    _exhausted: bool = attrs.field(default=False, init=False)
    _workers: int = attrs.field(default=0, init=False)
    _width: float = attrs.field(default=1, init=False)
    _resting: int = attrs.field(default=0, init=False)
    _gate: asyncio.Future[None] | None = attrs.field(default=None, init=False)
    _context: Context = attrs.field(init=False)
    _turn: Turn = attrs.field(init=False)

    async def open(self) -> None:
        """Start, in the task and the context of the caller."""
        refuse_nested(self.owner, self.limit)
        self.crew = Crew(self.owner)
        self._context = copy_context()
        loop = self.crew.children.loop
        self._turn = turn_of(loop)
        if self._turn.starting:
            await self._turn.leave_stack(loop)
        if isinstance(self.items, AsyncIterable) or isinstance(
            self.limit, anyio.CapacityLimiter
        ):
            self._width = float("inf")  # the feeder starts workers, and not too many
            feeder = self._turn.create_task(loop, self._feed())
            self.crew.children.add(feeder, iter(()), self._feeder_ended, self._context)
        else:
            self._source = enumerate(_isolated(self.items))
            self.grow()

    @property
    def finished(self) -> bool:
        """Whether nothing runs, and nothing more will start."""
        return not self.crew.children.running and self._stopped()

    def grow(self) -> None:
        """Start workers, as many as are of use, or let the feeder do so."""
        if self._source is None:
            if self._gate is not None and not self._gate.done():
                self._gate.set_result(None)
            return
        while self._workers < self._width and self._has_room() and not self._stopped():
            self._start_worker(self._source, self._context.copy())
            if self._workers == self._width:
                # Behind their first steps: if the source is not exhausted by then,
                # every one has found an item.
                self._widen_soon()

    def _stopped(self) -> bool:
        return self._exhausted or self.crew.children.cancelled

    def _has_room(self) -> bool:
        most, window = self._bounds()
        return self._workers < most and self._workers + self.unread < window  # 2

    def _bounds(self) -> tuple[float, float]:
        """Return how many may run, and how many may run or be unread."""
        if isinstance(self.limit, anyio.CapacityLimiter):
            limit, most = (
                max(1, self.limit.total_tokens),
                float("inf"),
            )  # the tokens count
        else:
            limit = most = self.limit
        return most, limit + (limit if self.buffer is None else self.buffer)

    def _start_worker(
        self, source: Iterator[tuple[int, T]], context: Context
    ) -> asyncio.Task[None]:
        children = self.crew.children
        self._workers += 1
        worker = self._turn.create_task(children.loop, self._work(source), context)
        children.add(worker, source, self._worker_ended, self._context)
        return worker

    async def _work(self, source: Iterator[tuple[int, T]]) -> None:
        # The hot path: a call less here is a tenth of what an item costs.
        func: Callable[[T], Awaitable[object]] = self.func
        rate, results, turn = self.rate, self.results, self._turn
        children, worker = self.crew.children, current_task()
        root, cancelling = get_referents(copy_context())[0], worker.cancelling
        _, window = self._bounds()
        windowed = window < float("inf")
        now = perf_counter()
        unclocked, stride = 0, 1
        between_items = False
        try:
            for index, item in source:
                try:
                    if rate is not None:
                        await rate.acquire()
                    work = func(item)
                    if type(work) is not CoroutineType:
                        work = self._checked(work)
                    result = await work  # pyright: ignore[reportUnknownVariableType]
                except GeneratorExit:
                    raise
                except BaseException as exc:  # noqa: BLE001 - kept, or raised by the call
                    # Not with this frame, which holds the results, and so may hold it.
                    exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
                    if children.cancelled:
                        _heed(worker)
                    if not self._stores(index, exc):
                        return
                    result = exc
                if children.cancelled:
                    return  # 1
                if results is not None and index == len(results):
                    results.append(result)
                else:
                    self.record(index, item, result)
                if (
                    get_referents(copy_context())[0] is not root
                    or cancelling()
                    or worker._must_cancel  # type: ignore[attr-defined]
                ):
                    return  # 3
                if windowed and self._workers + self.unread > window:
                    return  # 2
                unclocked += 1
                if unclocked >= stride:
                    now, last = perf_counter(), now
                    stride = min(2 * stride, _STRIDE) if now - last < SLICE else 1
                    unclocked = 0
                    if source is self._source and turn.spent(children.loop):
                        between_items = True
                        await self._rest()
                        between_items = False
            self._exhausted = self._exhausted or source is self._source
        except GeneratorExit:
            raise
        except BaseException as exc:
            if between_items:
                raise
            self.crew.fail(_SOURCE, exc)
        finally:
            result = None
            del self, results  # errors that are kept as results hold this frame

    async def _rest(self) -> None:
        """Let the loop turn."""
        self._resting += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._resting -= 1

    def _checked(self, work: object) -> Awaitable[Any]:
        if not isawaitable(work):
            raise TypeError(
                f"{self.owner} takes an async function, but {self.func!r} returned {work!r}; "
                "write `async def`, or wrap it: asyncio.to_thread(func, item)"
            )
        return work

    def _stores(self, index: int, error: BaseException) -> bool:
        if self.return_exceptions and not isinstance(
            error, KeyboardInterrupt | SystemExit
        ):
            return True
        self.crew.fail(f"item {index}", error)
        return False

    def _widen_soon(self) -> None:
        self.crew.children.loop.call_soon(self._widen, context=self._context)  # 4

    def _widen(self) -> None:
        """Double the workers: every one found an item, the source may hold more."""
        if self._resting and not self._stopped():
            self._widen_soon()  # 6
            return
        most, _ = self._bounds()
        self._width = 2 * self._width if 2 * self._width < most else float("inf")
        self.grow()

    def _worker_ended(self, worker: asyncio.Future[None]) -> None:
        self._workers -= 1
        source = self.crew.children.running[worker]
        error = error_of(worker)
        if not isinstance(error, asyncio.CancelledError):
            if error is not None:
                self.crew.fail("an item", error)
        elif source is not self._source:
            for index, item in source:  # cancelled before its first step
                if self._stores(index, error) and not self.crew.children.cancelled:
                    self.record(index, item, error)  # 1
        del error  # if it is a cancel, its traceback holds this frame
        self._child_ended(worker)

    def _feeder_ended(self, feeder: asyncio.Future[None]) -> None:
        error = error_of(feeder)
        if error is not None:
            self.crew.fail(_SOURCE, error)
        del error  # as above
        self._child_ended(feeder)

    def _child_ended(self, child: asyncio.Future[None]) -> None:
        children = self.crew.children
        del children.running[child]
        self.grow()
        if not children.running:
            children.wake()
            self.idle()

    async def _feed(self) -> None:
        items = self.items
        try:
            source = aiter(items) if isinstance(items, AsyncIterable) else _each(items)
            try:
                await self._pull(source)
            finally:
                if source is not items or isasyncgen(source):
                    await _aclose(source)
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised by the call
            if self.crew.children.cancelled:
                _heed(current_task())
            self.crew.fail(_SOURCE, exc)

    async def _pull(self, source: AsyncIterator[T]) -> None:
        children = self.crew.children
        now = perf_counter()
        index, unclocked, stride = 0, 0, 1
        while not self._stopped():
            try:
                await self._start_item(index, source)
            except StopAsyncIteration:
                self._exhausted = True
            index += 1
            unclocked += 1
            if children.cancelled:
                # By an item started eagerly, or the source has swallowed it. A cancel that
                # is still to come must not hit the closing of the source.
                await asyncio.sleep(0)
            elif unclocked >= stride or self._turn.spent(children.loop):
                await asyncio.sleep(0)
                now, last = perf_counter(), now
                stride = min(2 * stride, _STRIDE) if now - last < SLICE else 1
                unclocked = 0

    async def _start_item(self, index: int, source: AsyncIterator[T]) -> None:
        """Wait for a slot, and only then for an item: it may be the last of something."""
        token = await self._slot()
        worker = None
        try:
            item = await anext(source)
            if not self.crew.children.cancelled:  # 1; the source has swallowed that
                context = self._context.copy()
                if token is not None:
                    context = token.mark(context, token_chain())
                worker = self._start_worker(iter([(index, item)]), context)
        finally:
            if token is not None:
                token.release_after(worker)

    async def _slot(self) -> Token | None:
        while not self._has_room():
            self._gate = self.crew.children.loop.create_future()
            await self._gate
        if not isinstance(self.limit, anyio.CapacityLimiter):
            return None
        token = Token(self.limit)
        await token.acquire()
        return token


def _heed(task: asyncio.Task[Any]) -> None:
    """Take back every cancel of a task that ends by it: only a result swallows one."""
    while task.uncancel():
        pass  # somebody else had cancelled it, too


def _isolated(items: Iterable[T]) -> Iterable[T]:
    """Give a source a context of its own: it finds there what it set, and calls do not."""
    if isinstance(items, Collection):
        return items  # it sets nothing
    run: Callable[..., Any] = copy_context().run
    return map(run, repeat(next), repeat(iter(items)))


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def _aclose(source: object) -> None:
    aclose = getattr(source, "aclose", None)  # the protocol of iterators has none
    if aclose is not None:
        await aclose()
