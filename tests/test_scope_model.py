"""`cleanup_scope` against a model: random trees of blocks, cancelled by every route at random ticks.

A run writes down what goes into each block: what left the body, what each step of the cleanup
did and how long it took, how often its task was cancelled meanwhile. From that alone the model
says what has to come out.
"""

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import Any, Literal, TypeAlias

import anyio
import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from safeaio import (
    ChildCancelled,
    CleanupError,
    CleanupScope,
    TaskStuckError,
    cleanup_scope,
)
from safeaio.testing import VirtualClockLoop

AGES = 3600.0


class Boom(Exception):
    pass


# What is done: the plan


@attrs.frozen
class Call:
    """A deferred call; `again` is what it defers itself, `block` what it opens."""

    kind: str
    again: "Call | None" = None
    block: "Block | None" = None


@attrs.frozen
class Manager:
    """A context manager that is entered; one that is not async lasts None."""

    kind: str
    lasts: float | None


@attrs.frozen
class Wait:
    seconds: float
    swallows: bool


@attrs.frozen
class Inner:
    """A block in the body of another, itself in something that may cancel it."""

    block: "Block"
    around: str
    seconds: float
    catches: bool


@attrs.frozen
class Raise:
    kind: type[BaseException]


@attrs.frozen
class Cancel:
    """A call of `cancel()` on the scope so many levels up, or the outermost."""

    levels: int


@attrs.frozen
class Deadline:
    seconds: float


Action: TypeAlias = Call | Manager | Wait | Inner | Raise | Cancel | Deadline
Route: TypeAlias = Literal["native", "anyio", "innermost", "outermost"]


@attrs.frozen
class Block:
    timeout: float | None
    body: tuple[Action, ...]


@attrs.frozen
class Plan:
    root: Block
    cancels: tuple[tuple[int, Route], ...]


SYNC = ("returns", "raises", "interrupts", "cancels its scope")
ASYNC = (
    "returns later",
    "raises later",
    "interrupts later",
    "strays",
    "is late",
    "swallows its cut",
    "raises at its cut",
    "is stuck",
)


@st.composite
def blocks(draw: st.DrawFn, depth: int = 2) -> Block:
    body = draw(st.lists(actions(depth), max_size=5))
    return Block(draw(st.sampled_from([None, None, 0.0, 1.0, 2.0])), tuple(body))


def calls(depth: int) -> st.SearchStrategy[Call]:
    kinds = st.sampled_from(SYNC + ASYNC)
    plain = st.builds(Call, kinds, st.none() | st.builds(Call, kinds))
    if not depth:
        return plain
    return plain | st.builds(Call, st.just("opens a block"), block=blocks(depth - 1))


def actions(depth: int) -> st.SearchStrategy[Action]:
    seconds = st.sampled_from([0.0, 1.0, 2.0, AGES])
    managers = st.builds(
        Manager,
        st.sampled_from(["plain", "suppresses", "replaces", "raises again"]),
        st.sampled_from([None, None, 0.0, 1.0, AGES]),
    )
    waits = st.builds(
        Wait, seconds, st.sampled_from([False, False, False, False, True])
    )
    kinds: list[st.SearchStrategy[Any]] = [
        calls(depth),
        calls(depth),
        managers,
        waits,
        waits,
        st.builds(Raise, st.sampled_from([Boom, Boom, KeyboardInterrupt])),
        st.builds(Cancel, st.integers(1, 3)),
        st.builds(Deadline, st.sampled_from([0.0, 1.0, 3.0])),
    ]
    if depth:
        around = st.sampled_from(["nothing", "timeout", "move_on_after"])
        kinds.append(
            st.builds(Inner, blocks(depth - 1), around, seconds, st.booleans())
        )
    return st.one_of(kinds)


plans = st.builds(
    Plan,
    blocks(),
    st.lists(
        st.tuples(
            st.integers(0, 25),
            st.sampled_from(["native", "native", "anyio", "innermost", "outermost"]),
        ),
        max_size=2,
    ).map(tuple),
)


