"""What suture v4's `suture_test.go` asks of a supervisor, as far as it applies to `supervise`.

Each test has the name of suture's. Where we differ: a service that returns is restarted
only if `restart="always"`; failures are counted for each service, not for all; too many
end the supervisor, they do not make it pause; nothing is left behind that hangs.
"""

# ruff: noqa: PT012, PT031 - what is raised here leaves a block, not a statement

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    ChildCancelled,
    ChildFailed,
    ChildStuck,
    Event,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorClosed,
    TaskStuckWarning,
    supervise,
)

AT_ONCE = Backoff(base=0)


class Panic(Exception):
    """What a service raises."""


RAISED: dict[str, type[BaseException]] = {
    "panic": Panic,
    "timeout": TimeoutError,
    "stray": asyncio.CancelledError,
}


@attrs.define
class Puppet:
    """A service that does what it is told, as suture's FailableService."""

    name: str
    log: list[str] = attrs.field(factory=lambda: [])
    orders: list[str] = attrs.field(factory=lambda: [])
    ordered: asyncio.Event = attrs.field(factory=asyncio.Event)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)
    alive: int = 0
    most_alive: ClassVar[int] = 0

    def service(self, **options: Any) -> Service:
        options.setdefault("backoff", AT_ONCE)
        return Service(self.serve, name=self.name, **options)

    async def take(self, *orders: str) -> None:
        """Give orders, one for each life, and have them carried out."""
        for order in orders:
            self.orders.append(order)
            self.ordered.set()
            await settle()

    async def serve(self) -> None:
        self.alive += 1
        Puppet.most_alive = max(Puppet.most_alive, self.alive)
        self.log.append("started")
        try:
            await self._obey()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            self.alive -= 1

    async def _obey(self) -> None:
        await self.ordered.wait()
        self.ordered.clear()
        order = self.orders.pop()
        self.log.append(order)
        if order == "hang":
            await self._hang()
        if order in RAISED:
            raise RAISED[order]

    async def _hang(self) -> None:
        cancel: asyncio.CancelledError | None = None
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError as exc:
                cancel = exc
        if cancel is not None:
            raise cancel


@pytest.fixture(autouse=True)
def ever_multistarted() -> Iterator[None]:
    """In no test a service has two lives at once."""
    Puppet.most_alive = 0
    yield
    assert Puppet.most_alive == 1


async def settle(turns: int = 30) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


def stuck_in(events: list[Event]) -> list[str]:
    return [event.path for event in events if isinstance(event, ChildStuck)]


def now() -> float:
    return asyncio.get_running_loop().time()


# Up and down


async def test_TestTheHappyCase() -> None:
    """A service is started, restarted when it returns, and stopped with its supervisor."""
    service = Puppet("B")
    async with supervise(service.service(restart="always"), name="A") as sup:
        assert sup.snapshot().name == "A"
        await settle()
        assert service.log == ["started"]
        await service.take("return")
        assert service.log == ["started", "return", "started"]
    assert service.log == ["started", "return", "started", "cancelled"]


async def test_TestAddingToRunningSupervisor() -> None:
    """What is added to a running supervisor is started, and listed."""
    service = Puppet("B1")
    async with supervise(name="A1") as sup:
        await sup.start(service.service())
        await settle()
        assert service.log == ["started"]
        assert states(sup) == {"B1": "ready"}


async def test_TestRunningAlreadyRunning() -> None:
    """One that runs cannot be run again, and is not disturbed by that."""
    service = Puppet("B3")
    async with supervise(service.service()) as sup:
        await settle()
        with pytest.raises(RuntimeError, match="runs once"):
            await sup
        with pytest.raises(RuntimeError, match="runs once"):
            await sup.__aenter__()
        assert states(sup) == {"B3": "ready"}


async def test_TestStoppingSupervisorStopsServices() -> None:
    """The service ends before the block does, and nothing is ready any more."""
    service = Puppet("Service 6")
    async with supervise(service.service()) as sup:
        await settle()
    assert service.log == ["started", "cancelled"]
    assert sup.snapshot().state == "stopped"
    assert states(sup) == {"Service 6": "stopped"}


async def test_TestAddAfterStopping() -> None:
    """To add something to a supervisor that has ended is an error at once, no deadlock."""
    service, other = Puppet("A1"), Puppet("A2")
    async with supervise(service.service()) as sup:
        await settle()
    with pytest.raises(SupervisorClosed):
        await sup.start(other.service())
    assert other.log == []


