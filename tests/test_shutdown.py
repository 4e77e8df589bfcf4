"""The pure core of a shutdown: plain examples, and a machine that tries every order of events."""

from copy import copy
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from safeaio._shutdown import SPACING, Phase, Share, Shutdown

INT, TERM = 2, 15


def begun(
    grace: float = 10.0, *, subscribed: bool = False, signum: int = TERM
) -> Shutdown:
    """A shutdown that a signal began at 100."""
    shutdown = Shutdown(grace)
    shutdown.signal(signum, 100.0, subscribed=subscribed)
    return shutdown


def at(shutdown: Shutdown, now: float) -> tuple[Phase, Share]:
    shutdown.tick(now)
    return shutdown.phase, shutdown.share


# What begins it


def test_before_anything_happens() -> None:
    """Time alone does nothing."""
    shutdown = Shutdown(10.0)
    assert at(shutdown, 1e9) == (Phase.RUN, Share.ANYTHING)
    assert not shutdown.begun
    assert shutdown.next_tick == inf
    assert shutdown.left(0.0) == inf


@pytest.mark.parametrize(
    ("subscribed", "phase"), [(True, Phase.DRAIN), (False, Phase.CANCEL)]
)
def test_first_signal(subscribed: bool, phase: Phase) -> None:
    """It drains if anybody would notice, and cancels otherwise."""
    shutdown = begun(subscribed=subscribed)
    assert shutdown.begun
    assert shutdown.phase is phase
    assert shutdown.signum == TERM
    assert shutdown.began_at == 100.0
    assert shutdown.ends_at == 110.0


@pytest.mark.parametrize(
    ("subscribed", "phase"), [(True, Phase.DRAIN), (False, Phase.CANCEL)]
)
def test_first_request(subscribed: bool, phase: Phase) -> None:
    """It begins as a signal does; of several the first gives its reason."""
    shutdown = Shutdown(10.0)
    shutdown.request("enough", 100.0, subscribed=subscribed)
    shutdown.request("really", 101.0, subscribed=False)
    assert shutdown.phase is phase
    assert shutdown.reason == "enough"
    assert shutdown.signum is None
    assert shutdown.ends_at == 110.0


def test_request_after_a_signal() -> None:
    """It comes too late to say why."""
    shutdown = begun(subscribed=True)
    shutdown.request("enough", 101.0, subscribed=True)
    assert shutdown.phase is Phase.DRAIN
    assert shutdown.reason is None


def test_interrupt() -> None:
    """It cancels at once, also out of a drain; later it changes nothing."""
    fresh, draining, cancelling = (
        Shutdown(10.0),
        begun(subscribed=True),
        begun(subscribed=False),
    )
    for shutdown in (fresh, draining, cancelling):
        shutdown.interrupt(102.0)
        assert shutdown.phase is Phase.CANCEL
    assert fresh.began_at == 102.0
    assert cancelling == begun(subscribed=False)


# What time does


def test_shares_of_the_grace() -> None:
    """Drain until 60 %, tasks until 90 %, teardown until 97 %, then the end."""
    shutdown = begun(subscribed=True)
    expected = [
        (105.9, Phase.DRAIN, Share.ANYTHING),
        (106.0, Phase.CANCEL, Share.ANYTHING),
        (108.9, Phase.CANCEL, Share.ANYTHING),
        (109.0, Phase.CANCEL, Share.TEARDOWN),
        (109.6, Phase.CANCEL, Share.TEARDOWN),
        (109.7, Phase.CANCEL, Share.NOTHING),
        (109.9, Phase.CANCEL, Share.NOTHING),
        (110.0, Phase.HARD, Share.NOTHING),
    ]
    seen = [(now, *at(shutdown, now)) for now, _, _ in expected]
    assert seen == expected


def test_late_tick_makes_up_for_all_before() -> None:
    """A thread that slept too long goes through everything at once."""
    assert at(begun(subscribed=True), 200.0) == (Phase.HARD, Share.NOTHING)


def test_time_that_was_read_before() -> None:
    """Two threads may tell the time in the wrong order."""
    shutdown = begun()
    shutdown.tick(109.8)
    assert at(shutdown, 109.5) == (Phase.CANCEL, Share.NOTHING)


