"""What Pekko's tests of supervision and shutdown ask, as far as it applies to `supervise`.

BackoffSupervisorSpec, BackoffOnRestartSupervisorSpec, CoordinatedShutdownSpec and
SupervisorSpec; each test has the name of Pekko's, with underscores. Pekko's phases are
services in reverse order here, and its exponent counts from 0.
"""

# ruff: noqa: PT012, PT031 - what is raised here leaves a block, not a statement

import asyncio
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    ChildStuck,
    Event,
    Intensity,
    Service,
    Snapshot,
    SupervisionError,
    Supervisor,
    TaskStuckWarning,
    Terminated,
    request_shutdown,
    run,
    supervise,
)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

AT_ONCE = Backoff(base=0)
MINUTE, DAY = 60.0, 86400.0

Log = list[str]


class NormalError(Exception):
    """What an actor throws."""


@attrs.define
class Actor:
    """A service that fails or returns when it is told to."""

    lives: list[float] = attrs.field(factory=lambda: [])
    told: asyncio.Event = attrs.field(factory=asyncio.Event)
    returns: bool = False

    def service(self, **options: Any) -> Service:
        options.setdefault("backoff", AT_ONCE)
        return Service(self.serve, name="c1", **options)

    async def serve(self) -> None:
        self.lives.append(now())
        await self.told.wait()
        self.told.clear()
        if not self.returns:
            raise NormalError("boom")

    async def throw(self) -> None:
        self.told.set()
        await settle()

    async def die(self) -> None:
        self.returns = True
        await self.throw()
        self.returns = False


async def settle(turns: int = 30) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def now() -> float:
    return asyncio.get_running_loop().time()


def only(sup: Supervisor) -> Snapshot:
    [child] = sup.snapshot().children
    return child


def phase(
    log: Log,
    name: str,
    takes: float = 0.0,
    error: Exception | None = None,
    **options: Any,
) -> Service:
    """A service that does something when it is stopped."""

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


def hanging(log: Log, name: str, released: asyncio.Event, **options: Any) -> Service:
    """A service that says when it is stopped, and ends when it is released."""

    async def serve() -> None:
        try:
            await forever()
        finally:
            log.append(name)
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue

    return Service(serve, name=name, **options)


# BackoffSupervisorSpec


@pytest.mark.parametrize(
    ("restart_count", "least", "most", "delay"),
    [
        (0, 0.0, 0.0, 0.0),
        (0, 5 * MINUTE, 7 * MINUTE, 5 * MINUTE),
        (2, 5.0, 7.0, 7.0),
        (2, 5.0, 7 * DAY, 20.0),
        (29, 5 * MINUTE, 10 * MINUTE, 10 * MINUTE),
        (29, 10_000 * DAY, 10_000 * DAY, 10_000 * DAY),
        (2**31 - 1, 10_000 * DAY, 10_000 * DAY, 10_000 * DAY),
    ],
)
def test_correctly_calculate_the_delay(
    restart_count: int, least: float, most: float, delay: float
) -> None:
    """It doubles, and neither passes the cap nor overflows."""
    backoff = Backoff(base=least, factor=2.0, cap=most, jitter=0.0)
    assert backoff.delay(restart_count + 1) == delay


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 3.0), (0.5, 2.7), (1.0, 2.4)])
def test_correctly_calculate_the_delay_with_chance(chance: float, delay: float) -> None:
    """Pekko's random part makes a delay longer than the longest; ours only shorter."""
    backoff = Backoff(base=0.1, factor=2.0, cap=3.0, jitter=0.2)
    assert backoff.delay(100, chance) == pytest.approx(delay)


async def test_support_manual_reset() -> None:
    """There is none: a deliberate restart neither counts nor forgets what counted."""
    actor = Actor()
    async with supervise(actor.service()) as sup:
        await actor.throw()
        assert (only(sup).restarts, only(sup).streak) == (1, 1)
        await sup.restart("c1")
        await settle()
        assert (only(sup).restarts, only(sup).streak) == (1, 1)
        assert len(actor.lives) == 3


async def test_stop_restarting_the_child_after_reaching_maxNrOfRetries_limit_onStop() -> (
    None
):
    """A service that only returns is given up as loudly as one that fails."""
    actor = Actor()
    with pytest.raises(SupervisionError, match="c1") as info:
        async with supervise(actor.service(restart="always", max_restarts=2)) as sup:
            for count in (1, 2):
                await actor.die()
                assert only(sup).restarts == count
            await actor.die()
            await settle()
    assert info.value.service == "c1"
    assert len(actor.lives) == 3


