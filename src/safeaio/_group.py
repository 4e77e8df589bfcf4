"""`bounded_group`: a limit for work that creates work."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVarTuple, final

import anyio
import attrs

from ._crew import Crew, carry, error_of
from ._foremost import from_scope
from ._limit import (
    LimitOrNone,
    Token,
    TokenChain,
    check_limit,
    held_tokens,
    is_stuck,
    refuse_nested,
    token_chain,
)
from ._turn import Turn, turn_of
from ._wait import cancel_of_scope

Ts = TypeVarTuple("Ts")

_OWNER = "bounded_group()"


@attrs.define(eq=False, repr=False)
@final
class BoundedGroup:
    """Starts children, at most some at once; see `bounded_group`."""

    _limiter: "anyio.CapacityLimiter"
    _crew: Crew[tuple[str, Awaitable[object]]] = attrs.field(init=False)
    _turn: Turn = attrs.field(init=False)
    _chain: TokenChain = attrs.field(default=(), init=False)
    _context: Context = attrs.field(factory=Context, init=False)
    _entered: bool = attrs.field(default=False, init=False)
    _in_body: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _body_cancelled: bool = attrs.field(default=False, init=False)

    async def start_soon(
        self, func: Callable[[*Ts], Awaitable[object]], /, *args: *Ts
    ) -> None:
        """Wait for a slot, then start `func(*args)` in a task of its own.

        Children may start more. What they return is dropped. Each gets a copy of the
        context of whoever starts it.

        Args:
            func: An async function.
            *args: Its arguments. Use `functools.partial` for keyword arguments.

        Raises:
            TypeError: If `func` is no async function.
            RuntimeError: If the group is not open, or has failed and is stopping; or if
                a child calls this while every slot is held by children that wait for
                one: none would ever come free. Let the body start them, or use a group
                without limit and a limiter around the part that counts.

        Cancellation:
            Nothing is started then. Does not checkpoint if a slot is free, except
            in the first step of a child that an eager task factory has started.
        """
        _check_function(func)
        self._check_open()
        if self._turn.starting:
            await self._turn.leave_stack(self._crew.children.loop)
        token = Token(self._limiter)
        await self._acquire(token)
        child = None
        try:
            self._check_open()
            child = self._start(func, args, token)
        finally:
            token.release_after(child)

    def _check_open(self) -> None:
        if not self._entered or self._ended:
            state = "has ended" if self._ended else "has not been entered"
            raise RuntimeError(
                f"{_OWNER} {state}: start children inside its `async with` block"
            )
        if self._crew.children.cancelled:
            raise RuntimeError(f"{_OWNER} is stopping, and starts no more children")

    async def _acquire(self, token: Token) -> None:
        try:
            token.acquire_nowait()
            return
        except anyio.WouldBlock:
            callers = held_tokens()
        for caller in callers:
            caller.waits_for.append(self._limiter)
        try:
            if callers:
                _refuse_deadlock(self._limiter)
            await token.acquire()
        finally:
            for caller in callers:
                caller.waits_for.remove(self._limiter)

    def _start(
        self,
        func: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
        token: Token,
    ) -> asyncio.Task[object]:
        work = func(*args)
        if not inspect.isawaitable(work):
            raise TypeError(
                f"start_soon() takes an async function, but {func!r} returned {work!r}; "
                "write `async def`, or wrap it: start_soon(asyncio.to_thread, func, ...)"
            )
        children = self._crew.children
        context = token.mark(copy_context(), self._chain)
        coro = carry(work)
        try:
            child = self._turn.create_task(children.loop, coro, context)
        except BaseException:  # of the loop's task factory
            coro.close()
            _close(work)
            raise
        name = getattr(func, "__qualname__", repr(func))
        children.add(child, (f"{name}()", work), self._child_ended, self._context)
        return child

    def _child_ended(self, child: asyncio.Future[Any]) -> None:
        children = self._crew.children
        name, work = children.running.pop(child)
        error = error_of(child)
        if error is not None:
            _close(work)  # cancelled before its first step, the child did not take it
            self._crew.fail(name, error)
            del error  # if it is a cancel, its traceback holds this frame
        if children.cancelled and self._in_body and not self._body_cancelled:
            self._cancel_body()
        if not children.running:
            children.wake()

    def _cancel_body(self) -> None:
        host = self._crew.children.host
        self._body_cancelled = host is not None and host.cancel()

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(
                f"{_OWNER} can be entered once; call it again for another"
            )
        refuse_nested(_OWNER, self._limiter)
        self._crew = Crew(_OWNER)
        self._turn = turn_of(self._crew.children.loop)
        self._chain = token_chain()
        self._entered = self._in_body = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._in_body = False
        crew = self._crew
        cancel = None
        try:
            cancel = await self._cancel_from_outside(exc)
            if cancel is not None:
                crew.children.cancel()
            elif exc is not None and not isinstance(exc, asyncio.CancelledError):
                crew.fail("the body", exc)
            if not isinstance(exc, GeneratorExit):
                cancel = await crew.wait(cancel)
            self._ended = True
            crew.conclude(cancel, leaving=exc)
        finally:
            del exc, cancel  # their tracebacks hold this frame

    async def _cancel_from_outside(
        self, exc: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Take back our cancel of the body, and return one that somebody else has sent."""
        cancel = exc if isinstance(exc, asyncio.CancelledError) else None
        host = self._crew.children.host
        if host is None or not self._body_cancelled:
            return cancel
        host.uncancel()
        if cancel is None or from_scope(cancel):
            return cancel
        if not self._crew.children.host_cancelled:
            return None
        return await cancel_of_scope() or cancel