def test_ticks_are_named_in_advance() -> None:
    """Each time that something changes is known before."""
    shutdown = begun(subscribed=True)
    ticks: list[float] = []
    while shutdown.next_tick < inf:
        ticks.append(shutdown.next_tick)
        shutdown.tick(shutdown.next_tick)
    assert ticks == pytest.approx([106.0, 109.0, 109.7, 110.0])
    assert shutdown.phase is Phase.HARD


def test_grace_of_zero() -> None:
    """Whatever has not ended when the shutdown begins is killed."""
    shutdown = begun(0.0, subscribed=True)
    assert shutdown.phase is Phase.DRAIN
    assert at(shutdown, 100.0) == (Phase.HARD, Share.NOTHING)


def test_no_grace_limit() -> None:
    """Without one nothing ends by time alone, only by further signals."""
    shutdown = begun(inf, subscribed=True)
    assert at(shutdown, 1e9) == (Phase.DRAIN, Share.ANYTHING)
    assert shutdown.next_tick == inf
    shutdown.signal(TERM, 1e9, subscribed=True)
    assert at(shutdown, 2e9) == (Phase.CANCEL, Share.ANYTHING)
    shutdown.signal(TERM, 2e9, subscribed=True)
    assert shutdown.ends_at == 2e9 + 1.0


# Further signals


def test_each_signal_is_one_phase_on() -> None:
    """The one that finds main cancelled cuts what is left to a second; the next kills."""
    shutdown = begun(subscribed=True, signum=INT)
    shutdown.signal(TERM, 101.0, subscribed=True)
    assert shutdown.phase is Phase.CANCEL
    assert shutdown.ends_at == 110.0
    shutdown.signal(TERM, 102.0, subscribed=True)
    assert at(shutdown, 102.0) == (Phase.CANCEL, Share.ANYTHING)
    assert shutdown.ends_at == 103.0
    assert shutdown.next_tick == pytest.approx(102.9)
    shutdown.signal(TERM, 102.5, subscribed=True)
    assert at(shutdown, 102.5) == (Phase.HARD, Share.ANYTHING)
    assert shutdown.signum == INT


def test_last_second_is_never_longer_than_what_was_left() -> None:
    """A signal only ever shortens."""
    shutdown = begun(1.0)
    shutdown.signal(TERM, 100.5, subscribed=False)
    assert shutdown.ends_at == 101.0
    late = begun(1.0)
    late.signal(TERM, 105.0, subscribed=False)
    assert late.ends_at == 101.0


@pytest.mark.parametrize(
    ("apart", "counts"), [(0.0, False), (SPACING / 2, False), (SPACING, True)]
)
def test_two_senders_of_one_signal(apart: float, counts: bool) -> None:
    """A second one right after the first is the same user's doing."""
    shutdown = begun(subscribed=True)
    before = copy(shutdown)
    shutdown.signal(INT, 100.0 + apart, subscribed=True)
    assert (shutdown != before) is counts


def test_spacing_is_from_the_last_that_counted() -> None:
    """A steady drumbeat of signals is not one signal for ever."""
    shutdown = begun(subscribed=True)
    shutdown.signal(TERM, 100.2, subscribed=True)
    shutdown.signal(TERM, 100.4, subscribed=True)
    assert shutdown.phase is Phase.CANCEL


def test_signal_after_a_request() -> None:
    """It goes on from where the request came, and gives the exit status."""
    shutdown = Shutdown(10.0)
    shutdown.request("enough", 100.0, subscribed=True)
    assert shutdown.status == 1
    shutdown.signal(TERM, 100.1, subscribed=True)
    assert shutdown.phase is Phase.CANCEL
    assert shutdown.status == 128 + TERM
    assert shutdown.ends_at == 110.0


# Main's end


def test_teardown_without_shutdown() -> None:
    """It has the grace for itself, in shares, and nobody is killed."""
    shutdown = Shutdown(10.0)
    shutdown.main_ended(100.0)
    assert shutdown.next_tick == 109.0
    assert at(shutdown, 108.0) == (Phase.RUN, Share.ANYTHING)
    assert at(shutdown, 109.0) == (Phase.RUN, Share.TEARDOWN)
    assert shutdown.next_tick == 109.7
    assert at(shutdown, 109.8) == (Phase.RUN, Share.NOTHING)
    assert shutdown.next_tick == inf
    assert at(shutdown, 1e9) == (Phase.RUN, Share.NOTHING)


