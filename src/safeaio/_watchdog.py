"""A thread that notices when the loop stands still."""

import asyncio
import logging
import threading
import traceback
from contextlib import suppress
from sys import _current_frames  # pyright: ignore[reportPrivateUsage] - public, and documented
from typing import final

_logger = logging.getLogger("safeaio")


@final
class Watchdog:
    """Logs where the loop's thread is, once each time that the loop stalls.

    Args:
        loop: The loop of this thread.
        seconds: How long the loop may take for one turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._watched = threading.get_ident()
        self._beat = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="safeaio.run watchdog", daemon=True
        )

    def __enter__(self) -> None:
        """Start the thread."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._stopped.set()
        self._beat.set()
        self._thread.join(1.0)  # it may be stuck in somebody's log handler

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds / 2):
            self._beat.clear()
            self._loop.call_soon_threadsafe(self._beat.set)
            if not self._beat.wait(self._seconds):
                self._report()
                self._beat.wait()

    def _report(self) -> None:
        frame = _current_frames().get(self._watched)
        stack = "" if frame is None else "".join(traceback.format_stack(frame))
        with suppress(Exception):  # of somebody's log handler
            _logger.warning(
                "the event loop has not run for %g s; its thread is at:\n%s",
                self._seconds,
                stack,
            )
