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

_PATIENCE = 0.15  # seconds for a reader that does not read, and as much for the flush
_ATOM = 512  # a pipe that is ready takes as much without blocking, on every system


def kill(status: int, why: str, loop: asyncio.AbstractEventLoop) -> NoReturn:
    """End the process now, after saying where every thread and every task stands.

    Args:
        status: The exit status.
        why: What made it necessary; the first line.
        loop: Whose tasks to name.
    """
    try:
        _write("".join(_report(why, loop)))
        _flush()
    finally:
        os._exit(status)


def flush_stdout() -> None:
    """Flush what was printed, as far as that can be done."""
    with suppress(Exception):  # None, closed, or nobody reads it
        sys.stdout.flush()


def stderr_fd() -> int:
    """Return the file descriptor of `sys.stderr`, or the usual one."""
    try:
        return sys.stderr.fileno()
    except Exception:  # noqa: BLE001 - None, closed, or an object of the user's
        return 2


def thread_stack(thread: threading.Thread) -> str:
    """Format where a thread is now."""
    frame = _current_frames().get(thread.ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def task_line(task: asyncio.Task[Any]) -> str:
    """Name a task, with its coroutine."""
    coro = task.get_coro()
    return f"task {task.get_name()!r} ({getattr(coro, '__qualname__', coro)})"


def _report(why: str, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    yield f"{why}; every thread and task:\n"
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            yield f"thread {thread.name!r}:\n{thread_stack(thread)}"
    with suppress(RuntimeError):  # tasks come and go meanwhile
        for task in asyncio.all_tasks(loop):
            yield f"{task_line(task)}:\n{suspended_at(task)}"


def _write(text: str) -> None:
    """Write to stderr, but not for long: nobody may read the other end."""
    fd = stderr_fd()
    data = memoryview(text.encode(errors="backslashreplace"))
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    until = monotonic() + _PATIENCE
    with suppress(OSError):
        while data and poll.poll(max(until - monotonic(), 0.0) * 1000):
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
