"""`supervise` against a model: random services, asked and hurt in random ways, at exact times.

The model in supervisor_model.py is written from the specification. A run and the model get
the same plan, and have to tell the same events at the same times, the same answers to
whoever asked, and the same end. What holds for every plan is checked without the model, too.
"""

import asyncio
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import Any, Literal, TypeAlias, cast

import attrs
import pytest
from anyio.abc import TaskStatus
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from safeaio import (
    Backoff,
    ChildFailed,
    ChildStarting,
    ChildStopped,
    ChildStuck,
    GroupRestart,
    Intensity,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorClosed,
    SupervisorGaveUp,
    supervise,
)
from safeaio.testing import VirtualClockLoop
from tests.supervisor_model import LIFE, Ask, Kid, Model, Plan, Step
from tests.supervisor_plans import PLANS

HURTING = ("stop", "restart")
EAGER = sys.version_info >= (3, 12)

Told: TypeAlias = tuple[Any, ...]


class Boom(Exception):
    pass


# What is done: the plan


@st.composite
def kids(draw: st.DrawFn, name: str, serial: int) -> Kid:
    # No two timers are due in one moment: each kid has a fraction of its own.
    own = 2.0 ** -(8 + 4 * serial)
    restart = draw(st.sampled_from(["on-failure", "on-failure", "always", "never"]))
    longest = draw(st.sampled_from([1.0, 1.0, 0.0, 4.0]))
    return Kid(
        name,
        reports=draw(st.sampled_from([False, False, True])),
        restart=restart,
        essential=restart != "always" and draw(st.sampled_from([False] * 4 + [True])),
        max_restarts=None
        if restart == "never"
        else draw(st.sampled_from([None, 2, 1, 0])),
        base=longest + own if longest else 0.0,
        cap=draw(st.sampled_from([30.0, 3.0])) + own,
        jitter=draw(st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0])),
        start_timeout=draw(st.sampled_from([None, 7.0 + own])),
        stop_timeout=draw(st.sampled_from([5.0 + own, None])),
        born=tuple(
            draw(
                st.lists(
                    st.sampled_from(["wait", "started", "started", "raise", *LIFE]),
                    max_size=7,
                )
            )
        ),
        hangs=draw(st.sampled_from([0, 0, 0, 0, 1, 9])),
        dies=draw(st.sampled_from(["obeys", "obeys", "obeys", "raises", "returns"])),
    )


WHATS = st.sampled_from(
    ["raise"] * 6
    + ["started"] * 4
    + ["return"] * 3
    + ["stray", "stop", "restart", "start"] * 2
    + ["nothing", "started, raise", "wait"] * 2
    + ["interrupt", "leave", "break", "cancel"]
)
STEPS = st.builds(
    lambda what, who, passes: Step(what, who, *passes),
    WHATS,
    st.integers(0, 3),
    st.sampled_from(
        [(0, 1.0), (0, 1.0), (0, 4.0), (0, 30.0), (0, 30.0)]
        + [(turns, 0.0) for turns in range(4)]
    ),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 3))
    first = tuple(draw(kids(name, n)) for n, name in enumerate("abc"[:count], 1))
    more = draw(st.sampled_from([0, 0, 1]))
    restarted = any(kid.restart != "never" for kid in first)
    return Plan(
        first,
        tuple(draw(kids("d", 4)) for _ in range(more)),
        strategy=draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])),
        intensity=draw(st.sampled_from([None, None, (0, 50.0), (1, 50.0), (2, 50.0)]))
        if restarted
        else None,
        total=draw(st.sampled_from([30 + 2**-7, 8 + 2**-7, 0.0])),
        awaited=draw(st.booleans()),
        # One list would hold five on average.
        steps=tuple(step for _ in range(4) for step in draw(st.lists(STEPS))),
    )


def service_of(kid: Kid, func: Any) -> Service:
    return Service(
        func,
        name=kid.name,
        restart=cast("Literal['on-failure', 'always', 'never']", kid.restart),
        essential=kid.essential,
        max_restarts=kid.max_restarts,
        healthy_after=kid.healthy_after,
        backoff=Backoff(base=kid.base, cap=kid.cap, jitter=kid.jitter),
        start_timeout=kid.start_timeout,
        stop_timeout=kid.stop_timeout,
    )


