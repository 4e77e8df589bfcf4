"""What tokio-graceful-shutdown's tests ask, as far as it applies to `supervise`.

Each test has the name of the foreign one, out of `integration_test.rs`,
`integration_test_2.rs` and `abort.rs`. Where we differ: a service is stopped by its cancel,
which it may use to wind up; and nobody who hangs is left behind.
"""

# ruff: noqa: PT031 - what is raised here leaves a block, not a statement

import asyncio
import gc
import signal
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from safeaio import (
    Backoff,
    ChildStopped,
    ChildStuck,
    Event,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorClosed,
    TaskStuckWarning,
    background,
    cleanup_scope,
    request_shutdown,
    run,
    shutdown_requested,
    supervise,
    wait_for_shutdown,
)
from safeaio.testing import VirtualClockLoop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

Log = list[str]


async def settle(turns: int = 30) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def finishing() -> None: ...


def now() -> float:
    return asyncio.get_running_loop().time()


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


def subsystem(
    log: Log,
    name: str,
    takes: float = 0.0,
    error: Exception | None = None,
    **options: Any,
) -> Service:
    """A service that winds up when it is stopped."""

    async def serve() -> None:
        try:
            await forever()
        finally:
            if takes:
                await asyncio.sleep(takes)
            log.append(name)
            if error is not None:
                raise error

    return Service(serve, name=name, **options)


def failing(name: str, error: Exception, after: float, **options: Any) -> Service:
    """A service that fails after some time."""

    async def serve() -> None:
        await asyncio.sleep(after)
        raise error

    return Service(serve, name=name, **options)


# integration_test.rs: the time that a shutdown may take


@pytest.mark.virtual_time
async def test_shutdown_timeout_causes_error() -> None:
    """One that takes too long is named, in a warning and an event, and waited for."""
    released = asyncio.Event()
    events: list[Event] = []

    async def slow() -> None:
        try:
            await forever()
        finally:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue

    with pytest.warns(TaskStuckWarning, match="supervisor/slow"):
        async with supervise(Service(slow, stop_timeout=0.2), on_event=events.append):
            await settle()
            asyncio.get_running_loop().call_later(0.3, released.set)
    [stuck] = [event for event in events if isinstance(event, ChildStuck)]
    assert stuck.path == "supervisor/slow"
    assert stuck.age == pytest.approx(0.2)
    assert now() == pytest.approx(0.3)


@pytest.mark.virtual_time
async def test_shutdown_timeout_causes_cancellation() -> None:
    """Winding up that takes too long is cut by a second cancel."""
    log: Log = []
    with pytest.warns(TaskStuckWarning):
        async with supervise(subsystem(log, "slow", takes=0.3, stop_timeout=0.2)):
            await settle()
    assert log == []
    assert now() == pytest.approx(0.2)


def test_shutdown_timeout_causes_cancellation_in_a_run() -> None:
    """Whatever its own limit, the run's grace leaves it less, and main ends in time."""
    log: Log = []
    ended: list[float] = []
    slow = subsystem(log, "slow", takes=3600.0, stop_timeout=None)

    async def main() -> str:
        asyncio.get_running_loop().call_soon(request_shutdown)
        await supervise(slow)
        ended.append(now())
        return "wound up"

    with pytest.warns(TaskStuckWarning):
        assert run(main, grace=10.0, loop_factory=VirtualClockLoop) == "wound up"
    assert log == []
    assert [0.0 < end <= 10.0 for end in ended] == [True]


# integration_test.rs: errors


@pytest.mark.virtual_time
async def test_nested_subsystem_error_propagates() -> None:
    """A service below that cannot be kept up ends all that is above it."""
    log: Log = []
    error = OSError("Error!")
    nested = Service(
        supervise, failing("nested", error, after=0.1, max_restarts=0), name="subsys"
    )
    with pytest.raises(SupervisionError) as info:
        await supervise(subsystem(log, "other"), nested)
    [inner] = info.value.exceptions
    assert isinstance(inner, SupervisionError)
    assert inner.exceptions == (error,)
    assert (info.value.service, inner.service) == ("subsys", "nested")
    assert log == ["other"]
    assert now() == pytest.approx(0.1)


@pytest.mark.virtual_time
async def test_double_panic_does_not_stop_graceful_shutdown() -> None:
    """One fails, another fails while it is stopped; the third still winds up."""
    log: Log = []
    one, two = OSError("Subsystem1 panicked!"), OSError("Subsystem2 panicked!")
    with pytest.raises(SupervisionError) as info:
        await supervise(
            subsystem(log, "Subsys3", takes=0.04),
            subsystem(log, "Subsys1", takes=0.01, error=one),
            failing("Subsys2", two, after=0.01, max_restarts=0),
        )
    assert info.value.service == "Subsys2"
    assert info.value.exceptions == (two, one)
    assert log == ["Subsys1", "Subsys3"]
    assert now() == pytest.approx(0.06)


