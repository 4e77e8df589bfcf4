"""The cancellation sweep: it passes what is right and catches what is not."""

import asyncio
import contextlib
import gc
import pickle
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from importlib import import_module
from importlib.util import find_spec
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any

import anyio
import pytest

from safeaio.testing import (
    Broken,
    Route,
    Run,
    SweepError,
    SweepReport,
    VirtualClockLoop,
    cancel_sweep,
)

Scenario = Callable[[], Awaitable[object]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOPS: list[LoopFactory] = [VirtualClockLoop, asyncio.SelectorEventLoop]

if find_spec("uvloop"):
    LOOPS.append(import_module("uvloop").new_event_loop)


async def steps(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def broken_by(scenario: Scenario, *invariants: Callable[[Run], object]) -> set[str]:
    """Sweep on each kind of loop; return the invariants broken, the same on each."""
    found: list[set[str]] = []
    for new_loop in LOOPS:
        with pytest.raises(SweepError) as caught:
            cancel_sweep(scenario, *invariants, loop_factory=new_loop)
        found.append({broken.invariant for broken in caught.value.broken})
    assert all(invariants == found[0] for invariants in found)
    return found[0]


# What is right.


async def plain() -> str:
    await steps(3)
    return "done"


async def with_task_group() -> None:
    async def child() -> None:
        try:
            await steps(3)
        finally:
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(child())


async def with_timeout() -> None:
    async with asyncio.timeout(10):
        await steps(3)


async def with_expired_timeout() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await steps(5)


async def with_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(steps, 3)
        group.start_soon(steps, 5)


async def with_anyio_shield() -> None:
    try:
        await steps(2)
    finally:
        with anyio.CancelScope(shield=True):
            await steps(2)


async def that_never_suspends() -> None:
    pass


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize(
    "scenario",
    [
        plain,
        with_task_group,
        with_timeout,
        with_anyio_group,
        with_anyio_shield,
        that_never_suspends,
    ],
)
def test_correct_code_passes(scenario: Scenario, new_loop: LoopFactory) -> None:
    """Code that treats every cancel right passes, on every loop."""
    report = cancel_sweep(scenario, loop_factory=new_loop)
    assert report.ticks > 0
    assert report.runs > len(Route) * report.ticks


def test_timeout_that_expires_passes() -> None:
    """A timeout inside the scenario keeps apart its cancel and the sweep's."""
    # Not by a scope: when `asyncio.timeout` and an anyio scope around it cancel in one
    # tick, the CancelledError is the timeout's, and anyio lets it out of the scope.
    routes = set(Route) - {Route.SCOPE}
    cancel_sweep(with_expired_timeout, routes=routes)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
def test_eager_tasks_may_be_swept() -> None:
    """A loop may start its tasks eagerly; the scenario's own starts in tick 0."""

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = VirtualClockLoop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        return loop

    cancel_sweep(with_task_group, loop_factory=new_loop)


# What is wrong.


async def leaks_a_task() -> None:
    child = asyncio.create_task(steps(10))
    await steps(2)
    await child


async def cancels_and_walks_away() -> None:
    child = asyncio.create_task(steps(10))
    try:
        await steps(2)
    finally:
        child.cancel()


async def shields_and_walks_away() -> None:
    await asyncio.shield(steps(3))


async def swallows_cancel() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await steps(3)


async def uncancels_too_often() -> None:
    try:
        await steps(3)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        raise


async def replaces_cancel() -> None:
    try:
        await steps(3)
    except asyncio.CancelledError:
        raise ValueError("cancelled, I guess") from None


async def forgets_coroutines() -> None:
    coros = [steps(1) for _ in range(3)]
    for coro in coros:
        await coro


async def eats_its_callers_cancel() -> None:
    async def target() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)

    task = asyncio.create_task(target())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise


async def spins_after_cancel() -> None:
    try:
        await steps(2)
    except asyncio.CancelledError:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)


async def waits_for_ever_after_cancel() -> None:
    try:
        await steps(2)
    except asyncio.CancelledError:
        await asyncio.Event().wait()
        raise


