"""Who is restarted, after how long, and when the end has come: pure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeaio import Backoff, Intensity, Service
from safeaio._ending import How
from safeaio._restart import (
    Restarts,
    Then,
    Window,
    affected,
    can_exceed,
    what_follows,
)


async def poll() -> None: ...


@pytest.mark.parametrize(
    ("restart", "returned", "failed", "refused"),
    [
        ("on-failure", Then.FINISH, Then.RESTART, Then.GIVE_UP),
        ("always", Then.RESTART, Then.RESTART, Then.RESTART),
        ("never", Then.FINISH, Then.FAIL, Then.FAIL),
    ],
)
def test_policies(restart: Any, returned: Then, failed: Then, refused: Then) -> None:
    """What follows an end is the policy's matter."""
    service = Service(poll, restart=restart)
    assert what_follows(service, How.RETURNED) is returned
    assert what_follows(service, How.FAILED) is failed
    assert what_follows(service, How.REFUSED) is refused


def test_an_essential_service_that_fails_ends_all() -> None:
    """Also one that would never be restarted."""
    service = Service(poll, restart="never", essential=True)
    assert what_follows(service, How.FAILED) is Then.GIVE_UP
    assert what_follows(service, How.RETURNED) is Then.FINISH


def test_as_many_restarts_in_a_row_as_allowed() -> None:
    """The one after that is refused, and does not count."""
    restarts = Restarts(Service(poll, max_restarts=2, backoff=Backoff(base=1)))
    assert restarts.again(0, 0)
    assert restarts.again(29.9, 0)
    assert (restarts.streak, restarts.total, restarts.delay) == (2, 2, 2)
    assert not restarts.again(29.9, 0)
    assert restarts.total == 2


def test_five_restarts_by_default() -> None:
    """And none where none is allowed."""
    restarts = Restarts(Service(poll))
    assert [restarts.again(0, 0) for _ in range(6)] == [True] * 5 + [False]
    assert not Restarts(Service(poll, max_restarts=0)).again(0, 0)


lives = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=60)


@given(lives=lives, most=st.integers(0, 8), healthy_after=st.floats(0.1, 60))
def test_streak_is_reset_by_uptime_alone(
    lives: list[tuple[float, float]], most: int, healthy_after: float
) -> None:
    """Between two healthy lives there are no more restarts than allowed."""
    backoff = Backoff(base=1, cap=20, jitter=0.5)
    service = Service(
        poll, max_restarts=most, healthy_after=healthy_after, backoff=backoff
    )
    restarts = Restarts(service)
    streak = 0
    for uptime, chance in lives:
        if uptime >= healthy_after:
            streak = 0
        again = restarts.again(uptime, chance)
        assert again == (streak < most)
        if not again:
            return
        streak += 1
        assert restarts.streak == streak
        assert restarts.delay == backoff.delay(streak, chance)


@given(
    gaps=st.lists(st.integers(0, 20), max_size=50),
    most=st.integers(0, 5),
    period=st.integers(1, 30),
)
def test_intensity_counts_what_lies_within_the_period(
    gaps: list[int], most: int, period: int
) -> None:
    """More than that many restarts in any period, its ends included, are too many."""
    window = Window(Intensity(most, period))
    times: list[int] = []
    now = 0
    for gap in gaps:
        now += gap
        times.append(now)
        recent = [time for time in times if time >= now - period]
        assert window.exceeded(now) == (len(recent) > most)


def test_who_is_restarted() -> None:
    """The one, or all, or it and those that were started after it."""
    assert affected("one_for_one", "abcd", "b") == ["b"]
    assert affected("one_for_all", "abcd", "b") == "abcd"
    assert affected("rest_for_one", "abcd", "b") == "bcd"


def test_an_intensity_that_backoff_never_reaches() -> None:
    """Restarts so far apart that there are never too many in one period."""
    slow = Service(poll, backoff=Backoff(base=10, jitter=0.5))
    assert not can_exceed(Intensity(3, 20), [slow])
    assert can_exceed(Intensity(2, 20), [slow])
    assert can_exceed(Intensity(3, 20), [slow, slow])
    assert can_exceed(Intensity(3, 20), [])
    once = Service(poll, restart="never")
    assert can_exceed(Intensity(0, 1), [once])  # by others, which are started later
    assert not can_exceed(Intensity(3, 20), [slow, once])
    at_once = Service(poll, backoff=Backoff(base=0))
    assert can_exceed(Intensity(10**9, 1), [at_once])
    steady = Service(poll, backoff=Backoff(base=1, factor=1, jitter=0))
    assert can_exceed(Intensity(10**9, 10**9), [steady])
    assert not can_exceed(Intensity(10**9 + 1, 10**9), [steady])