async def test_TestEverMultistarted() -> None:
    """Failures and restarts that cross each other never make two lives."""
    service = Puppet("test")
    async with supervise(service.service(max_restarts=100)) as sup:
        for _ in range(5):
            restarts = [asyncio.create_task(sup.restart("test")) for _ in range(3)]
            await service.take("panic")
            await asyncio.gather(*restarts)
            assert service.alive == 1
    assert service.log.count("started") > 5


# Failures


async def test_TestFailures_counted_for_each() -> None:
    """The failures of one service are not those of another."""
    one, two = Puppet("B2"), Puppet("C2")
    async with supervise(one.service(), two.service()) as sup:
        await one.take("panic")
        await two.take("panic", "panic")
        assert [child.streak for child in sup.snapshot().children] == [1, 2]
        assert states(sup) == {"B2": "ready", "C2": "ready"}


@pytest.mark.virtual_time
@pytest.mark.parametrize(("ready_for", "streak"), [(29.9, 3), (30.1, 1)])
async def test_TestFailures_decay(ready_for: float, streak: int) -> None:
    """Failures do not fade: all are forgotten once it was ready for long enough."""
    service = Puppet("B2")
    async with supervise(service.service(healthy_after=30.0)) as sup:
        await service.take("panic", "panic")
        await asyncio.sleep(ready_for)
        await service.take("panic")
        [child] = sup.snapshot().children
        assert (child.streak, child.restarts) == (streak, 3)


async def test_TestFailures_panic() -> None:
    """A return and an error count the same, where a return is followed by a restart."""
    service = Puppet("B2")
    async with supervise(service.service(restart="always")) as sup:
        await service.take("return", "panic", "return")
        assert sup.snapshot().children[0].streak == 3
        assert service.log[-2:] == ["return", "started"]


async def test_TestFailures_threshold() -> None:
    """One failure more than allowed ends the supervisor, and with it the others."""
    one, two = Puppet("B2"), Puppet("C2")
    with pytest.raises(SupervisionError, match="'B2' failed 4 times") as info:
        async with supervise(one.service(max_restarts=3), two.service()):
            await one.take("panic", "panic", "panic", "panic")
            await settle()
    assert info.value.service == "B2"
    assert len(info.value.history) == 4
    assert one.log == ["started", "panic"] * 4
    assert two.log == ["started", "cancelled"]


@pytest.mark.virtual_time
async def test_TestFailures_threshold_after_decay() -> None:
    """What is forgotten is not in the text either: not its number, and not its time."""
    service = Puppet("B2")
    with pytest.raises(SupervisionError, match=r"'B2' failed 2 times in 0\.0 s"):
        async with supervise(service.service(max_restarts=1)):
            await service.take("panic")
            await asyncio.sleep(3600)
            await service.take("panic", "panic")
            await settle()
    assert service.log == ["started", "panic"] * 3


@pytest.mark.virtual_time
async def test_TestFailures_backoff() -> None:
    """While one waits for its restart nothing of it runs, but the others do."""
    one, two = Puppet("B2"), Puppet("C2")
    slow = Backoff(base=5.0, jitter=0.0)
    async with supervise(one.service(backoff=slow), two.service()) as sup:
        await one.take("panic")
        await two.take("panic")
        assert states(sup) == {"B2": "backoff", "C2": "ready"}
        await asyncio.sleep(4.9)
        assert sup.snapshot().children[0].next_restart_in == pytest.approx(0.1)
        assert one.log == ["started", "panic"]
        await asyncio.sleep(0.2)
        assert one.log == ["started", "panic", "started"]


@pytest.mark.virtual_time
async def test_TestFailures_after_backoff() -> None:
    """Once healthy again it has its first, short delay again."""
    service = Puppet("B2")
    backoff = Backoff(base=1.0, factor=10.0, jitter=0.0)
    events: list[Event] = []
    async with supervise(service.service(backoff=backoff), on_event=events.append):
        for wait in (2.0, 50.0, 0.0):
            await service.take("panic")
            await asyncio.sleep(wait)
    failed = [event for event in events if isinstance(event, ChildFailed)]
    assert [(event.attempt, event.delay) for event in failed] == [
        (1, 1.0),
        (2, 10.0),
        (1, 1.0),
    ]