@pytest.mark.parametrize(
    ("scenario", "invariants"),
    [
        (leaks_a_task, {"left_nothing_running"}),
        (cancels_and_walks_away, {"left_nothing_running"}),
        (shields_and_walks_away, {"left_nothing_running"}),
        (swallows_cancel, {"raised_its_cancel"}),
        (uncancels_too_often, {"kept_cancel_count"}),
        (replaces_cancel, {"raised_its_cancel"}),
        (forgets_coroutines, {"awaited_every_coroutine"}),
        (eats_its_callers_cancel, {"left_nothing_running", "raised_its_cancel"}),
        (waits_for_ever_after_cancel, {"ended"}),
    ],
)
def test_planted_bug_is_caught(scenario: Scenario, invariants: set[str]) -> None:
    """Each classic mistake breaks just the invariant that it should, on every loop."""
    assert broken_by(scenario) == invariants


def test_spinning_is_given_up() -> None:
    """A scenario that spins after its cancel ends the sweep early instead of never."""
    with pytest.raises(SweepError) as caught:
        cancel_sweep(spins_after_cancel)
    assert {broken.invariant for broken in caught.value.broken} == {"ended"}
    assert caught.value.runs < 10
    text = str(caught.value)
    assert "still running after 20000 ticks: scenario: " in text
    assert "> spins_after_cancel (test_sweep.py:" in text
    assert text.endswith(
        "given up after 3 runs that did not end\n"
        "to run the first alone: only=(Route.NATIVE, 1)"
    )


def test_leftovers_that_ignore_cancels_do_not_stop_the_sweep() -> None:
    """A task that survives its cancel is reported, and the next run has a new loop."""

    async def scenario() -> None:
        child = asyncio.create_task(waits_for_ever_after_cancel())
        await asyncio.sleep(0)
        child.cancel()

    assert broken_by(scenario) == {"left_nothing_running"}


def test_native_cancel_in_the_tick_of_the_end_is_swept() -> None:
    """A mistake that shows only when the last step is already scheduled is caught."""

    async def scenario() -> None:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(done.set_result, None)
        try:
            await done
        except asyncio.CancelledError:
            if not done.done() or done.cancelled():
                raise

    with pytest.raises(SweepError) as caught:
        cancel_sweep(scenario, routes=[Route.NATIVE])
    assert [broken.run.tick for broken in caught.value.broken] == [2]


def test_cancel_comes_between_two_callbacks_of_one_iteration() -> None:
    """Only on the virtual clock loop a cancel lands where no loop iteration begins."""
    first: asyncio.Future[None]

    class Watched(asyncio.Future[None]):
        def cancel(self, msg: object = None) -> bool:
            seen.add((first.done(), self.done()))
            return super().cancel(msg)

    async def scenario() -> None:
        nonlocal first
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), Watched()
        loop.call_soon(first.set_result, None)
        loop.call_soon(second.set_result, None)
        await second

    seen: set[tuple[bool, bool]] = set()
    cancel_sweep(scenario, routes=[Route.NATIVE], loop_factory=LOOPS[1])
    assert seen == {(False, False), (True, True)}
    seen.clear()
    cancel_sweep(scenario, routes=[Route.NATIVE])
    assert seen == {(False, False), (True, False), (True, True)}


def test_cancel_is_swept_up_to_the_tick_after_the_end() -> None:
    """The first cancel comes before the first step, the last after the end."""
    runs: list[Run] = []
    report = cancel_sweep(plain, runs.append, routes=[Route.NATIVE])
    assert report == SweepReport(runs=6, ticks=4)
    untouched, *cancelled, after = runs
    assert (untouched.route, untouched.tick, untouched.value) == (None, None, "done")
    assert [run.tick for run in cancelled] == [1, 2, 3]
    assert all(run.cancel_delivered for run in cancelled)
    assert all(run.value is None for run in cancelled)
    assert (after.tick, after.value) == (4, "done")
    assert not after.cancel_delivered
    assert after.ticks == untouched.ticks


def test_second_cancel_comes_at_every_later_tick() -> None:
    """The second cancel is moved on for as long as the task still runs."""

    async def scenario() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await steps(20)
            raise

    async def bounded() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await scenario()

    runs: list[Run] = []
    cancel_sweep(bounded, runs.append, only=(Route.NATIVE_TWICE, 1))
    _, *cancelled = runs
    *within, after = [run.again for run in cancelled]
    assert within == [2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 17, 20]
    assert after == 23
    assert [run.native_cancels for run in cancelled] == [2] * 13 + [1]


