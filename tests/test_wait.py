"""The primitive under every room, one invariant after another."""

import asyncio
import gc
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

import anyio
import pytest

from safeaio._foremost import foremost, from_scope
from safeaio._wait import STUCK_AFTER, Children, current_task
from safeaio.exceptions import TaskStuckWarning
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep

Reports = list[dict[str, Any]]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


def add(children: Children[str], child: Awaitable[Any]) -> asyncio.Future[Any]:
    def ended(future: asyncio.Future[Any]) -> None:
        del children.running[future]
        future.cancelled() or future.exception()
        if not children.running:
            children.wake()

    future = asyncio.ensure_future(child)
    children.add(future, "child", ended, Context())
    return future


def children_of(*works: Awaitable[Any]) -> Children[str]:
    children = Children[str]("owner()")
    for work in works:
        add(children, work)
    return children


class Patient:
    """A child whose cleanup takes a while, and which counts what it is told meanwhile."""

    def __init__(self, cleanup: int = 5) -> None:
        self.cleanup = cleanup
        self.cancels: list[asyncio.CancelledError] = []
        self.ended = False

    async def run(self) -> None:
        try:
            await forever()
        except asyncio.CancelledError as exc:
            self.cancels.append(exc)
        for _ in range(self.cleanup):
            try:
                await turns(1)
            except asyncio.CancelledError as exc:
                self.cancels.append(exc)
        self.ended = True
        if self.cancels:
            raise asyncio.CancelledError


async def raised_by(
    main: Coroutine[Any, Any, None], *cuts: Callable[[Any], object]
) -> Any:
    """Run `main`, cut it in successive turns, and return what left it."""
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            await main
        except asyncio.CancelledError as exc:
            raised.append(exc)
            raise

    task = asyncio.create_task(run())
    await turns(3)
    for cut in cuts:
        cut(task)
        await turns(1)
    await asyncio.wait([task])
    return raised[0] if raised else task.exception()


async def test_1_a_child_gets_one_cancel() -> None:
    """However often the host is cancelled, cleanup goes on undisturbed."""
    patients = [Patient(), Patient()]

    async def main() -> None:
        await children_of(*[patient.run() for patient in patients]).wait()

    await raised_by(main(), *[asyncio.Task.cancel] * 4)
    assert all(patient.ended and len(patient.cancels) == 1 for patient in patients)


async def test_1_only_the_first_call_of_cancel_counts() -> None:
    """A second call, or the host's own cancel after it, does nothing to the children."""
    patient = Patient()

    async def main() -> None:
        children = children_of(patient.run())
        await turns(1)
        children.cancel("first")
        children.cancel("second")
        await children.wait()

    await raised_by(main(), asyncio.Task.cancel)
    assert [cancel.args for cancel in patient.cancels] == [("first",)]


@pytest.mark.parametrize("words", [("words",), ()])
async def test_1_a_native_message_is_passed_on(words: tuple[str, ...]) -> None:
    """A child sees with what words its host was cancelled."""
    patient = Patient()

    async def main() -> None:
        await children_of(patient.run()).wait()

    await raised_by(main(), lambda task: task.cancel(*words))
    assert [cancel.args for cancel in patient.cancels] == [words]


async def test_1_the_message_of_a_scope_is_not() -> None:
    """A child that read it would take our native cancel for the scope's."""
    patient = Patient()
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        await children_of(patient.run(), turns(2)).wait()
    assert [cancel.args for cancel in patient.cancels] == [()]


async def test_2_wait_ends_when_no_child_is_left() -> None:
    """It waits for children that were added meanwhile, too."""
    ended: list[str] = []

    async def child() -> None:
        await turns(3)
        if len(ended) < 4:
            add(children, child())
        ended.append("child")

    children = children_of(child())
    await children.wait()
    assert len(ended) == 5
    assert not children.running
    await children.wait()


async def test_2_what_starts_during_a_cancel_is_cancelled() -> None:
    """A child that is added after the others were told to stop is told at once."""
    children = children_of(forever())
    await turns(1)
    children.cancel()
    late = add(children, forever())
    await children.wait()
    assert late.cancelled()