@pytest.mark.parametrize("order", ["stray", "timeout"])
async def test_TestIssue77(order: str) -> None:
    """A cancel or timeout that is not the supervisor's is a failure like any other."""
    service = Puppet("cancelling")
    events: list[Event] = []
    async with supervise(service.service(), on_event=events.append) as sup:
        await service.take(order)
        assert service.log.count("started") == 2
        assert states(sup) == {"cancelling": "ready"}
    [failed] = [event for event in events if isinstance(event, ChildFailed)]
    wanted = ChildCancelled if order == "stray" else TimeoutError
    assert isinstance(failed.error, wanted)


# Services that hang


@pytest.mark.virtual_time
async def test_TestStoppingStillWorksWithHungServices() -> None:
    """One that hangs is named, and the stop is over as soon as it lets go."""
    service, other = Puppet("WillHang7"), Puppet("Other7")
    events: list[Event] = []
    sup = supervise(
        other.service(), service.service(stop_timeout=1.0), on_event=events.append
    )
    with pytest.warns(TaskStuckWarning, match="WillHang7"):
        async with sup:
            await service.take("hang")
            asyncio.get_running_loop().call_later(1.5, service.released.set)
    assert now() == pytest.approx(1.5)
    assert stuck_in(events) == ["supervisor/WillHang7"]
    assert service.log == ["started", "hang", "cancelled"]
    assert other.log == ["started", "cancelled"]


@pytest.mark.virtual_time
async def test_TestRemovingHungService() -> None:
    """It is named when it is removed, too, and the others stay up."""
    service, other = Puppet("WillHang"), Puppet("Other")
    events: list[Event] = []
    sup = supervise(
        service.service(stop_timeout=1.0), other.service(), on_event=events.append
    )
    async with sup:
        await service.take("hang")
        asyncio.get_running_loop().call_later(1.5, service.released.set)
        with pytest.warns(TaskStuckWarning, match="WillHang"):
            await sup.stop("WillHang")
        assert now() == pytest.approx(1.5)
        assert stuck_in(events) == ["supervisor/WillHang"]
        assert states(sup) == {"WillHang": "stopped", "Other": "ready"}


@pytest.mark.virtual_time
async def test_TestServiceReport() -> None:
    """The report says who does not stop, for how long, and where it stands."""
    service = Puppet("ServiceName")
    events: list[Event] = []
    sup = supervise(
        service.service(stop_timeout=0.5), on_event=events.append, name="Top"
    )
    with pytest.warns(TaskStuckWarning):
        async with sup:
            await service.take("hang")
            asyncio.get_running_loop().call_later(0.7, service.released.set)
    [report] = [event for event in events if isinstance(event, ChildStuck)]
    assert report.path == "Top/ServiceName"
    assert report.age == pytest.approx(0.5)
    assert "_hang" in report.stack


# Removal


async def test_TestRemoveService() -> None:
    """It ends, and stays ended; an unknown name is an error that names the known."""
    service = Puppet("ServiceToRemove8")
    async with supervise(service.service(restart="always")) as sup:
        await settle()
        await sup.stop("ServiceToRemove8")
        await settle()
        assert service.log == ["started", "cancelled"]
        with pytest.raises(ValueError, match=r"no service 'B8'.*'ServiceToRemove8'"):
            await sup.stop("B8")


async def test_TestRemoveAndWait_twice() -> None:
    """To remove what is removed already returns at once."""
    service = Puppet("A1")
    async with supervise(service.service()) as sup:
        await settle()
        await sup.stop("A1")
        assert service.alive == 0
        await sup.stop("A1")
        assert service.log == ["started", "cancelled"]