# Invariants of the user's.


def test_cleanup_cut_by_a_second_cancel_is_caught() -> None:
    """An `await` in clean-up survives one cancel, but not the next, nor a scope."""
    events: list[str] = []

    def closes(run: Run) -> None:
        if run.raised is not None:
            assert events == ["closed"]

    async def naive() -> None:
        events.clear()
        try:
            await steps(3)
        except asyncio.CancelledError:
            await steps(3)
            events.append("closed")
            raise

    cancel_sweep(naive, closes, routes=[Route.NATIVE, Route.TIMEOUT])
    with pytest.raises(SweepError) as caught:
        cancel_sweep(naive, closes)
    assert {(b.run.route, b.invariant) for b in caught.value.broken} == {
        (Route.NATIVE_TWICE, "closes"),
        (Route.SCOPE, "closes"),
        (Route.SCOPE_AND_NATIVE, "closes"),
    }


def test_invariant_that_returns_false_objects() -> None:
    """A lambda that compares is an invariant, too."""
    with pytest.raises(SweepError, match="<lambda>: returned False"):
        cancel_sweep(plain, lambda run: run.value == "done")


def test_invariant_that_fails_itself_says_when() -> None:
    """An error in an invariant is raised as it is, with a note on the run."""

    def broken(run: Run) -> None:
        if run.tick == 2:
            raise KeyError("typo")

    with pytest.raises(KeyError) as caught:
        cancel_sweep(plain, broken)
    assert caught.value.__notes__ == ["raised by broken for Route.NATIVE at tick 2"]


def test_invariants_are_not_asked_about_a_scenario_that_never_started() -> None:
    """A task cancelled before its first step has no state to look at."""
    started: list[bool] = []

    async def scenario() -> None:
        started.append(True)

    def looks_at_state(run: Run) -> None:
        assert started.pop()

    cancel_sweep(scenario, looks_at_state)
    assert not started


def test_run_tells_what_happened() -> None:
    """Warnings, reports to the exception handler and outcomes are all there."""
    error = ValueError("in a callback")

    def fail() -> None:
        raise error

    async def scenario() -> None:
        warnings.warn("careful", UserWarning, stacklevel=1)
        asyncio.get_running_loop().call_soon(fail)
        await steps(2)

    runs: list[Run] = []
    cancel_sweep(scenario, runs.append, only=(Route.SCOPE, 1))
    for run in runs:
        assert [warning.category for warning in run.warnings] == [UserWarning]
        assert [context["exception"] for context in run.reported] == [error]
    untouched, scoped = runs
    assert (untouched.raised, untouched.exception) == (None, None)
    assert isinstance(scoped.raised, asyncio.CancelledError)
    assert scoped.exception is None
    assert (scoped.native_cancels, scoped.cancelling) == (0, 0)


def test_timeout_route_ends_in_timeout_error() -> None:
    """Around an expired timeout the caller sees TimeoutError."""
    runs: list[Run] = []
    cancel_sweep(plain, runs.append, routes=[Route.TIMEOUT])
    assert [type(run.exception) for run in runs] == [
        type(None),
        *[TimeoutError] * 3,
        *[type(None)] * 2,  # it expires one tick too late for the last step
    ]


# What a scenario may be.