# What happens: the run


@attrs.define(eq=False)
class Life:
    mail: asyncio.Future[str]


@attrs.define(eq=False)
class Machine:
    """Does what a plan says, and writes down what happens."""

    plan: Plan
    loop: VirtualClockLoop
    sup: Supervisor = attrs.field(init=False)
    events: list[Told] = attrs.field(factory=list)
    errors: list[BaseException] = attrs.field(factory=list)
    asks: list[Ask] = attrs.field(factory=list)
    seen: list[Told] = attrs.field(factory=list)
    lives: dict[str, Life] = attrs.field(factory=dict)
    serials: dict[str, int] = attrs.field(factory=dict)
    told: dict[str, bool] = attrs.field(factory=dict)
    booms: list[Boom] = attrs.field(factory=list)
    interrupts: list[KeyboardInterrupt] = attrs.field(factory=list)
    reported: list[dict[str, Any]] = attrs.field(factory=list)
    why: str | None = None
    body: asyncio.Future[str] = attrs.field(init=False)
    raised: BaseException | None = None
    touched: bool = False
    cancels: int = 0
    stop_began: int | None = None
    ended: int | None = None
    ended_at: float = 0.0

    async def run(self) -> None:
        self.loop.set_exception_handler(
            lambda _, context: self.reported.append(context)
        )
        self.body = self.loop.create_future()
        self.sup = supervise(
            *(self.service(kid) for kid in self.plan.kids),
            strategy=cast("Literal['one_for_one']", self.plan.strategy),
            intensity=self.plan.intensity and Intensity(*self.plan.intensity),
            total_stop_timeout=self.plan.total,
            on_event=self.note,
        )
        host = self.loop.create_task(self.host())
        await asyncio.sleep(0)
        self.loop.on_tick = self.look
        asks: list[asyncio.Task[None]] = []
        for step in self.plan.all_steps():
            self.do(step, host, asks)
            if step.seconds:
                await asyncio.sleep(step.seconds)
                self.see()
            else:
                for _ in range(step.turns):
                    await asyncio.sleep(0)
        self.loop.on_tick = None
        # Invariant: it ends, and then no task is left.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0)), *left])
        assert {str(task.get_name()) for task in left} == set()
        assert host.cancelling() == self.cancels

    async def host(self) -> None:
        try:
            if self.plan.awaited:
                await self.sup
            else:
                async with self.sup:
                    try:
                        if await self.body == "break":
                            self.booms.append(Boom("the body's"))
                            raise self.booms[-1]
                    finally:
                        self.began_to_stop()
        except BaseException as exc:  # noqa: BLE001 - a KeyboardInterrupt would leave the loop
            self.raised = exc
        self.ended, self.ended_at = len(self.events), self.loop.time()

    def do(self, step: Step, host: asyncio.Task[None], asks: list[Any]) -> None:
        kid = self.plan.who(step)
        life = self.lives.get(kid.name)
        if step.what in LIFE:
            if life is not None and not life.mail.done():
                life.mail.set_result(step.what)
        elif step.what == "stray":
            for task in asyncio.all_tasks():  # it may have yet to take its first step
                if task.get_name() == kid.name:
                    task.cancel()
        elif step.what in ("leave", "break"):
            if not self.body.done():
                self.body.set_result(step.what)
        elif step.what == "cancel":
            self.cancels += host.cancel()
        elif step.what != "nothing":
            ask = Ask(step.what)
            self.asks.append(ask)
            asks.append(self.loop.create_task(self.ask(ask, kid)))

    async def ask(self, ask: Ask, kid: Kid) -> None:
        first = ask.what != "wait" and kid in self.plan.kids
        began = self.stop_began is not None
        if self.ended is None and (ask.what == "stop" or (first and not began)):
            self.touched = True
        try:
            if ask.what == "wait":
                await self.sup.wait()
            elif ask.what == "start":
                await self.sup.start(self.service(kid))
            elif ask.what == "stop":
                await self.sup.stop(kid.name)
            else:
                await self.sup.restart(kid.name)
            ask.outcome = "ok"
        except BaseException as exc:  # noqa: BLE001 - what it was is compared
            ask.outcome = key_of(exc)
        ask.at = self.loop.time()

    # The services

    def service(self, kid: Kid) -> Service:
        async def plain() -> None:
            await self.live(kid, None)

        async def reporting(*, task_status: TaskStatus[int]) -> None:
            await self.live(kid, task_status)

        return service_of(kid, reporting if kid.reports else plain)

    async def live(self, kid: Kid, status: TaskStatus[int] | None) -> None:
        # Invariants: one live life at most; none after the stop began, or the end.
        assert kid.name not in self.lives
        assert self.stop_began is None or not EAGER  # it may have had its task
        assert self.ended is None
        serial, self.told[kid.name] = self.serials[kid.name], False
        life = self.lives[kid.name] = Life(self.loop.create_future())
        cancels = 0
        born = kid.born[serial - 1] if serial <= len(kid.born) else "wait"
        life.mail.set_result(born)
        try:
            while True:
                try:
                    what = await life.mail
                except asyncio.CancelledError:
                    cancels += 1
                    if cancels > kid.hangs:
                        if kid.dies == "obeys":
                            raise
                        what = {"raises": "raise", "returns": "return"}[kid.dies]
                    else:
                        what = "wait"
                life.mail = self.loop.create_future()
                if what.startswith("started") and status and not self.told[kid.name]:
                    self.told[kid.name] = True
                    status.started(serial)
                if what in ("raise", "started, raise"):
                    self.booms.append(Boom(f"{kid.name}{serial}"))
                    raise self.booms[-1]
                if what == "return":
                    return
                if what == "interrupt":
                    self.interrupts.append(KeyboardInterrupt())
                    raise self.interrupts[-1]
        finally:
            del self.lives[kid.name]

    # What it tells

    def began_to_stop(self) -> None:
        if self.stop_began is None:
            self.stop_began = len(self.events)

    def note(self, event: Any) -> None:
        now, name = self.loop.time(), event.path.rpartition("/")[2]
        kind = type(event).__name__.removeprefix("Child").lower()
        error = getattr(event, "error", None)
        if error is not None:
            self.errors.append(error)
        match event:
            case ChildStarting():
                self.serials[name] = event.life
                self.events.append((now, kind, name, event.life))
            case ChildFailed():
                what = error and key_of(error)
                rest = event.attempt, event.delay
                self.events.append((now, kind, name, what, *rest))
            case ChildStopped():
                self.events.append((now, kind, name, error and key_of(error)))
            case ChildStuck():
                self.events.append((now, kind, name, self.serials[name]))
                assert event.stack
            case GroupRestart():
                self.events.append((now, "group", event.children, event.delay))
            case SupervisorGaveUp():
                self.events.append((now, "gave up"))
                self.why = event.reason
                self.began_to_stop()
            case _:
                self.events.append((now, kind, name))

    def see(self) -> None:
        """Write down what the snapshot shows."""
        top, health = self.sup.snapshot(), self.sup.health()
        whole = health.live, health.ready, top.state, top.since
        children: dict[str, Told] = {}
        for child in top.children:
            error = child.last_error and key_of_text(child.last_error)
            counts = child.restarts, child.streak
            times = child.since, child.next_restart_in
            children[child.name] = child.state, *counts, *times, error
        self.seen.append((whole, children))

    def look(self) -> None:
        """Invariant: READY is only seen between started() and the exit."""
        for child in self.sup.snapshot().children:
            live = child.name in self.lives
            if child.state == "ready" and live:
                kid = next(
                    k for k in self.plan.kids + self.plan.more if k.name == child.name
                )
                assert self.told[child.name] or not kid.reports
            if child.state in ("waiting", "backoff", "stopped", "finished", "failed"):
                assert not live
            if child.state == "backoff":
                assert child.next_restart_in is not None
                assert child.next_restart_in >= 0


