"""What a service manager is told: systemd's protocol, see `man sd_notify`."""

import asyncio
import os
import socket
from contextvars import Context
from functools import partial
from typing import final

_LONGEST = 86_400.0  # seconds; loops refuse timers of years
_RETRY = 0.1  # seconds until the manager may have read what it has


@final
class Notifier:
    """Tells the service manager how the service is, if it wants to know.

    There is one at a time in a process, for its first supervisor: to the manager the
    whole process is one service.

    Args:
        loop: The loop that has to turn for the service to be alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._address = _address()
        self._interval = _interval()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Tell that it is ready, and from now on that it is alive, if that is wanted."""
        self._tell("READY=1", until_heard=True)
        if self._interval is not None and self._address is not None:
            self._keep_alive(self._interval)

    def stopping(self) -> None:
        """Tell that it is about to end."""
        self._tell("STOPPING=1", until_heard=True)

    def close(self) -> None:
        """Tell nothing more, and leave it to the next."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        _tellers.discard(self)

    def _keep_alive(self, interval: float) -> None:
        self._tell("WATCHDOG=1")
        self._timer = self._loop.call_later(
            interval, self._keep_alive, interval, context=Context()
        )

    def _tell(self, state: str, *, until_heard: bool = False) -> None:
        if until_heard and self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._address is None or _sent(state, self._address) or not until_heard:
            return
        self._retry = self._loop.call_later(
            _RETRY, partial(self._tell, state, until_heard=True), context=Context()
        )


_tellers: set[Notifier] = set()


def notifier(loop: asyncio.AbstractEventLoop) -> Notifier | None:
    """Return what tells the manager, unless somebody else in this process does."""
    if _tellers:
        return None
    teller = Notifier(loop)
    _tellers.add(teller)
    return teller


def _sent(state: str, address: str) -> bool:
    """Return whether somebody will read it, or nobody ever will."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), address)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _address() -> str | None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path.startswith("@"):
        return "\0" + path[1:]  # abstract: without a file
    return path or None


def _interval() -> float | None:
    """Return half the seconds in which the manager wants to hear something."""
    micros = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return min(float(micros) / 2e6, _LONGEST) or None
