"""One child of a supervisor: its lives, its readiness, and how it is stopped."""

import asyncio
import contextlib
import gc
import logging
import time
import warnings
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    CancellationSwallowedWarning,
    ChildCancelled,
    ChildFailed,
    ChildStuck,
    Event,
    Service,
    SupervisionError,
    TaskStuckWarning,
    beat,
    supervise,
)
from safeaio._child import Child
from safeaio._ends import Ends

AT_ONCE = Backoff(base=0)
SECOND = Backoff(base=1, factor=1, jitter=0)

Log = list[str]


def now() -> float:
    return asyncio.get_running_loop().time()


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


def hold_the_loop() -> None:
    time.sleep(0.05)


def ours() -> int:
    """Count the objects of our classes; cancelled timers are the loop's."""
    return sum("'safeaio." in repr(type(found)) for found in gc.get_objects())


def failures(events: list[Event]) -> list[ChildFailed]:
    return [event for event in events if isinstance(event, ChildFailed)]


# Readiness


@pytest.mark.virtual_time
async def test_each_waits_until_the_one_before_is_ready() -> None:
    """They start one after another."""
    log: Log = []

    async def slow(name: str, *, task_status: TaskStatus[None]) -> None:
        log.append(f"{name} at {now():.0f}")
        await asyncio.sleep(2)
        task_status.started()
        await waiting()

    async with supervise(Service(slow, "a"), Service(slow, "b"), Service(slow, "c")):
        log.append(f"body at {now():.0f}")
    assert log == ["a at 0", "b at 2", "c at 4", "body at 6"]


@pytest.mark.virtual_time
async def test_start_that_takes_too_long() -> None:
    """Is a failed start; the text says what to call."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    async with supervise() as sup:
        with pytest.raises(TimeoutError, match=r"not ready 3 s .* task_status.started"):
            await sup.start(slow, start_timeout=3)
        assert now() == pytest.approx(3)
        assert sup.snapshot().children == ()


@pytest.mark.virtual_time
async def test_start_without_a_limit() -> None:
    """It may take for ever."""

    async def slow(*, task_status: TaskStatus[int]) -> None:
        await asyncio.sleep(10**6)
        task_status.started(3)
        await waiting()

    async with supervise() as sup:
        handle = await sup.start(slow, start_timeout=None)
        assert handle.value == 3


@pytest.mark.virtual_time
async def test_late_start_that_raises_something_else() -> None:
    """The timeout is the error, and what was raised its context."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        try:
            await waiting()
        finally:
            raise OSError("cleanup")

    async with supervise() as sup:
        with pytest.raises(TimeoutError) as info:
            await sup.start(slow, start_timeout=1)
        assert isinstance(info.value.__context__, OSError)


