"""The one timer of `faulthandler`, for every deadline there is."""

# It needs no GIL, so it ends a process that nothing else can. There is one in a process,
# and a forked child that inherited it would wait for its thread for ever.

import faulthandler
import os
import stat
import sys
import threading
from contextlib import suppress
from math import inf
from time import monotonic

from ._dump import stderr_fd

AFTER = 0.3  # seconds after a deadline, in which the watch may begin to end the process

_LONGEST = 86400.0  # what faulthandler may be asked to wait for

_lock = threading.RLock()  # a handler of the user's may fork
_deadlines: dict[object, float] = {}
_opened: list[int] = []


def arm(owner: object, deadline: float) -> None:
    """End the process soon after `deadline`, on `time.monotonic`, unless it is disarmed."""
    with _lock:
        _deadlines[owner] = deadline
        _set()


def disarm(owner: object) -> None:
    """Forget a deadline, if there is one."""
    with _lock:
        if _deadlines.pop(owner, None) is not None:
            _set()


def _set() -> None:
    before, _opened[:] = _opened[:], []
    rest = min(_deadlines.values(), default=inf) - monotonic()
    if rest > _LONGEST:
        faulthandler.cancel_dump_traceback_later()
    else:
        # In one call: between two, C code may take the GIL for good, and no timer be set.
        with suppress(OSError, RuntimeError, ValueError):  # a backstop, and no more
            faulthandler.dump_traceback_later(
                max(rest, 0.0) + AFTER, exit=True, file=_output()
            )
    for fd in before:
        os.close(fd)


def _output() -> int:
    """Return where the timer may write without waiting for a reader, if that can be had."""
    fd = stderr_fd()
    path, flags = f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    if fd is None:
        path = os.devnull
    elif not _may_block(fd):
        return fd
    try:
        _opened.append(os.open(path, flags))
    except OSError:  # no /proc
        return 2 if fd is None else fd
    return _opened[-1]


def _may_block(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)  # a socket cannot be opened again


def _before_fork() -> None:
    _lock.acquire()
    if _deadlines:
        faulthandler.cancel_dump_traceback_later()


def _after_fork() -> None:
    if _deadlines:
        _set()
    _lock.release()


def _in_child() -> None:
    _deadlines.clear()
    while _opened:
        os.close(_opened.pop())
    _lock.release()


if sys.platform != "win32":  # pragma: no branch - tested on Linux only
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child
    )