def key_of(error: BaseException) -> str:
    return key_of_text(repr(error))


def key_of_text(text: str) -> str:
    """Return how the model calls an error."""
    kind, name = text.partition("(")[0], "".join(text.split("'")[1:2])
    if kind == "Boom":
        return f"boom {text[6:-2]}"
    if kind == "ChildCancelled":
        return f"stray {name}"
    if kind == "TimeoutError":
        return f"late {name}"
    if "returned before" in text:
        return f"unready {name}"
    return f"returned {name}" if "is to stay up" in text else kind


# What holds for every plan


def check_events(machine: Machine) -> None:
    """No state is skipped; a start comes only where there may be one."""
    follows: dict[str, set[str]] = {
        "": {"starting"},
        "starting": {"ready", "failed", "stopping", "over"},
        "ready": {"failed", "finished", "stopped", "stopping", "over"},
        "failed": {"starting"},
        "finished": {"starting"},
        "stopped": {"starting"},
        "stopping": {"stopped", "failed", "stuck", "over"},
        "stuck": {"stopped", "failed", "stuck", "over"},
        "over": {"starting"},
    }
    last: dict[str, str] = {}
    for _, kind, *rest in machine.events:
        if rest and isinstance(rest[0], str):
            if last.get(rest[0]) == "starting" and kind == "finished":
                # It returned before it was ready, while all were being stopped.
                essential = any(kid.essential for kid in machine.plan.kids)
                # Or in the moment in which somebody stopped it.
                began = machine.stop_began is not None or machine.cancels > 0
                began = began or any(ask.what in HURTING for ask in machine.asks)
                assert began or machine.interrupts or essential
            else:
                assert kind in follows[last.get(rest[0], "")]
            last[rest[0]] = kind
    for kind in last.values():
        assert kind not in ("ready", "stopping", "stuck") or machine.interrupts