def bounded_group(
    *, limit: LimitOrNone = 100
) -> AbstractAsyncContextManager[BoundedGroup]:
    """Open a block whose children may start more, at most `limit` at once.

    For work that creates work, as a crawler does. Leaving the block waits for all.

    >>> import asyncio
    >>> async def main() -> list[int]:
    ...     seen: list[int] = []
    ...     async def visit(n: int) -> None:
    ...         seen.append(n)
    ...         if n < 4:
    ...             await group.start_soon(visit, n + 1)
    ...     async with bounded_group(limit=10) as group:
    ...         await group.start_soon(visit, 1)
    ...     return seen
    >>> asyncio.run(main())
    [1, 2, 3, 4]

    Args:
        limit: How many children may run at once. An `anyio.CapacityLimiter` gives one
            token to each, and may be shared. None: all at once.

    Returns:
        An async context manager for the group.

    Raises:
        TypeError: At the call, for the wrong type of limit.
        ValueError: At the call, if the limit is below 1.
        RuntimeError: On entering, if the caller holds a token of `limit` itself, or the
            second time.
        ChildCancelled: If a child ended cancelled though nobody had cancelled the group.
        BaseException: On leaving, the first error of a child or of the body, the same
            object, after the others have been cancelled and have ended. Their errors
            are noted on it, and go to the loop's exception handler. `KeyboardInterrupt`
            and `SystemExit` go before any other error, and before a cancel.

    Cancellation:
        Cancelling the body, or the task while it leaves the block, cancels every child
        once and waits until all have ended; the cleanup that this starts completes.
        The first failure of a child does the same, and cancels the body once; that
        cancel is taken back when the body ends, and does not leave the block.
    """
    check_limit(_OWNER, limit, unbounded=True)
    if isinstance(limit, anyio.CapacityLimiter):
        refuse_nested(_OWNER, limit)
        return BoundedGroup(limit)
    return BoundedGroup(anyio.CapacityLimiter(inf if limit is None else limit))


def _check_function(func: object) -> None:
    if inspect.iscoroutine(func):
        func.close()
        raise TypeError(
            f"start_soon() takes an async function, got {func!r}; "
            f"write start_soon({func.__name__}, ...), not start_soon({func.__name__}(...))"
        )
    if not callable(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"start_soon() takes an async function, got {func!r}")


def _close(work: Awaitable[object]) -> None:
    if inspect.iscoroutine(work):
        work.close()


def _refuse_deadlock(limiter: "anyio.CapacityLimiter") -> None:
    if is_stuck(limiter):
        raise RuntimeError(
            f"{_OWNER}: all {limiter.borrowed_tokens} slots are held by children that wait in "
            "start_soon() for a slot, this one included, and none would ever come free; let "
            "the body start them, or use limit=None and a limiter around the part that counts"
        )