class Thorough(Coroutine[Any, Any, None]):
    """A coroutine object that runs something when cancelled before its first step."""

    def __init__(self, clean_up: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._coro = steps(1)
        self._clean_up = clean_up

    def send(self, value: object) -> Any:
        return self._coro.send(value)

    def throw(self, *exc: Any) -> Any:
        if getcoroutinestate(self._coro) != CORO_CREATED:
            return self._coro.throw(*exc)
        self._coro.close()
        self._coro = self._clean_up()
        return self.send(None)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._coro.__await__()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_scenario_cancelled_before_its_first_step_is_thrown_into(
    new_loop: LoopFactory,
) -> None:
    """An unstarted coroutine object sees the cancel, and is held to the same rules."""

    async def waits() -> None:
        cleaned.append("begin")
        await asyncio.create_task(steps(1))
        cleaned.append("end")
        raise asyncio.CancelledError

    async def leaks() -> None:
        asyncio.create_task(steps(1))  # noqa: RUF006
        raise asyncio.CancelledError

    async def swallows() -> None:
        pass

    def broken(clean_up: Callable[[], Coroutine[Any, Any, None]]) -> set[str]:
        with pytest.raises(SweepError) as caught:
            cancel_sweep(
                lambda: Thorough(clean_up),
                only=(Route.NATIVE, 0),
                loop_factory=new_loop,
            )
        return {broken.invariant for broken in caught.value.broken}

    cleaned: list[str] = []
    cancel_sweep(lambda: Thorough(waits), only=(Route.NATIVE, 0), loop_factory=new_loop)
    assert cleaned == ["begin", "end"]
    assert broken(leaks) == {"left_nothing_running"}
    assert broken(swallows) == {"raised_its_cancel"}

    cleaned.clear()
    cancel_sweep(
        lambda: Thorough(waits),
        only=(Route.NATIVE_TWICE, 0),
        loop_factory=new_loop,
    )
    assert cleaned[0] == "begin"
    assert 0 < cleaned.count("end") < cleaned.count("begin")


def test_scenario_may_be_any_awaitable() -> None:
    """What the scenario returns may be a future made in the running loop."""

    def scenario() -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, set_unless_done, future)
        return future

    def set_unless_done(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    assert cancel_sweep(scenario).ticks == 3


def test_scenario_may_start_something_when_called() -> None:
    """What the call itself schedules has ticks of its own, before the first step."""

    def scenario() -> Coroutine[Any, Any, None]:
        child = asyncio.create_task(steps(1))
        return consume(child)

    async def consume(child: asyncio.Task[None]) -> None:
        started.append(True)
        try:
            await child
        finally:
            if child.cancel():
                await asyncio.wait([child])

    started: list[bool] = []
    routes = [Route.NATIVE, Route.SCOPE, Route.TIMEOUT]
    with pytest.raises(SweepError) as caught:
        cancel_sweep(scenario, routes=routes)
    assert [(b.run.tick, b.invariant) for b in caught.value.broken] == [
        (0, "left_nothing_running"),
        (1, "left_nothing_running"),
    ]
    assert len(started) == caught.value.runs - 2


def test_coroutine_instead_of_a_function_is_refused() -> None:
    """A coroutine could run only once; it is closed, and the message shows the fix."""
    coro = plain()
    with pytest.raises(
        TypeError, match=r"got coroutine <coroutine object plain .*func"
    ):
        cancel_sweep(coro)  # type: ignore[arg-type]


def test_sweep_inside_a_loop_is_refused() -> None:
    """The sweep runs loops itself, which no coroutine may."""

    async def main() -> None:
        cancel_sweep(plain)

    with pytest.raises(RuntimeError, match="call it from a plain function"):
        asyncio.run(main())


@pytest.mark.parametrize("tick", [-1, 5])
def test_tick_that_the_scenario_does_not_have_is_refused(tick: int) -> None:
    """`only` with a tick out of range says which there are."""
    with pytest.raises(ValueError, match=f"0 to 4, got .Route.SCOPE, {tick}"):
        cancel_sweep(plain, only=(Route.SCOPE, tick))


# What a scenario may raise.


def test_unawaited_coroutines_are_found_inside_cycles() -> None:
    """A coroutine that only the garbage collector frees is blamed on its own run."""

    async def scenario() -> None:
        cycle: list[object] = []
        coro = steps(1)
        cycle += [cycle, coro]
        await asyncio.sleep(0)
        await coro

    with pytest.raises(SweepError) as caught:
        cancel_sweep(scenario, routes=[Route.NATIVE])
    assert [(b.run.tick, b.invariant) for b in caught.value.broken] == [
        (1, "awaited_every_coroutine")
    ]


def test_unawaited_coroutines_are_found_inside_groups() -> None:
    """A traceback in an ExceptionGroup does not keep them alive until after the run."""

    async def child() -> None:
        kept = [steps(1)]
        await asyncio.sleep(0)
        raise ValueError(len(kept))

    async def scenario() -> None:
        errors: list[Exception] = []
        try:
            await child()
        except ValueError as exc:
            errors.append(exc)
        raise ExceptionGroup("together", errors)

    assert broken_by(scenario) == {"raised_its_cancel", "awaited_every_coroutine"}


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("always")


def test_scenario_that_fails_untouched_is_an_error() -> None:
    """A sweep of a scenario that only fails would prove nothing."""
    with pytest.raises(SweepError) as caught:
        cancel_sweep(fails)
    assert str(caught.value) == (
        "1 broken invariant(s) in 1 run(s):\n"
        "  without any cancel: raised_its_cancel: "
        "raised ValueError('always') instead of a normal end"
    )
    assert caught.value.__cause__ is not None


def test_may_raise_allows_an_error() -> None:
    """An expected error may come instead of the normal end, and of the cancel."""
    cancel_sweep(fails, may_raise=ValueError)
    cancel_sweep(replaces_cancel, may_raise=(KeyError, ValueError))


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("new_loop", LOOPS)
def test_scenario_may_raise_what_ends_a_loop(
    exc: BaseException, new_loop: LoopFactory
) -> None:
    """KeyboardInterrupt and SystemExit of the scenario are outcomes like others."""

    async def scenario() -> None:
        child = asyncio.create_task(steps(2))
        await child
        raise exc

    cancel_sweep(
        scenario, routes=[Route.SCOPE], may_raise=type(exc), loop_factory=new_loop
    )


@pytest.mark.parametrize("new_loop", LOOPS)
def test_interrupt_from_elsewhere_ends_the_sweep(new_loop: LoopFactory) -> None:
    """KeyboardInterrupt that is not the scenario's comes out, after clean-up."""
    closed: list[bool] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await steps(5)
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        cancel_sweep(scenario, may_raise=KeyboardInterrupt, loop_factory=new_loop)
    assert closed == [True]


# The sweep itself.


def test_sweep_is_deterministic() -> None:
    """The same tick is the same interleaving, every time."""

    def record() -> list[tuple[int | None, list[str]]]:
        log: list[str] = []
        seen: list[tuple[int | None, list[str]]] = []

        async def worker(name: str) -> None:
            for n in range(3):
                log.append(f"{name}{n}")
                await asyncio.sleep(n)

        async def scenario() -> None:
            log.clear()
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(worker(name))

        cancel_sweep(scenario, lambda run: seen.append((run.tick, log.copy())))
        return seen

    first = record()
    assert record() == first
    assert len({tuple(log) for _, log in first}) > 5


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_stays_as_it_was(collecting: bool) -> None:
    """The collector is off during a run only, if it was on at all."""
    during: list[bool] = []

    async def scenario() -> None:
        during.append(gc.isenabled())

    if not collecting:
        gc.disable()
    try:
        cancel_sweep(scenario, routes=[])
        assert gc.isenabled() is collecting
    finally:
        gc.enable()
    assert during == [False]


def test_nothing_is_left_open() -> None:
    """Loops, executors, generators and leftover tasks of broken runs are closed."""

    async def endless() -> Any:
        try:
            while True:
                yield None
        finally:
            await asyncio.sleep(0)

    async def scenario() -> None:
        await asyncio.to_thread(int)
        generator = endless()
        await anext(generator)
        asyncio.create_task(steps(100))  # noqa: RUF006
        held.append(generator)

    held: list[Any] = []
    gc.collect()
    with pytest.raises(SweepError, match="still running"):
        cancel_sweep(scenario)
    held.clear()
    gc.collect()


def test_scenario_that_stops_its_loop_still_ends() -> None:
    """The loop is run on, whoever stops it."""

    async def scenario() -> None:
        asyncio.get_running_loop().stop()
        await steps(3)

    cancel_sweep(scenario)


def test_error_lists_ten_and_counts_the_rest() -> None:
    """A long list of objections is cut, but counted."""
    with pytest.raises(SweepError) as caught:
        cancel_sweep(plain, lambda run: run.route is None)
    error = caught.value
    assert all(isinstance(broken, Broken) for broken in error.broken)
    lines = str(error).splitlines()
    assert lines[0] == f"{len(error.broken)} broken invariant(s) in 26 run(s):"
    assert lines[1] == "  Route.NATIVE at tick 1: <lambda>: returned False"
    assert lines[11:] == [
        f"  ... and {len(error.broken) - 10} more",
        "to run the first alone: only=(Route.NATIVE, 1)",
    ]


def test_sweep_error_pickles() -> None:
    """The error survives the way to another process."""
    with pytest.raises(SweepError) as caught:
        cancel_sweep(plain, lambda run: run.route is None)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
