"""What a service manager is told: systemd's protocol, see `man sd_notify`."""

import asyncio
import os
import socket
from contextlib import suppress
from contextvars import Context
from typing import final


@final
class Notifier:
    """Tells the service manager how the service is, if it wants to know.

    Args:
        loop: The loop that has to turn for the service to be alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._address = _address()
        self._interval = _interval()
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Tell that it is ready, and from now on that it is alive, if that is wanted."""
        self._tell("READY=1")
        if self._interval is not None and self._address is not None:
            self._keep_alive(self._interval)

    def stopping(self) -> None:
        """Tell that it is about to end."""
        self._tell("STOPPING=1")

    def close(self) -> None:
        """Tell nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _keep_alive(self, interval: float) -> None:
        self._tell("WATCHDOG=1")
        self._timer = self._loop.call_later(
            interval, self._keep_alive, interval, context=Context()
        )

    def _tell(self, state: str) -> None:
        if self._address is None:
            return
        with (
            suppress(OSError),  # nobody listens any more
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(state.encode(), self._address)


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
    return int(micros) / 2e6 or None