@pytest.mark.parametrize("first", ["native", "scope"])
async def test_3_the_first_native_cancel_is_raised(first: str) -> None:
    """A native cancel goes before an anyio scope's, and among equals the first one."""
    scopes: list[anyio.CancelScope] = []

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await children_of(Patient(9).run()).wait()

    cuts: list[Callable[[Any], object]] = [
        lambda task: task.cancel("one"),
        lambda task: task.cancel("two"),
    ]
    cuts.insert(0 if first == "scope" else 2, lambda _: scopes[0].cancel())
    raised = await raised_by(main(), *cuts)
    assert isinstance(raised, asyncio.CancelledError)
    assert raised.args == ("one",)


async def test_3_same_object() -> None:
    """The host's CancelledError is passed on, not made anew."""
    seen: list[BaseException] = []

    class Spy(Children[str]):  # type: ignore[misc]
        async def wait_or_cancel(self) -> asyncio.CancelledError | None:
            cancel = await super().wait_or_cancel()
            if cancel is not None:
                seen.append(cancel)
            return cancel

    async def main() -> None:
        children = Spy("owner()")
        add(children, Patient().run())
        await children.wait()

    raised = await raised_by(main(), *[asyncio.Task.cancel] * 3)
    assert len(seen) > 1
    assert raised is seen[0]


def test_3_foremost() -> None:
    """The first native one, else the first of a scope."""
    native, other = asyncio.CancelledError("x"), asyncio.CancelledError()
    scope, inner = [
        asyncio.CancelledError(f"Cancelled via cancel scope {n:x}") for n in (1, 2)
    ]
    assert foremost(native, other) is native
    assert foremost(native, scope) is native
    assert foremost(scope, native) is native
    assert foremost(scope, inner) is scope
    assert [from_scope(c) for c in (native, other, scope)] == [False, False, True]


async def test_3_anyio_still_marks_its_cancels() -> None:
    """The text by which they are told apart is the one that anyio writes."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(0)
        assert from_scope(caught.value)


async def test_3_cancelled_in_the_tick_in_which_the_last_child_ends() -> None:
    """The cancel is raised though nothing is left to wait for."""
    loop = asyncio.get_running_loop()
    for first in ("child", "host"):
        future: asyncio.Future[None] = loop.create_future()

        def cut(
            task: asyncio.Task[Any],
            future: asyncio.Future[None] = future,
            first: str = first,
        ) -> None:
            if first == "child":
                future.set_result(None)
            task.cancel("host")
            if first == "host":
                future.set_result(None)

        async def main(future: asyncio.Future[None] = future) -> None:
            await children_of(future).wait()

        raised = await raised_by(main(), cut)
        assert isinstance(raised, asyncio.CancelledError)
        assert raised.args == ("host",)


def test_4_a_cancelled_scope_does_not_spin() -> None:
    """While a child cleans up, the loop turns for that child, and for nothing else."""

    async def main() -> None:
        patient = Patient(50)
        with anyio.CancelScope() as scope:
            children = children_of(patient.run())
            await turns(2)
            before = loop.ticks
            scope.cancel()
            await children.wait()
        assert patient.ended
        assert loop.ticks - before < 50 + 20

    loop = VirtualClockLoop()
    loop.run_until_complete(main())
    loop.close()


async def test_5_counts_of_cancels_are_left_alone() -> None:
    """The host's count is compared with what it was, never with zero, and not changed."""
    told: list[bool] = []

    async def main() -> None:
        try:
            await forever()
        finally:
            children = children_of(Patient().run())
            told.append(children.host_cancelled)
            try:
                await children.wait()
            finally:
                told.append(children.host_cancelled)
                assert current_task().cancelling() == 3

    raised = await raised_by(main(), *[asyncio.Task.cancel] * 3)
    assert isinstance(raised, asyncio.CancelledError)
    assert told == [False, True]


def test_6_closed() -> None:
    """On GeneratorExit the children are cancelled, and nobody waits for them."""
    patient = Patient()
    loop = VirtualClockLoop()

    async def main() -> None:
        await children_of(patient.run()).wait()

    coro = main()

    async def step() -> None:
        coro.send(None)

    async def rest() -> None:
        await asyncio.wait(asyncio.all_tasks() - {current_task()})

    # Children belong to a task, though this one will not be the one that closes it.
    loop.run_until_complete(step())
    loop.run_until_complete(turns(1))
    coro.close()
    assert not patient.ended
    loop.run_until_complete(rest())
    loop.close()
    assert patient.ended
    assert len(patient.cancels) == 1