def test_signal_during_the_teardown() -> None:
    """There is nothing to drain any more; the budget that runs is not made longer."""
    shutdown = Shutdown(10.0)
    shutdown.main_ended(100.0)
    shutdown.signal(TERM, 104.0, subscribed=True)
    assert shutdown.phase is Phase.CANCEL
    assert shutdown.ends_at == 110.0
    assert at(shutdown, 110.0) == (Phase.HARD, Share.NOTHING)


def test_main_that_ends_while_it_winds_up() -> None:
    """The drain is over, and the same budget goes on."""
    shutdown = begun(subscribed=True)
    shutdown.main_ended(103.0)
    assert shutdown.phase is Phase.CANCEL
    assert shutdown.ends_at == 110.0
    assert shutdown.next_tick == 109.0


# How long a step may take


def test_left() -> None:
    """Steps get what is left of their share, and each one after that half of the next."""
    shutdown = begun()
    assert shutdown.left(100.0) == pytest.approx(8.5)
    assert shutdown.left(108.0) == pytest.approx(0.5)
    assert shutdown.left(108.6) == pytest.approx(0.2)
    assert shutdown.left(109.0) == pytest.approx(0.5)
    assert shutdown.left(109.8) == pytest.approx(0.1)
    assert shutdown.left(111.0) == 0.0
    assert begun(inf).left(1e9) == inf


def test_left_of_the_drain() -> None:
    """Who winds up has until main has been cancelled."""
    assert begun(subscribed=True).left(101.0) == pytest.approx(5.02)
    assert begun(0.01, subscribed=True).left(100.0) == pytest.approx(0.01)


def test_left_without_shutdown() -> None:
    """The teardown of a main that ended by itself does not hurry anybody's cleanup."""
    shutdown = Shutdown(10.0)
    shutdown.main_ended(100.0)
    assert shutdown.left(105.0) == inf


# Any sequence of all that


seconds = st.one_of(
    st.just(0.0),
    st.floats(0.0, 0.3),
    st.floats(0.0, 20.0),
)
graces = st.one_of(st.just(0.0), st.just(inf), st.just(5e-324), st.floats(0.0, 100.0))


