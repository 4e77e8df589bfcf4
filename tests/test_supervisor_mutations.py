"""The model test is strong: whatever is broken in `supervise` on purpose, it tells.

One small function is replaced, and the very test that compares `supervise` with its model
has to fail. What chance finds too seldom is written down in supervisor_plans.py.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import Phase

from safeaio import Backoff, Health, Snapshot, SupervisionError, _supervision
from safeaio._blame import Blame
from safeaio._child import Child
from safeaio._ending import How, ending
from safeaio._events import ChildFinished
from safeaio._family import Family
from safeaio._restart import Restarts, Window
from safeaio._state import State
from safeaio._supervision import Supervision
from safeaio._turnover import Turnover
from tests.test_supervisor_model import against_the_model

Patch = pytest.MonkeyPatch

MUTATIONS: dict[str, Callable[[Patch], None]] = {}


def mutation(func: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTATIONS[func.__name__] = func
    return func


def after(patch: Patch, owner: type, name: str, more: Callable[..., None]) -> None:
    """Have a method do something more at its end."""
    method = getattr(owner, name)

    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        more(self)
        return result

    patch.setattr(owner, name, wrapper)


def before(patch: Patch, owner: type, name: str, more: Callable[..., None]) -> None:
    """Have a method do something more at its beginning."""
    method = getattr(owner, name)

    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        more(self)
        return method(self, *args, **options)

    patch.setattr(owner, name, wrapper)


# Those that the research names


@mutation
def the_streak_is_reset_by_a_successful_start(patch: Patch) -> None:
    def reset(child: Child) -> None:
        child.restarts.streak = 0

    after(patch, Child, "become_ready", reset)


@mutation
def children_are_stopped_in_forward_order(patch: Patch) -> None:
    after(patch, Turnover, "__init__", lambda turn: turn.stops.reverse())


@mutation
def jitter_is_added_after_the_cap(patch: Patch) -> None:
    def delay(self: Backoff, restart: int, chance: float = 0.0) -> float:
        longest = min(self.cap, self.base * self.factor ** (restart - 1))
        return longest * (1 + self.jitter * chance)

    patch.setattr(Backoff, "delay", delay)


@mutation
def jitter_is_cut_off_by_the_cap(patch: Patch) -> None:
    def delay(self: Backoff, restart: int, chance: float = 0.0) -> float:
        exponential = self.base * self.factor ** (restart - 1)
        return min(self.cap, exponential * (1 + self.jitter * chance))

    patch.setattr(Backoff, "delay", delay)


@mutation
def a_stray_cancel_is_taken_for_a_stop(patch: Patch) -> None:
    def ending_of(child: str, error: BaseException | None, *, stopped: bool) -> Any:
        stopped = stopped or isinstance(error, asyncio.CancelledError)
        return ending(child, error, stopped=stopped)

    patch.setattr("safeaio._child.ending", ending_of)


@mutation
def a_child_is_restarted_while_all_stop(patch: Patch) -> None:
    def ended(self: Family, child: Child, error: BaseException | None) -> None:
        how = How.RETURNED if error is None else How.FAILED
        self._ended_by_itself(child, how, error)

    patch.setattr(Family, "_ended_during_stop", ended)


# Others


@mutation
def the_streak_is_never_reset(patch: Patch) -> None:
    patch.setattr(Child, "uptime", property(lambda self: 0.0))


@mutation
def time_until_the_restart_counts_as_healthy(patch: Patch) -> None:
    def uptime(self: Child) -> float:
        return self.overseer.loop.time()

    patch.setattr(Child, "uptime", property(uptime))


@mutation
def one_restart_too_many(patch: Patch) -> None:
    method = Restarts.again

    def again(self: Restarts, uptime: float, chance: float) -> bool:
        return method(self, uptime, chance) or self.streak < 3

    patch.setattr(Restarts, "again", again)


@mutation
def the_window_leaves_out_the_last_restart(patch: Patch) -> None:
    def exceeded(self: Window, now: float) -> bool:
        self._times.append(now)
        return len(self._times) > self.intensity.restarts + 1

    patch.setattr(Window, "exceeded", exceeded)


@mutation
def the_window_never_slides(patch: Patch) -> None:
    def exceeded(self: Window, now: float) -> bool:
        self._times.append(now)
        return len(self._times) > self.intensity.restarts

    patch.setattr(Window, "exceeded", exceeded)


@mutation
def the_order_is_kept_in_spite_of_a_stuck_child(patch: Patch) -> None:
    patch.setattr(Family, "stuck", lambda self, child: None)


@mutation
def total_stop_timeout_is_ignored(patch: Patch) -> None:
    patch.setattr(Turnover, "limit", lambda self, seconds: None)


@mutation
def a_group_does_not_wait_for_its_backoff(patch: Patch) -> None:
    patch.setattr(Turnover, "_pauses", lambda self: False)


@mutation
def rest_for_one_restarts_all(patch: Patch) -> None:
    patch.setattr(
        "safeaio._family.affected", lambda strategy, children, failed: children
    )


@mutation
def the_next_starts_before_the_last_is_ready(patch: Patch) -> None:
    patch.setattr("safeaio._turnover._PENDING", (State.STOPPING,))


@mutation
def errors_while_stopping_are_lost(patch: Patch) -> None:
    after(patch, Family, "_stopped", lambda family: family.blame.errors.clear())


@mutation
def a_stopped_child_leaves_its_timer_behind(patch: Patch) -> None:
    method = Child.enter

    def enter(self: Child, state: State) -> None:
        if self.state is State.BACKOFF:
            self._timer = None
        method(self, state)

    patch.setattr(Child, "enter", enter)


@mutation
def an_essential_child_may_finish(patch: Patch) -> None:
    def finish(self: Family, child: Child) -> None:

        self.herald.tell(ChildFinished, child)
        self._settle(child, State.FINISHED)

    patch.setattr(Family, "_finish", finish)


@mutation
def the_body_is_not_told_of_the_end(patch: Patch) -> None:
    patch.setattr(Supervision, "_cancel_body", lambda self: None)


@mutation
def a_cancel_of_the_parent_is_lost(patch: Patch) -> None:
    method = Supervision._conclude

    def conclude(self: Any, cancel: Any, *args: Any, **options: Any) -> None:
        method(self, None, *args, **options)

    patch.setattr(Supervision, "_conclude", conclude)


# Those that show only to who looks


@mutation
def a_stopped_child_is_revived(patch: Patch) -> None:
    method = Family._restart_group

    def restart_group(self: Family, failed: Child, not_before: float) -> None:
        for child in self.members.values():
            child.wanted = True
        method(self, failed, not_before)

    patch.setattr(Family, "_restart_group", restart_group)


@mutation
def a_restarted_one_has_been_up_before(patch: Patch) -> None:
    method = Family.restart_one

    def restart_one(self: Family, child: Child) -> None:
        method(self, child)
        child.first = False

    patch.setattr(Family, "restart_one", restart_one)


def lying(patch: Patch, **lies: Any) -> None:
    """Have the snapshot of every child say something else."""
    method = _supervision._snapshot_of

    def snapshot_of(child: Child) -> Snapshot:
        return attrs.evolve(method(child), **lies)

    patch.setattr(_supervision, "_snapshot_of", snapshot_of)


LIES: dict[str, Any] = {
    "state": "ready",
    "restarts": 1,
    "streak": 0,
    "since": 0.0,
    "next_restart_in": 1.0,
    "last_error": None,
}
for field, lie in LIES.items():
    MUTATIONS[f"the_snapshot_lies_about_{field}"] = partial(lying, **{field: lie})


@mutation
def the_state_of_the_whole_is_old(patch: Patch) -> None:
    patch.setattr(Supervision, "_note_state", lambda self: None)


@mutation
def it_is_always_healthy(patch: Patch) -> None:
    patch.setattr(Supervision, "health", lambda self: Health(True, True))


@mutation
def the_error_names_nobody(patch: Patch) -> None:
    method = Blame.error

    def error(self: Blame) -> SupervisionError | None:
        result = method(self)
        if result is not None:
            result.service = None
        return result

    patch.setattr(Blame, "error", error)


@mutation
def the_history_has_only_the_last_one(patch: Patch) -> None:
    before(patch, Child, "remember", lambda child: setattr(child, "history", None))


@mutation
def the_history_is_short(patch: Patch) -> None:
    patch.setattr("safeaio._child._KEPT", 3)


PHASES = (Phase.explicit, Phase.generate)  # to shrink what it finds would take long


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_model_catches(name: str) -> None:
    """The very test of the model, with its own examples, fails under the mutation."""
    with Patch.context() as patch:
        MUTATIONS[name](patch)
        with pytest.raises(AssertionError):
            against_the_model(PHASES)()
