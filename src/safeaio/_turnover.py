"""Children stopped in reverse order, then started in order."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import final

from ._child import Child
from ._grace import Limit
from ._state import State
from ._turn import turn_of

# Of its stop timeout, before a child is called stuck where the order is given up already:
# the stop has taken one timeout by then.
_AFTER = 0.1

_PENDING = (State.STARTING, State.STOPPING)


@final
class Turnover:
    """Ordered ends, a pause, and ordered starts; any of them may be none.

    Attributes:
        stops: Who has yet to end; the last is next.
        starts: Who has yet to become ready; the first is next.
        not_before: When the first start is due, on the loop's clock.
        done: Called when all is done.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stops: list[Child],
        starts: deque[Child],
        done: Callable[["Turnover"], object],
        not_before: float = float("-inf"),
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.stops: list[Child] = stops
        self.starts: deque[Child] = starts
        self.done: Callable[[Turnover], object] = done
        self.not_before: float = not_before
        self._began = loop.time()
        self._again = set(starts)
        self._unordered = self._closed = False
        self._limit: Limit | None = None
        self._timer: asyncio.Handle | None = None
        for child in (*stops, *starts):
            child.order = self

    @property
    def starting(self) -> bool:
        """Whether the stops and the pause are over."""
        return not self.stops and self.loop.time() >= self.not_before

    def starts_again(self, child: Child) -> bool:
        """Whether a child that it stops is to be started after that."""
        return child in self._again

    def limit(self, seconds: float) -> None:
        """Give up the order after some seconds."""
        if seconds > 0:
            self._limit = Limit(self.loop, seconds, self.hurry)
        else:
            self.hurry()

    def advance(self) -> None:
        """Take whatever step is due."""
        if self._closed:
            return
        stops = self.stops
        while stops and not stops[-1].live:
            self._let_go(stops.pop())
        if stops:
            if not self._unordered:
                stops[-1].cancel()
        elif self._pauses():
            self._set_timer(self.loop.call_at, self.not_before)
        else:
            self._start()

    def hurry(self) -> None:
        """Give up the order: cancel all that are left."""
        if self._unordered or not self.stops:
            return
        self._unordered = True
        age = self.loop.time() - self._began
        for child in reversed(self.stops):
            if child.live:
                seconds = child.service.stop_timeout or 0.0
                child.cancel(after=max(seconds - age, _AFTER * seconds))

    def cancel(self) -> Iterable[Child]:
        """Take no more steps; return whom that leaves, in order."""
        self._closed = True
        for handle in (self._limit, self._timer):
            if handle is not None:
                handle.cancel()
        left = list(dict.fromkeys((*self.stops, *self.starts)))
        for child in left:
            child.order = None
        self.stops = []
        self.starts.clear()
        self._again.clear()
        return left

    def drop(self, child: Child) -> None:
        """Leave out a child that somebody else stops or starts."""
        child.order = None
        if child in self.stops:
            self.stops.remove(child)
        if child in self._again:
            self.starts.remove(child)
            self._again.discard(child)
        self.loop.call_soon(self.advance, context=Context())

    def add(self, child: Child) -> None:
        """Start one more, as the last."""
        child.order = self
        self.starts.append(child)
        self._again.add(child)

    def _pauses(self) -> bool:
        return bool(self.starts) and self.loop.time() < self.not_before

    def _start(self) -> None:
        turn = turn_of(self.loop)
        while self.starts:
            child = self.starts[0]
            if child.state is State.WAITING:
                if turn.spent(self.loop):
                    self._set_timer(self.loop.call_soon)
                    return
                child.launch()
            if child.state in _PENDING:
                return
            child.order = None
            self.starts.popleft()
        self.cancel()
        self.done(self)

    def _set_timer(self, call: Callable[..., asyncio.Handle], *when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = call(*when, self.advance, context=Context())

    def _let_go(self, child: Child) -> None:
        if child.order is self and child not in self._again:
            child.order = None
