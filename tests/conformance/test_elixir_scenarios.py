"""What Elixir's tests ask of DynamicSupervisor and Supervisor, as far as it applies to `supervise`.

Each test has the name of Elixir's, with underscores. There is no `max_children` here, so
what counts towards it is checked where it shows: in the snapshot, and in the names that
are taken.
"""

# ruff: noqa: PT012, PT031 - what is raised here leaves a block, not a statement

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    CancellationSwallowedWarning,
    ChildStuck,
    Event,
    Intensity,
    Service,
    Snapshot,
    SupervisionError,
    Supervisor,
    TaskStuckWarning,
    supervise,
)

AT_ONCE = Backoff(base=0)
STEADY = Backoff(base=1.0, jitter=0.0)

Log = list[str]


class Killed(Exception):
    """What ends a worker that is up."""


@attrs.define
class Worker:
    """A worker that starts differently in each of its lives.

    Attributes:
        starts: What they report when they are ready; an exception is raised instead, and
            after None a life returns too early. The last goes for all further lives.
    """

    starts: Sequence[object]
    lives: int = 0
    killed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def service(self, **options: Any) -> Service:
        options.setdefault("backoff", AT_ONCE)
        return Service(self.serve, name="worker", **options)

    async def serve(self, *, task_status: TaskStatus[object]) -> None:
        start = self.starts[min(self.lives, len(self.starts) - 1)]
        self.lives += 1
        if self.lives > 100:
            raise SystemExit("restarted for ever")
        if isinstance(start, Exception):
            raise start
        if start is None:
            return
        task_status.started(start)
        await self.killed.wait()
        self.killed.clear()
        raise Killed

    async def kill(self) -> None:
        self.killed.set()
        await settle()


async def settle(turns: int = 30) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def sleepy(
    log: Log,
    name: str,
    cleanup: float = 0.0,
    error: Exception | None = None,
    **options: Any,
) -> Service:
    """A worker that sleeps, and says when it has ended."""

    async def serve() -> None:
        try:
            await forever()
        finally:
            if cleanup:
                await asyncio.sleep(cleanup)
            log.append(name)
            if error is not None:
                raise error

    return Service(serve, name=name, **options)


def only(sup: Supervisor) -> Snapshot:
    [child] = sup.snapshot().children
    return child


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


def stuck_in(events: list[Event]) -> list[str]:
    return [event.path for event in events if isinstance(event, ChildStuck)]


def now() -> float:
    return asyncio.get_running_loop().time()


# start_child/2


async def test_child_is_restarted_with_different_values() -> None:
    """The handle has what the current life has reported."""
    worker = Worker(["first", "second"])
    async with supervise() as sup:
        handle = await sup.start(worker.service())
        assert handle.value == "first"
        await worker.kill()
        assert (handle.value, only(sup).state) == ("second", "ready")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("start", "text"),
    [(OSError("found"), "found"), (None, "returned before")],
    ids=["error", "unknown"],
)
async def test_child_is_restarted_with_different_values_after(
    start: object, text: str
) -> None:
    """A restart that fails leaves the child waiting for the next, and counted."""
    worker = Worker(["first", start, "third"])
    async with supervise() as sup:
        handle = await sup.start(worker.service(backoff=STEADY))
        await worker.kill()
        await asyncio.sleep(1.5)  # the second life was at 1, the third is at 3
        child = only(sup)
        assert (child.state, child.streak, child.restarts) == ("backoff", 2, 2)
        assert text in str(child.last_error)
        await asyncio.sleep(2.0)
        assert (handle.value, only(sup).state) == ("third", "ready")


@pytest.mark.virtual_time
async def test_restarting_on_init_children_counted_in_max_children() -> None:
    """A child whose restart has failed keeps its place, and its name."""
    worker = Worker(["first", OSError("found")])
    async with supervise() as sup:
        await sup.start(worker.service(backoff=STEADY, restart="always"))
        await worker.kill()
        await asyncio.sleep(1.5)
        assert (worker.lives, only(sup).state) == (2, "backoff")
        with pytest.raises(ValueError, match="'worker'"):
            await sup.start(worker.service())
        assert worker.lives == 2


