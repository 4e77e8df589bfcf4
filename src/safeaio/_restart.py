"""Who is restarted, after how long, and when to give up: pure, times are numbers."""

# Invariants; the tests name them.
#
# 1. Only time spent ready makes a child healthy again: neither a successful start, which
#    resets the count of a child that crashes right after it for ever, nor time spent
#    waiting for a restart, by which a slow backoff would outlive any limit.
# 2. Every failure counts, also that of a later start. A return counts where it is followed
#    by a restart.
# 3. Every delay lies between `(1 - jitter)` times its longest and its longest.

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import TypeVar, final

import attrs

from ._ending import How
from ._service import MAX_RESTARTS, Backoff, Intensity, RestartPolicy, Service, Strategy

T = TypeVar("T")


class Then(Enum):
    """What follows."""

    RESTART = auto()
    FINISH = auto()
    FAIL = auto()  # nobody else is disturbed
    GIVE_UP = auto()


_THEN: dict[tuple[RestartPolicy, How], Then] = {
    ("on-failure", How.RETURNED): Then.FINISH,
    ("on-failure", How.FAILED): Then.RESTART,
    ("on-failure", How.REFUSED): Then.GIVE_UP,
    ("always", How.RETURNED): Then.RESTART,
    ("always", How.FAILED): Then.RESTART,
    ("always", How.REFUSED): Then.RESTART,
    ("never", How.RETURNED): Then.FINISH,
    ("never", How.FAILED): Then.FAIL,
    ("never", How.REFUSED): Then.FAIL,
}


def what_follows(service: Service, how: How) -> Then:
    """Tell what follows a life that ended of itself, if the restarts allow it."""
    then = _THEN[service.restart, how]
    return Then.GIVE_UP if then is Then.FAIL and service.essential else then


@attrs.define(eq=False, repr=False)
@final
class Restarts:
    """One child's restarts so far.

    Attributes:
        total: How many there were.
        streak: How many in a row.
        delay: Seconds to wait before the last one.
    """

    service: Service
    total: int = attrs.field(default=0, init=False)
    streak: int = attrs.field(default=0, init=False)
    delay: float = attrs.field(default=0.0, init=False)

    def lived(self, uptime: float) -> None:
        """Begin anew after a life that was ready for long enough.

        Args:
            uptime: For how many seconds it was.
        """
        if uptime >= self.service.healthy_after:
            self.streak = 0  # 1

    def again(self, uptime: float, chance: float) -> bool:
        """Count one more, unless that is one too many in a row.

        Args:
            uptime: For how many seconds the life that ended was ready.
            chance: How much of the backoff's jitter to apply, between 0 and 1.
        """
        service = self.service
        self.lived(uptime)
        most = MAX_RESTARTS if service.max_restarts is None else service.max_restarts
        if self.streak >= most:
            return False
        self.streak += 1  # 2
        self.total += 1
        self.delay = service.backoff.delay(self.streak, chance)  # 3
        return True

    def take_back(self) -> None:
        """Do not count the last one: there was none after all."""
        self.streak -= 1
        self.total -= 1


@attrs.define(eq=False, repr=False)
@final
class Window:
    """The restarts of a whole supervisor that still count."""

    intensity: Intensity
    _times: deque[float] = attrs.field(factory=lambda: deque(), init=False)

    def exceeded(self, now: float) -> bool:
        """Count a restart; tell whether that is one too many."""
        times = self._times
        times.append(now)
        while times[0] < now - self.intensity.period:
            times.popleft()
        return len(times) > self.intensity.restarts


def affected(strategy: Strategy, children: Sequence[T], failed: T) -> Sequence[T]:
    """Return who is restarted, in order, when one of them failed."""
    if strategy == "one_for_one":
        return [failed]
    if strategy == "one_for_all":
        return children
    return children[children.index(failed) :]


def can_exceed(intensity: Intensity, services: Sequence[Service]) -> bool:
    """Tell whether services that crash at once, always, ever exceed an intensity."""
    restarted = [service for service in services if service.restart != "never"]
    return not restarted or intensity.restarts < sum(
        _restarts_within(intensity, service.backoff) for service in restarted
    )


def _restarts_within(intensity: Intensity, backoff: Backoff) -> int:
    """Count the restarts in one period, as far as that matters."""
    at, count = 0.0, 0
    while at <= intensity.period and count <= intensity.restarts:
        count += 1
        delay = backoff.delay(count, 1.0)
        if delay == backoff.delay(count + 1, 1.0):  # and so all that follow
            rest = intensity.period - at
            return count + int(rest // delay) if delay else intensity.restarts + 1
        at += delay
    return count
