"""What `supervise` has to do, as a pure model: no I/O, no await, a clock of its own.

Written from the specification. Whatever happens in one moment happens in the order in
which it was asked for: there is one queue, as in any event loop. The ends of one turn are
told together; who waits for something is told of it one turn later.
"""

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import attrs

# What a test is to do: the plan


@attrs.frozen
class Kid:
    """A service: its options, and how its lives behave.

    `born` says what each life does first, `hangs` how many cancels it swallows, and `dies`
    what it does about the next one.
    """

    name: str
    reports: bool = False
    restart: str = "on-failure"
    essential: bool = False
    max_restarts: int | None = None
    healthy_after: float = 20.0
    base: float = 1.0
    cap: float = 3.0
    jitter: float = 0.0
    start_timeout: float | None = None
    stop_timeout: float | None = None
    born: tuple[str, ...] = ()
    hangs: int = 0
    dies: str = "obeys"


@attrs.frozen
class Step:
    """One thing to do to a kid or to the host; then so many turns, or seconds, pass."""

    what: str
    who: int = 0
    turns: int = 0
    seconds: float = 0.0


@attrs.frozen
class Plan:
    """The first kids, those that may be started later, and what happens to them all."""

    kids: tuple[Kid, ...]
    more: tuple[Kid, ...] = ()
    strategy: str = "one_for_one"
    intensity: tuple[int, float] | None = None
    total: float = 30.0
    awaited: bool = False
    steps: tuple[Step, ...] = ()

    def who(self, step: Step) -> Kid:
        """Return the kid of a step."""
        everybody = self.kids + self.more
        return everybody[step.who % len(everybody)]

    def all_steps(self) -> tuple[Step, ...]:
        """Return the steps, and those that see to an end of everything."""
        everybody = range(len(self.kids + self.more))
        return (
            *self.steps,
            Step("leave", seconds=100.0),
            Step("cancel", seconds=100.0),
            *(Step("return", who) for who in everybody),
            Step("nothing", seconds=100.0),
        )


LIFE = ("raise", "return", "started", "started, raise", "interrupt")
ENDED = ("stopped", "finished", "failed")


# What has to come out: the model


@attrs.define(eq=False)
class Child:
    """A kid in its supervisor. `mail` is what its life has yet to see, `result` its end.

    `late` says that it had ended before the stop began, though nobody had been told.
    """

    kid: Kid
    static: bool
    state: str = "waiting"
    life: int = 0
    live: bool = False
    mail: str | None = None
    begun: bool = False
    told: bool = False
    announced: bool = False
    cancels: int = 0
    result: str | None = None
    error: str | None = None
    doomed: bool = False
    late: bool = False
    asked: str = ""
    first: bool = True
    initial: bool = False
    wanted: bool = True
    ready_at: float = inf
    cancelled_at: float = 0.0
    streak: int = 0
    restarts: int = 0
    since: float = 0.0
    due_at: float = 0.0
    failures: list[tuple[str, float]] = attrs.field(factory=list)
    row: list[float] = attrs.field(factory=list)
    epoch: int = 0
    job: "Job | None" = None

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    @property
    def ended_itself(self) -> bool:
        """Whether it has, and nobody has been told."""
        return self.live and self.result is not None and self.state != "stopping"

    def enter(self, state: str, now: float) -> None:
        self.state, self.since = state, now
        self.epoch += 1


@attrs.define(eq=False)
class Job:
    """Ends in reverse order, a pause, starts in order."""

    stops: list[Child]
    starts: list[Child]
    done: Callable[[], object]
    not_before: float = -inf
    ordered: bool = True
    again: list[Child] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.again = list(self.starts)
        for child in (*self.stops, *self.starts):
            child.job = self

    def cancel(self) -> list[Child]:
        left = [*self.stops, *self.starts]
        for child in left:
            child.job = None
        self.stops, self.starts, self.again = [], [], []
        self.done = lambda: None
        return left