# What happens: the run


@attrs.define(eq=False)
class Step:
    """One deferred call, or context manager."""

    plan: Call | Manager
    started: float | None = None
    ended: float = AGES**3
    cancelling: int = 0
    seen: BaseException | None = None
    raised: BaseException | None = None
    suppressed: bool = False
    again: "Step | None" = None

    @property
    def lasted(self) -> float:
        assert self.started is not None
        return self.ended - self.started


@attrs.define(eq=False)
class Trace:
    """One block. `cut` is its `cleanup_timeout`: no two blocks have the same."""

    block: Block
    outer: "tuple[Trace, ...]"
    cut: float
    entry: int
    scope: CleanupScope = attrs.field(init=False)
    registered: list[Step] = attrs.field(factory=list)
    order: list[Step] = attrs.field(factory=list)
    left_by: BaseException | None = None
    left_at: float = 0.0
    done_at: float = 0.0
    cancelling: int = 0
    raised: BaseException | None = None
    context: BaseException | None = None

    @property
    def reason(self) -> str:
        return f"block {self.cut}"

    def cancels(self) -> list[int]:
        """How often the task stood cancelled, at each step and at the end."""
        return [*(step.cancelling for step in self.order), self.cancelling]


@attrs.define(eq=False)
class Machine:
    """Does what a plan says, and writes down what happens."""

    plan: Plan
    loop: VirtualClockLoop
    traces: list[Trace] = attrs.field(factory=list)
    around: anyio.CancelScope = attrs.field(init=False)
    reports: list[BaseException] = attrs.field(factory=list)
    native_cancels: int = 0

    async def run(self) -> None:
        """Run it all, and check what holds for every plan."""
        self.loop.set_exception_handler(self.report)
        root = asyncio.create_task(self.root())
        self.loop.on_tick = partial(self.cancel, root, self.loop.ticks)
        await asyncio.wait([root])
        self.loop.on_tick = None
        assert root.cancelling() == self.native_cancels
        left_running = others()
        while others():
            await asyncio.wait(others())
        steps = [(step, trace.cut) for trace in self.traces for step in trace.order]
        assert not left_running or any(step.lasted > 2 * cut for step, cut in steps)

    async def root(self) -> None:
        with contextlib.suppress(BaseException), anyio.CancelScope() as self.around:
            await self.block(self.plan.root, ())

    def report(self, _: object, context: dict[str, Any]) -> None:
        if context["message"].startswith("cleanup_scope(): "):
            self.reports.append(context["exception"])

    def cancel(self, root: asyncio.Task[None], start: int) -> None:
        for tick, route in self.plan.cancels:
            if self.loop.ticks - start != tick + 1:
                continue
            if route == "native":
                self.native_cancels += root.cancel(f"native {tick}")
            elif not self.traces:
                continue
            elif route == "anyio":
                self.around.cancel()
            else:
                trace = self.traces[0 if route == "outermost" else -1]
                # Not from here: a timer that it disarms may be the one that runs now.
                self.loop.call_soon(trace.scope.cancel, trace.reason)

    async def block(self, block: Block, outer: tuple[Trace, ...]) -> None:
        task = asyncio.current_task()
        assert task is not None
        cut = 4 + 2.0 ** -(len(self.traces) + 3)
        trace = Trace(block, outer, cut, task.cancelling())
        try:
            async with cleanup_scope(
                timeout=block.timeout, cleanup_timeout=cut
            ) as trace.scope:
                self.traces.append(trace)
                try:
                    for action in block.body:
                        await self.act(action, trace)
                except BaseException as exc:
                    trace.left_by = exc
                    raise
                finally:
                    trace.left_at = self.loop.time()
        except BaseException as exc:
            trace.raised, trace.context = exc, exc.__context__
            raise
        finally:
            trace.done_at, trace.cancelling = self.loop.time(), task.cancelling()

    async def act(self, action: Action, trace: Trace) -> None:
        scope = trace.scope
        match action:
            case Call():
                self.defer(action, trace, trace.registered)
            case Manager(lasts=None):
                step = Step(action)
                scope.enter_context(Entered(self, step, trace))
                trace.registered.append(step)
            case Manager():
                step = Step(action)
                await scope.enter_async_context(Entered(self, step, trace))
                trace.registered.append(step)
            case Wait():
                await self.wait(action)
            case Inner():
                with contextlib.suppress(*([Exception] if action.catches else [])):
                    async with around(action):
                        await self.block(action.block, (*trace.outer, trace))
            case Raise():
                raise action.kind
            case Cancel():
                above = [trace, *reversed(trace.outer)][: action.levels][-1]
                above.scope.cancel(above.reason)
            case Deadline() if not (scope.timed_out or scope.cancel_called):
                scope.deadline = self.loop.time() + action.seconds

    async def wait(self, wait: Wait) -> None:
        try:
            await asyncio.sleep(wait.seconds)
        except asyncio.CancelledError:
            if not wait.swallows:
                raise

    # The steps of the cleanup

    def start(self, step: Step, trace: Trace) -> None:
        assert step.started is None
        step.started = self.loop.time()
        trace.order.append(step)
        task = asyncio.current_task()
        assert task is not None
        step.cancelling = task.cancelling()

    @contextmanager
    def noted(self, step: Step) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:
            step.raised = exc
            raise
        finally:
            step.ended = self.loop.time()

    def defer(self, call: Call, trace: Trace, steps: list[Step]) -> Step:
        step = Step(call)
        steps.append(step)
        trace.scope.defer(self.call, step, trace)
        return step

    def call(self, step: Step, trace: Trace) -> object:
        assert isinstance(step.plan, Call)
        self.start(step, trace)
        if step.plan.kind in SYNC:
            self.call_now(step, step.plan, trace)
            return None
        return self.call_later(step, step.plan, trace)

    def call_again(self, step: Step, call: Call, trace: Trace) -> None:
        if call.again is not None:
            step.again = self.defer(call.again, trace, [])

    def call_now(self, step: Step, call: Call, trace: Trace) -> None:
        with self.noted(step):
            self.call_again(step, call, trace)
            match call.kind:
                case "raises":
                    raise Boom
                case "interrupts":
                    raise KeyboardInterrupt
                case "cancels its scope":
                    trace.scope.cancel("too late")

    async def call_later(self, step: Step, call: Call, trace: Trace) -> None:
        with self.noted(step):
            self.call_again(step, call, trace)
            match call.kind:
                case "returns later":
                    await asyncio.sleep(1)
                case "raises later":
                    await asyncio.sleep(0)
                    raise Boom
                case "interrupts later":
                    await asyncio.sleep(1)
                    raise SystemExit
                case "strays":
                    raise asyncio.CancelledError
                case "is late":
                    await asyncio.sleep(AGES)
                case "swallows its cut":
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(AGES)
                    await asyncio.sleep(1)
                case "raises at its cut":
                    try:
                        await asyncio.sleep(AGES)
                    finally:
                        raise Boom
                case "is stuck":
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(AGES)
                    await asyncio.sleep(2 * trace.cut)
                case _:
                    assert call.block is not None
                    await self.block(call.block, (*trace.outer, trace))