@pytest.mark.virtual_time
async def test_TestRemoveAndWait_timeout() -> None:
    """Whoever waits for one that hangs may give up; the removal goes on."""
    service = Puppet("A2")
    async with supervise(service.service()) as sup:
        await service.take("hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await sup.stop("A2")
        assert states(sup) == {"A2": "stopping"}
        service.released.set()
        await settle()
        assert states(sup) == {"A2": "stopped"}


@pytest.mark.virtual_time
async def test_TestRemoveAndWait_supervisor_stops() -> None:
    """A removal under way ends with the service, whoever else stops it meanwhile."""
    service = Puppet("A3")
    async with asyncio.TaskGroup() as removals, supervise(service.service()) as sup:
        await service.take("hang")
        removals.create_task(sup.stop("A3"))
        await settle()
        asyncio.get_running_loop().call_later(0.5, service.released.set)
    assert now() == pytest.approx(0.5)
    assert service.log == ["started", "hang", "cancelled"]


@pytest.mark.virtual_time
async def test_TestRemoveAndWait_slow() -> None:
    """One that takes longer than it should is waited for all the same."""
    service = Puppet("A1")
    async with supervise(service.service(stop_timeout=0.001)) as sup:
        await service.take("hang")
        asyncio.get_running_loop().call_later(0.01, service.released.set)
        with pytest.warns(TaskStuckWarning):
            await sup.stop("A1")
        assert now() == pytest.approx(0.01)
        assert service.alive == 0


@pytest.mark.virtual_time
async def test_TestStopAfterRemoveAndWait() -> None:
    """Nobody is waited for, or called stuck, who was removed before."""
    service = Puppet("A1")
    events: list[Event] = []
    async with supervise(service.service(), on_event=events.append) as sup:
        await settle()
        await sup.stop("A1")
    assert now() == 0
    assert stuck_in(events) == []
    assert service.log == ["started", "cancelled"]


# Trees


async def test_TestNestedSupervisors() -> None:
    """A supervisor is a service, and what it supervises is seen from above."""
    service = Puppet("Service5")
    nested = Service(supervise, service.service(), name="Nested5")
    async with supervise(nested, name="Top5") as sup:
        await settle()
        assert service.log == ["started"]
        [child] = sup.snapshot().children
        assert child.state == "ready"
        assert [inner.path for inner in child.children] == ["Top5/Nested5/Service5"]
    assert service.log == ["started", "cancelled"]


async def test_TestServiceAndTreeTermination() -> None:
    """One service may end for itself, and one that is essential ends the whole tree."""
    one, two, three = Puppet("1"), Puppet("2"), Puppet("3")
    essential = one.service(restart="never", essential=True)
    nested = Service(
        supervise, essential, two.service(), three.service(), name="nested"
    )
    with pytest.raises(SupervisionError) as info:
        async with supervise(nested):
            await three.take("return")
            assert three.log == ["started", "return"]
            await one.take("panic")
            await settle()
    [inner] = info.value.exceptions
    assert isinstance(inner, SupervisionError)
    assert [type(error) for error in inner.exceptions] == [Panic]
    assert (one.log, two.log) == (["started", "panic"], ["started", "cancelled"])
    assert three.log == ["started", "return"]


async def test_TestDoNotPropagate() -> None:
    """The failure of a supervisor that is never restarted disturbs nobody."""
    one, two = Puppet("keeps running"), Puppet("ends")
    subtree = Service(
        supervise, two.service(max_restarts=0), name="subtree", restart="never"
    )
    async with supervise(one.service()) as sup:
        handle = await sup.start(subtree)
        await two.take("panic")
        with pytest.raises(SupervisionError) as info:
            await handle.wait()
        assert info.value.service == "ends"
        assert states(sup) == {"keeps running": "ready"}
        assert sup.snapshot().state == "ready"
    assert one.log == ["started", "cancelled"]


async def test_TestIssue11() -> None:
    """A supervisor that has just been added takes services from elsewhere."""
    service = Puppet("may cause data race")

    async def sub(*, task_status: TaskStatus[Supervisor]) -> None:
        async with supervise(name="sub") as nested:
            task_status.started(nested)
            await nested.wait()
            await asyncio.get_running_loop().create_future()

    async with supervise(name="main") as sup:
        handle = await sup.start(sub)
        await handle.value.start(service.service())
        await settle()
        [child] = sup.snapshot().children
        assert [inner.name for inner in child.children] == ["may cause data race"]
    assert service.log == ["started", "cancelled"]


async def test_TestSupervisorManagementIssue35() -> None:
    """Many supervisors that are cancelled as soon as they have begun all end in peace."""
    puppets = [Puppet(str(number)) for number in range(99)]
    nested = [Service(supervise, puppet.service()) for puppet in puppets]

    async def serve() -> None:
        await supervise(*nested)

    task = asyncio.create_task(serve())
    await settle(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    logs = {tuple(puppet.log) for puppet in puppets}
    assert ("started", "cancelled") in logs
    assert logs <= {(), ("started", "cancelled")}