@attrs.define(eq=False)
class Ask:
    """A call of the supervisor, when it returned, and what came of it.

    The outcome is what it raised, "ok", or "raised" where any error will do, or "any".
    """

    what: str
    child: Child | None = None
    life: int = 0
    arrived: bool = False
    woken: bool = False
    at: float | None = None
    outcome: str = ""


@attrs.define(eq=False)
class Model:
    """Runs a plan. `jittered` says which delay chance has chosen, of a kid's longest."""

    plan: Plan
    eager: bool
    jittered: Callable[[str, float], float]
    now: float = 0.0
    events: list[tuple[Any, ...]] = attrs.field(factory=list)
    asks: list[Ask] = attrs.field(factory=list)
    members: dict[str, Child] = attrs.field(factory=dict)
    hurried: set[tuple[str, int]] = attrs.field(factory=set)
    gave_up: tuple[str, int, float, tuple[int, float] | None] | None = None
    stopping: bool = False
    over: bool = False
    broken: bool = False
    outcome: Any = None
    hidden: list[str] | None = None
    ended_at: float = 0.0
    cancels: int = 0
    since: float = 0.0
    seen: list[tuple[Any, ...]] = attrs.field(factory=list)
    _queue: deque[Callable[[], object]] = attrs.field(factory=deque)
    _timers: list[tuple[float, int, Callable[[], object]]] = attrs.field(factory=list)
    _serial: int = 0
    _ends: deque[Child] = attrs.field(factory=deque)
    _telling: bool = False
    _window: list[float] = attrs.field(factory=list)
    _leaves: list[str] = attrs.field(factory=list)
    culprit: Child | None = None
    _fatal: bool = False
    _first: Job | None = None
    _group: Job | None = None
    _final: Job | None = None
    _host: str = "entering"
    _mail: str | None = None
    _waits: bool = False
    _entered: bool = False
    _body: str | None = None
    _raised: bool = False
    _cancelled: bool = False
    _body_cancelled: bool = False

    # Its clock and its queue

    def run(self) -> None:
        """Do everything."""
        steps = iter(self.plan.all_steps())
        self._enter_host()
        self._after()
        self._drive(steps, 0)
        while self._queue or self._timers:
            if not self._queue:
                self.now, _, due = heapq.heappop(self._timers)
                self._queue.append(due)
            self._queue.popleft()()
            self._after()

    def _at(self, when: float, call: Callable[[], object]) -> None:
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, call))

    def _soon(self, call: Callable[..., object], *args: object) -> None:
        self._queue.append(partial(call, *args))

    def _drive(self, steps: Any, turns: int) -> None:
        while not turns:
            step = next(steps, None)
            if step is None:
                self._queue.clear()
                self._timers.clear()
                return
            self._do(step)
            if step.seconds:
                self._at(self.now + step.seconds, partial(self._look, steps))
                return
            turns = step.turns
        self._soon(self._drive, steps, turns - 1)

    def _look(self, steps: Any) -> None:
        """See what a snapshot has to show, once a step is over."""
        top = *self._health(), self._state(), self.now - self.since
        children: dict[str, tuple[Any, ...]] = {}
        for name, child in self.members.items():
            error = child.failures[-1][0] if child.failures else None
            due_in = child.due_at - self.now if child.state == "backoff" else None
            counts = child.restarts, child.streak
            since = self.now - child.since
            children[name] = child.state, *counts, since, due_in, error
        self.seen.append((top, children))
        self._drive(steps, 0)

    def _state(self) -> str:
        if self.stopping:
            return "stopped" if self.over else "stopping"
        return "ready" if self._first is None else "starting"

    def _health(self) -> tuple[bool, bool]:
        up = all(c.state in ("ready", "finished") for c in self.members.values())
        return not self.over and not self.broken, up and self._state() == "ready"

    def _do(self, step: Step) -> None:
        child = self.members.get(self.plan.who(step).name)
        if step.what in LIFE:
            if child is not None and child.live and not child.result:
                self._post(child, step.what)
        elif step.what == "stray":
            if child is not None and child.live and not child.result:
                self._post(child, "cancel")
        elif step.what in ("leave", "break"):
            self._body = self._body or step.what
            if self._host == "body":
                self._wake_host(step.what)
        elif step.what == "cancel" and self._host != "done":
            self.cancels += 1
            self._wake_host("cancel")
        elif step.what in ("start", "stop", "restart", "wait"):
            ask = Ask(step.what)
            self.asks.append(ask)
            self._soon(self._ask, ask, self.plan.who(step))

    # A life

    def _post(self, child: Child, mail: str) -> None:
        """Give a life something to do; a cancel goes before all else."""
        if child.mail is None:
            child.mail = mail
            self._soon(self._live_on, child, child.life)
        elif mail == "cancel":
            child.mail = mail

    def _live_on(self, child: Child, life: int) -> None:
        assert child.life == life
        mail, child.mail = child.mail, None
        if not child.begun:
            child.begun = True
            if mail == "cancel":  # before its first step
                self._end(child, "cancel")
                return
            born = child.kid.born
            mail = born[life - 1] if life <= len(born) else "wait"
        if mail == "cancel":
            child.cancels += 1
            if child.cancels > child.kid.hangs:
                ends = {"obeys": "cancel", "raises": "raise", "returns": "return"}
                self._end(child, ends[child.kid.dies])
            return
        assert mail is not None
        if mail.startswith("started") and child.kid.reports and not child.told:
            child.told = True
            if child.state == "starting":
                child.announced = True
                self._soon(self._told, child, life)
        if mail in ("raise", "return", "interrupt"):
            self._end(child, mail)
        elif mail == "started, raise":
            self._end(child, "raise")

    def _end(self, child: Child, result: str) -> None:
        child.result = result
        if child.asked != "inline":
            self._ends.append(child)
            if len(self._ends) == 1 and not self._telling:
                self._soon(self._tell_ends)

    def _tell_ends(self) -> None:
        self._telling = True
        for _ in range(len(self._ends)):
            self._notice(self._ends.popleft())
        self._telling = False
        if self._ends:
            self._soon(self._tell_ends)

    def _launch(self, child: Child, *, inline: bool = False) -> None:
        # Invariants: one live life at most; none after the stop began.
        assert not child.live
        assert not self.stopping
        child.life += 1
        child.live, child.begun, child.told, child.announced = True, False, False, False
        child.cancels, child.result, child.ready_at = 0, None, inf
        child.late = False
        child.asked = "inline" if inline and self.eager else ""
        self._emit("starting", child, child.life)
        if child.kid.reports:
            child.enter("starting", self.now)
        if self.eager:
            self._live_on(child, child.life)
        else:
            self._post(child, "born")
        ended, child.asked = child.asked == "inline" and child.result, ""
        if not child.kid.reports:
            self._become_ready(child)
        elif child.kid.start_timeout is not None:
            late = partial(self._late, child, child.epoch)
            self._at(self.now + child.kid.start_timeout, late)
        if ended:
            self._notice(child)

    def _told(self, child: Child, life: int) -> None:
        if child.life == life and child.state == "starting":
            self._become_ready(child)
            self._advance(child.job)

    def _late(self, child: Child, epoch: int) -> None:
        if child.epoch == epoch:
            self._cancel(child)
            child.doomed = child.state == "stopping"

    def _become_ready(self, child: Child) -> None:
        child.first = False
        child.enter("ready", self.now)
        child.ready_at = self.now
        self._emit("ready", child)

    def _emit(self, kind: str, child: Child, *rest: object) -> None:
        self.events.append((self.now, kind, child.kid.name, *rest))

    # The end of a life

    def _notice(self, child: Child) -> None:
        if child.announced and child.state == "starting":
            self._become_ready(child)
        stopped, result = child.state == "stopping", child.result
        merged = child.job is not None and child.job is self._group
        until = child.cancelled_at if stopped else self.now
        if until - child.ready_at >= child.kid.healthy_after:
            child.streak, child.row = 0, []  # only time spent ready does that
        child.live = False
        name = child.kid.name
        errors = {"raise": f"boom {name}{child.life}", "cancel": f"stray {name}"}
        error = errors.get(result or "")
        if stopped and result == "cancel":
            error = None
        doomed, child.doomed = child.doomed, False
        if result == "interrupt":
            self._fatal = self.broken = True
            child.failures.append(("KeyboardInterrupt", self.now))
            self._not_again(child, "KeyboardInterrupt")
            self._stop()
        elif stopped and doomed:
            self._failed(child, f"late {name}")
        elif stopped:
            self._stopped(child, error)
        elif child.asked and not (self.stopping or merged):
            self._ended_first(child, error)
        elif self.stopping or error is not None or child.kid.reports > child.announced:
            self._failed(child, error)
        else:
            self._returned(child)
        child.asked = ""
        self._advance(child.job)

    def _stopped(self, child: Child, error: str | None) -> None:
        self._emit("stopped", child, error)
        if error is not None and self.stopping:
            self._leaves.append(error)
        child.error = error or child.error
        if child.job is not None and child in child.job.again:
            child.enter("waiting", self.now)
        else:
            self._settle(child, "stopped")

    def _ended_first(self, child: Child, error: str | None) -> None:
        """It ended in the very moment in which somebody asked for that: nothing follows."""
        finished = error is None and child.kid.restart != "always"
        if finished and child.asked == "stop":
            self._returned(child)
            return
        child.error = error or child.error
        if finished:
            self._emit("finished", child)
        else:
            self._emit("gone", child, error)
            if error is not None:
                child.failures.append((error, self.now))
        if child.asked == "restart":
            child.enter("waiting", self.now)
        else:
            self._settle(child, "stopped")

    def _failed(self, child: Child, error: str | None) -> None:
        if self.stopping:
            if error is None:
                self._emit("finished", child)
                child.enter("finished", self.now)
                return
            if not child.late:
                self._leaves.append(error)
            child.failures.append((error, self.now))
            self._not_again(child, error)
            return
        child.error = error or f"unready {child.kid.name}"
        child.failures.append((child.error, self.now))
        if child.first and child.kid.reports:
            self._not_again(child, child.error)
            if child.static and child.initial:
                self._give_up(child, plain=True)
            return
        child.row.append(self.now)
        if child.kid.restart != "never":
            self._restart(child, child.error)
        elif child.kid.essential:
            self._not_again(child, child.error)
            self._give_up(child)
        else:
            self._not_again(child, child.error)
            if child.static:
                self._leaves.append(child.error)
            self._forget(child)

    def _returned(self, child: Child) -> None:
        if child.kid.restart == "always":
            child.error = f"returned {child.kid.name}"
            child.row.append(self.now)
            child.failures.append((child.error, self.now))
            self._restart(child, None)
            return
        self._emit("finished", child)
        self._settle(child, "finished")
        if child.kid.essential:
            self.broken = True
            self._stop()

    def _not_again(self, child: Child, error: str | None) -> None:
        self._emit("failed", child, error, 0, None)
        child.enter("failed", self.now)

    def _settle(self, child: Child, state: str) -> None:
        child.enter(state, self.now)
        child.initial = False
        if child.kid.restart == "never":
            self._forget(child)

    def _forget(self, child: Child) -> None:
        if self.members.get(child.kid.name) is child:
            del self.members[child.kid.name]

    # What follows

    def _restart(self, child: Child, error: str | None) -> None:
        kid, group = child.kid, self._group
        most = 5 if kid.max_restarts is None else kid.max_restarts
        merged = (
            group is not None
            and child.job is group
            and bool(group.stops or self.now < group.not_before)
        )
        if child.streak >= most:
            self._not_again(child, error)
            self._give_up(child)
            return
        if not merged and self._too_intense():
            self._not_again(child, error)
            self._give_up(child, together=self.plan.intensity)
            return
        child.streak += 1
        child.restarts += 1
        delay = min(kid.cap, kid.base * 2.0 ** (child.streak - 1))
        if kid.jitter:
            delay = self.jittered(kid.name, delay)
        self._emit("failed", child, error, child.streak, delay)
        if self.plan.strategy != "one_for_one":
            self._restart_group(child, self.now + delay)
            return
        child.enter("backoff", self.now)
        if delay:
            child.due_at = self.now + delay
            self._at(child.due_at, partial(self._due, child, child.epoch))
        else:
            self._launch(child)

    def _due(self, child: Child, epoch: int) -> None:
        if child.epoch == epoch:
            self._launch(child)

    def _too_intense(self) -> bool:
        """Count a restart; more than so many within the period, its ends included."""
        if self.plan.intensity is None:
            return False
        most, period = self.plan.intensity
        self._window.append(self.now)
        return sum(at >= self.now - period for at in self._window) > most

    def _restart_group(self, failed: Child, not_before: float) -> None:
        again = []
        if self._group is not None:
            not_before = max(not_before, self._group.not_before)
            again = self._group.cancel()
        if self._first is not None:
            again += self._first.cancel()
        everybody = list(self.members.values())
        if self.plan.strategy == "rest_for_one":
            again += everybody[everybody.index(failed) :]
        else:
            again = everybody
        failed.enter("waiting", self.now)
        stops = [
            child
            for child in everybody
            if child in again and child.active and child.wanted
        ]
        starts = [
            child
            for child in stops
            if child.kid.restart != "never" or child.state == "waiting"
        ]
        names = tuple(child.kid.name for child in starts)
        self.events.append((self.now, "group", names, max(not_before - self.now, 0.0)))
        self._group = Job(stops, starts, self._group_up, not_before)
        self._advance(self._group)

    def _group_up(self) -> None:
        self._group = None
        if self._first is not None:
            self._first_up()

    def _first_up(self) -> None:
        self._first, self.since = None, self.now
        self._poke()

    def _give_up(
        self,
        child: Child,
        *,
        plain: bool = False,
        together: tuple[int, float] | None = None,
    ) -> None:
        self.culprit = child
        self.broken = True
        if not plain:
            seconds = child.row[-1] - child.row[0]
            self.gave_up = child.kid.name, len(child.row), seconds, together
        self.events.append((self.now, "gave up"))
        self._stop()

    # Ordered ends and starts

    def _advance(self, job: Job | None) -> None:
        if job is None:
            return
        while job.stops and not job.stops[-1].live:
            child = job.stops.pop()
            if child not in job.again and child.job is job:
                child.job = None
        if job.stops:
            if job.ordered:
                self._cancel(job.stops[-1])
            return
        if job.starts and self.now < job.not_before:
            self._at(job.not_before, partial(self._advance_if, job))
            return
        while job.starts:
            child = job.starts[0]
            if child.state == "waiting":
                self._launch(child)
            if child.state in ("starting", "stopping"):
                return
            child.job = None
            job.starts.pop(0)
            job.again.remove(child)
        done, job.done = job.done, lambda: None
        done()

    def _advance_if(self, job: Job) -> None:
        if job.starts and job.starts[0].job is job and not job.stops:
            self._advance(job)

    def _cancel(self, child: Child) -> None:
        if child.state == "stopping":
            child.doomed = False
        elif not child.result:
            self._post(child, "cancel")
            child.enter("stopping", self.now)
            child.cancelled_at = self.now
            self._emit("stopping", child)
            self._expect_end(child, child.life)

    def _expect_end(self, child: Child, life: int) -> None:
        if child.kid.stop_timeout is not None:
            stuck = partial(self._stuck, child, life)
            self._at(self.now + child.kid.stop_timeout, stuck)

    def _stuck(self, child: Child, life: int) -> None:
        if child.life != life or not child.live or child.result:
            return
        self._post(child, "cancel")
        self._emit("stuck", child, life)
        self._expect_end(child, life)
        self._hurry(child.job)

    def _hurry(self, job: Job | None) -> None:
        """Pay for one timeout only: no order any more."""
        if job is not None and job.ordered and job.stops:
            job.ordered = False
            for child in reversed(job.stops):
                if child.live and child.state != "stopping":
                    self.hurried.add((child.kid.name, child.life))
                if child.live:
                    self._cancel(child)

    def _stop(self) -> None:
        if self.stopping:
            return
        self.stopping, self.since = True, self.now
        for job in (self._first, self._group):
            if job is not None:
                job.cancel()
        self._first = self._group = None
        live = []
        for child in list(self.members.values()):
            if child.job is not None:
                child.job.cancel()
            if child.live:
                live.append(child)
                child.late = bool(child.result)
            elif child.active:
                child.enter("stopped", self.now)
        self._final = Job(live, [], self._ended)
        if self.plan.total:
            self._at(self.now + self.plan.total, partial(self._hurry, self._final))
        else:
            self._hurry(self._final)
        if self.broken and self._host == "body" and not self._body_cancelled:
            self._body_cancelled = True
            self._wake_host("cancel")
        self._poke()
        self._advance(self._final)

    def _ended(self) -> None:
        self.over, self.since = True, self.now
        self._poke()

    # What is asked of it

    def _ask(self, ask: Ask, kid: Kid) -> None:
        child = self.members.get(kid.name)
        ask.arrived, ask.child = True, child
        if self._host == "done" and ask.what != "start":
            self._answer(ask, "any")
        elif ask.what == "wait":
            self._see_to(ask, None)
        elif self.stopping and ask.what in ("start", "restart"):
            self._answer(ask, "SupervisorClosed")
        elif (child is None) != (ask.what == "start"):
            self._answer(ask, "ValueError")
        elif child is None:
            ask.child = child = self.members[kid.name] = Child(
                kid, static=False, since=self.now
            )
            if self._group is None:
                self._launch(child, inline=True)
            else:
                self._group.starts.append(child)
                self._group.again.append(child)
                child.job = self._group
        elif ask.what == "stop":
            ask.life = child.life
            self._stop_one(child)
        else:
            ask.life = child.life
            if child.live and child.result:  # in the moment of its own end
                ask.outcome = "any"
            self._restart_one(child)
        if ask.at is None:
            self._see_to(ask, ask.child)

    def _drop(self, child: Child) -> None:
        """Take a child out of the order in which others are stopped and started."""
        job, child.job = child.job, None
        if job is not None:
            job.stops = [other for other in job.stops if other is not child]
            job.starts = [other for other in job.starts if other is not child]
            job.again = [other for other in job.again if other is not child]
            self._soon(self._advance, job)

    def _stop_one(self, child: Child) -> None:
        if self.stopping:
            if child.live:
                self._cancel(child)
            return
        child.wanted = False
        self._drop(child)
        if child.ended_itself:
            child.asked = "stop"
        elif child.live:
            self._advance(Job([child], [], lambda: None))
        elif child.active:
            self._settle(child, "stopped")

    def _restart_one(self, child: Child) -> None:
        child.wanted = True
        self._drop(child)
        if child.ended_itself:
            child.asked = "restart"
        if not child.active:
            child.first, child.initial = True, False
        if not child.live:
            child.enter("waiting", self.now)
        stops = [child] if child.live else []
        self._advance(Job(stops, [child], lambda: None))

    def _answer(self, ask: Ask, outcome: str) -> None:
        ask.at, ask.outcome = self.now, outcome

    def _after(self) -> None:
        """See what has come of all that was asked, after every step."""
        for ask in self.asks:
            if ask.arrived and ask.at is None and not ask.woken and self._told_of(ask):
                ask.woken = True
                self._soon(self._wake, ask)
        ready = self._host == "held" or self.plan.awaited
        if ready and not self._active and self._first is None and not self.stopping:
            self._stop()

    def _told_of(self, ask: Ask) -> bool:
        """Tell whether anything may have come of it."""
        child = ask.child
        if child is None or ask.what == "wait":
            return self.over or not self._active
        if ask.what == "start":
            return not (child.first and child.active)
        if child.life == ask.life:
            return not child.active
        return ask.what == "stop" or child.state not in ("starting", "stopping")

    def _wake(self, ask: Ask) -> None:
        ask.woken = False
        self._see_to(ask, ask.child)

    @property
    def _active(self) -> bool:
        return any(child.active for child in self.members.values())

    def _see_to(self, ask: Ask, child: Child | None) -> None:
        if child is None or ask.what == "wait":
            if self.over or not self._active:
                self._answer(ask, "ok")
        elif ask.what == "start" and not child.first:
            self._answer(ask, "ok")
        elif ask.what == "start" and not child.active:
            self._forget(child)
            failed = child.state == "failed" and child.error is not None
            self._answer(ask, str(child.error) if failed else "raised")
        elif ask.what == "stop" and (not child.active or child.life > ask.life):
            self._answer(ask, "ok")
        elif ask.what == "restart" and not child.active and child.life == ask.life:
            self._answer(ask, "any" if ask.outcome else "raised")
        elif ask.what == "restart" and child.life > ask.life:
            self._see_to_restart(ask, child)

    def _see_to_restart(self, ask: Ask, child: Child) -> None:
        if child.state in ("starting", "stopping"):
            return
        # Of one that has ended in this very moment, or is about to, either will do.
        either = not child.kid.reports or self.stopping or (child.live and child.result)
        ready = "ok" if child.state == "ready" else "raised"
        self._answer(ask, "any" if either else ready)

    # The host

    def _enter_host(self) -> None:
        for kid in self.plan.kids:
            self.members[kid.name] = Child(kid, static=True, initial=True)
        if self.plan.awaited:
            self._host = "held"
        self._first = Job([], list(self.members.values()), self._first_up)
        self._advance(self._first)
        self._go_on(None)

    def _wake_host(self, mail: str) -> None:
        if self._mail is None:
            self._soon(self._host_step)
        if self._mail is None or mail == "cancel":
            self._mail = mail

    def _poke(self) -> None:
        if self._waits and (self._host == "entering" or self.over):
            self._wake_host("look")

    def _host_step(self) -> None:
        mail, self._mail = self._mail, None
        self._go_on(mail)

    def _go_on(self, mail: str | None) -> None:
        if mail == "cancel" and self.cancels:
            self._cancelled = True
        if self._host == "entering":
            if mail == "cancel" or self.stopping:
                self._host = "held"
            elif self._first is None:
                self._host, self._entered, mail = "body", True, self._body
        if self._host == "body" and mail in ("leave", "break", "cancel"):
            self._raised = mail == "break"
            self._host = "held"
            self._stop()
        if self._host == "held":
            if self._cancelled:
                self._stop()
            if self.over:
                self._conclude()
        self._waits = self._host in ("entering", "held")

    def _conclude(self) -> None:
        self._host, self.ended_at = "done", self.now
        leaves = self._leaves
        culprit = self.culprit
        if culprit is not None:
            rest = [leaf for leaf in self._leaves if leaf != culprit.error]
            leaves = [str(culprit.error), *rest]
        if self._fatal:
            self.outcome = "interrupt"
        elif self._cancelled:
            self.outcome = "cancelled"
        elif self._raised:
            self.outcome = "the body's"
        elif leaves:
            self.outcome = sorted(leaves)
            return
        else:  # `async with` has to raise where it cannot run its body
            entered = self._entered or self.plan.awaited
            self.outcome = "returned" if entered else "closed"
        if leaves:
            self.hidden = sorted(leaves)