def check_order(machine: Machine) -> None:
    """The first start is in order, the last stop in reverse, unless a timeout fired."""
    if machine.touched:
        return  # it is what was asked for
    names = [kid.name for kid in machine.plan.kids]
    starts = [event[2] for event in machine.events if event[1] == "starting"]
    first = [name for name in dict.fromkeys(starts) if name in names]
    assert first == names[: len(first)]
    if machine.stop_began is None:
        return
    after = machine.events[machine.stop_began :]
    ends = [event for event in after if event[1] in ("stopping", "stopped")]
    late = bool(ends) and ends[-1][0] - ends[0][0] >= machine.plan.total
    stuck = any(event[1] == "stuck" for event in machine.events)
    if late or stuck or machine.interrupts:  # of whose lives no event tells the end
        return
    stops = [e[2] for e in ends if e[1] == "stopping"]
    assert stops == sorted(stops, reverse=True)
    for one, other in pairwise(ends):
        assert (one[1], other[1]) != ("stopping", "stopping")


def check_restarts(machine: Machine) -> None:
    """Restarts in a row stay within the budget, and delays within their bounds."""
    by_name = {kid.name: kid for kid in machine.plan.kids + machine.plan.more}
    for event in machine.events:
        if event[1] != "failed" or event[5] is None:
            continue
        kid, attempt, delay = by_name[event[2]], event[4], event[5]
        assert 1 <= attempt <= (5 if kid.max_restarts is None else kid.max_restarts)
        longest = min(kid.cap, kid.base * 2 ** (attempt - 1))
        assert (1 - kid.jitter) * longest <= delay <= longest
    for kid in by_name.values():
        attempts = [
            e[4]
            for e in machine.events
            if e[1] == "failed" and e[2] == kid.name and e[5] is not None
        ]
        for one, other in pairwise(attempts):
            assert other in (1, one + 1)


def check_errors(machine: Machine) -> None:
    """Every failure is in one event; every error raised is in one, or in the final group."""
    told = [error for error in machine.errors if isinstance(error, Boom)]
    told += [e.__context__ for e in machine.errors if isinstance(e.__context__, Boom)]
    assert max(Counter(map(id, told)).values(), default=1) == 1
    assert {str(e) for e in machine.booms} - {str(e) for e in told} <= {"the body's"}
    if machine.interrupts:
        assert any(machine.raised is each for each in machine.interrupts)


# What has to come out: the comparison


def model_of(machine: Machine) -> Model:
    """Run the model, with the delays that chance has chosen in the run."""
    delays: dict[str, list[float]] = {}
    for event in machine.events:
        if event[1] == "failed" and event[5] is not None:
            delays.setdefault(event[2], []).append(event[5])
    jitter = {kid.name: kid.jitter for kid in machine.plan.kids + machine.plan.more}

    def jittered(name: str, longest: float) -> float:
        assert delays.get(name), f"{name} was not restarted"
        delay = delays[name].pop(0)
        # Never all of it: many clients that are at the cap would come back at once.
        assert (1 - jitter[name]) * longest <= delay
        assert delay < longest or not longest
        return delay

    model = Model(machine.plan, EAGER, jittered)
    model.run()
    return model