async def test_7_a_cancel_has_no_other_for_context() -> None:
    """By its `__context__` anyio would take the native cancel for its own."""
    scopes: list[anyio.CancelScope] = []

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await children_of(Patient(9).run()).wait()

    for gap in range(8):
        scopes.clear()
        raised = await raised_by(
            main(),
            lambda _: scopes[0].cancel(),
            *[lambda _: None] * gap,
            lambda task: task.cancel("native"),
        )
        assert isinstance(raised, asyncio.CancelledError)
        assert raised.args == ("native",)
        assert raised.__context__ is None


def test_swept() -> None:
    """Whenever and however the host is cancelled, it waits for all and raises it."""
    patients: list[Patient] = []

    async def scenario() -> None:
        patients[:] = [Patient(3), Patient(5)]
        children = children_of(*[patient.run() for patient in patients], turns(2))
        children.loop.call_later(1, children.cancel)
        await children.wait()

    def ended(run: Run) -> None:
        assert all(not p.cancels or (p.ended and len(p.cancels) == 1) for p in patients)

    cancel_sweep(scenario, ended)


def active_timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    timers: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    return [timer for timer in timers if not timer.cancelled()]


@pytest.mark.virtual_time
async def test_quick_children_cost_no_timer() -> None:
    """Children that end at once when they are cancelled set no alarm."""
    loop = asyncio.get_running_loop()
    children = children_of(forever(), forever())
    await turns(1)
    children.cancel()
    await children.wait()
    await turns(6)
    assert loop._scheduled == []  # type: ignore[attr-defined]


async def stubborn(cancels: list[float], most: int) -> None:
    while True:
        try:
            await forever()
        except asyncio.CancelledError:
            cancels.append(asyncio.get_running_loop().time())
            if len(cancels) == most:
                raise


