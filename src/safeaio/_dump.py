"""The last words of a process that has to be killed."""

import asyncio
import os
import select
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from sys import _current_frames  # pyright: ignore[reportPrivateUsage] - public, and documented
from time import monotonic
from typing import Any, NoReturn

from ._stack import suspended_at

MOST_TASKS = 100  # more would take longer than there is, and nobody reads them

_PATIENCE = 0.15  # seconds for a reader that does not read, and as much for the flush
_ATOM = 512  # a pipe that is ready takes as much without blocking, on every system


def kill(status: int, why: str, loop: asyncio.AbstractEventLoop) -> NoReturn:
    """End the process now, after saying where every thread and many tasks stand.

    Args:
        status: The exit status.
        why: What made it necessary; the first line.
        loop: Whose tasks to name.
    """
    try:
        _write(_report(why, loop))
        _flush()
    finally:
        os._exit(status)


def flush_stdout() -> None:
    """Flush what was printed, as far as that can be done."""
    with suppress(Exception):  # None, closed, or nobody reads it
        sys.stdout.flush()


def stderr_fd() -> int | None:
    """Return the file descriptor of `sys.stderr`, or the usual one, if that is stderr."""
    try:
        return sys.stderr.fileno()
    except Exception:  # noqa: BLE001 - None, closed, or an object of the user's
        return None if sys.__stderr__ is None else 2


def thread_stack(thread: threading.Thread) -> str:
    """Format where a thread is now."""
    frame = _current_frames().get(thread.ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def task_line(task: asyncio.Task[Any]) -> str:
    """Name a task, with its coroutine."""
    coro = task.get_coro()
    name = getattr(coro, "__qualname__", type(coro).__qualname__)
    return f"task {task.get_name()!r} ({name})"


def _report(why: str, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    yield f"{why}; every thread and task:\n"
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            yield f"thread {thread.name!r}:\n{thread_stack(thread)}"
    tasks = list(asyncio.all_tasks(loop))
    for task in tasks[:MOST_TASKS]:
        yield f"{task_line(task)}:\n{suspended_at(task)}"
    if len(tasks) > MOST_TASKS:
        yield f"and {len(tasks) - MOST_TASKS} more tasks\n"


def _write(report: Iterator[str]) -> None:
    """Write to stderr, but not for long: nobody may read the other end."""
    fd = stderr_fd()
    if fd is None:
        return
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    until = monotonic() + _PATIENCE
    with suppress(Exception):  # tasks come and go meanwhile
        for text in report:
            data = memoryview(text.encode(errors="backslashreplace"))
            while data:
                if not poll.poll(max(until - monotonic(), 0.0) * 1000):
                    return
                data = data[os.write(fd, data[:_ATOM]) :]


def _flush() -> None:
    """Flush what was printed, unless a blocked thread holds it."""
    flusher = threading.Thread(target=flush_stdout, daemon=True)
    try:
        flusher.start()
    except RuntimeError:  # the interpreter is on its way out: nothing can start
        flusher.run()
    else:
        flusher.join(_PATIENCE)
