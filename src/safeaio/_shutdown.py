"""When a run drains, cancels and ends: pure, from signals, requests and the clock."""

# Invariants; the tests name them.
#
# 1. Neither phase nor share ever goes back.
# 2. Nothing happens later than `grace` after the shutdown began: what is left shrinks.
# 3. A signal less than `SPACING` after one that counted is the same user's doing: a
#    terminal and a parent process may each send one.
# 4. Without a shutdown nobody is killed, however long the teardown takes.

from enum import IntEnum
from math import inf
from typing import final

import attrs

SPACING = 0.2  # two that were sent 0.25 s apart may be seen closer to each other
LAST_SECOND = 1.0

# Of `grace`; a cleanup is cut a little before nobody waits for its task any more.
_DRAIN, _STEPS, _TASKS, _CLOSED = 0.6, 0.85, 0.9, 0.97

_AFTER_CANCEL = 0.02  # seconds; else which of the two came first would be chance


class Phase(IntEnum):
    """How far a shutdown has come."""

    RUN = 0
    DRAIN = 1  # who waits for the shutdown winds up by itself
    CANCEL = 2  # main is cancelled
    HARD = 3  # the process ends


class Share(IntEnum):
    """What may still be waited for."""

    ANYTHING = 0
    TEARDOWN = 1  # no longer for tasks
    NOTHING = 2


@attrs.define
@final
class Shutdown:
    """One shutdown, and the teardown that follows a main that ends by itself.

    All times are absolute, in seconds on one monotonic clock.

    Attributes:
        grace: The seconds that everything together may take; infinity for no limit.
        phase: What to do now.
        share: What may still be waited for, in phase CANCEL and in the teardown.
        signum: The first signal that counted, if any.
        requested: Whether a request began the shutdown.
        reason: Its reason.
        ends_at: When the budget is used up.
    """

    grace: float
    phase: Phase = attrs.field(default=Phase.RUN, init=False)
    share: Share = attrs.field(default=Share.ANYTHING, init=False)
    signum: int | None = attrs.field(default=None, init=False)
    requested: bool = attrs.field(default=False, init=False)
    reason: str | None = attrs.field(default=None, init=False)
    began_at: float = attrs.field(default=inf, init=False)
    drain_until: float = attrs.field(default=inf, init=False)
    steps_until: float = attrs.field(default=inf, init=False)
    tasks_until: float = attrs.field(default=inf, init=False)
    closed_until: float = attrs.field(default=inf, init=False)
    ends_at: float = attrs.field(default=inf, init=False)
    _main_ended: bool = attrs.field(default=False, init=False)
    _counted_at: float = attrs.field(default=-inf, init=False)
    _hurried: bool = attrs.field(default=False, init=False)
    _drained: bool = attrs.field(default=False, init=False)

    @property
    def begun(self) -> bool:
        """Whether somebody asked for the end."""
        return self.phase > Phase.RUN

    @property
    def hurries(self) -> bool:
        """Whether what winds up has had its time, or a second signal wants it over."""
        return self._hurried or (self._drained and self.phase > Phase.DRAIN)

    @property
    def status(self) -> int:
        """The exit status of a process that has to be killed."""
        return 1 if self.signum is None else 128 + self.signum

    def signal(self, signum: int, now: float, *, subscribed: bool) -> None:
        """Take a signal: one phase on, or the last second.

        Args:
            signum: Its number.
            now: When it came.
            subscribed: Whether anybody would notice phase DRAIN.
        """
        if now - self._counted_at < SPACING:
            return  # 3
        self._counted_at = now
        if self.signum is None:
            self.signum = signum
        if self.phase is Phase.RUN:
            self._begin(now, subscribed=subscribed)
        elif self.phase is Phase.DRAIN:
            self._enter(Phase.CANCEL)
        elif not self._hurried:
            self._hurried = True
            self._set_ends(now, LAST_SECOND)
        else:
            self._set_ends(now, 0.0)
            self._enter(Phase.HARD)

    def request(self, reason: str | None, now: float, *, subscribed: bool) -> None:
        """Begin, unless it has begun."""
        if self.phase is Phase.RUN:
            self.requested, self.reason = True, reason
            self._begin(now, subscribed=subscribed)

    def interrupt(self, now: float) -> None:
        """Cancel at once: a KeyboardInterrupt or SystemExit came out of the loop."""
        if self.phase is Phase.RUN:
            self._begin(now, subscribed=False)
        elif self.phase is Phase.DRAIN:
            self._enter(Phase.CANCEL)

    def main_ended(self, now: float) -> None:
        """Begin the teardown; without a shutdown it has a budget of its own."""
        self._main_ended = True
        if self.phase is Phase.RUN:
            self._set_ends(now, self.grace)
        elif self.phase is Phase.DRAIN:
            self._enter(Phase.CANCEL)

    def tick(self, now: float) -> None:
        """Let time pass."""
        if self.phase is Phase.DRAIN and now >= self.drain_until:
            self._enter(Phase.CANCEL)
        if self.phase is Phase.CANCEL or self._main_ended:
            if now >= self.closed_until:
                self.share = Share.NOTHING
            elif now >= self.tasks_until:
                self.share = max(self.share, Share.TEARDOWN)  # 1
        if self.begun and now >= self.ends_at:
            self._enter(Phase.HARD)  # 4

    @property
    def next_tick(self) -> float:
        """When time alone changes something; infinity for never."""
        if self.phase is Phase.HARD:
            return inf
        if self.phase is Phase.DRAIN:
            return self.drain_until
        if self.share is Share.ANYTHING:
            return self.tasks_until
        if self.share is Share.TEARDOWN:
            return self.closed_until
        return self.ends_at if self.begun else inf

    def left(self, now: float) -> float:
        """The seconds that one step of a cleanup may take; infinity without a shutdown.

        All that is left of the share for that; of what comes after it half, so that
        every further step gets some.
        """
        if not self.begun:
            return inf
        if self.phase is Phase.DRAIN:  # main is cancelled before a step is cut
            until = min(self.drain_until + _AFTER_CANCEL, self.ends_at)
            return max(until - now, 0.0)
        until = self.steps_until
        if now < until:
            return until - now
        until = self.tasks_until if now < self.tasks_until else self.ends_at
        return max(until - now, 0.0) / 2

    def _begin(self, now: float, *, subscribed: bool) -> None:
        self.began_at = now
        self._set_ends(now, self.grace)
        self._drained = subscribed and not self._main_ended
        self._enter(Phase.DRAIN if self._drained else Phase.CANCEL)

    def _set_ends(self, now: float, rest: float) -> None:
        self.drain_until = min(self.drain_until, now + _DRAIN * rest)
        self.steps_until = min(self.steps_until, now + _STEPS * rest)
        self.tasks_until = min(self.tasks_until, now + _TASKS * rest)
        self.closed_until = min(self.closed_until, now + _CLOSED * rest)
        self.ends_at = min(self.ends_at, now + rest)  # 2

    def _enter(self, phase: Phase) -> None:
        self.phase = max(self.phase, phase)  # 1
