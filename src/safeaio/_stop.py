"""The stop of one life: it was cancelled once, and is reported while it does not end."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from ._ending import How
from ._guard import SLIGHT, Guard
from ._stack import Trace, suspended_at
from ._swallowed import has_swallowed, warn_of


@final
class Stop:
    """What is known of a life that was cancelled just now.

    Args:
        guard: Tells when it is stuck.
        task: The one of the life.
        trace: Where that stood when it was cancelled.
        interval: Seconds to the first report, and from one to the next; None for no
            report but when a shutdown has no more time.
        after: Seconds to the first report if that is to be earlier; then it is no
            reason to cancel it again.
        on_stuck: Called with its age in seconds, and where it stands.

    Attributes:
        since: When it was cancelled, on the loop's clock.
        doom: What the life failed with, if that is why it is stopped.
    """

    __slots__ = (
        "_early",
        "_guard",
        "_interval",
        "_on_stuck",
        "_reminder",
        "_task",
        "_trace",
        "doom",
        "since",
    )

    def __init__(
        self,
        guard: Guard,
        task: asyncio.Task[Any],
        trace: Trace,
        on_stuck: Callable[[float, str], object],
        interval: float | None,
        after: float | None,
        doom: Exception | None,
    ) -> None:
        self.since: float = guard.loop.time()
        self.doom: Exception | None = doom
        self._guard = guard
        self._task = task
        self._trace = trace
        self._on_stuck = on_stuck
        self._interval = interval
        self._early = after is not None and interval is not None and after < interval
        self._reminder: asyncio.TimerHandle | None = None
        guard.watch(self, after if self._early else interval)

    def is_stuck(self) -> None:
        """Cancel it again, unless this is early, and report it."""
        task, interval, loop = self._task, self._interval, self._guard.loop
        if task.done():  # in this very turn
            return
        if not self._early:
            task.cancel()
        self._early = False
        age = loop.time() - self.since
        if interval is not None:
            rest = interval if age > interval - SLIGHT else interval - age
            self._reminder = loop.call_later(rest, self.is_stuck, context=Context())
        self._on_stuck(age, suspended_at(task))

    def end(
        self, owner: str, how: How, error: BaseException | None
    ) -> tuple[How, BaseException | None]:
        """Take note of how the life has ended; tell how it did, since it may be doomed."""
        self._guard.forget(self)
        if self._reminder is not None:
            self._reminder.cancel()
        if has_swallowed(self._task):
            warn_of(self._guard.loop, owner, self._task, self._trace)
        doom, self.doom = self.doom, None
        if doom is None or how is not How.STOPPED:
            return how, error
        doom.__context__ = error
        return How.FAILED, doom