@attrs.frozen
class Entered:
    """A context manager that does what its step says."""

    machine: Machine
    step: Step
    trace: Trace

    def __enter__(self) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    def __exit__(self, _: object, seen: BaseException | None, __: object) -> bool:
        self.machine.start(self.step, self.trace)
        with self.machine.noted(self.step):
            self.step.seen = seen
            return self.leave(seen)

    async def __aexit__(
        self, _: object, seen: BaseException | None, __: object
    ) -> bool:
        self.machine.start(self.step, self.trace)
        assert isinstance(self.step.plan, Manager)
        with self.machine.noted(self.step):
            self.step.seen = seen
            await asyncio.sleep(self.step.plan.lasts or 0)
            return self.leave(seen)

    def leave(self, seen: BaseException | None) -> bool:
        assert isinstance(self.step.plan, Manager)
        kind = self.step.plan.kind
        if kind == "replaces":
            raise Boom
        if kind == "raises again" and seen is not None:
            raise seen
        self.step.suppressed = kind == "suppresses"
        return self.step.suppressed


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def around(inner: Inner) -> contextlib.AbstractAsyncContextManager[object]:
    if inner.around == "timeout":
        return asyncio.timeout(inner.seconds)
    return moving_on(inner.seconds if inner.around == "move_on_after" else inf)


