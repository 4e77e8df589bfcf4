"""`cleanup_scope`: a block whose cleanup runs to its end, whatever cancels it."""

# Invariants; the code names them where it keeps them.
#
# 1. The anyio scope is entered before the body, and so before anything that the body
#    enters: scopes must be left in the reverse order. It shields once the body has ended.
# 2. The host gets at most one cancel from us, and only in its body, from a callback of
#    the loop: there the host is suspended, so that the cancel is delivered before the
#    body can end. It is taken back when the body has ended.
# 3. Whether a cancel came from outside is read from `cancelling()`, compared with its
#    value on entry. What leaves the block is then never the cancel that was ours.

import asyncio
import enum
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Context
from functools import cache
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, cast, final

import anyio

from ._cleanup import OWNER, Call, Cleanup, Exit
from ._contexts import late, show_lateness, unlink
from ._outcome import Outcome
from ._seconds import check_seconds, check_time
from ._wait import cancel_of_scope, current_task

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Mark(str):
    """The message of a cancel of ours: an object of its own, to know it by."""

    __slots__ = ()


class _Phase(enum.Enum):
    NEW = "has not been entered"
    BODY = "is open"
    CLEANUP = "is being left"
    LEFT = "has been left"


@final
class CleanupScope:
    """The block and its cleanup; see `cleanup_scope`."""

    def __init__(self, timeout: float | None, cleanup: Cleanup) -> None:
        self._timeout = timeout
        self._cleanup = cleanup
        self._phase = _Phase.NEW
        self._host: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._entry = 0
        self._shield: anyio.CancelScope
        self._deadline = inf
        self._timer: asyncio.Handle | None = None
        self._mark: _Mark | None = None  # of our cancel
        self._cancel_called = False
        self._timed_out = False

    # The body

    async def __aenter__(self) -> Self:
        if self._phase is not _Phase.NEW:
            raise RuntimeError(
                f"{OWNER} can be entered once; call it again for another"
            )
        self._host = current_task()
        self._loop = asyncio.get_running_loop()
        self._entry = self._host.cancelling()
        self._shield = _scope_type()()
        self._shield.__enter__()  # 3
        self._phase = _Phase.BODY
        if self._timeout is not None:
            self._set_deadline(self._loop.time() + self._timeout)
        return self

    def defer(self, func: Callable[[*Ts], object], /, *args: *Ts) -> None:
        """Call `func(*args)` when the block is left, before what was deferred earlier.

        It is called in the task and the context of the block. What it returns is awaited,
        if it can be, in a task of its own with a copy of that context.

        Args:
            func: A function, async or not.
            *args: Its arguments. Use `functools.partial` for keyword arguments.

        Raises:
            TypeError: If `func` cannot be called; a coroutine is closed.
            RuntimeError: If the block is not open, or for another task than that of the
                block and of a deferred call that runs.
        """
        if inspect.iscoroutine(func):
            func.close()
            raise TypeError(
                f"defer() takes a function, got {func!r}; "
                f"write defer({func.__name__}, ...), not defer({func.__name__}(...))"
            )
        if not callable(func):
            raise TypeError(f"defer() takes a function, got {func!r}")
        self._check_usable("defer()", self._cleanup.running)
        self._cleanup.stack.append(Call(func, args))

    async def enter_async_context(self, cm: AbstractAsyncContextManager[T]) -> T:
        """Enter an async context manager, and leave it when the block is left.

        As in `contextlib.AsyncExitStack` it sees what leaves the block, and may replace
        or suppress that.

        Args:
            cm: The context manager.

        Returns:
            What it gives when it is entered.

        Raises:
            TypeError: If it is none.
            RuntimeError: If the block is not open, or for another task than its own.

        Cancellation:
            As its `__aenter__` has it. Its `__aexit__` runs in the task of the block:
            no anyio scope cuts it, but a second `asyncio.Task.cancel` does. Nothing can
            prevent that; what has to be done for certain, `defer`.
        """
        kind = type(cm)
        if not hasattr(kind, "__aenter__") or not hasattr(kind, "__aexit__"):
            fix = "; use enter_context()" if hasattr(kind, "__exit__") else ""
            raise TypeError(
                f"enter_async_context() takes an async context manager, got {cm!r}{fix}"
            )
        self._check_usable("enter_async_context()")
        value = await kind.__aenter__(cm)
        self._cleanup.stack.append(Exit(cm, kind.__aexit__, is_async=True))
        return value

    def enter_context(self, cm: AbstractContextManager[T]) -> T:
        """Enter a context manager, and leave it when the block is left.

        Args:
            cm: The context manager, which is not async.

        Returns:
            What it gives when it is entered.

        Raises:
            TypeError: If it is none.
            RuntimeError: If the block is not open, or for another task than its own.
        """
        kind = type(cm)
        if not hasattr(kind, "__enter__") or not hasattr(kind, "__exit__"):
            fix = "; use enter_async_context()" if hasattr(kind, "__aexit__") else ""
            raise TypeError(f"enter_context() takes a context manager, got {cm!r}{fix}")
        self._check_usable("enter_context()")
        value = kind.__enter__(cm)
        self._cleanup.stack.append(Exit(cm, kind.__exit__, is_async=False))
        return value

    def _check_usable(self, what: str, running: object = None) -> None:
        if self._phase not in (_Phase.BODY, _Phase.CLEANUP):
            raise RuntimeError(f"{what}: the {OWNER} {self._phase.value}")
        task = current_task()
        if task is not self._host and (
            running is None or task.get_coro() is not running
        ):
            raise RuntimeError(
                f"{what}: the {OWNER} belongs to another task than {task.get_name()!r}; "
                "give each task a scope of its own"
            )

    # The end of the body

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the body, once; the block is then left without an error.

        After the body has ended this does nothing.

        Args:
            reason: Text for the body's CancelledError.

        Raises:
            RuntimeError: If the block has not been entered.
        """
        if self._phase is _Phase.NEW:
            raise RuntimeError(f"cancel(): the {OWNER} {self._phase.value}")
        if self._phase is not _Phase.BODY or self._cancel_called or self._timed_out:
            return
        self._cancel_called = True
        self._disarm()
        self._timer = self._loop.call_soon(  # 4
            self._cancel_host, reason or f"cancel() of a {OWNER}", context=Context()
        )

    @property
    def cancel_called(self) -> bool:
        """Whether `cancel` has been called while the body ran."""
        return self._cancel_called

    @property
    def timed_out(self) -> bool:
        """Whether the deadline came while the body ran."""
        return self._timed_out

    @property
    def deadline(self) -> float:
        """When the body is cancelled, on the clock of the loop; `inf` if it is not.

        Raises:
            TypeError: On setting, if it is no number.
            ValueError: On setting, if it is NaN.
            RuntimeError: On setting, if the body does not run, or is cancelled already.
        """
        return self._deadline

    @deadline.setter
    def deadline(self, when: float) -> None:
        check_time("deadline", when)
        if self._phase is not _Phase.BODY or self._cancel_called or self._timed_out:
            state = "is cancelled" if self._phase is _Phase.BODY else self._phase.value
            raise RuntimeError(f"deadline: the {OWNER} {state}")
        self._set_deadline(when)

    def _set_deadline(self, when: float) -> None:
        self._deadline = when
        self._disarm()
        if when <= self._loop.time():
            self._timer = self._loop.call_soon(self._expire, context=Context())
        elif when < inf:
            self._timer = self._loop.call_at(when, self._expire, context=Context())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timed_out = True
        self._cancel_host(f"deadline of a {OWNER}")

    def _cancel_host(self, mark: str) -> None:
        self._mark = _Mark(mark)
        cast("asyncio.Task[Any]", self._host).cancel(self._mark)

    # The cleanup

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._phase is not _Phase.BODY:
            raise RuntimeError(f"the {OWNER} {self._phase.value}")
        if exc is None and not self._cleanup.stack and self._is_untouched():
            self._disarm()
            self._phase = _Phase.LEFT
            self._host = None
            self._shield.__exit__(None, None, None)
            return False
        outcome = Outcome()
        self._end_body(exc, outcome)
        entered_by, astray = self._host, None
        try:
            if isinstance(exc, GeneratorExit):
                self._unwind_at_once(exc)
            else:
                astray = self._astray(current_task())
                if outcome.own is not None and self._is_cancelled():
                    outcome.cancel = await self._from_outside(outcome.own)
                    outcome.own = None
                self._shield.shield = astray is None  # 1
                await self._cleanup.run(exc, outcome, self._is_cancelled)
        except GeneratorExit as gone:
            self._unwind_at_once(gone)
            raise
        finally:
            self._phase = _Phase.LEFT
            if self._runs(entered_by):  # Python closes a coroutine anywhere
                self._shield.__exit__(None, None, None)
            self._host = None
            del entered_by
        try:
            if astray is not None:
                raise RuntimeError(astray) from outcome.verdict(None)[0]
            return self._leave(exc, outcome)
        finally:
            del exc, outcome  # tracebacks hold this frame

    def _is_untouched(self) -> bool:
        return self._mark is None and asyncio.current_task() is self._host

    def _runs(self, task: asyncio.Task[Any] | None) -> bool:
        return asyncio.current_task(self._loop) is task

    def _end_body(self, exc: BaseException | None, outcome: Outcome) -> None:
        self._phase = _Phase.CLEANUP
        self._disarm()
        if self._mark is not None and self._host is not None:
            self._host.uncancel()  # 2
        if exc is None:
            return
        if self._mark is None or not isinstance(exc, asyncio.CancelledError):
            outcome.left_by(exc)
            if self._timed_out and not self._is_cancelled():
                show_lateness(exc)
        else:
            outcome.own = exc

    def _astray(self, task: asyncio.Task[Any]) -> str | None:
        host, self._host = self._host, task
        if host is task:
            return None
        self._entry = task.cancelling()
        return (
            f"the {OWNER} was left in task {task.get_name()!r}, which has not entered it; "
            "its cleanup has run, but the anyio scope around it is still entered: leave it "
            "in the task that entered it"
        )

    def _is_cancelled(self) -> bool:
        return self._host is not None and self._host.cancelling() > self._entry  # 3

    async def _from_outside(
        self, cancel: asyncio.CancelledError
    ) -> asyncio.CancelledError:
        """Return the cancel beside which ours came."""
        found: BaseException | None = cancel
        while found is not None:
            if isinstance(found, asyncio.CancelledError) and not (
                found.args and found.args[0] is self._mark
            ):
                return found
            found = found.__context__
        return await cancel_of_scope() or asyncio.CancelledError()

    def _unwind_at_once(self, gone: GeneratorExit) -> None:
        for step, error in self._cleanup.run_at_once(gone):
            self._report(f"{step} raised while its coroutine was closed", error)

    def _leave(self, exc: BaseException | None, outcome: Outcome) -> bool:
        """Raise what leaves the block; return whether what left the body goes no further."""
        leaving, hidden = outcome.verdict(self._late(outcome.own))
        if leaving is None:
            return True
        context = leaving.__context__
        if hidden is not None:
            unlink(hidden, leaving)
            hidden.__context__ = context
            context = hidden
            self._report("cleanup failed beside what was raised", hidden)
        try:
            if leaving is exc:
                return False
            raise leaving
        finally:
            # Python has put there what left the body: right only if there is nothing else.
            if context is not None or leaving is outcome.error:
                leaving.__context__ = context
            del exc, outcome, leaving, hidden, context  # tracebacks hold this frame

    def _late(self, cancel: asyncio.CancelledError | None) -> TimeoutError | None:
        return None if cancel is None or self._cancel_called else late(cancel)

    def _report(self, what: str, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {"message": f"{OWNER}: {what}", "exception": error}
        )


@cache
def _scope_type() -> type[anyio.CancelScope]:
    """Return the class behind `anyio.CancelScope`, which looks it up at each call."""
    return type(anyio.CancelScope())


def cleanup_scope(
    *, timeout: float | None = None, cleanup_timeout: float | None = 10.0
) -> AbstractAsyncContextManager[CleanupScope]:
    """Open a block whose cleanup runs to its end, whatever cancels it, and however often.

    Like `contextlib.AsyncExitStack`, with `defer` for what has to be done for certain.

    >>> import asyncio
    >>> async def close(name: str) -> None:
    ...     await asyncio.sleep(0.01)
    ...     print(name, "closed")
    >>> async def main() -> None:
    ...     async with cleanup_scope(timeout=0.01) as scope:
    ...         scope.defer(close, "pool")
    ...         scope.defer(close, "connection")
    ...         await asyncio.sleep(3600)
    >>> try:
    ...     asyncio.run(main())
    ... except TimeoutError:
    ...     print("too late")
    connection closed
    pool closed
    too late

    Args:
        timeout: The seconds after which the body is cancelled; None: never. See also
            `CleanupScope.deadline`. It does not count for the cleanup.
        cleanup_timeout: The seconds after which each step of the cleanup is cut, by one
            cancel; a deferred call that ignores it is given up after as long again.
            None: never. While `safeaio.run` shuts down, no step gets more than its
            `grace` leaves.

    Returns:
        An async context manager for the scope.

    Raises:
        TypeError: At the call, if a timeout is no number.
        ValueError: At the call, if one is negative or NaN.
        RuntimeError: On entering, the second time; on leaving, if that is done in
            another task, after the cleanup.
        BaseException: On leaving, the first of these that applies. KeyboardInterrupt and
            SystemExit, the body's before that of the cleanup. A cancel from outside, the
            same object. `CleanupError`, if a step of the cleanup failed. What left the
            body, the same object. TimeoutError, if the body was ended by its deadline.
            A CleanupError that the first two hide becomes their `__context__`, and goes
            to the loop's exception handler.

    Cancellation:
        Every deferred call runs once and to its end, in the reverse order, on every exit;
        a cancel that comes meanwhile is kept, and raised when all is done. A call that
        takes too long is a `TimeoutError` in the CleanupError, one that ignores its
        cancel a `TaskStuckError`. When Python closes the coroutine (GeneratorExit),
        nothing can be awaited: only functions that are not async are called.
    """
    check_seconds(f"{OWNER}: timeout", timeout)
    check_seconds(f"{OWNER}: cleanup_timeout", cleanup_timeout)
    return CleanupScope(timeout, Cleanup(cleanup_timeout))