@pytest.mark.virtual_time
async def test_stuck_child_is_reported_and_cancelled_each_interval(
    reported: Reports,
) -> None:
    """With its name, its age and where it hangs, for as long as it does not end."""
    loop = asyncio.get_running_loop()
    cancels: list[float] = []
    task = asyncio.create_task(stubborn(cancels, 4), name="the stubborn")
    children = children_of(task, forever())
    await turns(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        children.cancel()
        await children.wait()
    assert cancels == [0, 10, 20, 30]
    assert loop.time() == 3 * STUCK_AFTER
    assert active_timers(loop) == []
    texts = [str(warning.message) for warning in caught]
    assert [warning.category for warning in caught] == [TaskStuckWarning] * 3
    assert [report["message"] for report in reported] == texts
    assert all(report["future"] is task for report in reported)
    for text, age in zip(texts, ("10.0", "20.0", "30.0"), strict=True):
        assert text.startswith(
            f"owner() waits for task 'the stubborn', still running {age} s"
        )
        assert "in stubborn" in text
        assert "await asyncio.Event().wait()" in text


@pytest.mark.virtual_time
async def test_stuck_future_is_reported(reported: Reports) -> None:
    """So is a future that refuses to be cancelled, by what it shows of itself."""

    class Deaf(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            return False

    loop = asyncio.get_running_loop()
    future = Deaf()
    loop.call_at(25.0, future.set_result, None)
    children = children_of(future)
    children.cancel()
    with pytest.warns(
        TaskStuckWarning, match="owner.. waits for <.*Deaf pending"
    ) as caught:
        await children.wait()
    assert loop.time() == 25
    assert len(caught) == len(reported) == 2


@pytest.mark.virtual_time
async def test_warnings_as_errors_do_not_stop_the_reports(reported: Reports) -> None:
    """Each interval every stuck child is reported, whatever becomes of the warnings."""
    cancels: list[list[float]] = [[], []]
    children = children_of(*[stubborn(times, 3) for times in cancels])
    await turns(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        children.cancel()
        await children.wait()
    assert cancels == [[0, 10, 20]] * 2
    assert sum("waits for task" in report["message"] for report in reported) == 4
    assert (
        sum(
            isinstance(report.get("exception"), TaskStuckWarning) for report in reported
        )
        == 2
    )


@pytest.mark.virtual_time
async def test_stuck_while_the_host_is_cancelled(reported: Reports) -> None:
    """The host goes on waiting, and raises its cancel at the end."""
    cancels: list[float] = []

    async def main() -> None:
        await children_of(stubborn(cancels, 2)).wait()

    with pytest.warns(TaskStuckWarning):
        raised = await raised_by(main(), lambda task: task.cancel("host"))
    assert raised.args == ("host",)
    assert cancels == [0, 10]
    assert len(reported) == 1


@pytest.mark.virtual_time
async def test_done_but_not_told_yet_is_not_reported(reported: Reports) -> None:
    """Neither the alarm nor whoever gives up lists a child that is done."""
    done: asyncio.Future[None] = asyncio.Future()
    other: asyncio.Future[None] = asyncio.Future()
    children = Children[str]("owner()")
    for future in (done, other):
        children.add(future, "child", children.ended, Context())
    done.set_result(None)
    with pytest.warns(TaskStuckWarning) as caught:
        children._report_stuck(0.0, STUCK_AFTER)
    assert len(caught) == len(reported) == 1
    assert repr(done) not in str(caught[0].message)
    again: asyncio.Future[None] = asyncio.Future()
    children.add(again, "child", children.ended, Context())
    again.set_result(None)
    assert children.abandon(1.0) == ()
    await children.wait()
    assert active_timers(children.loop) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(("stuck_after", "expected"), [(3.0, 3), (None, 0)])
async def test_the_interval_is_the_owners(
    stuck_after: float | None, expected: int, reported: Reports
) -> None:
    """Reports come `stuck_after` seconds apart, or not at all."""

    class Deaf(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            return False

    children = Children[str]("owner()", stuck_after)
    future = Deaf()
    add(children, future)
    children.loop.call_at(10.0, future.set_result, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        children.cancel()
        await children.wait()
    assert len(caught) == len(reported) == expected
    assert active_timers(children.loop) == []


async def test_shielded_children_are_not_cancelled() -> None:
    """A wait may shield them: the host's cancel is kept, and they run to their end."""
    patient = Patient()
    ended: list[str] = []

    async def child() -> None:
        await turns(9)
        ended.append("child")

    async def main() -> None:
        children = children_of(child(), patient.run(), turns(1))
        children.loop.call_soon(
            lambda: [one.cancel() for one in tuple(children.running)[1:2]]
        )
        await children.wait(shielded=True)

    raised = await raised_by(main(), *[lambda task: task.cancel("host")] * 3)
    assert raised.args == ("host",)
    assert ended == ["child"]
    assert patient.ended
    assert len(patient.cancels) == 1


async def test_abandoned() -> None:
    """Whoever gives up gets a report of each child, and waits for none of them."""
    patients = [Patient(), Patient()]
    children = Children[str]("owner()", None)
    tasks = [asyncio.create_task(patient.run()) for patient in patients]
    for task in tasks:
        children.add(task, "child", children.ended, Context())
    await turns(1)
    children.cancel()
    children.loop.call_soon(lambda: reports.extend(children.abandon(2.5)))
    reports: list[str] = []
    await children.wait()
    assert not any(patient.ended for patient in patients)
    for task, report in zip(tasks, reports, strict=True):
        assert f"task {task.get_name()!r}, still running 2.5 s after" in report
        assert "in forever" in report or "in turns" in report
    await asyncio.wait(tasks)
    assert all(patient.ended for patient in patients)
    assert not children.running


@pytest.mark.parametrize("cancelled", [False, True])
def test_leaves_no_cycle(cancelled: bool) -> None:
    """What was waited for is freed without the garbage collector."""
    refs: list[weakref.ref[Any]] = []

    async def main() -> None:
        children = children_of(Patient().run() if cancelled else turns(3))
        refs.append(weakref.ref(children))
        if cancelled:
            children.loop.call_soon(
                partial(children.loop.call_soon, current_task().cancel)
            )
        try:
            await children.wait()
        except asyncio.CancelledError as exc:
            refs.append(weakref.ref(exc))
            current_task().uncancel()

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(main())
        assert len(refs) == 1 + cancelled
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()


async def test_outside_of_a_task() -> None:
    """Without a task there is nobody to wait."""
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        try:
            current_task()
        except RuntimeError as exc:
            failed.set_result(str(exc))

    asyncio.get_running_loop().call_soon(callback)
    assert await failed == "safeaio runs inside an asyncio task; none is running here"
