"""The one timer of `faulthandler`, for every deadline there is."""

# It needs no GIL, so it ends a process that nothing else can. There is one in a process,
# and a forked child that inherited it would wait for its thread for ever.

import faulthandler
import os
import stat
import sys
import threading
from contextlib import suppress
from time import monotonic

from ._dump import stderr_fd

AFTER = 0.3  # seconds after a deadline, in which the watch may begin to end the process

_LONGEST = 86400.0  # what faulthandler may be asked to wait for

_lock = threading.RLock()  # a handler of the user's may fork
_deadlines: dict[object, float] = {}
_nonblocking: list[int] = []


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
    faulthandler.cancel_dump_traceback_later()
    while _nonblocking:
        os.close(_nonblocking.pop())
    rest = min(_deadlines.values(), default=_LONGEST) - monotonic()
    fd = stderr_fd()
    if not _deadlines or rest > _LONGEST or fd is None:
        return
    with suppress(OSError, RuntimeError, ValueError):  # a backstop, and no more
        faulthandler.dump_traceback_later(
            max(rest, 0.0) + AFTER, exit=True, file=_unblocked(fd)
        )


def _unblocked(fd: int) -> int:
    """Return what writes to a pipe without waiting for a reader; `fd` for anything else."""
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            flags = os.O_WRONLY | os.O_NONBLOCK
            _nonblocking.append(os.open(f"/proc/self/fd/{fd}", flags))
            return _nonblocking[-1]
    except OSError:  # no /proc
        pass
    return fd


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
    while _nonblocking:
        os.close(_nonblocking.pop())
    _lock.release()


if sys.platform != "win32":  # pragma: no branch
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child
    )
