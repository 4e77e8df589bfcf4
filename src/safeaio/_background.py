"""`background`: tasks that nobody awaits, and that nobody loses."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from ._verdict import is_fatal

T = TypeVar("T")

_held: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks weakly


def background(
    coro_or_task: Coroutine[Any, Any, T] | asyncio.Task[T], *, name: str | None = None
) -> asyncio.Task[T]:
    """Let something run beside whatever follows: a `create_task` that may be dropped.

    It is held until it ends, and what it raises goes to the loop's exception handler at
    once. `safeaio.run` cancels it in the end and waits for it, and does not call it a
    leak. For work that has to stay up, see `supervise`; for work whose result matters,
    `bounded_gather` or `bounded_group`.

    >>> import safeaio
    >>> async def greet() -> None:
    ...     print("hello")
    >>> async def main() -> None:
    ...     safeaio.background(greet())
    ...     await asyncio.sleep(0)
    >>> safeaio.run(main)
    hello

    Args:
        coro_or_task: A coroutine, which gets a task of its own, or a task.
        name: The name of the task.

    Returns:
        The task.

    Raises:
        TypeError: If it is neither.
        ValueError: If the task belongs to another loop.
        RuntimeError: If no loop is running here.

    Cancellation:
        Does not wait for anything. The task itself is cancelled like any other.
    """
    try:
        task = _task(coro_or_task, name)
    except BaseException:
        if asyncio.iscoroutine(coro_or_task):
            coro_or_task.close()
        raise
    if task not in _held:
        _held.add(task)
        task.add_done_callback(_let_go, context=Context())
    return task


def is_background(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task was given to `background`, and has not ended."""
    return task in _held


def _task(given: object, name: str | None) -> asyncio.Task[Any]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "background() starts a task, and no loop is running here; call it below "
            "safeaio.run(main)"
        ) from None
    if asyncio.iscoroutine(given):
        return loop.create_task(given, name=name)
    if not isinstance(given, asyncio.Task):
        raise TypeError(
            f"background() takes a coroutine or a task, got {given!r}; "
            "write background(func(...))"
        )
    task: asyncio.Task[Any] = given  # pyright: ignore[reportUnknownVariableType] - Any is right
    if task.get_loop() is not loop:
        raise ValueError(
            f"background(): {task!r} belongs to another loop than this one"
        )
    if name is not None:
        task.set_name(name)
    return task


def _let_go(task: asyncio.Task[Any]) -> None:
    _held.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    try:
        if error is not None and not is_fatal(error):  # those end the loop
            task.get_loop().call_exception_handler(
                {
                    "message": f"background(): task {task.get_name()!r} raised",
                    "exception": error,
                    "task": task,
                }
            )
    finally:
        del error  # its traceback may hold this frame
