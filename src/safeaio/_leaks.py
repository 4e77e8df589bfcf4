"""What main left behind."""

import asyncio
import gc
import opcode
import os
import sys
import threading
import time
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from sys import _current_frames  # pyright: ignore[reportPrivateUsage] - public, and documented
from types import AsyncGeneratorType
from typing import Any, final

from ._dump import MOST_TASKS, task_line, thread_stack
from ._stack import suspended_at

# Processes that `multiprocessing` starts for itself, and ends with the interpreter.
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")

_RETURN = opcode.opmap["RETURN_GENERATOR"]  # where one that nobody has begun stands


@final
class Leaks:
    """Finds what was not there when a run began, and is there when it ends.

    Args:
        wanted: Whether anybody will read of it.
        thorough: Whether to search the whole heap, which takes long.

    Attributes:
        found: What was found so far, one entry for each.
    """

    def __init__(self, *, wanted: bool, thorough: bool) -> None:
        self.found: list[str] = []
        self._wanted = wanted
        self._thorough = thorough
        self._tasks = 0
        self._threads = set(threading.enumerate())
        self._before: set[int] = set()
        if thorough:
            self._before.update(map(id, _open_loops()))
            self._before.update(map(id, _suspended_generators()))
        self._began = _uptime()

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task that main did not wait for."""
        self._tasks += 1
        if self._wanted and self._tasks <= MOST_TASKS:
            at = suspended_at(task)
            self.found.append(f"{task_line(task)}, suspended at:\n{at}{_origin(task)}")

    def find_async_generators(self, loop: AbstractEventLoop) -> None:
        """Take note of those that were begun, and neither ended nor closed."""
        if not self._wanted:
            return
        generators = getattr(loop, "_asyncgens", None)
        if generators is None and self._thorough:  # uvloop does not show them
            generators = _suspended_generators()
        for generator in tuple(generators or ()):
            if generator.ag_frame is not None and id(generator) not in self._before:
                at = traceback.format_stack(generator.ag_frame, limit=1)
                name = generator.__qualname__
                self.found.append(
                    f"async generator {name}(), not closed, suspended at:\n{''.join(at)}"
                )

    def ignore(self, threads: set[threading.Thread]) -> None:
        """Take some threads for known."""
        self._threads |= threads

    def find_all(self, loop: AbstractEventLoop) -> list[threading.Thread]:
        """Take note of threads, loops other than `loop`, and child processes.

        Returns:
            The threads that keep the interpreter from exiting.
        """
        threads = [
            thread
            for thread in threading.enumerate()
            if not (thread.daemon or thread in self._threads or _is_idle(thread))
        ]
        if self._wanted:
            self._find_threads(threads)
            self._find_loops(loop)
            for pid, command in _children(since=self._began):
                self.found.append(f"child process {pid}: {command}")
        return threads

    def _find_threads(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            self.found.append(
                f"thread {thread.name!r}, for which the interpreter will wait, at:\n"
                f"{thread_stack(thread)}"
            )

    def _find_loops(self, ours: AbstractEventLoop) -> None:
        for loop in _open_loops() if self._thorough else ():
            known = loop is ours or id(loop) in self._before
            if not known and not loop.is_running():
                self.found.append(f"event loop {loop!r}, not closed")

    def __str__(self) -> str:
        more = self._tasks - MOST_TASKS
        rest = [f"and {more} more tasks"] if more > 0 else []
        return "\n".join(["safeaio.run(): main left behind:", *self.found, *rest])


def _origin(task: asyncio.Task[Any]) -> str:
    created = getattr(task, "_source_traceback", None)  # with debug only
    if created is None:
        return ""
    return f"created at:\n{''.join(traceback.format_list(created))}"


def _suspended_generators() -> Iterator[AsyncGeneratorType[Any, Any]]:
    for found in gc.get_objects():
        if issubclass(type(found), AsyncGeneratorType) and _is_begun(found):
            yield found


def _is_begun(generator: Any) -> bool:
    if sys.version_info >= (3, 12):
        return bool(generator.ag_suspended)
    frame = generator.ag_frame
    return frame is not None and frame.f_code.co_code[frame.f_lasti] != _RETURN


def _open_loops() -> Iterator[AbstractEventLoop]:
    for found in gc.get_objects():
        # `isinstance` would ask lazy proxies for their `__class__`.
        if issubclass(type(found), AbstractEventLoop) and not _is_closed(found):
            yield found


def _is_closed(loop: AbstractEventLoop) -> bool:
    try:
        return loop.is_closed()
    except NotImplementedError:  # a loop that is none, such as a fake
        return True


def _is_idle(thread: threading.Thread) -> bool:
    """Tell whether a thread waits for work of an executor: it ends with the interpreter."""
    frame = _current_frames().get(thread.ident or 0)
    return (
        frame is not None
        and frame.f_code.co_name == "_worker"
        and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else 0.0


def _children(since: float) -> Iterator[tuple[int, str]]:
    """Find the living children that were started after `since`; on Linux only."""
    if sys.platform == "linux" and _has_children():
        for thread in _listed("/proc/self/task"):
            for pid in _read(f"/proc/self/task/{thread}/children").split():
                if _runs(int(pid), since):
                    command = _read(f"/proc/{int(pid)}/cmdline").replace(b"\0", b" ")
                    yield int(pid), command.decode(errors="replace").strip()


def _has_children() -> bool:
    try:  # a tenth of what a look at /proc costs
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _runs(pid: int, since: float) -> bool:
    """Tell whether a process lives, began after `since`, and is the program's own."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields or fields[0] == b"Z":
        return False
    began = (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    command = _read(f"/proc/{pid}/cmdline")
    return began >= since and not any(helper in command for helper in _HELPERS)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # the process, or the thread, has ended
        return b""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # no /proc, or too many files are open
        return []