@pytest.mark.virtual_time
async def test_double_panic_does_not_stop_graceful_shutdown_nor_restart() -> None:
    """One that fails before its turn to be stopped is not started again."""
    log: Log = []
    lives: list[float] = []
    error = OSError("Subsystem1 panicked!")

    async def failing_in_between() -> None:
        lives.append(now())
        await asyncio.sleep(0.05)
        raise error

    first = subsystem(log, "Subsys3")
    second = Service(failing_in_between, restart="always", backoff=Backoff(base=0))
    with pytest.raises(SupervisionError, match="services failed") as info:
        async with supervise(first, second, subsystem(log, "slow", takes=0.2)):
            await settle()
    assert info.value.exceptions == (error,)
    assert (log, lives) == (["slow", "Subsys3"], [0.0])
    assert now() == pytest.approx(0.2)


@pytest.mark.virtual_time
async def test_partial_shutdown_error_gets_propagated_correctly() -> None:
    """What one raises while it alone is stopped is told, and disturbs nobody else."""
    log: Log = []
    events: list[Event] = []
    error = OSError("nested failed.")
    nested = subsystem(log, "nested", error=error)
    async with supervise(
        subsystem(log, "other"), nested, on_event=events.append
    ) as sup:
        await settle()
        await sup.stop("nested")
        assert ChildStopped("supervisor/nested", error) in events
        assert states(sup) == {"other": "ready", "nested": "stopped"}
    assert log == ["nested", "other"]


@pytest.mark.virtual_time
async def test_partial_shutdown_error_gets_propagated_correctly_from_below(
    reported: list[Any],
) -> None:
    """From a supervisor that is stopped it goes to the loop's handler, like any beside a cancel."""
    log: Log = []
    error = OSError("nested failed.")
    local = Service(supervise, subsystem(log, "nested", error=error), name="local")
    async with supervise(subsystem(log, "other"), local) as sup:
        await settle()
        await sup.stop("local")
        assert states(sup) == {"other": "ready", "local": "stopped"}
    [context] = reported
    assert isinstance(context["exception"], SupervisionError)
    assert context["exception"].exceptions == (error,)


@pytest.mark.virtual_time
async def test_subsystem_errors_get_propagated_to_user() -> None:
    """All who failed are in the error that is raised when the last one ends."""
    one, two = OSError("Subsystem panicked!"), OSError("MyGreatError")
    top = Service(asyncio.sleep, 0.2, essential=True)
    with pytest.raises(SupervisionError) as info:
        await supervise(
            failing("nested1", one, after=0.1, restart="never"),
            failing("nested2", two, after=0.1, restart="never"),
            top,
        )
    assert info.value.exceptions == (one, two)
    assert now() == pytest.approx(0.2)


@pytest.mark.virtual_time
async def test_subsystem_errors_get_propagated_to_user_when_timeout() -> None:
    """Also if there is one that does not end in time."""
    log: Log = []
    one, two = OSError("Subsystem panicked!"), OSError("MyGreatError")
    top = Service(asyncio.sleep, 0.2, essential=True)
    with (
        pytest.warns(TaskStuckWarning, match="nested3"),
        pytest.raises(SupervisionError) as info,
    ):
        await supervise(
            failing("nested1", one, after=0.1, restart="never"),
            failing("nested2", two, after=0.1, restart="never"),
            subsystem(log, "nested3", takes=10.0, stop_timeout=0.2),
            top,
        )
    assert info.value.exceptions == (one, two)
    assert log == []
    assert now() == pytest.approx(0.4)


# integration_test.rs: beginning and end


@pytest.mark.virtual_time
async def test_spawning_task_during_shutdown_causes_task_to_be_cancelled() -> None:
    """Nothing is started during a stop, and whoever asks for it is told."""
    refused: list[SupervisorClosed] = []
    started: Log = []

    async def nested() -> None:
        started.append("nested")

    async def spawner() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.1)
            with pytest.raises(SupervisorClosed) as info:
                await sup.start(nested)
            refused.append(info.value)

    async with supervise(spawner) as sup:
        await settle()
    assert [error.supervisor for error in refused] == ["supervisor"]
    assert started == []
    assert now() == pytest.approx(0.1)


async def test_shutdown_triggers_if_all_tasks_ended() -> None:
    """It is over when all have finished, those of a supervisor below included."""
    await supervise(
        Service(supervise, finishing, name="subsys1"),
        Service(supervise, finishing, name="subsys2"),
    )


async def test_shutdown_triggers_if_no_task_exists() -> None:
    """A block without services has nothing to wait for; to await none is a mistake."""
    async with supervise() as sup:
        await sup.wait()
    with pytest.raises(ValueError, match="nothing to supervise"):
        await supervise()


