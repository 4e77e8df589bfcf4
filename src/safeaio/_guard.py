"""Notices children that do not end after they were cancelled: one timer for all of them."""

import asyncio
from contextvars import Context
from math import inf
from typing import Protocol, final

from ._grace import Limit

SLIGHT = 0.01  # of a second: loops call a little early

_LEAST = 0.1  # seconds from a cancel to its report, when a shutdown leaves none


class Stopping(Protocol):
    """Who was cancelled, and should end."""

    def is_stuck(self) -> None:
        """It has not ended in time."""


@final
class Guard:
    """Watches children that are being stopped.

    A timer for each would cost more than a child's whole end. This one is set for the
    first of them, and only looked at again when it is due.

    Attributes:
        loop: Whose clock it goes by.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[Stopping, tuple[float, float]] = {}
        self._at = inf
        self._limit: Limit | asyncio.TimerHandle | None = None

    def watch(self, child: Stopping, seconds: float | None) -> None:
        """Tell a child if it has not ended in time.

        Args:
            child: It was cancelled just now.
            seconds: Its time, of which a shutdown may leave less; None for as much as
                that leaves.
        """
        now = self.loop.time()
        at = inf if seconds is None else now + seconds
        self._due[child] = now, at
        if self._limit is None or at < self._at:
            self._set(at)

    def forget(self, child: Stopping) -> None:
        """It has ended."""
        self._due.pop(child, None)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _set(self, at: float) -> None:
        self.close()
        self._at = at
        seconds = None if at == inf else max(at - self.loop.time(), 0.0)
        self._limit = Limit(self.loop, seconds, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        cut_short = now < self._at - SLIGHT  # by a shutdown, for all of them
        self._limit = None
        for child, (since, at) in tuple(self._due.items()):
            if at <= now + SLIGHT or (cut_short and now > since + _LEAST - SLIGHT):
                del self._due[child]
                child.is_stuck()
        if not self._due:
            return
        if cut_short:
            self.close()
            self._limit = self.loop.call_later(_LEAST, self._look, context=Context())
        else:
            self._set(min(at for _, at in self._due.values()))