@pytest.mark.virtual_time
async def test_restarting_on_exit_children_counted_in_max_children() -> None:
    """So does one that waits for its first restart, and one that was restarted."""
    worker = Worker(["first"])
    async with supervise() as sup:
        await sup.start(worker.service(backoff=STEADY, restart="always"))
        await worker.kill()
        for state in ("backoff", "ready"):
            assert only(sup).state == state
            with pytest.raises(ValueError, match="'worker'"):
                await sup.start(worker.service())
            await asyncio.sleep(1.1)
        assert worker.lives == 2


async def test_child_is_restarted_when_trying_again() -> None:
    """A restart that fails is followed by another, within what is allowed."""
    worker = Worker(["first", OSError("try again"), "third"])
    async with supervise(intensity=Intensity(2, 5.0)) as sup:
        await sup.start(worker.service(restart="always"))
        await worker.kill()
        assert worker.lives == 3
        assert (only(sup).state, only(sup).restarts) == ("ready", 2)


@pytest.mark.parametrize("whose", ["child", "supervisor"])
@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(1, id="child_triggers_maximum_restarts"),
        pytest.param(10, id="child_triggers_maximum_intensity_when_trying_again"),
    ],
)
async def test_start_child(restarts: int, whose: str) -> None:
    """Restarts that always fail end the supervisor, whoever it is that counts them."""
    error = OSError("found")
    worker = Worker(["first", error])
    intensity = Intensity(restarts, 5.0) if whose == "supervisor" else None
    most = restarts if whose == "child" else 1000
    text = f"'worker' failed {1 + restarts} times" if restarts else "'worker' failed"
    with pytest.raises(SupervisionError, match=text) as info:
        async with supervise(intensity=intensity) as sup:
            await sup.start(worker.service(restart="always", max_restarts=most))
            worker.killed.set()
            await forever()
    assert worker.lives == 1 + restarts
    assert info.value.exceptions == (error,)
    assert info.value.service == "worker"


@pytest.mark.virtual_time
async def test_child_triggers_maximum_intensity_over_time() -> None:
    """The text says in what time all these failures were, also those not kept any more."""
    worker = Worker(["first", OSError("found")])
    backoff = Backoff(base=1.0, cap=1.0, jitter=0.0)
    with pytest.raises(SupervisionError, match=r"failed 11 times in 10\.0 s") as info:
        async with supervise() as sup:
            await sup.start(worker.service(backoff=backoff, max_restarts=10))
            worker.killed.set()
            await forever()
    assert info.value.history[-1].at == pytest.approx(10)
    assert worker.lives == 11


# terminate/2


@pytest.mark.virtual_time
async def test_terminates_children_with_brutal_kill() -> None:
    """With no time to stop, those that end when they are cancelled are not stuck."""
    log: Log = []
    events: list[Event] = []
    async with supervise(on_event=events.append) as sup:
        for name in "123":
            await sup.start(sleepy(log, name, stop_timeout=0.0))
        await settle()
    assert log == ["3", "2", "1"]
    assert stuck_in(events) == []
    assert now() == pytest.approx(0)


@pytest.mark.virtual_time
async def test_terminates_children_with_infinity_shutdown() -> None:
    """Without a limit each has the time that it takes, one after another."""
    log: Log = []
    events: list[Event] = []
    async with supervise(total_stop_timeout=1000.0, on_event=events.append) as sup:
        for name in "123":
            await sup.start(sleepy(log, name, cleanup=100.0, stop_timeout=None))
        await settle()
    assert log == ["3", "2", "1"]
    assert now() == pytest.approx(300)
    assert stuck_in(events) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "stop_timeout",
    [
        pytest.param(
            None, id="terminates_children_with_infinity_shutdown_and_abnormal_reason"
        ),
        pytest.param(
            1.0, id="terminates_children_with_integer_shutdown_and_abnormal_reason"
        ),
    ],
)
async def test_terminate(stop_timeout: float | None) -> None:
    """What children raise while they are stopped is raised at the end, in that order."""
    log: Log = []
    errors = [OSError("one"), OSError("two"), OSError("three")]
    with pytest.raises(SupervisionError, match="services failed") as info:
        async with supervise() as sup:
            for name, error in zip("123", errors, strict=True):
                await sup.start(
                    sleepy(log, name, error=error, stop_timeout=stop_timeout)
                )
            await settle()
    assert info.value.exceptions == tuple(reversed(errors))
    assert info.value.service is None
    assert log == ["3", "2", "1"]


