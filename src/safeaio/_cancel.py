"""`cancel_and_wait` and `shielded`: cancels that are waited for, and work that outlasts them."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any, TypeVar, cast

from ._crew import carry, error_of, let_go
from ._grace import Limit
from ._seconds import check_seconds
from ._wait import STUCK_AFTER, Children, current_task
from .exceptions import ChildCancelled, TaskStuckError

T = TypeVar("T")

_CANCEL = "cancel_and_wait()"
_SHIELD = "shielded()"


async def cancel_and_wait(
    *tasks: asyncio.Task[Any], timeout: float | None = 10.0, msg: str | None = None
) -> None:
    """Cancel tasks, and wait until they have ended.

    Each is cancelled once, all before the first wait. What they raise in the end is
    theirs: it is neither raised here, nor marked as retrieved. One that returns a
    result instead, and has not taken the cancel back, is named by a
    `CancellationSwallowedWarning`.

    >>> import asyncio
    >>> async def main() -> None:
    ...     task = asyncio.create_task(asyncio.sleep(3600))
    ...     await asyncio.sleep(0)
    ...     await cancel_and_wait(task)
    ...     print(task.cancelled())
    >>> asyncio.run(main())
    True

    Args:
        *tasks: Tasks of the running loop. Those that are done are left alone; with none
            to cancel this returns at once.
        timeout: The seconds to wait for all of them. None: as long as it takes, with a
            `TaskStuckWarning` every ten seconds. While `safeaio.run` shuts down, no
            longer than its `grace` leaves.
        msg: What `asyncio.Task.cancel` takes under this name.

    Raises:
        TypeError: If something is no task, or the timeout no number.
        ValueError: If the timeout is negative or NaN, or a task belongs to another loop.
        RuntimeError: If a task is the one that calls this.
        TaskStuckError: If one has not ended after `timeout`. It runs on.

    Cancellation:
        A cancel of the caller is kept, and raised when the tasks have ended or the
        timeout has passed; a TaskStuckError is then its `__context__`. It is never
        taken for that of a task. Does not checkpoint if all are done.
    """
    try:
        check_seconds(f"{_CANCEL}: timeout", timeout)
        for task in tasks:
            _check_task(task)
    except BaseException:
        _close(*tasks)
        raise
    running = [task for task in dict.fromkeys(tasks) if not task.done()]
    if not running:
        return
    children = Children[None](_CANCEL, STUCK_AFTER if timeout is None else None)
    context = Context()
    for task in running:
        children.add(task, None, children.ended, context)
    children.cancel(msg)
    reports: list[str] = []
    limit = Limit(
        children.loop, timeout, lambda: reports.extend(children.abandon(limit.age))
    )
    try:
        await children.wait(shielded=True)
    except asyncio.CancelledError as exc:
        if reports:
            stuck = TaskStuckError(tuple(reports))
            stuck.__context__ = exc.__context__
            exc.__context__ = stuck
        raise
    finally:
        limit.cancel()
    if reports:
        raise TaskStuckError(tuple(reports))


async def shielded(aw: Awaitable[T], *, timeout: float | None = None) -> T:
    """Await something to its end, whatever cancels the caller meanwhile.

    Unlike `asyncio.shield`, which lets the caller go and leaves the work behind, this
    waits for it.

    >>> import asyncio
    >>> async def commit() -> None:
    ...     await asyncio.sleep(0.01)
    ...     print("committed")
    >>> async def main() -> None:
    ...     task = asyncio.create_task(shielded(commit()))
    ...     await asyncio.sleep(0)
    ...     await cancel_and_wait(task)
    ...     print(task.cancelled())
    >>> asyncio.run(main())
    committed
    True

    Args:
        aw: A coroutine, which runs in a task of its own with a copy of the caller's
            context; or a task, a future or another awaitable.
        timeout: The seconds after which it is cancelled, once, and waited for all the
            same; also a task or future that was passed in. None: never.

    Returns:
        Its result.

    Raises:
        TypeError: If it cannot be awaited, or the timeout is no number.
        ValueError: If the timeout is negative or NaN, or a future belongs to another loop.
        RuntimeError: If it is the task that awaits this.
        TimeoutError: If it did not end in time.
        ChildCancelled: If it ended cancelled, though nobody had cancelled the caller.
        BaseException: What it raises itself.

    Cancellation:
        A cancel of the caller, by any route and any number of times, is kept, and the
        first is raised when the work has ended. It goes before a TimeoutError, and that
        before the outcome of the work; an error that is lost so goes to the loop's
        exception handler. KeyboardInterrupt and SystemExit go before all. A task that
        is cancelled before its first step has not called this: nothing runs then.
        Does not checkpoint if a future is done, or an eager task ends at once.
    """
    try:
        check_seconds(f"{_SHIELD}: timeout", timeout)
        _check_awaitable(aw)
        children = Children[Awaitable[Any]](_SHIELD)
    except BaseException:
        _close(aw)
        raise
    given = asyncio.isfuture(aw)
    work: asyncio.Future[T] = (
        cast("asyncio.Future[T]", aw) if given else children.loop.create_task(carry(aw))
    )
    if not work.done():
        children.add(work, aw, partial(let_go, children), Context())
    error = cancel = None
    try:
        with _alarm(timeout, partial(_cut, children, work)):
            await children.wait(shielded=True)
    except asyncio.CancelledError as exc:
        cancel = exc
    try:
        # Whoever owns a task that was passed in may still ask for its error.
        error = None if given and cancel is not None else error_of(work)
        _raise_foremost(
            error, cancel, timeout if children.cancelled else None, children.loop
        )
        return work.result()
    finally:
        del aw, work, error, cancel  # tracebacks hold this frame


def _raise_foremost(
    error: BaseException | None,
    cancel: asyncio.CancelledError | None,
    timed_out: float | None,
    loop: asyncio.AbstractEventLoop,
) -> None:
    try:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        if cancel is not None:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                loop.call_exception_handler(
                    {
                        "message": f"{_SHIELD}: the work raised, but its caller was cancelled",
                        "exception": error,
                    }
                )
            raise cancel
        if timed_out is not None:
            raise TimeoutError(f"{_SHIELD}: not done after {timed_out:g} s") from error
        if isinstance(error, asyncio.CancelledError):
            raise ChildCancelled("the shielded work") from error
        if error is not None:
            raise error
    finally:
        del error, cancel  # tracebacks hold this frame


def _cut(children: Children[Awaitable[Any]], work: asyncio.Future[Any]) -> None:
    if not work.done():  # what ended in this very turn was in time
        children.cancel()


@contextmanager
def _alarm(delay: float | None, callback: Callable[[], object]) -> Generator[None]:
    """Call back after `delay` seconds, unless the block has been left."""
    if delay is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(delay, callback, context=Context())
    try:
        yield
    finally:
        timer.cancel()


def _close(*works: object) -> None:
    """Close the coroutines among what is refused."""
    for work in works:
        if inspect.iscoroutine(work):
            work.close()


def _check_task(task: object) -> None:
    if not isinstance(task, asyncio.Task):
        fix = ""
        if isinstance(task, list | tuple | set | frozenset):
            fix = "; write cancel_and_wait(*tasks), not cancel_and_wait(tasks)"
        elif inspect.iscoroutine(task):
            fix = "; a coroutine that has not started needs no cancel: close() it"
        raise TypeError(f"{_CANCEL} takes tasks, got {task!r}{fix}")
    if task is current_task():
        raise RuntimeError(
            f"{_CANCEL}: {task.get_name()!r} is the task that calls this, and would wait "
            "for itself; to end it, return, or raise"
        )
    if task.get_loop() is not asyncio.get_running_loop():
        raise ValueError(f"{_CANCEL}: {task!r} belongs to another loop than the caller")


def _check_awaitable(aw: object) -> None:
    if not inspect.isawaitable(aw):
        name = getattr(aw, "__name__", "func")
        fix = (
            f"; write shielded({name}(...)), not shielded({name})"
            if callable(aw)
            else ""
        )
        raise TypeError(f"{_SHIELD} takes an awaitable, got {aw!r}{fix}")
    if not asyncio.isfuture(aw):
        return
    if aw is current_task():
        raise RuntimeError(f"{_SHIELD}: {aw!r} would wait for itself")
    if aw.get_loop() is not asyncio.get_running_loop():
        raise ValueError(f"{_SHIELD}: {aw!r} belongs to another loop than the caller")