@asynccontextmanager
async def moving_on(seconds: float) -> AsyncIterator[None]:
    with anyio.move_on_after(seconds):
        yield


# What has to come out: the model


@attrs.define(eq=False)
class Model:
    """What has been raised and not been suppressed, by kind and in order."""

    facts: list[tuple[str, BaseException]] = attrs.field(factory=list)

    def add(self, kind: str, exc: BaseException) -> None:
        self.facts.append((kind, exc))

    def all(self, kind: str) -> list[BaseException]:
        return [exc for found, exc in self.facts if found == kind]

    def replace(self, exc: BaseException) -> None:
        if self.all("interrupt") or self.all("cancel"):
            self.add("failure", exc)
        else:
            self.facts = [("error", exc)]

    def forget(self) -> None:
        """Drop what a context manager has seen; failures are hidden by an interrupt or cancel."""
        hidden = bool(self.all("interrupt") or self.all("cancel"))
        self.facts = [fact for fact in self.facts if hidden and fact[0] == "failure"]

    def first(self) -> tuple[str, BaseException | None]:
        """Return what leaves the block, or what a context manager sees."""
        for kind in ("interrupt", "cancel", "failure", "error", "own"):
            for exc in self.all(kind):
                return kind, exc
        return "nothing", None


def kind_of(exc: BaseException) -> str:
    if isinstance(exc, asyncio.CancelledError):
        return "cancel"
    return "error" if isinstance(exc, Exception) else "interrupt"


def model_of(trace: Trace) -> Model:
    """Say what a block comes to, from what went into it."""
    model = Model()
    cancels = trace.cancels()
    if trace.left_by is not None:
        kind = kind_of(trace.left_by)
        own = kind == "cancel" and cancels[0] == trace.entry
        model.add("own" if own else kind, trace.left_by)
    for step, before, after in zip(trace.order, cancels, cancels[1:], strict=False):
        if isinstance(step.plan, Call):
            add_call(model, step, trace.cut, cancelled=after > before)
        else:
            add_manager(model, step, trace.cut, cancelled=after > before)
    return model


def add_call(model: Model, step: Step, cut: float, *, cancelled: bool) -> None:
    if cancelled:
        model.add("cancel", asyncio.CancelledError())
    raised = step.raised
    if step.lasted > 2 * cut:
        model.add("failure", TaskStuckError(()))
    elif raised is not None and kind_of(raised) == "interrupt":
        model.add("interrupt", raised)
    elif step.lasted >= cut:
        model.add("failure", TimeoutError())
    elif isinstance(raised, asyncio.CancelledError):
        model.add("failure", ChildCancelled(""))
    elif raised is not None:
        model.add("failure", raised)


def add_manager(model: Model, step: Step, cut: float, *, cancelled: bool) -> None:
    kind, exc = model.first()
    check_same(model, step.seen, kind, exc)
    raised = step.raised
    if step.suppressed:
        model.forget()
    elif raised is None or raised is step.seen:
        return
    elif not isinstance(raised, asyncio.CancelledError):
        model.replace(raised)
    elif cancelled:
        model.add("cancel", raised)
    else:
        assert step.lasted == cut
        model.add("failure", TimeoutError())