@pytest.mark.virtual_time
async def test_later_start_that_fails_counts_as_a_restart() -> None:
    """Only the first one is not tried again."""
    lives = 0

    async def flaky(*, task_status: TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        if lives in (2, 3):
            raise OSError(lives)
        task_status.started()
        await asyncio.sleep(1)
        if lives == 1:
            raise OSError(lives)

    service = Service(flaky, max_restarts=3, backoff=SECOND)
    events: list[Event] = []
    async with supervise(service, on_event=events.append) as sup:
        await sup.wait()
        [child] = sup.snapshot().children
    assert (child.restarts, child.state) == (3, "finished")
    assert [event.attempt for event in failures(events)] == [1, 2, 3]


async def test_error_right_after_started() -> None:
    """The start succeeded; what follows is the policy's matter."""
    lives = 0

    async def flaky(*, task_status: TaskStatus[int]) -> None:
        nonlocal lives
        lives += 1
        task_status.started(lives)
        if lives == 1:
            raise OSError

    async with supervise() as sup:
        handle = await sup.start(flaky, backoff=AT_ONCE)
        await handle.wait()
        assert handle.value == lives == 2


async def test_started_twice() -> None:
    """Refused, as by anyio."""

    async def twice(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        with pytest.raises(RuntimeError, match="'twice' has called"):
            task_status.started()
        await waiting()

    async with supervise(twice) as sup:
        assert sup.health().ready


async def test_started_by_a_life_that_is_over() -> None:
    """Or by one that is being stopped: nobody is interested any more."""
    statuses: list[TaskStatus[int]] = []

    async def serve(*, task_status: TaskStatus[int]) -> None:
        statuses.append(task_status)
        task_status.started(len(statuses))
        try:
            await waiting()
        finally:
            task_status.started(99)

    async with supervise() as sup:
        handle = await sup.start(serve)
        await sup.restart("serve")
        statuses[0].started(98)
        assert handle.value == 2
    statuses[1].started(97)
    assert handle.value == 2


async def test_readiness_of_an_inner_supervisor_is_its_own() -> None:
    """`Service(supervise, ...)` is ready once all in it are."""
    go = asyncio.Event()
    log: Log = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await go.wait()
        task_status.started()
        log.append("slow")
        await waiting()

    async def after() -> None:
        log.append("after")
        await waiting()

    inner = Service(supervise, slow, name="inner")

    async def let_go() -> None:
        await settle()
        assert log == []
        go.set()

    task = asyncio.create_task(let_go())
    async with supervise(inner, after):
        await settle()
        assert log == ["slow", "after"]
    await task


# Lives


async def test_every_life_has_a_fresh_context() -> None:
    """Equal to that of whoever started the service, whatever a life has set."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: Log = []

    async def serve() -> None:
        seen.append(variable.get())
        variable.set("leaked")
        await asyncio.sleep(0)
        raise OSError

    variable.set("outside")
    async with supervise() as sup:
        handle = await sup.start(serve, max_restarts=10**6, backoff=AT_ONCE)
        variable.set("later")
        await settle(100)
        assert len(seen) > 3
        assert handle.name == "serve"
    assert set(seen) == {"outside"}


@pytest.mark.parametrize("ended", [False, True])
async def test_context_of_one_that_is_never_restarted(ended: bool) -> None:
    """But by hand: that of whoever does so, in whatever tick its life ends."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: Log = []
    end = asyncio.Event()

    async def serve() -> None:
        seen.append(variable.get())
        await end.wait()

    async with supervise() as sup:
        variable.set("starter")
        await sup.start(serve, restart="never")
        await settle()
        variable.set("restarter")
        if ended:
            end.set()
            await asyncio.sleep(0)
        await sup.restart("serve")
        await settle()
    assert seen == ["starter", "restarter"]


async def test_one_started_by_another_is_not_part_of_it() -> None:
    """It may stop that, and goes on."""
    log: Log = []

    async def b() -> None:
        await sup.stop("a")
        log.append("stopped")
        await waiting()

    async def a() -> None:
        await sup.start(b)
        await waiting()

    async with supervise() as sup:
        await sup.start(a)
        await settle()
        assert {child.name: child.state for child in sup.snapshot().children} == {
            "a": "stopped",
            "b": "ready",
        }
    assert log == ["stopped"]


async def test_nothing_is_kept_along_a_chain() -> None:
    """Of services each of which starts the next one, and ends."""
    counts: list[int] = []

    async def link(left: int) -> None:
        await asyncio.sleep(0)
        if left:
            await sup.start(link, left - 1, restart="never")
        else:
            gc.collect()
            counts.append(ours())

    async with supervise() as sup:
        for length in (10, 10, 2000):
            await sup.start(link, length, restart="never")
            await sup.wait()
    assert counts[2] - counts[1] <= 3


async def test_every_life_is_a_task_of_its_name() -> None:
    """A new one each."""
    tasks: list[asyncio.Task[Any]] = []

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if len(tasks) < 3:
            raise OSError

    await supervise(Service(serve, name="poller", backoff=AT_ONCE))
    assert len(set(tasks)) == 3
    assert {task.get_name() for task in tasks} == {"poller"}


@pytest.mark.virtual_time
async def test_stray_cancel_is_a_failure() -> None:
    """Whoever cancels a service has no business to; it is restarted."""
    lives: list[asyncio.Task[Any]] = []

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        lives.append(task)
        await waiting()

    events: list[Event] = []
    async with supervise(Service(serve, backoff=SECOND), on_event=events.append):
        await settle()
        lives[0].cancel()
        await asyncio.sleep(2)
        assert len(lives) == 2
    [failed] = failures(events)
    assert isinstance(failed.error, ChildCancelled)


async def test_same_error_raised_again_and_again() -> None:
    """Its traceback does not grow from life to life."""
    error = OSError("the same")
    lengths: list[int] = []

    async def deeper() -> None:
        raise error

    async def serve() -> None:
        await deeper()

    def measure(event: Event) -> None:
        if isinstance(event, ChildFailed):
            length, traceback = 0, error.__traceback__
            while traceback is not None:
                length, traceback = length + 1, traceback.tb_next
            lengths.append(length)

    with pytest.raises(SupervisionError):
        await supervise(
            Service(serve, max_restarts=4, backoff=AT_ONCE), on_event=measure
        )
    assert lengths == [3] * 5


async def test_same_error_without_its_traceback() -> None:
    """Somebody else may have cut it."""
    error = OSError("the same")

    async def serve() -> None:
        raise error.with_traceback(None)

    with pytest.raises(SupervisionError) as info:
        await supervise(Service(serve, max_restarts=2, backoff=AT_ONCE))
    assert info.value.exceptions == (error,)


async def test_error_whose_repr_raises() -> None:
    """It is named by its class."""

    class OddError(Exception):
        def __repr__(self) -> str:
            raise KeyError("odd")

    async def serve() -> None:
        raise OddError

    with pytest.raises(SupervisionError) as info:
        await supervise(Service(serve, max_restarts=0))
    [failure] = info.value.history
    assert failure.error == "OddError (its repr raised KeyError)"


# The heartbeat


@pytest.mark.virtual_time
async def test_heartbeat_that_stops() -> None:
    """Counts as a failure once the time is over."""
    lives: list[float] = []

    async def serve() -> None:
        lives.append(now())
        for _ in range(3):
            await asyncio.sleep(4)
            beat()
        await waiting()

    events: list[Event] = []
    service = Service(serve, watchdog=5, backoff=SECOND)
    async with supervise(service, on_event=events.append):
        await asyncio.sleep(20)
    assert lives == pytest.approx([0, 18])
    [failed] = failures(events)
    assert "'serve' has not called beat() for 5 s" in str(failed.error)


class LaggingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test can put forward."""

    lag = 0.0

    def time(self) -> float:
        return super().time() + self.lag


@pytest.mark.parametrize("limit", ["start_timeout", "watchdog"])
@pytest.mark.parametrize("life", [1, 2])
def test_crash_in_the_tick_in_which_its_time_is_over(limit: str, life: int) -> None:
    """It was first, and counts as any crash; the loop was late for both."""
    error = OSError("crash")
    lives: list[asyncio.Future[None]] = []

    async def serve(*, task_status: TaskStatus[None]) -> None:
        lives.append(asyncio.get_running_loop().create_future())
        if limit == "watchdog" or len(lives) < life:
            task_status.started()
        await lives[-1]
        if len(lives) <= life:
            raise error
        task_status.started()
        await waiting()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LaggingLoop)
        options: Any = {limit: 100, "max_restarts": life, "backoff": AT_ONCE}
        async with supervise(on_event=events.append) as sup:
            start = asyncio.ensure_future(sup.start(serve, **options))
            for crash in range(life):
                await settle()
                if crash == life - 1:
                    loop.lag += 1000
                lives[crash].set_result(None)
            await settle()
            if limit == "start_timeout" and life == 1:
                assert start.exception() is error
            else:
                assert len(lives) == life + 1
                assert start.done()

    events: list[Event] = []
    with asyncio.Runner(loop_factory=LaggingLoop) as runner:
        runner.run(main())
    assert [event.error for event in failures(events)] == [error] * life


def test_started_in_the_tick_in_which_its_time_is_over() -> None:
    """It is ready; the loop was late."""
    go_on: list[asyncio.Future[None]] = []

    async def serve(*, task_status: TaskStatus[int]) -> None:
        go_on.append(asyncio.get_running_loop().create_future())
        await go_on[0]
        task_status.started(3)
        await waiting()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LaggingLoop)
        async with supervise() as sup:
            start = asyncio.create_task(sup.start(serve, start_timeout=100))
            await settle()
            loop.lag += 1000
            go_on[0].set_result(None)
            handle = await start
            assert (handle.value, handle.state) == (3, "ready")

    with asyncio.Runner(loop_factory=LaggingLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("limit", ["start_timeout", "watchdog"])
def test_crash_in_the_tick_in_which_its_time_is_over_is_raised(limit: str) -> None:
    """If it is one too many, or of the first start."""
    error = OSError("crash")

    async def serve(*, task_status: TaskStatus[None]) -> None:
        if limit == "watchdog":
            task_status.started()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LaggingLoop)
        await settle()
        loop.lag += 1000
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        options: Any = {limit: 100, "max_restarts": 0}
        async with asyncio.timeout(1005):  # of which 1000 pass at once
            await supervise(waiting, Service(serve, **options))

    with (
        asyncio.Runner(loop_factory=LaggingLoop) as runner,
        pytest.raises(SupervisionError) as info,
    ):
        runner.run(main())
    assert info.value.exceptions == (error,)


@pytest.mark.virtual_time
async def test_heartbeat_begins_when_it_is_ready() -> None:
    """And is over when it is stopped."""

    async def serve(*, task_status: TaskStatus[None]) -> None:
        beat()
        await asyncio.sleep(20)
        task_status.started()
        try:
            await asyncio.sleep(4)
            beat()
            await waiting()
        finally:
            await asyncio.sleep(6)
            beat()

    events: list[Event] = []
    async with supervise(on_event=events.append) as sup:
        await sup.start(serve, watchdog=5)
        await asyncio.sleep(8)
    assert failures(events) == []


# The end


@pytest.mark.virtual_time
async def test_stuck_child_is_named_until_it_ends() -> None:
    """With its stack; it is cancelled again each time, and waited for."""
    log: list[float] = []

    async def stubborn() -> None:
        while len(log) < 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                log.append(now())
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        asyncio.current_task().uncancel()  # type: ignore[union-attr]

    events: list[Event] = []
    with pytest.warns(
        TaskStuckWarning, match=r"stubborn: still running [12]0.0 s after"
    ):
        async with supervise(stubborn, on_event=events.append):
            await asyncio.sleep(1)
    assert log == pytest.approx([1, 11, 21])
    stuck = [event for event in events if isinstance(event, ChildStuck)]
    assert [event.age for event in stuck] == pytest.approx([10, 20])
    assert "in stubborn" in stuck[0].stack


async def test_end_in_the_tick_in_which_it_would_be_called_stuck() -> None:
    """It has ended, and so is not stuck."""

    async def slow() -> None:
        try:
            await waiting()
        finally:
            hold_the_loop()

    events: list[Event] = []
    service = Service(slow, stop_timeout=0.02)
    async with supervise(service, on_event=events.append):
        await settle()
    assert not any(isinstance(event, ChildStuck) for event in events)


@pytest.mark.virtual_time
async def test_late_start_that_is_stuck() -> None:
    """Is named, too; whoever waits for it goes on waiting."""

    async def stubborn(*, task_status: TaskStatus[None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await waiting()
        await waiting()

    async with supervise() as sup:
        with (
            pytest.warns(TaskStuckWarning, match="still running 10.0 s"),
            pytest.raises(TimeoutError, match="was not ready 1 s after"),
        ):
            await sup.start(stubborn, start_timeout=1)
        assert now() == pytest.approx(11)


@pytest.mark.virtual_time
async def test_service_that_swallows_its_cancel_is_named() -> None:
    """It returned a result, though it was told to stop."""

    async def swallows() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await waiting()
        return 3

    with pytest.warns(CancellationSwallowedWarning, match=r"swallows\(\)"):
        async with supervise(swallows):
            await asyncio.sleep(1)


@pytest.mark.virtual_time
async def test_warnings_that_are_errors(reported: list[Any]) -> None:
    """Go to the loop's exception handler, and stop nothing."""

    async def swallows() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await waiting()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with supervise(swallows):
            await asyncio.sleep(1)
    assert [type(context["exception"]) for context in reported] == [
        TaskStuckWarning,
        CancellationSwallowedWarning,
    ]


@pytest.mark.virtual_time
async def test_no_limit_to_the_stop() -> None:
    """It is waited for without a word."""

    async def slow() -> None:
        try:
            await waiting()
        finally:
            await asyncio.sleep(1000)

    async with supervise(Service(slow, stop_timeout=None), total_stop_timeout=10**6):
        await asyncio.sleep(1)
    assert now() == pytest.approx(1001)


@pytest.mark.virtual_time
async def test_stopped_while_it_is_late() -> None:
    """The stop is what happened to it then, and no failure."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        try:
            await waiting()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(5)

    events: list[Event] = []
    async with supervise(on_event=events.append) as sup:
        task = asyncio.create_task(sup.start(slow, start_timeout=1))
        await asyncio.sleep(3)
        await sup.stop("slow")
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await task
    assert failures(events) == []


@pytest.mark.virtual_time
async def test_stop_in_the_tick_in_which_it_ends() -> None:
    """It ended of itself; nothing is cancelled."""
    end = asyncio.Event()

    async def serve() -> str:
        await end.wait()
        return "done"

    async with supervise() as sup:
        handle = await sup.start(serve)
        await settle()
        end.set()
        await asyncio.sleep(0)
        await sup.stop("serve")
        assert await handle.wait() == "done"
        assert handle.state == "finished"


async def test_coroutine_closed_by_somebody_else() -> None:
    """Its task finds that out when it is woken, and fails; nobody waits for ever."""
    woken = asyncio.get_running_loop().create_future()
    coros: list[Any] = []

    async def closed() -> None:
        task = asyncio.current_task()
        assert task is not None
        coros.append(task.get_coro())
        await woken

    async with supervise() as sup:
        handle = await sup.start(closed, restart="never")
        await settle()
        coros.pop().close()
        await settle()
        woken.set_result(None)
        with pytest.raises(RuntimeError, match="already awaited"):
            await handle.wait()


def test_life_closed_after_its_loop() -> None:
    """Nothing is asked of a closed loop, so the garbage collector has nothing to say."""
    loop = asyncio.new_event_loop()
    coros: list[Any] = []

    async def life() -> None:
        task = asyncio.current_task()
        assert task is not None
        coros.append(task.get_coro())
        await waiting()

    async def main() -> None:
        await supervise(life)

    task = loop.create_task(main())
    loop.run_until_complete(asyncio.wait([task], timeout=0.01))
    loop.close()
    coros.pop().close()
    with pytest.raises(RuntimeError, match="closed"):  # of the cancels, as anywhere
        task.get_coro().close()  # type: ignore[union-attr]


def test_keyboard_interrupt_amid_many_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ended in that turn is told of all the same."""
    names: list[str] = []
    look_at = Ends._look_at

    def interrupted(ends: Ends, child: Child) -> None:  # as by a signal handler
        look_at(ends, child)
        names.append(child.name)
        if len(names) == 1:
            raise KeyboardInterrupt

    async def brief() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await supervise(*[Service(brief, name=name) for name in "abcd"])

    monkeypatch.setattr(Ends, "_look_at", interrupted)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(asyncio.wait([task], timeout=5))
    assert names == ["a", "b", "c", "d"]
    task.result()
    loop.close()


async def test_nothing_refers_to_a_supervisor_that_is_over() -> None:
    """Neither it nor its children wait for the garbage collector."""

    async def run() -> None:
        async with supervise(waiting, Service(supervise, waiting, name="inner")) as sup:
            for _ in range(10):
                await sup.start(waiting)
            await settle()

    await run()
    await settle()
    gc.collect()
    gc.disable()
    try:
        before = ours()
        for _ in range(20):
            await run()
        assert ours() - before <= 3  # a frame or a weak set may keep the last
    finally:
        gc.enable()


def test_logger_exists() -> None:
    """Under the name that the docs give."""
    assert (
        logging.getLogger("safeaio.supervise").name in logging.root.manager.loggerDict
    )