@pytest.mark.virtual_time
async def test_stop_restarting_the_child_after_reaching_maxNrOfRetries_limit_onStop_awaited() -> (
    None
):
    """Also where nobody but the supervisor waits: neither silence nor a wait for ever."""
    lives = 0

    async def returning() -> None:
        nonlocal lives
        lives += 1
        if lives > 100:
            raise SystemExit("restarted for ever")

    service = Service(returning, restart="always", max_restarts=2, backoff=AT_ONCE)
    with pytest.raises(SupervisionError, match="'returning'"):
        await supervise(service)
    assert lives == 3


async def test_stop_restarting_the_child_after_reaching_maxNrOfRetries_limit_onFailure() -> (
    None
):
    """The third failure is the last."""
    actor = Actor()
    with pytest.raises(SupervisionError, match="c1") as info:
        async with supervise(actor.service(max_restarts=2)) as sup:
            for count in (1, 2):
                await actor.throw()
                assert only(sup).restarts == count
            await actor.throw()
            await settle()
    assert [str(error) for error in info.value.exceptions] == ["boom"]
    assert len(actor.lives) == 3


async def test_stop_restarting_the_child_if_final_stop_message_received() -> None:
    """One that was told to stop is not started again, whatever it may be restarted for."""
    actor = Actor()
    async with supervise(actor.service(restart="always", max_restarts=100)) as sup:
        await actor.die()
        assert len(actor.lives) == 2
        await sup.stop("c1")
        await actor.die()
        assert (len(actor.lives), only(sup).state) == (2, "stopped")


# BackoffOnRestartSupervisorSpec


@pytest.mark.virtual_time
async def test_restart_the_child_with_an_exponential_back_off() -> None:
    """Each delay is twice the one before, and there is one life at a time."""
    actor = Actor()
    backoff = Backoff(base=0.2, cap=10.0, jitter=0.0)
    async with supervise(actor.service(backoff=backoff)) as sup:
        for _ in range(4):
            await actor.throw()
            await asyncio.sleep(only(sup).next_restart_in or 0.0)
        await settle()
        assert actor.lives == pytest.approx([0.0, 0.2, 0.6, 1.4, 3.0])
        assert only(sup).state == "ready"


@pytest.mark.virtual_time
async def test_accept_commands_while_child_is_terminating() -> None:
    """While the end of a life drags on the supervisor answers, and counts nothing yet."""
    actor = Actor()

    async def slowly() -> None:
        try:
            await actor.serve()
        finally:
            await asyncio.sleep(3.0)

    async with supervise(Service(slowly, name="c1", backoff=AT_ONCE)) as sup:
        await actor.throw()
        assert (only(sup).restarts, actor.lives) == (0, [0.0])
        await sup.start(forever, name="other")
        assert now() == 0
        await asyncio.sleep(3.0)
        await settle()
        assert actor.lives == pytest.approx([0.0, 3.0])
        assert sup.snapshot().children[0].restarts == 1


async def test_respect_maxNrOfRetries_property_of_OneForOneStrategy() -> None:
    """By default five restarts in a row, and no sixth."""
    actor = Actor()
    with pytest.raises(SupervisionError, match="failed 6 times"):
        async with supervise(actor.service()):
            for _ in range(6):
                await actor.throw()
            await settle()
    assert len(actor.lives) == 6


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("intensity", "options"),
    [
        pytest.param(Intensity(3, 1.0), {"max_restarts": 100}, id="intensity"),
        pytest.param(None, {"max_restarts": 3, "healthy_after": 1.0}, id="streak"),
    ],
)
async def test_respect_withinTimeRange_property_of_OneForOneStrategy(
    intensity: Intensity | None, options: dict[str, Any]
) -> None:
    """As many restarts again after a quiet second, and then one too many."""
    actor = Actor()
    with pytest.raises(SupervisionError):
        async with supervise(actor.service(**options), intensity=intensity):
            for _ in range(3):
                await actor.throw()
            await asyncio.sleep(1.1)
            for _ in range(4):
                await actor.throw()
            await settle()
    assert len(actor.lives) == 1 + 3 + 3


@pytest.mark.virtual_time
async def test_keep_restarting_when_failures_happen_outside_of_withinTimeRange() -> (
    None
):
    """Failures far enough apart are never too many."""
    actor = Actor()
    service = actor.service(max_restarts=1, healthy_after=0.01)
    async with supervise(service, intensity=Intensity(1, 0.01)) as sup:
        for _ in range(20):
            await asyncio.sleep(0.1)
            await actor.throw()
        assert (only(sup).restarts, only(sup).streak) == (20, 1)


def test_keep_restarting_is_refused() -> None:
    """A limit that no failures can ever reach, since each waits for longer, is a mistake."""
    service = Service(
        forever, backoff=Backoff(base=0.1, cap=0.8, jitter=0.0), max_restarts=100
    )
    with pytest.raises(ValueError, match="never be exceeded"):
        supervise(service, intensity=Intensity(3, 0.01))