def check_same(
    model: Model, found: BaseException | None, kind: str, exc: BaseException | None
) -> None:
    if kind == "cancel":
        assert isinstance(found, asyncio.CancelledError)
    elif kind == "failure":
        check_failures(model, found)
    else:
        assert found is exc


def check_failures(model: Model, found: BaseException | None) -> None:
    assert isinstance(found, CleanupError)
    expected = [*model.all("error"), *model.all("failure")]
    for leaf, exc in zip(found.exceptions, expected, strict=True):
        made_by_us = type(exc) in (TimeoutError, TaskStuckError, ChildCancelled)
        assert leaf is exc or (made_by_us and type(leaf) is type(exc))


def check_steps(trace: Trace) -> None:
    """Every step ran once, the last first, to its end or its cut; then the block was left."""
    stack, order = [*trace.registered], []
    while stack:
        step = stack.pop()
        order.append(step)
        if step.again is not None:
            stack.append(step.again)
    assert trace.order == order
    now = trace.left_at
    for step in order:
        assert step.started == now
        now += min(step.lasted, 2 * trace.cut)
        expected = lasts(step.plan, trace.cut)
        assert expected is None or step.lasted == expected
    assert trace.done_at == now


def lasts(step: Call | Manager, cut: float) -> float | None:
    """Say how long a step takes, if that is known."""
    if isinstance(step, Manager):
        return None if step.lasts else 0
    later = {
        "returns later": 1.0,
        "interrupts later": 1.0,
        "is late": cut,
        "swallows its cut": cut + 1,
        "raises at its cut": cut,
        "is stuck": 3 * cut,
        "opens a block": None,
    }
    return later.get(step.kind, 0.0)


def check_end(trace: Trace) -> bool:
    """Check what left the block; tell whether it hid failures."""
    model = model_of(trace)
    kind, exc = model.first()
    own = trace.left_by if kind == "own" else None
    if own is None:
        check_same(model, trace.raised, kind, exc)
    elif trace.scope.cancel_called:
        assert trace.raised is None
    else:
        assert type(trace.raised) is TimeoutError
        assert trace.raised.__cause__ is own
    if kind == "cancel":
        check_cancel(trace, exc)
    if kind not in ("interrupt", "cancel") or not model.all("failure"):
        return False
    check_failures(model, trace.context)
    return True


def check_cancel(trace: Trace, exc: BaseException | None) -> None:
    """The first cancel from outside leaves, never our own; a native one before a scope's."""
    assert trace.raised is not None
    assert exc is not None
    assert trace.raised.args[:1] != (trace.reason,)
    text = str(exc)
    if exc is trace.left_by and text.startswith("native"):
        assert trace.raised is exc
    if str(trace.raised) == "deadline of a cleanup_scope()":
        assert any(outer.scope.timed_out for outer in trace.outer)


def check_deadline(trace: Trace) -> None:
    """The body ended at its deadline, or was cancelled then."""
    scope = trace.scope
    assert not (scope.timed_out and scope.cancel_called)
    if trace.left_at > scope.deadline:
        assert scope.timed_out or scope.cancel_called
    if trace.left_at < scope.deadline:
        assert not scope.timed_out


async def run(plan: Plan) -> Machine:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    machine = Machine(plan, loop)
    await machine.run()
    return machine


@settings(max_examples=300, deadline=None, derandomize=True)
@given(plan=plans)
def test_any_tree_does_what_the_model_says(plan: Plan) -> None:
    """Whatever is nested, deferred and cancelled: each step once, in order, and the right end."""
    with (
        warnings.catch_warnings(),
        asyncio.Runner(loop_factory=VirtualClockLoop) as runner,
    ):
        warnings.simplefilter("ignore")
        machine = runner.run(run(plan))
    hidden = 0
    for trace in machine.traces:
        check_steps(trace)
        check_deadline(trace)
        hidden += check_end(trace)
    assert len(set(map(id, machine.reports))) == len(machine.reports) == hidden