@pytest.mark.virtual_time
async def test_partial_shutdown_request_stops_nested_subsystems() -> None:
    """A part is stopped with all that is below it; the rest stays until the end."""
    log: Log = []

    async def subsys1() -> None:
        subsys2 = Service(supervise, subsystem(log, "subsys3"), name="subsys2")
        async with supervise(subsys2, subsystem(log, "subsys4")) as inner:
            await asyncio.sleep(0.2)
            await inner.stop("subsys2")
            log.append("shutdown performed")
            await forever()

    async with supervise(subsys1) as sup:
        await asyncio.sleep(0.3)
        assert log == ["subsys3", "shutdown performed"]
        [child] = sup.snapshot().children
        assert child.state == "ready"
        assert [inner.state for inner in child.children] == ["stopped", "ready"]
    assert log == ["subsys3", "shutdown performed", "subsys4"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_shutdown_through_signal(
    loop_factory: LoopFactory, signum: signal.Signals
) -> None:
    """A signal stops the services in order; a main that returns then is a success."""
    log: Log = []

    async def main() -> bool:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signum)
        await supervise(subsystem(log, "subsys1"), subsystem(log, "subsys2"))
        return shutdown_requested()

    assert run(main, loop_factory=loop_factory) is True
    assert log == ["subsys2", "subsys1"]


# integration_test_2.rs


def test_request_local_shutdown(loop_factory: LoopFactory) -> None:
    """The stop of a part is no shutdown of the whole, which may still follow."""
    log: Log = []
    nested = (subsystem(log, "nested1"), subsystem(log, "nested2"))

    requested: list[bool] = []

    async def main() -> None:
        local = Service(supervise, *nested, name="local")
        async with supervise(local, subsystem(log, "other")) as sup:
            await settle()
            await sup.stop("local")
            log.append("stopped")
            requested.append(shutdown_requested())
            request_shutdown()
            await wait_for_shutdown()
            requested.append(shutdown_requested())

    run(main, loop_factory=loop_factory)
    assert requested == [False, True]
    assert log == ["nested2", "nested1", "stopped", "other"]


async def test_cancellation_token_does_not_propagate_up() -> None:
    """A service that cancels a scope of its own is not cancelled, nor has it failed."""
    events: list[Event] = []
    log: Log = []

    async def service() -> None:
        async with cleanup_scope() as scope:
            scope.cancel()
            await forever()
        log.append("went on")

    await supervise(service, on_event=events.append)
    assert log == ["went on"]
    assert [type(event).__name__ for event in events] == [
        "ChildStarting",
        "ChildReady",
        "ChildFinished",
    ]


async def test_shutdown_does_not_propagate_to_detached_subsystem() -> None:
    """What a service has put into the background is not stopped with it."""

    found: list[asyncio.Task[None]] = []

    async def service() -> None:
        found.append(background(forever()))
        await forever()

    async with supervise(service) as sup:
        await settle()
        await sup.stop("service")
    await settle()
    [detached] = found
    assert not detached.done()
    detached.cancel()
    await settle()
    assert detached.cancelled()


# abort.rs


@pytest.mark.virtual_time
async def test_abort_subsystem_works() -> None:
    """A stop takes effect at once, however long the service would have gone on."""
    error = OSError("should not get there")
    async with supervise() as sup:
        handle = await sup.start(failing("nested", error, after=1.0))
        await asyncio.sleep(0.5)
        await sup.stop("nested")
        assert now() == pytest.approx(0.5)
        assert handle.state == "stopped"
        await asyncio.sleep(1.0)
        assert sup.snapshot().children[0].last_error is None


@pytest.mark.virtual_time
async def test_nested_subsystem_is_aborted() -> None:
    """It takes what is below along."""
    log: Log = []
    d1 = Service(supervise, subsystem(log, "d2"), name="d1")
    async with supervise(d1) as sup:
        await asyncio.sleep(0.5)
        await sup.stop("d1")
        assert log == ["d2"]
        assert now() == pytest.approx(0.5)
        await asyncio.sleep(1.0)
        assert states(sup) == {"d1": "stopped"}


@pytest.mark.virtual_time
async def test_multiple_abort_works() -> None:
    """A second stop, during the first or after it, is no mistake and no second cancel."""
    log: Log = []
    async with supervise(subsystem(log, "nested", takes=0.3)) as sup:
        first = asyncio.create_task(sup.stop("nested"))
        await asyncio.sleep(0.1)
        await sup.stop("nested")
        assert now() == pytest.approx(0.3)
        await first
        await sup.stop("nested")
    assert log == ["nested"]


@pytest.mark.virtual_time
async def test_abort_overrides_shutdown() -> None:
    """Winding up under way is cut when the time for it is over."""
    log: Log = []
    async with supervise(
        subsystem(log, "nested", takes=0.5, stop_timeout=0.1), subsystem(log, "other")
    ) as sup:
        await asyncio.sleep(0.5)
        with pytest.warns(TaskStuckWarning, match="supervisor/nested"):
            await sup.stop("nested")
        assert now() == pytest.approx(0.6)
        assert states(sup) == {"nested": "stopped", "other": "ready"}
    assert log == ["other"]


async def test_abort_ensures_drop() -> None:
    """Nothing holds on to what a stopped service had."""

    class Owned:
        pass

    owned: list[weakref.ref[Owned]] = []

    async def service() -> None:
        mine = Owned()
        owned.append(weakref.ref(mine))
        await forever()

    async with supervise(service) as sup:
        await settle()
        await sup.stop("service")
        gc.collect()
        assert [ref() for ref in owned] == [None]
        assert states(sup) == {"service": "stopped"}