@pytest.mark.virtual_time
async def test_keep_restarting_does_not_come_from_waiting() -> None:
    """The time between two lives makes nobody healthy."""

    lives = 0

    async def crash() -> None:
        nonlocal lives
        lives += 1
        if lives > 100:
            raise SystemExit("restarted for ever")
        raise NormalError

    backoff = Backoff(base=100.0, jitter=0.0, cap=100.0)
    service = Service(crash, backoff=backoff, max_restarts=3, healthy_after=1.0)
    with pytest.raises(SupervisionError, match="failed 4 times"):
        await supervise(service)
    assert now() == pytest.approx(300)


# CoordinatedShutdownSpec


@pytest.mark.virtual_time
async def test_run_ordered_phases() -> None:
    """No phase begins before the one before it is over, all of its parts included."""
    log: Log = []
    b = Service(supervise, phase(log, "B1"), phase(log, "B2", takes=0.1), name="B")
    async with supervise(phase(log, "C"), b, phase(log, "A", takes=0.2)):
        await settle()
    assert log == ["A", "B2", "B1", "C"]
    assert now() == pytest.approx(0.3)


def test_only_run_once(loop_factory: LoopFactory) -> None:
    """Asked to shut down twice, it stops everything once, and main goes on."""
    log: Log = []

    async def main() -> str:
        loop = asyncio.get_running_loop()
        async with supervise(phase(log, "B"), phase(log, "A")) as sup:
            for reason in ("first", "second"):
                loop.call_soon(request_shutdown, reason)
            await sup.wait()
        return "wound up"

    assert run(main, loop_factory=loop_factory) == "wound up"
    assert log == ["A", "B"]


def test_only_run_once_with_the_first_reason(loop_factory: LoopFactory) -> None:
    """A main that is cancelled stops its services in order, and gets the first reason."""
    log: Log = []

    async def main() -> None:
        async with supervise(phase(log, "B"), phase(log, "A")):
            await settle()
            request_shutdown("first")
            request_shutdown("second")
            await forever()

    with pytest.raises(Terminated) as info:
        run(main, loop_factory=loop_factory)
    assert info.value.reason == "first"
    assert log == ["A", "B"]


@pytest.mark.virtual_time
async def test_continue_after_timeout_or_failure() -> None:
    """One that fails and one that hangs keep nobody else from being stopped."""
    log: Log = []
    events: list[Event] = []
    released = asyncio.Event()
    boom = OSError("boom")
    a = phase(log, "A", takes=0.1, error=boom)
    b = hanging(log, "B", released, stop_timeout=0.1)
    with (
        pytest.warns(TaskStuckWarning, match="supervisor/B"),
        pytest.raises(SupervisionError, match="services failed") as info,
    ):
        async with supervise(phase(log, "C"), b, a, on_event=events.append):
            await settle()
            asyncio.get_running_loop().call_later(0.25, released.set)
    assert log == ["A", "B", "C"]
    assert info.value.exceptions == (boom,)
    [stuck] = [event for event in events if isinstance(event, ChildStuck)]
    assert stuck.path == "supervisor/B"
    assert stuck.age == pytest.approx(0.1)
    assert now() == pytest.approx(0.25)


@pytest.mark.virtual_time
async def test_abort_if_recover_off() -> None:
    """The end is never given up: after the time for all it is the order that is."""
    log: Log = []
    released = asyncio.Event()
    b = hanging(log, "B", released, stop_timeout=None)
    c = phase(log, "C")
    async with supervise(c, b, total_stop_timeout=0.1):
        await settle()
        asyncio.get_running_loop().call_later(0.2, lambda: log.append("released"))
        asyncio.get_running_loop().call_later(0.2, released.set)
    assert log == ["B", "C", "released"]
    assert now() == pytest.approx(0.2)


# SupervisorSpec


async def test_attempt_restart_when_exception_during_restart() -> None:
    """Neither an error on the way down nor one on the way up keeps it from the next try."""
    inits = 0
    die = asyncio.Event()

    async def dying(*, task_status: TaskStatus[int]) -> None:
        nonlocal inits
        init, inits = inits, inits + 1
        if init == 1:
            raise OSError("don't want to start")
        task_status.started(init)
        try:
            await die.wait()
            die.clear()
            raise NormalError("expected")
        finally:
            if init == 0:
                raise OSError("don't want to stop")

    async with supervise() as sup:
        handle = await sup.start(dying, max_restarts=3, backoff=AT_ONCE)
        die.set()
        await settle()
        assert (handle.value, handle.state, inits) == (2, "ready", 3)
        assert only(sup).streak == 2


async def test_not_restart_child_more_times_than_permitted() -> None:
    """None at all, if none is permitted."""
    actor = Actor()
    with pytest.raises(SupervisionError, match="'c1' failed"):
        async with supervise(actor.service(max_restarts=0)):
            await actor.throw()
            await settle()
    assert len(actor.lives) == 1