def rounded(event: Told) -> Told:
    return tuple(round(x, 6) if isinstance(x, float) else x for x in event)


def check_same(machine: Machine, model: Model) -> None:
    events = [
        rounded(e)
        for e in machine.events
        if e[1] != "stuck" or e[2:] not in model.hurried
    ]
    expected = [
        rounded(e)
        for e in model.events
        if e[1] != "stuck" or e[2:] not in model.hurried
    ]
    for one, other in zip(events, expected, strict=False):
        if other[1] == "gone":  # stopped in the moment of its end: either word will do
            assert one[1] in ("stopped", "failed", "finished")
            assert (*one[:1], *one[2:3]) == (*other[:1], *other[2:3])
            assert one[3:4] in ((), other[3:4])
        else:
            assert one == other
    assert events[len(expected) :] == []
    assert expected[len(events) :] == []
    for ask, right in zip(machine.asks, model.asks, strict=True):
        assert (ask.what, ask.at) == (right.what, right.at)
        if right.outcome == "raised":
            assert ask.outcome != "ok"
        elif right.outcome != "any":
            assert (ask.what, ask.outcome) == (right.what, right.outcome)
    for (whole, seen), (right, shown) in zip(machine.seen, model.seen, strict=True):
        assert rounded(whole) == rounded(right)
        # Of one whose first start was cut short by the end, an entry may be left.
        assert whole[2] == "stopped" or seen.keys() == shown.keys()
        for name in seen.keys() & shown.keys():
            assert rounded(seen[name]) == rounded(shown[name])
    check_stuck(machine, model)
    check_end(machine, model)


def check_stuck(machine: Machine, model: Model) -> None:
    """Who was stopped out of order is called stuck by its own stop_timeout at the latest."""
    by_name = {kid.name: kid for kid in machine.plan.kids + machine.plan.more}
    for name, life in model.hurried:
        serial, since = 0, inf
        seen: float | None = None
        end = inf
        for event in machine.events:
            if event[1] == "starting" and event[2] == name:
                serial = event[3]
            elif serial == life and event[2:3] == (name,):
                if event[1] == "stopping":
                    since = event[0]
                elif event[1] == "stuck":
                    seen = event[0] - since if seen is None else seen
                else:
                    end = event[0] - since
        limit = by_name[name].stop_timeout
        if seen is not None:
            assert limit is not None
            assert 0.1 * limit - 1e-6 <= seen <= limit + 1e-6
        else:
            assert limit is None or end <= limit + 1e-6 or machine.interrupts


def check_end(machine: Machine, model: Model) -> None:
    raised = machine.raised
    assert machine.ended_at == pytest.approx(model.ended_at)
    hidden = [
        r for r in machine.reported if isinstance(r.get("exception"), SupervisionError)
    ]
    assert [r for r in machine.reported if r not in hidden] == []
    match model.outcome:
        case "returned":
            assert raised is None
        case "closed":
            assert isinstance(raised, SupervisorClosed)
        case "interrupt":
            assert any(raised is each for each in machine.interrupts)
        case "cancelled":
            assert isinstance(raised, asyncio.CancelledError)
        case "the body's":
            assert raised is machine.booms[-1] or str(raised) == "the body's"
        case leaves:
            assert isinstance(raised, SupervisionError)
            assert sorted(map(key_of, raised.exceptions)) == leaves
    if model.hidden is not None:
        assert [sorted(map(key_of, r["exception"].exceptions)) for r in hidden] == [
            model.hidden
        ]
    for each in (raised, *(r["exception"] for r in hidden)):
        if isinstance(each, SupervisionError):
            check_blame(each, model)
    if model.gave_up is not None:
        name, count, seconds, together = model.gave_up
        why = f"service {name!r} failed"
        if count > 1:
            why += f" {count} times in {seconds:.1f} s"
        if together is not None:
            why += ", and all together more than {} times in {} s".format(*together)
        assert machine.why == why


def check_blame(error: SupervisionError, model: Model) -> None:
    """Who it was, and its last failures."""
    culprit = model.culprit
    history = [(key_of_text(each.error), each.at) for each in error.history]
    assert error.service == (culprit and culprit.kid.name)
    assert history == (culprit.failures[-8:] if culprit else [])