class Sequence(RuleBasedStateMachine):
    """Signals, requests, interrupts, ends and ticks, in any order, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.shutdown = Shutdown(0.0)
        self.before = copy(self.shutdown)
        self.now = 0.0
        self.counted: list[tuple[int, float]] = []
        self.reasons: list[str | None] = []
        self.asked_at = inf

    @initialize(grace=graces, now=st.floats(0.0, 1e7))
    def begin(self, grace: float, now: float) -> None:
        self.shutdown = Shutdown(grace)
        self.before = copy(self.shutdown)
        self.now = now

    def later(self, after: float) -> float:
        self.before = copy(self.shutdown)
        self.now += after
        return self.now

    def asked(self) -> None:
        self.asked_at = min(self.asked_at, self.now)

    @rule(
        signum=st.sampled_from([1, INT, TERM]), after=seconds, subscribed=st.booleans()
    )
    def signal(self, signum: int, after: float, subscribed: bool) -> None:
        now = self.later(after)
        self.shutdown.signal(signum, now, subscribed=subscribed)
        self.asked()
        if self.counted and now - self.counted[-1][1] < SPACING:
            assert self.shutdown == self.before
        else:
            self.counted.append((signum, now))
            self.moved_on_by_a_signal()

    def moved_on_by_a_signal(self) -> None:
        before, after = self.before.phase, self.shutdown.phase
        if before is Phase.RUN:
            assert after in (Phase.DRAIN, Phase.CANCEL)
        elif before is Phase.DRAIN:
            assert after is Phase.CANCEL
        elif before is Phase.CANCEL and after is before:
            assert self.shutdown.ends_at <= max(self.now + 1.0, self.before.ends_at)
        else:
            assert after is Phase.HARD

    @precondition(lambda self: self.shutdown.phase is Phase.CANCEL)
    @rule(after=st.floats(SPACING * 1.01, 0.5))
    def two_signals_more(self, after: float) -> None:
        """They kill, whatever was before."""
        self.signal(TERM, after, True)
        self.all_held()
        self.signal(TERM, after, True)
        assert self.shutdown.phase is Phase.HARD

    @rule(
        reason=st.none() | st.text(max_size=3), after=seconds, subscribed=st.booleans()
    )
    def request(self, reason: str | None, after: float, subscribed: bool) -> None:
        now = self.later(after)
        self.shutdown.request(reason, now, subscribed=subscribed)
        self.asked()
        if self.before.begun:
            assert self.shutdown == self.before
        else:
            self.reasons.append(reason)

    @rule(after=seconds)
    def interrupt(self, after: float) -> None:
        self.shutdown.interrupt(self.later(after))
        self.asked()
        assert self.shutdown.phase >= Phase.CANCEL

    @rule(after=seconds)
    def main_ended(self, after: float) -> None:
        self.shutdown.main_ended(self.later(after))
        assert self.shutdown.phase is not Phase.DRAIN

    @rule(after=seconds)
    def tick(self, after: float) -> None:
        now = self.later(after)
        self.shutdown.tick(now)
        if self.shutdown.begun and now >= self.shutdown.ends_at:
            assert self.shutdown.phase is Phase.HARD

    @precondition(lambda self: self.now <= self.shutdown.next_tick < inf)
    @rule()
    def tick_when_due(self) -> None:
        self.later(self.shutdown.next_tick - self.now)
        self.now = max(self.now, self.shutdown.next_tick)
        self.shutdown.tick(self.now)
        self.progress()

    @precondition(lambda self: self.shutdown.next_tick < self.now)
    @rule()
    def tick_when_overdue(self) -> None:
        """A tick that is due changes something: whoever waits for it never spins."""
        self.later(0.0)
        self.shutdown.tick(self.now)
        self.progress()

    def progress(self) -> None:
        assert (self.shutdown.phase, self.shutdown.share) != (
            self.before.phase,
            self.before.share,
        )
        assert self.shutdown.next_tick > self.now

    @rule()
    def left(self) -> None:
        """What a step may take fits into what there is."""
        left = self.shutdown.left(self.now)
        assert left >= 0.0
        if self.shutdown.begun and left < inf:
            assert self.now + left <= max(self.shutdown.ends_at, self.now) + 1e-6

    @invariant()
    def all_held(self) -> None:
        self.goes_no_way_back()
        self.stays_in_the_budget()
        self.kills_only_in_a_shutdown()
        self.has_one_result()
        self.is_never_without_a_tick()

    def goes_no_way_back(self) -> None:
        """Neither phase nor share, nor any of the times, which only shrink."""
        now, before = self.shutdown, self.before
        assert now.phase >= before.phase
        assert now.share >= before.share
        assert now.tasks_until <= before.tasks_until
        assert now.closed_until <= before.closed_until
        assert now.ends_at <= before.ends_at

    def stays_in_the_budget(self) -> None:
        shutdown = self.shutdown
        assert shutdown.began_at == self.asked_at
        if shutdown.begun:
            assert shutdown.ends_at <= shutdown.began_at + shutdown.grace
        slack = 1e-6
        assert shutdown.drain_until <= shutdown.tasks_until + slack
        assert shutdown.steps_until <= shutdown.tasks_until + slack
        assert shutdown.tasks_until <= shutdown.closed_until + slack
        assert shutdown.closed_until <= shutdown.ends_at + slack

    def kills_only_in_a_shutdown(self) -> None:
        assert self.shutdown.begun == (self.asked_at < inf)
        if self.shutdown.phase is Phase.HARD and self.before.phase < Phase.HARD:
            in_time = self.now >= self.shutdown.ends_at
            assert in_time or len(self.counted) > 1

    def has_one_result(self) -> None:
        """The first signal and the first request give it, and nothing after them."""
        shutdown = self.shutdown
        assert shutdown.signum == (self.counted[0][0] if self.counted else None)
        assert shutdown.reason == (self.reasons[0] if self.reasons else None)
        assert shutdown.status == (128 + self.counted[0][0] if self.counted else 1)

    def is_never_without_a_tick(self) -> None:
        shutdown = self.shutdown
        if shutdown.begun and shutdown.phase < Phase.HARD and shutdown.grace < inf:
            assert shutdown.next_tick <= shutdown.ends_at + 1e-6


TestSequence = Sequence.TestCase
TestSequence.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, derandomize=True
)