@pytest.mark.virtual_time
async def test_terminates_children_with_integer_shutdown() -> None:
    """Those that need less than they may are not stuck."""
    log: Log = []
    events: list[Event] = []
    async with supervise(on_event=events.append) as sup:
        for name in "123":
            await sup.start(sleepy(log, name, cleanup=0.9, stop_timeout=1.0))
        await settle()
    assert log == ["3", "2", "1"]
    assert now() == pytest.approx(2.7)
    assert stuck_in(events) == []


@pytest.mark.virtual_time
async def test_terminates_children_with_expired_integer_shutdown() -> None:
    """The one that does not end in time is named, and does not keep the next waiting."""
    log: Log = []
    events: list[Event] = []
    released = asyncio.Event()

    async def trap() -> None:
        try:
            await forever()
        finally:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            log.append("2")

    with pytest.warns(TaskStuckWarning, match="supervisor/2"):
        async with supervise(on_event=events.append) as sup:
            await sup.start(sleepy(log, "1", stop_timeout=1.0))
            await sup.start(trap, name="2", stop_timeout=1.0)
            await sup.start(sleepy(log, "3", stop_timeout=1.0))
            await settle()
            asyncio.get_running_loop().call_later(1.5, released.set)
    assert log == ["3", "1", "2"]
    assert stuck_in(events) == ["supervisor/2"]
    assert now() == pytest.approx(1.5)


async def test_terminates_children_with_permanent_restart_and_normal_reason() -> None:
    """One that returns when it is stopped is not started again, but told off."""
    starts: Log = []

    async def child(name: str) -> None:
        starts.append(name)
        try:
            await forever()
        except asyncio.CancelledError:
            return

    with pytest.warns(CancellationSwallowedWarning) as warned:
        async with supervise() as sup:
            for name in "123":
                await sup.start(
                    Service(child, name, name=name, restart="always", backoff=AT_ONCE)
                )
            await settle()
    await settle()
    assert starts == ["1", "2", "3"]
    assert len(warned) == 3
    assert states(sup) == dict.fromkeys("123", "stopped")


@pytest.mark.virtual_time
async def test_terminates_with_mixed_children() -> None:
    """Each has its own limit, or none."""
    log: Log = []
    events: list[Event] = []
    async with supervise(on_event=events.append) as sup:
        await sup.start(sleepy(log, "1", cleanup=20.0, stop_timeout=None))
        await sup.start(sleepy(log, "2", stop_timeout=0.0))
        await settle()
    assert log == ["2", "1"]
    assert now() == pytest.approx(20)
    assert stuck_in(events) == []


# terminate_child/2


@pytest.mark.parametrize(
    "stop_timeout",
    [
        pytest.param(0.0, id="terminates_child_with_brutal_kill"),
        pytest.param(1000.0, id="terminates_child_with_integer_shutdown"),
    ],
)
async def test_terminate_child(stop_timeout: float) -> None:
    """A child that is never restarted is forgotten once it was stopped."""
    log: Log = []
    async with supervise() as sup:
        await sup.start(sleepy(log, "1", stop_timeout=stop_timeout, restart="never"))
        await settle()
        await sup.stop("1")
        assert log == ["1"]
        with pytest.raises(ValueError, match="no service '1'"):
            await sup.stop("1")
        assert sup.snapshot().children == ()


@pytest.mark.virtual_time
async def test_terminates_restarting_child() -> None:
    """One that waits for its restart is stopped at once, and never started again."""
    worker = Worker(["first", OSError("found")])
    async with supervise() as sup:
        await sup.start(worker.service(backoff=STEADY, restart="always"))
        await worker.kill()
        await asyncio.sleep(1.5)
        await sup.stop("worker")
        assert now() == pytest.approx(1.5)
        assert only(sup).state == "stopped"
        await asyncio.sleep(60)
        assert worker.lives == 2


# supervisor_test.exs


async def test_child_life_cycle() -> None:
    """Started, listed, stopped, started again."""

    async def stack(items: list[str], /, *, task_status: TaskStatus[str]) -> None:
        task_status.started(items[0])
        await forever()

    async with supervise() as sup:
        assert sup.snapshot().children == ()
        handle = await sup.start(stack, ["hello"], name="Stack")
        assert (handle.value, states(sup)) == ("hello", {"Stack": "ready"})
        await sup.stop("Stack")
        assert (handle.state, states(sup)) == ("stopped", {"Stack": "stopped"})
        await sup.restart("Stack")
        assert (handle.value, handle.state) == ("hello", "ready")
        await sup.stop("Stack")
        assert states(sup) == {"Stack": "stopped"}
