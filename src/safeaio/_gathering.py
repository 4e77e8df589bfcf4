"""One call of `bounded_gather`: its children, and the coroutine that stands for it."""

import asyncio
import warnings
from collections.abc import Awaitable, Collection, Coroutine, Generator
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any, cast, final

import anyio
import attrs

from ._crew import Crew, carry, error_of, uncarried
from ._foremost import from_scope
from ._limit import LimitOrNone, Token, refuse_nested, token_chain
from ._turn import CreateTask, Turn, eager_start, turn_of

OWNER = "bounded_gather()"
_FEEDER = -1  # the key of the task that waits for tokens; a child's is its position


@attrs.define(eq=False, repr=False)
@final
class GatherCall:
    """One call of `bounded_gather`, from its arguments to its results."""

    works: list[Awaitable[Any] | None]  # None where it has ended, or is a future
    positions: list[int] | None  # of the arguments in `works`, if some are given twice
    limit: LimitOrNone
    return_exceptions: bool
    cancel: asyncio.CancelledError | None = None  # of the caller, before its first step
    _next: int = attrs.field(default=0, init=False)
    _free: float = attrs.field(
        default=float("-inf"), init=False
    )  # the feeder counts tokens
    _results: list[Any] = attrs.field(factory=lambda: [], init=False)
    _crew: Crew[int] = attrs.field(init=False)
    _context: Context = attrs.field(init=False)
    _turn: Turn = attrs.field(init=False)
    _create: CreateTask = attrs.field(init=False)

    async def run(self) -> list[Any]:
        """Run everything under the task that awaits this."""
        try:
            self._crew = Crew(OWNER)
            loop = self._crew.children.loop
            refuse_nested(OWNER, self.limit)
            self._context = copy_context()
            self._turn = turn_of(loop)
            self._create = eager_start(loop)
            if self._turn.starting:
                await self._leave_stack(loop)
            self._results = [None] * len(self.works)
            self._watch_futures()
            if self.cancel is None:
                self._start()
            else:
                by_scope = from_scope(self.cancel)
                self._crew.children.cancel(*() if by_scope else self.cancel.args[:1])
            self._crew.conclude(await self._wait())
        finally:
            self.close()
        results = self._results
        return (
            results if self.positions is None else [results[i] for i in self.positions]
        )

    async def _leave_stack(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._turn.leave_stack(loop)
        except asyncio.CancelledError as exc:
            self.cancel = exc

    async def _wait(self) -> asyncio.CancelledError | None:
        # Nothing that the cancel's traceback will hold may hold the cancel.
        cancel, self.cancel = self.cancel, None
        try:
            return await self._crew.wait(cancel)
        finally:
            del cancel

    def close(self) -> None:
        """Close every coroutine that has not started, so that none warns."""
        for index in range(self._next, len(self.works)):
            work, self.works[index] = self.works[index], None
            close(work)

    def _watch_futures(self) -> None:
        children = self._crew.children
        futures = [
            (index, work)
            for index, work in enumerate(self.works)
            if type(work) is not CoroutineType and asyncio.isfuture(work)
        ]
        for _, future in futures:
            if future.get_loop() is not children.loop:
                raise ValueError(
                    f"{OWNER}: {future!r} belongs to another loop than the caller"
                )
            if future is children.host:
                raise RuntimeError(f"{OWNER}: {future!r} would wait for itself")
        for index, future in futures:
            self.works[index] = None
            if future.done():
                self._record(index, future)
            else:
                children.add(future, index, self._future_ended, self._context)

    def _start(self) -> None:
        children = self._crew.children
        if isinstance(self.limit, anyio.CapacityLimiter):
            feeder = self._turn.create_task(children.loop, self._feed(self.limit))
            children.add(feeder, _FEEDER, self._feeder_ended, self._context)
            return
        self._free = float("inf") if self.limit is None else self.limit
        self._fill()

    def _fill(self) -> None:
        turn = self._turn
        nested, turn.starting = turn.starting, True
        try:
            self._start_children(eagerly=not nested)
        finally:
            turn.starting = nested

    def _start_children(self, *, eagerly: bool) -> None:
        # The hot path: a call less here is a thirtieth of what a child costs.
        children, works = self._crew.children, self.works
        create = self._create if eagerly else children.loop.create_task
        while self._free > 0 and self._next < len(works) and not children.cancelled:
            index = self._next
            self._next = index + 1
            work = works[index]
            if work is None:
                continue
            coro = carry(work)
            try:
                task = create(coro)
            except BaseException as exc:  # noqa: BLE001  # of the loop's task factory
                coro.close()
                self._not_started(index, exc)
                continue
            if task.done():
                self._record(index, task)
                if self._turn.spent(children.loop):
                    create = children.loop.create_task
            else:
                self._free -= 1
                children.running[task] = index
                task.add_done_callback(self._child_ended, context=self._context)
                if children.cancelled:  # its first step has closed this very call
                    task.cancel()

    async def _feed(self, limiter: "anyio.CapacityLimiter") -> None:
        children, works, chain = self._crew.children, self.works, token_chain()
        while self._next < len(works):
            work = works[self._next]
            token = Token(limiter)
            if work is not None:
                await token.acquire()
            index = self._next
            self._next = index + 1
            if work is None:
                continue
            context = token.mark(self._context, chain)
            coro = carry(work)
            try:
                task = self._turn.create_task(children.loop, coro, context)
            except BaseException as exc:  # noqa: BLE001  # of the loop's task factory
                token.release_after(None)
                coro.close()
                self._not_started(index, exc)
                continue
            token.release_after(task)
            children.add(task, index, self._child_ended, self._context)

    def _not_started(self, index: int, error: BaseException) -> None:
        work, self.works[index] = self.works[index], None
        close(work)
        self._failed(index, error)

    def _child_ended(self, task: asyncio.Future[Any]) -> None:
        children = self._crew.children
        self._free += 1
        self._record(children.running.pop(task), task)
        self._fill()
        if not children.running:
            children.wake()

    def _future_ended(self, future: asyncio.Future[Any]) -> None:
        children = self._crew.children
        self._record(children.running.pop(future), future)
        if not children.running:
            children.wake()

    def _feeder_ended(self, feeder: asyncio.Future[Any]) -> None:
        children = self._crew.children
        del children.running[feeder]
        error = error_of(feeder)
        if error is not None:
            self._crew.fail("the wait for a token of the limiter", error)
        del error  # if it is a cancel, its traceback holds this frame
        if not children.running:
            children.wake()

    def _record(self, index: int, future: asyncio.Future[Any]) -> None:
        work, self.works[index] = self.works[index], None
        try:
            error = future.exception()
        except asyncio.CancelledError as exc:
            close(work)  # its task may have been cancelled before the first step
            # Not with this frame, which holds the results, and so may hold the cancel.
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
            self._failed(index, exc)
            return
        if error is None:
            self._results[index] = future.result()
        else:
            self._failed(index, uncarried(error))

    def _failed(self, index: int, error: BaseException) -> None:
        if self.return_exceptions and not isinstance(
            error, (KeyboardInterrupt, SystemExit)
        ):
            self._results[index] = error
        else:
            positions = self.positions
            argument = index if positions is None else positions.index(index)
            self._crew.fail(f"argument {argument}", error)


@final
class Gathering(Coroutine[Any, Any, list[Any]]):
    """What `bounded_gather` returns: a coroutine that owns others until it starts."""

    _coro: "CoroutineType[Any, Any, list[Any]]"

    def __init__(self, call: GatherCall) -> None:
        self.__name__ = self.__qualname__ = "bounded_gather"
        self._unstarted: GatherCall | None = call
        self._coro = cast(Any, call.run())  # as a native one it can be looked into

    def __await__(self) -> Generator[Any, None, list[Any]]:
        if self._unstarted is None:
            raise RuntimeError(f"{OWNER} was awaited already; call it again")
        self._unstarted = None
        return (yield from self._coro.__await__())

    def send(self, value: Any, /) -> Any:
        self._unstarted = None
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        if self._unstarted is not None and isinstance(error[0], asyncio.CancelledError):
            # Our task is cancelled before its first step; tasks passed in may well run.
            self._unstarted.cancel = error[0]
            return self.send(None)
        self._discard()
        return self._coro.throw(*error)

    def close(self) -> None:
        self._discard()
        self._coro.close()

    def _discard(self) -> None:
        if self._unstarted is not None:
            self._unstarted.close()
            self._unstarted = None

    def __del__(self) -> None:
        if self._unstarted is not None:
            self.close()
            warnings.warn(
                "bounded_gather() was never awaited and nothing ran; "
                "write `await bounded_gather(...)`",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )

    # What asyncio and debuggers look at to show where a task stands.

    @property
    def cr_await(self) -> Any:
        return self._coro.cr_await

    @property
    def cr_code(self) -> Any:
        return self._coro.cr_code

    @property
    def cr_frame(self) -> Any:
        return self._coro.cr_frame

    @property
    def cr_running(self) -> Any:
        return self._coro.cr_running

    @property
    def cr_suspended(self) -> Any:
        return self._coro.cr_suspended


def close(work: object) -> None:
    """Close a coroutine that will not run, and those in a collection given by mistake."""
    if isinstance(work, Coroutine):
        work.close()
    elif isinstance(work, list | tuple | set):
        for one in cast("Collection[object]", work):
            close(one)