async def run(plan: Plan) -> Machine:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    machine = Machine(plan, loop)
    await machine.run()
    return machine


def check(plan: Plan) -> None:
    """Run a plan, and compare."""
    with (
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=VirtualClockLoop) as runner,
    ):
        warnings.simplefilter("ignore")
        # How much fits into one turn of the loop depends on the machine: all of it, here.
        patch.setattr("safeaio._turn.SLICE", inf)
        # Loops call a little early; this one does not, and the kids' fractions are small.
        patch.setattr("safeaio._guard.SLIGHT", 1e-9)
        patch.setattr("safeaio._child.SLIGHT", 1e-9)
        patch.setattr(logging.getLogger("safeaio.supervise"), "disabled", True)
        machine = runner.run(run(plan))
    check_events(machine)
    check_order(machine)
    check_restarts(machine)
    check_errors(machine)
    check_same(machine, model_of(machine))


FOUND: dict[str, Plan] = {
    "who crosses the intensity has not failed once more": Plan(
        (Kid("a", born=("raise",)),), intensity=(0, 50.0)
    ),
    "giving up on one that only returned is an error": Plan(
        (Kid("a", restart="always", max_restarts=0, born=("return",)),), awaited=True
    ),
    "giving up on one that only returned ends": Plan(
        (Kid("a", restart="always", max_restarts=1, born=("return", "return")),),
        awaited=True,
        steps=(Step("nothing", seconds=4.0),),
    ),
    "a stop in the moment of a failure is not lost": Plan(
        (Kid("a"),), steps=(Step("raise"), Step("stop", seconds=4.0))
    ),
    "a restart in the moment of a failure does not wait": Plan(
        (Kid("a"),), steps=(Step("raise"), Step("restart", seconds=0.5))
    ),
    "the last one is stopped while it waits for its restart": Plan(
        (Kid("a"),),
        awaited=True,
        steps=(Step("raise", seconds=0.5), Step("stop", seconds=4.0)),
    ),
    "a healthy life counts however it ended": Plan(
        (Kid("a"),),
        steps=(
            Step("raise", seconds=30.0),
            Step("restart", seconds=4.0),
            Step("raise", seconds=4.0),
        ),
    ),
    "an error raised while others stop is in the group": Plan(
        (Kid("a"), Kid("b")),
        steps=(Step("leave", turns=1), Step("raise", seconds=1.0)),
    ),
    "failures before a healthy life are not among those in a row": Plan(
        (Kid("a", max_restarts=1),),
        steps=(
            Step("raise", seconds=30.0),
            Step("raise", seconds=4.0),
            Step("raise", seconds=4.0),
        ),
    ),
    "a healthy life counts also if it finished": Plan(
        (Kid("a", max_restarts=1), Kid("b")),
        steps=(
            Step("raise", seconds=30.0),
            Step("return", seconds=4.0),
            Step("restart", seconds=4.0),
            Step("raise", seconds=4.0),
        ),
    ),
    "a KeyboardInterrupt is the last error": Plan(
        (Kid("a"),), steps=(Step("interrupt", seconds=1.0),)
    ),
    "the restart that was one too many for all is not counted": Plan(
        (Kid("a"),), intensity=(0, 50.0), steps=(Step("raise", seconds=1.0),)
    ),
    "a supervisor stays ready while all in it restart": Plan(
        (Kid("a"),), strategy="one_for_all", steps=(Step("raise", seconds=9.0),)
    ),
}


@pytest.mark.parametrize("plan", FOUND.values(), ids=FOUND.keys())
def test_what_the_model_has_found(plan: Plan) -> None:
    """Plans in which `supervise` once did something else."""
    check(plan)


def against_the_model(phases: tuple[Phase, ...] = tuple(Phase)) -> Callable[[], None]:
    """Make the test that every plan does what the model says."""
    test = given(plan=plans())(check)
    for plan in (*PLANS.values(), *FOUND.values()):
        test = example(plan=plan)(test)
    return settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=phases,
    )(test)


def test_any_plan_does_what_the_model_says() -> None:
    """Whoever fails, is stopped, restarted or cancelled: the same events, answers and end."""
    against_the_model()()
