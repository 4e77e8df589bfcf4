"""An event loop whose clock jumps to the next timer instead of waiting."""

import asyncio
import heapq
import math
import selectors
import threading
import time
from collections.abc import Callable
from contextvars import Context
from typing import Self, TypeVarTuple, final

from ._trail import trail

Ts = TypeVarTuple("Ts")

# What asyncio adds to `time()` when it asks which timers are due.
_RESOLUTION = time.get_clock_info("monotonic").resolution


@final
class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set, and nothing came from outside.

    Attributes:
        tasks: The tasks that were still waiting, and where.
        waited: The real seconds spent waiting for a thread or a socket.
    """

    def __init__(self, tasks: tuple[str, ...], waited: float) -> None:
        super().__init__(tasks, waited)
        self.tasks = tasks
        self.waited = waited

    def __str__(self) -> str:
        waiting = "".join(f"\n  {task}" for task in self.tasks) or " no task"
        return (
            "deadlock: nothing is ready, no timer is set and nothing came from "
            f"outside in {self.waited} real seconds; set what these wait for, or pass "
            f"VirtualClockLoop a longer idle_timeout; still waiting:{waiting}"
        )


@final
class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A stdlib event loop on which no timer waits for real.

    When nothing is ready, `time()` jumps straight to the next timer, so
    `sleep(3600)` costs microseconds and a test can compare times with `==`.

    >>> import asyncio
    >>> from safeaio.testing import VirtualClockLoop
    >>> async def nap() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
    ...     runner.run(nap())
    3600.0

    The clock stands still while callbacks run, and it does not wait for threads or
    sockets: with a timer set, it jumps unless their result is already there.
    Without any timer the loop does wait for them, for real.

    A *tick* is one callback that the loop runs, except those of readable and
    writable sockets.

    Args:
        start: What `time()` says at first.
        idle_timeout: The real seconds to wait for a thread or a socket when there
            is no timer, before `DeadlockError`; None waits for ever. If there is
            neither another thread nor a socket, the error comes at once.

    Attributes:
        ticks: How many callbacks have started.
        on_tick: Called before each of them, so that a test can act between two
            callbacks of one loop iteration, as another task would.

    Raises:
        DeadlockError: From whatever runs the loop, once it can only wait for ever.
    """

    def __new__(cls, start: float = 0.0, *, idle_timeout: float | None = 5.0) -> Self:
        # Not in `__init__`: asyncio's `__del__` fails on a loop left half made.
        if not math.isfinite(start):
            raise ValueError(f"start must be a finite number, got {start!r}")
        if idle_timeout is not None and not idle_timeout > 0:
            raise ValueError(
                f"idle_timeout must be more than 0, got {idle_timeout!r}; "
                "pass None to wait for ever"
            )
        return super().__new__(cls)

    def __init__(self, start: float = 0.0, *, idle_timeout: float | None = 5.0) -> None:
        self._clock = _ClockSelector(start, idle_timeout)
        self.ticks: int = 0
        self.on_tick: Callable[[], object] | None = None
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Do what asyncio's does, as one tick."""
        return super().call_soon(self._tick, callback, args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Do what asyncio's does, as one tick."""
        return super().call_soon_threadsafe(self._tick, callback, args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Do what asyncio's does, as one tick; `call_later` comes through here."""
        timer = super().call_at(when, self._tick, callback, args, context=context)
        self._clock.add(timer)
        return timer

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do what asyncio's does, but let `idle_timeout` bound it.

        Its threads take real time, which a virtual `timeout` would not wait for.

        Cancellation:
            Passed on to asyncio's.
        """
        await super().shutdown_default_executor()

    def _tick(self, callback: Callable[[*Ts], object], args: tuple[*Ts]) -> None:
        self.ticks += 1
        if self.on_tick is not None:
            self.on_tick()
        try:
            callback(*args)
        finally:
            del callback, args  # a task's error holds this frame by its traceback


@final
class _ClockSelector(selectors.DefaultSelector):
    # Keeps its own heap of timers, because the timeout that asyncio passes to
    # `select` is rounded, and capped at a day: jumping by it could stop short of the
    # timer, and an infinite sleep would jump for ever instead of being a deadlock.

    def __init__(self, now: float, idle_timeout: float | None) -> None:
        super().__init__()
        self.now = now
        self._idle_timeout = idle_timeout
        self._timers: list[asyncio.TimerHandle] = []
        self._prune_at = 128

    def add(self, timer: asyncio.TimerHandle) -> None:
        heapq.heappush(self._timers, timer)
        if timer.when() == self.now:
            self._reach(self.now)
        if len(self._timers) > self._prune_at:
            # Timeouts that never expire would otherwise pile up.
            self._timers = [t for t in self._timers if not t.cancelled()]
            heapq.heapify(self._timers)
            self._prune_at = 2 * len(self._timers) + 128

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        when = math.inf if timeout is None else self._next_timer()
        if when == math.inf:
            return self._wait_for_outside()
        self._reach(when)
        return events

    def _reach(self, when: float) -> None:
        # Late in time asyncio's resolution is less than the gap between two floats,
        # and it would find a timer that is due exactly now not yet due, for ever.
        due = when + _RESOLUTION > when
        self.now = when if due else math.nextafter(when, math.inf)

    def _next_timer(self) -> float:
        timers = self._timers
        while timers[0].cancelled() or timers[0].when() <= self.now:
            heapq.heappop(timers)
        return timers[0].when()

    def _wait_for_outside(self) -> list[tuple[selectors.SelectorKey, int]]:
        if self._idle_timeout is None:
            return super().select()
        # One entry is the pipe through which other threads wake the loop.
        alone = threading.active_count() == 1 and len(self.get_map()) == 1
        patience = 0.0 if alone else self._idle_timeout
        events = super().select(patience)
        if not events:
            tasks = tuple(sorted(map(trail, asyncio.all_tasks())))
            raise DeadlockError(tasks, patience)
        return events
