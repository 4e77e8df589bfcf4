"""The scenarios of Erlang/OTP's supervisor_SUITE on `supervise`, written from their descriptions.

OTP's permanent, transient and temporary are `restart="always"`, `"on-failure"` and
`"never"`; a significant child is an `essential` one. The name of each case is in the test's.
"""

import asyncio
import gc
import logging
import sys
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from math import inf, nan
from typing import Any, Self, cast

import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    ChildCancelled,
    ChildStuck,
    Event,
    Intensity,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorClosed,
    TaskStuckWarning,
    supervise,
)

AT_ONCE = Backoff(base=0.0)
EVERY_SECOND = Backoff(base=1.0, factor=1.0, cap=1.0, jitter=0.0)

permanent: Any = {"restart": "always"}
transient: Any = {"restart": "on-failure"}
temporary: Any = {"restart": "never"}

STRATEGIES = ["one_for_one", "one_for_all", "rest_for_one"]


class Died(Exception):
    """What a worker of these tests dies of."""


async def settle(turns: int = 60) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


class Workers:
    """Services that live until they are told to end, and a diary of their lives.

    Attributes:
        diary: "+name" for a life that has begun, "-name" for its end, "!name" for a start
            that failed.
        ended: When each ended last.
        bad_starts: How many of the next starts fail, of those that report readiness.
        attempts: How many of their starts there were.
        fails_after: How many turns of the loop one takes to fail.
    """

    def __init__(self, fails_after: int = 0) -> None:
        self.fails_after = fails_after
        self.diary: list[str] = []
        self.ended: dict[str, float] = {}
        self.bad_starts: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self._orders: dict[str, asyncio.Future[None]] = {}

    def plain(self, name: str, cleanup: float = 0.0, **options: Any) -> Service:
        """One that is ready once started, and whose cleanup takes some seconds."""
        options = {"backoff": AT_ONCE, **permanent, **options}
        return Service(self._live, name, cleanup, name=name, **options)

    def reporting(self, name: str, **options: Any) -> Service:
        """One that reports its readiness, unless its start fails."""
        options = {"backoff": AT_ONCE, **permanent, **options}
        return Service(self._start, name, name=name, **options)

    async def fail(self, name: str) -> Died:
        error = Died(name)
        await settle()
        self._orders[name].set_exception(error)
        await settle()
        return error

    async def finish(self, name: str) -> None:
        await settle()
        self.end(name)
        await settle()

    def end(self, name: str) -> None:
        self._orders[name].set_result(None)

    def forget(self, name: str) -> None:
        """Let go of what it was told to die of."""
        del self._orders[name]

    async def kill(self, name: str) -> None:
        """Cancel it, although nobody but its supervisor should."""
        await settle()
        self._orders[name].cancel()
        await settle()

    def since(self, mark: int) -> str:
        return " ".join(self.diary[mark:])

    async def _live(self, name: str, cleanup: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.diary.append(f"+{name}")
        order = self._orders[name] = loop.create_future()
        try:
            await order
        finally:
            try:
                if cleanup:
                    await asyncio.sleep(cleanup)
            finally:
                self.ended[name] = loop.time()
                self.diary.append(f"-{name}")

    async def _start(self, name: str, *, task_status: TaskStatus[None]) -> None:
        self.attempts[name] += 1
        if self.bad_starts[name] > 0:
            self.bad_starts[name] -= 1
            await settle(self.fails_after)
            self.diary.append(f"!{name}")
            raise Died(f"{name} cannot start")
        task_status.started()
        await self._live(name)


class Held:
    """A supervisor in a task of its own, so that its end is not the test's."""

    def __init__(self, sup: Supervisor) -> None:
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold(sup))

    @property
    def gave_up(self) -> bool:
        return self.task.done()

    def error(self) -> SupervisionError:
        assert self.task.done()
        error = self.task.exception()
        assert isinstance(error, SupervisionError)
        return error

    async def close(self) -> None:
        self.leave.set()
        await self.task

    async def _hold(self, sup: Supervisor) -> None:
        async with sup:
            await self.leave.wait()


async def held(sup: Supervisor) -> Held:
    held = Held(sup)
    await settle()
    return held


async def awaited(sup: Supervisor) -> asyncio.Future[None]:
    task = asyncio.ensure_future(sup)
    await settle()
    return task


def names(sup: Supervisor) -> list[str]:
    return [child.name for child in sup.snapshot().children]


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


def restarts(sup: Supervisor) -> dict[str, int]:
    return {child.name: child.restarts for child in sup.snapshot().children}


# Start


async def test_sup_start_normal() -> None:
    """A supervisor without any child starts, and stops when asked."""
    async with supervise(intensity=Intensity(2, 3600.0)) as sup:
        assert sup.snapshot().state == "ready"
        assert names(sup) == []
    assert sup.snapshot().state == "stopped"


async def test_sup_start_normal__with_children() -> None:
    """Children start in order and are stopped in reverse order."""
    workers = Workers()
    async with supervise(workers.plain("child1"), workers.plain("child2")) as sup:
        await settle()
        assert states(sup) == {"child1": "ready", "child2": "ready"}
        assert workers.since(0) == "+child1 +child2"
    assert workers.since(2) == "-child2 -child1"


async def test_sup_start_fail() -> None:
    """If one cannot start, those already started are stopped, and it is not tried again."""
    workers = Workers()
    workers.bad_starts["child2"] = 1
    services = [
        workers.reporting("child1"),
        workers.reporting("child2"),
        workers.reporting("child3"),
    ]
    with pytest.raises(SupervisionError, match="child2") as caught:
        await supervise(*services)
    assert [str(error) for error in caught.value.exceptions] == ["child2 cannot start"]
    assert workers.since(0) == "+child1 !child2 -child1"


@pytest.mark.parametrize("invalid", [None, "child", 3, object()])
async def test_sup_start_error_return(invalid: Any) -> None:
    """What cannot be supervised is refused before anything starts."""
    workers = Workers()
    with pytest.raises(TypeError, match="async function"):
        supervise(workers.plain("child1"), invalid)
    await settle()
    assert workers.diary == []


async def raises_at_start(*, task_status: TaskStatus[None]) -> None:
    raise Died("start")


async def returns_at_start(*, task_status: TaskStatus[None]) -> None:
    await asyncio.sleep(0)


FAULTY_STARTS = [
    pytest.param(raises_at_start, Died, "start", id="raises"),
    pytest.param(returns_at_start, RuntimeError, "faulty", id="returns"),
]


@pytest.mark.parametrize(("func", "error", "match"), FAULTY_STARTS)
async def test_sup_start_child_returns_error(
    func: Any, error: type[Exception], match: str
) -> None:
    """A child that cannot start raises to whoever started it, and leaves no entry."""
    async with supervise(intensity=Intensity(2, 3600.0)) as sup:
        with pytest.raises(error, match=match):
            await sup.start(Service(func, name="faulty", **permanent))
        assert names(sup) == []
        assert sup.snapshot().state == "ready"


async def test_sup_start_restart_child_returns_error() -> None:
    """A stopped child that cannot be started again raises to its caller, and stays known."""
    workers = Workers()
    async with supervise(workers.reporting("child1")) as sup:
        await sup.stop("child1")
        workers.bad_starts["child1"] = 1
        with pytest.raises(Died, match="cannot start"):
            await sup.restart("child1")
        assert states(sup) == {"child1": "failed"}
        await settle()
        assert workers.since(0) == "+child1 -child1 !child1"
        await sup.restart("child1")
        assert states(sup) == {"child1": "ready"}


@pytest.mark.parametrize(("func", "error", "match"), FAULTY_STARTS)
async def test_sup_start_child_returns_error_simple(
    func: Any, error: type[Exception], match: str
) -> None:
    """In a pool it neither leaves an entry nor disturbs another."""
    async with supervise() as sup:
        member = await sup.start(waiting)
        with pytest.raises(error):
            await sup.start(func, **permanent)
        assert states(sup) == {member.name: "ready"}


async def test_sup_start_map() -> None:
    """A service has defaults, and both they and what was given can be read."""
    plain = Service(waiting)
    assert (plain.name, plain.restart, plain.essential) == (None, "on-failure", False)
    assert (plain.max_restarts, plain.healthy_after) == (None, 30.0)
    assert plain.backoff == Backoff(base=0.2, factor=2.0, cap=30.0, jitter=0.5)
    assert (plain.start_timeout, plain.stop_timeout) == (30.0, 10.0)
    assert plain.watchdog is None
    given = Service(asyncio.sleep, 9, name="nap", restart="never", stop_timeout=None)
    assert (given.func, given.args, given.name) == (asyncio.sleep, (9,), "nap")
    assert (given.restart, given.stop_timeout) == ("never", None)


async def test_sup_start_map_simple() -> None:
    """In a pool every member has a name, made from its function's."""
    async with supervise() as sup:
        handles = [await sup.start(waiting) for _ in range(3)]
        assert [handle.name for handle in handles] == [
            "waiting",
            "waiting-2",
            "waiting-3",
        ]
        assert names(sup) == ["waiting", "waiting-2", "waiting-3"]


def with_coroutine() -> object:
    return Service(cast("Any", waiting()))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        pytest.param(cast("Any", Service), "func", id="missing_start"),
        pytest.param(lambda: Service(cast("Any", None)), "None", id="None"),
        pytest.param(lambda: Service(cast("Any", "child4")), "child4", id="str"),
        pytest.param(with_coroutine, "write waiting, not", id="coroutine"),
        pytest.param(
            lambda: Service(waiting, **cast("Any", {"silly_flag": True})),
            "silly_flag",
            id="silly_flag",
        ),
    ],
)
async def test_sup_start_map_faulty_specs(
    make: Callable[[], object], match: str
) -> None:
    """A faulty service is refused with an error that says what is wrong."""
    with pytest.raises(TypeError, match=match):
        make()


# Stop


@pytest.mark.virtual_time
async def test_sup_stop_infinity() -> None:
    """Without a limit a worker and a nested supervisor have all the time they need."""
    workers = Workers()
    nested = Service(
        supervise,
        workers.plain("leaf", cleanup=20.0, stop_timeout=None),
        name="child1",
        stop_timeout=None,
    )
    worker = workers.plain("child2", cleanup=3600.0, stop_timeout=None)
    events: list[Event] = []
    async with supervise(
        nested, worker, total_stop_timeout=10_000.0, on_event=events.append
    ):
        await settle()
    assert workers.ended == pytest.approx({"child2": 3600.0, "leaf": 3620.0})
    assert not [event for event in events if isinstance(event, ChildStuck)]


@pytest.mark.virtual_time
async def test_sup_stop_timeout() -> None:
    """Of two children one exceeds its limit: that one is reported, and cancelled again."""
    workers = Workers()
    events: list[Event] = []
    services = [
        workers.plain("child1", stop_timeout=1.0),
        workers.plain("child2", cleanup=200.0, stop_timeout=1.0),
    ]
    with pytest.warns(TaskStuckWarning, match="supervisor/child2"):
        async with supervise(*services, on_event=events.append):
            await settle()
    stuck = [event for event in events if isinstance(event, ChildStuck)]
    assert [event.path for event in stuck] == ["supervisor/child2"]
    assert stuck[0].age == pytest.approx(1.0)
    assert "await asyncio.sleep(cleanup)" in stuck[0].stack
    assert workers.ended == pytest.approx({"child1": 1.0, "child2": 1.0})


@pytest.mark.virtual_time
async def test_sup_stop_brutal_kill() -> None:
    """With a limit of zero, one that does not end at once is reported at once."""
    workers = Workers()
    events: list[Event] = []
    services = [
        workers.plain("child1", stop_timeout=1.0),
        workers.plain("child2", cleanup=200.0, stop_timeout=0.0),
    ]
    with pytest.warns(TaskStuckWarning, match="supervisor/child2"):
        async with supervise(*services, on_event=events.append):
            await settle()
    stuck = [event for event in events if isinstance(event, ChildStuck)]
    assert [event.path for event in stuck] == ["supervisor/child2"]
    assert workers.ended == pytest.approx({"child1": 0.0, "child2": 0.0}, abs=0.05)


async def test_sup_stop_brutal_kill__obedient() -> None:
    """With a limit of zero, one that ends at once is no matter for a report."""
    workers = Workers()
    events: list[Event] = []
    service = workers.plain("child1", stop_timeout=0.0)
    async with supervise(service, on_event=events.append):
        await settle()
    assert workers.since(0) == "+child1 -child1"
    assert not [event for event in events if isinstance(event, ChildStuck)]


# Administration


async def test_child_adm__already_started() -> None:
    """A name that is taken is refused, whether its child is up or stopped."""
    workers = Workers()
    async with supervise(workers.plain("child1")) as sup:
        await settle()
        with pytest.raises(ValueError, match="child1"):
            await sup.start(workers.plain("child1"))
        await sup.stop("child1")
        with pytest.raises(ValueError, match="child1"):
            await sup.start(workers.plain("child1"))
        assert states(sup) == {"child1": "stopped"}
    assert workers.since(0) == "+child1 -child1"


@pytest.mark.parametrize("method", ["stop", "restart"])
async def test_child_adm__not_found(method: str) -> None:
    """An unknown name is refused, and nobody disturbed."""
    workers = Workers()
    async with supervise(workers.plain("child1")) as sup:
        with pytest.raises(ValueError, match="hej"):
            await getattr(sup, method)("hej")
        await settle()
        assert workers.since(0) == "+child1"


async def test_child_adm__terminate() -> None:
    """A child that is stopped stays known; to stop it again is no error."""
    workers = Workers()
    async with supervise(workers.plain("child1"), workers.plain("child2")) as sup:
        await settle()
        await sup.stop("child1")
        assert states(sup) == {"child1": "stopped", "child2": "ready"}
        await sup.stop("child1")
        await settle()
        assert states(sup) == {"child1": "stopped", "child2": "ready"}
        assert workers.since(2) == "-child1"


async def test_child_adm__restart() -> None:
    """A stopped child is started by restart(), a live one is replaced; neither counts."""
    workers = Workers()
    sup = supervise(workers.plain("child1"), intensity=Intensity(0, 3600.0))
    async with sup:
        await settle()
        await sup.stop("child1")
        await sup.restart("child1")
        assert states(sup) == {"child1": "ready"}
        await settle()
        await sup.restart("child1")
        assert states(sup) == {"child1": "ready"}
        await settle()
        assert restarts(sup) == {"child1": 0}
        assert workers.since(0) == "+child1 -child1 +child1 -child1 +child1"


async def test_child_adm__start_after_delete() -> None:
    """A never-restart child that was stopped is forgotten, so its name is free again."""
    workers = Workers()
    async with supervise() as sup:
        await sup.start(workers.plain("child1", **temporary))
        await sup.stop("child1")
        with pytest.raises(ValueError, match="child1"):
            await sup.restart("child1")
        assert names(sup) == []
        await sup.start(workers.plain("child1", **temporary))
        assert states(sup) == {"child1": "ready"}


async def test_child_adm__noproc() -> None:
    """Nothing can be asked of a supervisor before its start, or started after its end."""
    sup = supervise()
    with pytest.raises(RuntimeError, match="entered"):
        sup.snapshot()
    async with sup:
        pass
    with pytest.raises(SupervisorClosed):
        await sup.start(waiting)


async def test_child_adm_simple() -> None:
    """A pool starts empty; its members are started, counted and stopped one by one."""
    async with supervise() as sup:
        assert names(sup) == []
        first = await sup.start(waiting)
        second = await sup.start(waiting)
        assert states(sup) == {first.name: "ready", second.name: "ready"}
        await sup.stop(first.name)
        assert (first.state, second.state) == ("stopped", "ready")
        with pytest.raises(ValueError, match="child1"):
            await sup.stop("child1")
        assert second.state == "ready"


async def test_extra_return() -> None:
    """What a child gave to started() is its handle's value, a new one for each life."""
    serial = count(1)

    async def extra(*, task_status: TaskStatus[int]) -> None:
        task_status.started(next(serial))
        await waiting()

    async with supervise() as sup:
        handle = await sup.start(extra)
        assert handle.value == 1
        await sup.stop("extra")
        assert (handle.state, handle.value) == ("stopped", 1)
        await sup.restart("extra")
        assert (handle.state, handle.value) == ("ready", 2)
        await sup.restart("extra")
        assert (handle.state, handle.value) == ("ready", 3)


@pytest.mark.parametrize(
    ("func", "options", "error", "match"),
    [
        pytest.param("mfa", {}, TypeError, "mfa", id="mfa"),
        pytest.param(
            waiting, {"restart": "prmanent"}, ValueError, "prmanent", id="restart_type"
        ),
        pytest.param(waiting, {"stop_timeout": -10}, ValueError, "-10", id="shutdown"),
        pytest.param(
            waiting, {"start_timeout": nan}, ValueError, "start_timeout", id="nan"
        ),
        pytest.param(
            waiting, {"stop_timeout": "1"}, TypeError, "stop_timeout", id="seconds"
        ),
        pytest.param(
            waiting, {"max_restarts": 1.5}, TypeError, "max_restarts", id="count"
        ),
        pytest.param(
            waiting, {"max_restarts": -1}, ValueError, "max_restarts", id="negative"
        ),
        pytest.param(
            waiting,
            {"max_restarts": 1, "restart": "never"},
            ValueError,
            "max_restarts",
            id="combination",
        ),
        pytest.param(waiting, {"name": 5}, TypeError, "name", id="name"),
        pytest.param(waiting, {"backoff": 1.0}, TypeError, "backoff", id="backoff"),
        pytest.param(waiting, {"modules": "dy"}, TypeError, "modules", id="modules"),
    ],
)
async def test_child_specs(
    func: Any, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """A faulty child is refused with an error that says why, and the supervisor goes on."""
    async with supervise() as sup:
        start: Any = sup.start
        with pytest.raises(error, match=match):
            await start(func, **options)
        assert names(sup) == []
        await start(waiting, name="child")
        assert states(sup) == {"child": "ready"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({**permanent, "stop_timeout": None}, id="infinity"),
        pytest.param({**permanent, "stop_timeout": 1}, id="permanent"),
        pytest.param({**temporary, "stop_timeout": 1000}, id="temporary"),
        pytest.param({**transient, "stop_timeout": 0}, id="transient"),
    ],
)
async def test_child_specs__correct(options: dict[str, Any]) -> None:
    """Every correct one is taken."""
    async with supervise() as sup:
        await sup.start(Service(waiting, name="child", **options))
        assert states(sup) == {"child": "ready"}


async def test_child_specs__duplicate_child_name() -> None:
    """Two services of one name are refused before anything starts."""
    workers = Workers()
    with pytest.raises(ValueError, match="child"):
        supervise(workers.plain("child"), workers.plain("child"))
    await settle()
    assert workers.diary == []


@pytest.mark.parametrize(
    ("flags", "error", "match"),
    [
        ({"strategy": "none_for_one"}, ValueError, "none_for_one"),
        ({"strategy": "simple_one_for_one"}, ValueError, "simple_one_for_one"),
        ({"intensity": 2}, TypeError, "[Ii]ntensity"),
        ({"intensity": (2, 3600)}, TypeError, "[Ii]ntensity"),
        ({"total_stop_timeout": -1.0}, ValueError, "total_stop_timeout"),
        ({"total_stop_timeout": nan}, ValueError, "total_stop_timeout"),
        ({"silly_flag": True}, TypeError, "silly_flag"),
    ],
    ids=str,
)
async def test_sup_flags(
    flags: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Faulty options of a supervisor are refused."""
    with pytest.raises(error, match=match):
        supervise(waiting, **flags)


@pytest.mark.parametrize(
    ("restarts", "period", "error", "match"),
    [
        (inf, 3600, TypeError, "restarts"),
        (True, 3600, TypeError, "restarts"),
        (-1, 3600, ValueError, "restarts"),
        (2, 0, ValueError, "period"),
        (2, -1, ValueError, "period"),
        (2, inf, ValueError, "period"),
        (2, nan, ValueError, "period"),
        (2, "1", TypeError, "period"),
    ],
)
async def test_sup_flags__intensity(
    restarts: Any, period: Any, error: type[Exception], match: str
) -> None:
    """A faulty intensity is refused, and the error names what of it."""
    with pytest.raises(error, match=match):
        Intensity(restarts, period)


# Permanent, transient, temporary


def ending_of(workers: Workers, how: str) -> Callable[[str], Awaitable[object]]:
    return {
        "normal": workers.finish,
        "shutdown": workers.finish,
        "abnormal": workers.fail,
        "kill": workers.kill,
    }[how]


@pytest.mark.parametrize(
    ("restart", "how", "then", "lives"),
    [
        pytest.param("always", "normal", "ready", 2, id="permanent_normal"),
        pytest.param("always", "shutdown", "ready", 2, id="permanent_shutdown"),
        pytest.param("always", "abnormal", "ready", 2, id="permanent_abnormal"),
        pytest.param("on-failure", "normal", "finished", 1, id="transient_normal"),
        pytest.param("on-failure", "shutdown", "finished", 1, id="transient_shutdown"),
        pytest.param("on-failure", "abnormal", "ready", 2, id="transient_abnormal"),
        pytest.param("never", "normal", None, 1, id="temporary_normal"),
        pytest.param("never", "shutdown", None, 1, id="temporary_shutdown"),
        pytest.param("never", "abnormal", None, 1, id="temporary_abnormal"),
    ],
)
async def test_policy(restart: Any, how: str, then: str | None, lives: int) -> None:
    """Who is restarted after which end; "shutdown" is a nested supervisor's orderly end."""
    workers = Workers()
    service = workers.plain("child1", restart=restart)
    if how == "shutdown":
        leaf = workers.plain("child1", restart="never", essential=True)
        service = Service(
            supervise, leaf, name="child1", restart=restart, backoff=AT_ONCE
        )
    async with supervise(intensity=Intensity(2, 3600.0)) as sup:
        await sup.start(service)
        await ending_of(workers, how)("child1")
        assert states(sup) == ({} if then is None else {"child1": then})
        assert workers.diary.count("+child1") == lives


@pytest.mark.parametrize(
    ("restart", "then"),
    [
        pytest.param("always", "stopped", id="permanent_shutdown"),
        pytest.param("on-failure", "stopped", id="transient_shutdown"),
        pytest.param("never", None, id="temporary_shutdown"),
    ],
)
async def test_policy__stopped_by_its_supervisor(
    restart: Any, then: str | None
) -> None:
    """Nobody is restarted who was told to stop; only a never-restart one is forgotten."""
    workers = Workers()
    async with supervise() as sup:
        await sup.start(workers.plain("child1", restart=restart))
        await settle()
        await sup.stop("child1")
        await settle()
        assert states(sup) == ({} if then is None else {"child1": then})
        assert workers.since(0) == "+child1 -child1"


async def test_faulty_application_shutdown() -> None:
    """A server that cannot start ends its supervisor and that one's, with its own error."""
    workers = Workers()
    workers.bad_starts["server"] = 9
    app = Service(supervise, workers.reporting("server"), name="app")
    with pytest.raises(SupervisionError, match="app") as caught:
        await supervise(workers.plain("before"), app, workers.plain("after"))
    (nested,) = caught.value.exceptions
    assert isinstance(nested, SupervisionError)
    assert (caught.value.service, nested.service) == ("app", "server")
    assert [str(error) for error in nested.exceptions] == ["server cannot start"]
    assert workers.since(0) == "+before !server -before"


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_temporary_bystander(strategy: Any) -> None:
    """A never-restart sibling is stopped with its group, and not started with it."""
    workers = Workers()
    async with supervise(strategy=strategy, intensity=Intensity(2, 300.0)) as sup:
        await sup.start(workers.plain("child1", **permanent))
        await sup.start(workers.plain("child2", **temporary))
        await workers.finish("child1")
        assert workers.since(2) == "-child1 -child2 +child1"
        assert states(sup) == {"child1": "ready"}


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_temporary_bystander__ended(strategy: Any) -> None:
    """Nor does its group start again who had finished or was stopped, unlike in OTP."""
    workers = Workers()
    services = [
        workers.plain("child1"),
        workers.plain("child2", **transient),
        workers.plain("child3"),
    ]
    async with supervise(*services, strategy=strategy) as sup:
        await workers.finish("child2")
        await sup.stop("child3")
        await workers.fail("child1")
        assert workers.since(3) == "-child2 -child3 -child1 +child1"
        assert list(states(sup).values()) == ["ready", "finished", "stopped"]


# Restarts


@pytest.mark.virtual_time
async def test_multiple_restarts() -> None:
    """Failures far enough apart lead to one restart each, however many."""
    workers = Workers()
    sup = supervise(
        workers.plain("child1", healthy_after=2.0), intensity=Intensity(1, 1.0)
    )
    async with sup:
        await workers.fail("child1")
        for restart in range(2, 12):
            await asyncio.sleep(2.1)
            await workers.fail("child1")
            assert states(sup) == {"child1": "ready"}
            assert restarts(sup) == {"child1": restart}
            assert workers.diary.count("+child1") == restart + 1


async def test_one_for_one() -> None:
    """Only the one that failed is restarted; the third failure ends the supervisor."""
    workers = Workers()
    sup = supervise(
        workers.plain("child1"),
        workers.plain("child2"),
        strategy="one_for_one",
        intensity=Intensity(2, 3600.0),
    )
    held_sup = await held(sup)
    await workers.fail("child1")
    assert workers.since(2) == "-child1 +child1"
    await workers.fail("child2")
    assert workers.since(4) == "-child2 +child2"
    assert not held_sup.gave_up
    last = await workers.fail("child1")
    assert workers.since(6) == "-child1 -child2"
    error = held_sup.error()
    assert (error.exceptions, error.service) == ((last,), "child1")


async def test_one_for_all() -> None:
    """All are restarted, which counts once; the third failure ends the supervisor."""
    workers = Workers()
    sup = supervise(
        workers.plain("child1"),
        workers.plain("child2"),
        strategy="one_for_all",
        intensity=Intensity(2, 3600.0),
    )
    held_sup = await held(sup)
    await workers.fail("child1")
    assert workers.since(2) == "-child1 -child2 +child1 +child2"
    await workers.fail("child2")
    assert workers.since(6) == "-child2 -child1 +child1 +child2"
    assert not held_sup.gave_up
    last = await workers.fail("child1")
    assert workers.since(10) == "-child1 -child2"
    error = held_sup.error()
    assert (error.exceptions, error.service) == ((last,), "child1")


async def test_rest_for_one() -> None:
    """Those after it are restarted, too; the third failure ends the supervisor."""
    workers = Workers()
    sup = supervise(
        *map(workers.plain, ["child1", "child2", "child3"]),
        strategy="rest_for_one",
        intensity=Intensity(2, 3600.0),
    )
    held_sup = await held(sup)
    await workers.fail("child2")
    assert workers.since(3) == "-child2 -child3 +child2 +child3"
    await workers.fail("child3")
    assert workers.since(7) == "-child3 +child3"
    assert not held_sup.gave_up
    last = await workers.fail("child2")
    assert workers.since(9) == "-child2 -child3 -child1"
    error = held_sup.error()
    assert (error.exceptions, error.service) == ((last,), "child2")


async def test_one_for_one_escalation() -> None:
    """A restart that fails is tried again until the intensity is spent."""
    workers = Workers()
    sup = supervise(
        workers.reporting("child1"),
        workers.reporting("child2"),
        strategy="one_for_one",
        intensity=Intensity(4, 3600.0),
    )
    held_sup = await held(sup)
    workers.bad_starts["child1"] = 99
    await workers.fail("child1")
    assert workers.since(2) == "-child1 !child1 !child1 !child1 !child1 -child2"
    error = held_sup.error()
    assert [str(leaf) for leaf in error.exceptions] == ["child1 cannot start"]
    assert error.service == "child1"
    assert len(error.history) == 5


async def test_one_for_all_escalation() -> None:
    """If another cannot start again, all are tried again until the intensity is spent."""
    workers = Workers()
    sup = supervise(
        workers.reporting("child1"),
        workers.reporting("child2"),
        strategy="one_for_all",
        intensity=Intensity(4, 3600.0),
    )
    held_sup = await held(sup)
    workers.bad_starts["child2"] = 99
    await workers.fail("child1")
    attempt = ["+child1", "!child2", "-child1"]
    assert workers.diary[2:] == ["-child1", "-child2", *attempt * 4]
    assert held_sup.error().service == "child2"


async def test_rest_for_one_escalation() -> None:
    """If the next cannot start again, only it is, until the intensity is spent."""
    workers = Workers()
    sup = supervise(
        workers.reporting("child1"),
        workers.reporting("child2"),
        strategy="rest_for_one",
        intensity=Intensity(4, 3600.0),
    )
    held_sup = await held(sup)
    workers.bad_starts["child2"] = 99
    await workers.fail("child1")
    attempts = "!child2 !child2 !child2 !child2"
    assert workers.since(2) == f"-child1 -child2 +child1 {attempts} -child1"
    assert held_sup.error().service == "child2"


async def test_simple_one_for_one_escalation() -> None:
    """A member of a pool that cannot be restarted ends the pool, the others with it."""
    workers = Workers()
    sup = supervise(intensity=Intensity(4, 3600.0))
    held_sup = await held(sup)
    await sup.start(workers.reporting("child1"))
    await sup.start(workers.reporting("child2"))
    workers.bad_starts["child1"] = 99
    await workers.fail("child1")
    assert workers.since(2) == "-child1 !child1 !child1 !child1 !child1 -child2"
    assert held_sup.error().service == "child1"


async def test_one_for_all_other_child_fails_restart() -> None:
    """If child2 cannot start in a group restart, child1's new life ends: all start anew."""
    workers = Workers()
    async with supervise(
        workers.reporting("child1"),
        workers.reporting("child2"),
        strategy="one_for_all",
        intensity=Intensity(3, 3600.0),
    ) as sup:
        workers.bad_starts["child2"] = 1
        await workers.fail("child1")
        assert (
            workers.since(2)
            == "-child1 -child2 +child1 !child2 -child1 +child1 +child2"
        )
        assert states(sup) == {"child1": "ready", "child2": "ready"}


async def test_rest_for_one_other_child_fails_restart() -> None:
    """If child2 cannot start in a group restart, child1's new life goes on."""
    workers = Workers()
    async with supervise(
        workers.reporting("child1"),
        workers.reporting("child2"),
        strategy="rest_for_one",
        intensity=Intensity(3, 3600.0),
    ) as sup:
        workers.bad_starts["child2"] = 1
        await workers.fail("child1")
        assert workers.since(2) == "-child1 -child2 +child1 !child2 +child2"
        assert states(sup) == {"child1": "ready", "child2": "ready"}


# Pools


async def test_simple_one_for_one() -> None:
    """In a pool only the one that failed is restarted; the third failure ends the pool."""
    workers = Workers()
    sup = supervise(intensity=Intensity(2, 3600.0))
    held_sup = await held(sup)
    await sup.start(workers.plain("child1"))
    await sup.start(workers.plain("child2"))
    await workers.fail("child1")
    assert workers.since(2) == "-child1 +child1"
    await workers.fail("child2")
    assert workers.since(4) == "-child2 +child2"
    assert not held_sup.gave_up
    last = await workers.fail("child2")
    assert workers.since(6) == "-child2 -child1"
    assert held_sup.error().exceptions == (last,)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("limit", "seconds"), [(0.0, 1.5), (30.0, 3.5)])
async def test_simple_one_for_one_shutdown(limit: float, seconds: float) -> None:
    """A pool that is stopped without order takes as long as its slowest member, not all."""
    workers = Workers()
    loop = asyncio.get_running_loop()
    async with supervise(total_stop_timeout=limit) as sup:
        for name, cleanup in [("a", 1.0), ("b", 1.0), ("c", 1.5)]:
            await sup.start(workers.plain(name, cleanup=cleanup, stop_timeout=2.0))
        await settle()
    assert loop.time() == pytest.approx(seconds)
    assert set(workers.diary[3:]) == {"-a", "-b", "-c"}


@pytest.mark.virtual_time
async def test_simple_one_for_one_shutdown__stuck() -> None:
    """One that needs too long is reported, and costs its own limit, once."""
    workers = Workers()
    loop = asyncio.get_running_loop()
    sup = supervise(total_stop_timeout=0.0)
    held_sup = await held(sup)
    for name, cleanup in [("a", 1.0), ("b", 1.0), ("c", 5.0)]:
        await sup.start(workers.plain(name, cleanup=cleanup, stop_timeout=2.0))
    await settle()
    with pytest.warns(TaskStuckWarning, match="supervisor/c"):
        await held_sup.close()
    assert loop.time() == pytest.approx(2.0)
    assert workers.ended == pytest.approx({"a": 1.0, "b": 1.0, "c": 2.0})


async def test_simple_one_for_one_extra() -> None:
    """A member of a pool that is restarted by itself gives a new value to its handle."""
    serial = count(1)
    workers = Workers()

    async def extra(name: str, *, task_status: TaskStatus[int]) -> None:
        task_status.started(next(serial))
        await workers.plain(name).func(name)

    async with supervise() as sup:
        first = await sup.start(extra, "child1", backoff=AT_ONCE)
        second = await sup.start(extra, "child2", backoff=AT_ONCE)
        await workers.fail("child1")
        assert (first.value, second.value) == (3, 2)
        await workers.fail("child2")
        assert (first.value, second.value) == (3, 4)


async def test_simple_one_for_one_scale_many_temporary_children__nothing_left() -> None:
    """Of ten thousand members that have ended nothing is left, in whatever order."""
    async with supervise() as sup:
        handles = [await sup.start(waiting, **temporary) for _ in range(10_000)]
        assert len(names(sup)) == 10_000
        for handle in (*handles[::2], *handles[-1::-2]):
            await sup.stop(handle.name)
        assert names(sup) == []


# Everything else


@pytest.mark.virtual_time
async def test_child_unlink() -> None:
    """While a child does not end, the supervisor does all else."""
    workers = Workers()
    async with supervise(
        workers.plain("naughty", cleanup=5.0, stop_timeout=None),
        workers.plain("child2"),
    ) as sup:
        stop = asyncio.ensure_future(sup.stop("naughty"))
        await settle()
        assert states(sup) == {"naughty": "stopping", "child2": "ready"}
        await sup.start(workers.plain("child3"))
        await workers.fail("child2")
        await sup.stop("child3")
        assert workers.since(2) == "+child3 -child2 +child2 -child3"
        assert not stop.done()
        await stop
        assert workers.ended["naughty"] == pytest.approx(5.0)
        assert states(sup)["naughty"] == "stopped"


class Tree:
    """Two supervisors below one: with static children, and with dynamic ones."""

    def __init__(self, workers: Workers) -> None:
        within = Intensity(4, 3600.0)
        self.dynamic: list[Supervisor] = []
        static = workers.plain("child1"), workers.plain("child2")
        self.top = supervise(
            Service(supervise, *static, name="sup1", backoff=AT_ONCE, **permanent),
            Service(self._dynamic, name="sup2", backoff=AT_ONCE, **permanent),
            strategy="one_for_all",
            intensity=within,
        )

    async def _dynamic(self, *, task_status: TaskStatus[None]) -> None:
        async with supervise(intensity=Intensity(4, 3600.0)) as sup:
            self.dynamic.append(sup)
            task_status.started()
            await waiting()


async def test_tree() -> None:
    """In a tree, only the child that failed is restarted."""
    workers = Workers()
    tree = Tree(workers)
    async with tree.top as top:
        (sup2,) = tree.dynamic
        await sup2.start(workers.reporting("child3"))
        await sup2.start(workers.reporting("child4"))
        await workers.fail("child4")
        assert workers.since(0) == "+child1 +child2 +child3 +child4 -child4 +child4"
        assert states(top) == {"sup1": "ready", "sup2": "ready"}
        below = [child.children for child in top.snapshot().children]
        assert [[leaf.path for leaf in leaves] for leaves in below] == [
            ["supervisor/sup1/child1", "supervisor/sup1/child2"],
            ["supervisor/sup2/child3", "supervisor/sup2/child4"],
        ]
        assert [leaf.restarts for leaf in below[1]] == [0, 1]


async def test_tree__escalation() -> None:
    """A subtree that gives up is restarted with its siblings, without dynamic children."""
    workers = Workers()
    tree = Tree(workers)
    async with tree.top as top:
        (sup2,) = tree.dynamic
        await sup2.start(workers.reporting("child3"))
        await sup2.start(workers.reporting("child4"))
        workers.bad_starts["child3"] = 99
        await workers.fail("child3")
        await settle()
        assert workers.since(4) == (
            "-child3 !child3 !child3 !child3 !child3 -child4 "
            "-child2 -child1 +child1 +child2"
        )
        assert restarts(top) == {"sup1": 0, "sup2": 1}
        below = [child.children for child in top.snapshot().children]
        assert [[leaf.name for leaf in leaves] for leaves in below] == [
            ["child1", "child2"],
            [],
        ]


async def test_count_children() -> None:
    """A snapshot counts all that live, and none of those that have ended."""
    workers = Workers()
    async with supervise() as sup:
        for number in range(1000):
            await sup.start(workers.plain(f"child{number}", **temporary))
        assert Counter(states(sup).values()) == {"ready": 1000}
        for number in range(1000, 2000):
            await sup.start(workers.plain(f"child{number}", **temporary))
        assert Counter(states(sup).values()) == {"ready": 2000}
        assert names(sup) == [f"child{number}" for number in range(2000)]
        for number in range(1500):
            workers.end(f"child{number}")
        await settle()
        assert names(sup) == [f"child{number}" for number in range(1500, 2000)]


@pytest.mark.virtual_time
async def test_count_restarting_children() -> None:
    """Those that wait for their restart are counted as such, until they are up or stopped."""
    workers = Workers()
    slowly = Backoff(base=10.0, jitter=0.0)
    async with supervise() as sup:
        for name in ("child1", "child2", "child3"):
            await sup.start(workers.plain(name, backoff=slowly))
        await workers.fail("child1")
        await workers.fail("child2")
        assert states(sup) == {
            "child1": "backoff",
            "child2": "backoff",
            "child3": "ready",
        }
        due = [child.next_restart_in for child in sup.snapshot().children]
        assert due == [pytest.approx(10.0), pytest.approx(10.0), None]
        await sup.stop("child2")
        await asyncio.sleep(11)
        assert states(sup) == {
            "child1": "ready",
            "child2": "stopped",
            "child3": "ready",
        }


class Large:
    """A parameter that would be a pity to keep."""


@pytest.mark.parametrize("how", ["normal", "abnormal", "kill", "supervisor"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_do_not_save_start_parameters_for_temporary_children(
    strategy: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A never-restart child's arguments are let go with it, a permanent one's are kept."""
    caplog.set_level(
        logging.CRITICAL, logger="safeaio.supervise"
    )  # it keeps tracebacks
    workers = Workers()

    async def use(name: str, large: Large) -> None:
        await workers.plain(name).func(name)

    async with supervise(strategy=strategy) as sup:
        gone, kept = Large(), Large()
        references = [weakref.ref(gone), weakref.ref(kept)]
        options: Any = {"name": "kept", "backoff": AT_ONCE, **permanent}
        await sup.start(use, "kept", kept, **options)
        await sup.start(use, "gone", gone, name="gone", **temporary)
        del gone, kept
        await settle()
        if how == "supervisor":
            await sup.stop("gone")
        else:
            await ending_of(workers, how)("gone")
        workers.forget("gone")
        gc.collect()
        assert [reference() is None for reference in references] == [True, False]
        assert names(sup) == ["kept"]


@pytest.mark.parametrize("how", ["normal", "abnormal", "kill", "supervisor"])
@pytest.mark.parametrize("restart", ["always", "on-failure", "never"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_do_not_save_child_specs_for_temporary_children(
    strategy: Any, restart: Any, how: str
) -> None:
    """A never-restart child's name is free once it has ended, others' names are not."""
    workers = Workers()
    async with supervise(strategy=strategy) as sup:
        handle = await sup.start(workers.plain("child", restart=restart))
        if how == "supervisor":
            await sup.stop("child")
        else:
            await ending_of(workers, how)("child")
        if restart == "never":
            await sup.start(workers.plain("child", restart=restart))
        else:
            with pytest.raises(ValueError, match="child"):
                await sup.start(workers.plain("child", restart=restart))
            await sup.restart("child")
            assert handle.state == "ready"
        assert states(sup) == {"child": "ready"}


async def test_do_not_save_child_specs_for_temporary_children__kill() -> None:
    """A cancel from somebody else is a failure, which the handle of such a child tells."""
    workers = Workers()
    async with supervise() as sup:
        handle = await sup.start(workers.plain("child", **temporary))
        await workers.kill("child")
        with pytest.raises(ChildCancelled, match="child"):
            await handle.wait()


class Work:
    """Counts calls, also of C functions, and where Python has that, the rounds of loops."""

    def __init__(self) -> None:
        self.count = 0

    if sys.version_info >= (3, 12):

        def __enter__(self) -> Self:
            monitoring = sys.monitoring
            events = monitoring.events
            kinds = events.PY_START, events.PY_RESUME, events.CALL, events.JUMP
            monitoring.use_tool_id(monitoring.PROFILER_ID, "work")
            for kind in kinds:
                monitoring.register_callback(
                    monitoring.PROFILER_ID, kind, self._count_one
                )
            monitoring.set_events(monitoring.PROFILER_ID, sum(kinds))
            return self

        def __exit__(self, *_: object) -> None:
            sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
            sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)

    else:

        def __enter__(self) -> Self:
            sys.setprofile(self._count_one)
            return self

        def __exit__(self, *_: object) -> None:
            sys.setprofile(None)

    def _count_one(self, *_: object) -> None:
        self.count += 1


async def start_and_stop_each(number: int, **options: Any) -> tuple[int, int]:
    """Count the work that the starts take, and the stops, oldest first."""
    services = [Service(waiting, name=f"child{n}", **options) for n in range(number)]
    starts, stops = Work(), Work()
    async with supervise() as sup:
        with starts:
            for service in services:
                await sup.start(service)
        with stops:
            for service in services:
                await sup.stop(str(service.name))
    return starts.count, stops.count


@pytest.mark.virtual_time
async def test_simple_one_for_one_scale_many_temporary_children() -> None:
    """Ten times as many members of a pool take ten times the work, to start and to stop."""
    few_starts, few_stops = await start_and_stop_each(1_000, **temporary)
    many_starts, many_stops = await start_and_stop_each(10_000, **temporary)
    assert many_starts < 11 * few_starts
    assert many_stops < 11 * few_stops


@pytest.mark.virtual_time
async def test_scale_start_stop_many_children() -> None:
    """Ten times as many children take ten times the work, to start and to stop each."""
    few_starts, few_stops = await start_and_stop_each(1_000, **permanent)
    many_starts, many_stops = await start_and_stop_each(10_000, **permanent)
    assert many_starts < 11 * few_starts
    assert many_stops < 11 * few_stops


@pytest.mark.virtual_time
async def test_scale_start_stop_many_children__in_order() -> None:
    """So it is with children that the supervisor starts in order and stops in reverse."""

    async def work_for(number: int) -> int:
        services = [Service(waiting, name=f"child{n}") for n in range(number)]
        with Work() as work:
            async with supervise(*services) as sup:
                assert len(names(sup)) == number
        assert Counter(states(sup).values()) == {"stopped": number}
        return work.count

    few = await work_for(1_000)
    assert await work_for(10_000) < 11 * few


# A restart that fails for ever


SOON = 6  # turns, in which each of these has to be answered: so many steps it is from
# a cancel to the end of two children, one after the other, and of whoever waits for them

PATIENCES = [
    pytest.param(AT_ONCE, 0, id="zero_backoff-fails_at_once"),
    pytest.param(AT_ONCE, 1, id="zero_backoff-fails_after_a_turn"),
    pytest.param(EVERY_SECOND, 0, id="backoff"),
]


def endless(workers: Workers, name: str, backoff: Backoff) -> Service:
    return workers.reporting(name, backoff=backoff, max_restarts=10**9)


async def hang(workers: Workers, name: str, backoff: Backoff, phase: int) -> None:
    """Have it fail, and every restart after that, and be somewhere in the midst of them."""
    workers.bad_starts[name] = 10**9
    await workers.fail(name)
    if backoff.base:
        await asyncio.sleep(10.5)
    await settle(phase)
    assert workers.attempts[name] > 10


async def stop_at_once(sup: Supervisor, workers: Workers, name: str) -> None:
    """Stop it; once that is asked for, no further life begins."""
    stop = asyncio.ensure_future(sup.stop(name))
    await asyncio.sleep(0)
    attempts = workers.attempts[name]
    await settle(SOON - 1)
    assert stop.done()
    await settle()
    assert workers.attempts[name] == attempts
    assert states(sup)[name] == "stopped"


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
async def test_hanging_restart_loop(
    backoff: Backoff, fails_after: int, phase: int
) -> None:
    """During an endless failing restart the supervisor answers, and stops the child."""
    workers = Workers(fails_after)
    async with supervise(endless(workers, "child1", backoff)) as sup:
        await hang(workers, "child1", backoff, phase)
        with pytest.raises(ValueError, match="child1"):
            await sup.start(workers.plain("child1"))
        assert states(sup)["child1"] in ("backoff", "starting")
        await stop_at_once(sup, workers, "child1")
        workers.bad_starts.clear()
        await sup.restart("child1")
        assert states(sup) == {"child1": "ready"}


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
async def test_hanging_restart_loop_rest_for_one(
    backoff: Backoff, fails_after: int, phase: int
) -> None:
    """So it is in a group: who comes before is left alone, who comes after waits."""
    workers = Workers(fails_after)
    async with supervise(
        workers.plain("child1"),
        endless(workers, "child2", backoff),
        workers.plain("child3"),
        strategy="rest_for_one",
    ) as sup:
        await hang(workers, "child2", backoff, phase)
        seen = states(sup)
        assert (seen["child1"], seen["child3"]) == ("ready", "waiting")
        assert seen["child2"] in ("backoff", "waiting", "starting")
        await stop_at_once(sup, workers, "child2")
        assert workers.diary.count("+child1") == 1
        workers.bad_starts.clear()
        await sup.restart("child2")
        assert states(sup)["child2"] == "ready"


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
async def test_hanging_restart_loop_simple(
    backoff: Backoff, fails_after: int, phase: int
) -> None:
    """So it is in a pool, which takes new members meanwhile."""
    workers = Workers(fails_after)
    async with supervise() as sup:
        await sup.start(endless(workers, "child1", backoff))
        await hang(workers, "child1", backoff, phase)
        start = asyncio.ensure_future(sup.start(workers.plain("child2")))
        await settle(SOON)
        assert start.done()
        await start
        assert states(sup)["child2"] == "ready"
        await stop_at_once(sup, workers, "child1")
        assert states(sup) == {"child1": "stopped", "child2": "ready"}


async def leave_while_hanging(
    strategy: Any, backoff: Backoff, workers: Workers, phase: int
) -> Held:
    """Stop the whole supervisor, which takes no time, and no further life begins."""
    sup = supervise(
        workers.plain("child1"), endless(workers, "child2", backoff), strategy=strategy
    )
    held_sup = await held(sup)
    await hang(workers, "child2", backoff, phase)
    before = asyncio.get_running_loop().time()
    held_sup.leave.set()
    await asyncio.sleep(0)
    attempts = workers.attempts["child2"]
    await settle(SOON - 1)
    assert held_sup.task.done()
    await settle()
    assert asyncio.get_running_loop().time() == pytest.approx(before)
    assert workers.attempts["child2"] == attempts
    return held_sup


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_hanging_restart_loop__shutdown(
    strategy: Any, backoff: Backoff, fails_after: int, phase: int
) -> None:
    """During an endless failing restart the supervisor itself can be stopped, at once."""
    workers = Workers(fails_after)
    held_sup = await leave_while_hanging(strategy, backoff, workers, phase)
    held_sup.task.exception()
    assert workers.diary.count("-child1") == workers.diary.count("+child1")


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_hanging_restart_loop__shutdown_normal(
    strategy: Any, backoff: Backoff, fails_after: int, phase: int
) -> None:
    """What failed before the stop had events for that: the stop itself raises nothing."""
    held_sup = await leave_while_hanging(strategy, backoff, Workers(fails_after), phase)
    assert held_sup.task.exception() is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize(("backoff", "fails_after"), PATIENCES)
async def test_hanging_restart_loop__restart(
    backoff: Backoff, fails_after: int, phase: int
) -> None:
    """restart() cuts the delay short, where OTP answers that it is restarting."""
    workers = Workers(fails_after)
    async with supervise(endless(workers, "child1", backoff)) as sup:
        await hang(workers, "child1", backoff, phase)
        workers.bad_starts.clear()
        before = asyncio.get_running_loop().time()
        soon = asyncio.ensure_future(settle(SOON))
        await sup.restart("child1")
        assert not soon.done()
        await soon
        assert asyncio.get_running_loop().time() == pytest.approx(before)
        assert states(sup) == {"child1": "ready"}
        await settle()
        assert workers.diary.count("+child1") == 2


# Order

NAMES = ["ch7", "ch3", "ch10", "ch2", "ch5"]


@pytest.mark.parametrize(
    ("strategy", "restart"),
    [
        ("one_for_one", "-ch10 +ch10"),
        (
            "one_for_all",
            "-ch10 -ch5 -ch2 -ch3 -ch7 +ch7 +ch3 +ch10 +ch2 +ch5",
        ),
        ("rest_for_one", "-ch10 -ch5 -ch2 +ch10 +ch2 +ch5"),
    ],
)
async def test_order_of_children(strategy: Any, restart: str) -> None:
    """Starts keep the given order, stops the reverse, also in and after a restart."""
    workers = Workers()
    async with supervise(*map(workers.plain, NAMES), strategy=strategy) as sup:
        await settle()
        assert workers.since(0) == "+ch7 +ch3 +ch10 +ch2 +ch5"
        mark = len(workers.diary)
        await workers.fail("ch10")
        assert workers.since(mark) == restart
        assert names(sup) == NAMES
    assert workers.diary[-5:] == ["-ch5", "-ch2", "-ch10", "-ch3", "-ch7"]


async def test_order_of_children__restart() -> None:
    """A child that is restarted by hand keeps its place."""
    workers = Workers()
    async with supervise(*map(workers.plain, NAMES)) as sup:
        await settle()
        await sup.restart("ch3")
        await sup.stop("ch2")
        await sup.restart("ch2")
        await settle()
        assert names(sup) == NAMES
    assert workers.diary[-5:] == ["-ch5", "-ch2", "-ch10", "-ch3", "-ch7"]


# Automatic shutdown: significant children


def significant(workers: Workers, name: str, **options: Any) -> Service:
    return workers.plain(name, **{**transient, "essential": True, **options})


async def test_auto_shutdown_transient_normal() -> None:
    """A significant transient child that returns ends its supervisor, in order."""
    workers = Workers()
    task = await awaited(
        supervise(
            workers.plain("child1"),
            significant(workers, "child2"),
            workers.plain("child3"),
        )
    )
    await workers.finish("child2")
    assert task.done()
    await task
    assert workers.since(3) == "-child2 -child3 -child1"


async def test_auto_shutdown_transient_normal__body() -> None:
    """It also ends the block of `async with`, silently."""
    workers = Workers()
    held_sup = await held(supervise(significant(workers, "child1")))
    await workers.finish("child1")
    assert held_sup.task.done()
    assert held_sup.task.exception() is None


async def test_auto_shutdown_transient_abnormal() -> None:
    """A significant transient child that fails is restarted, and ends nothing."""
    workers = Workers()
    async with supervise(
        workers.plain("child1"), significant(workers, "child2")
    ) as sup:
        await workers.fail("child2")
        assert workers.since(2) == "-child2 +child2"
        assert states(sup) == {"child1": "ready", "child2": "ready"}


async def test_auto_shutdown_temporary_normal() -> None:
    """A significant temporary child that returns ends its supervisor."""
    workers = Workers()
    task = await awaited(
        supervise(workers.plain("child1"), significant(workers, "child2", **temporary))
    )
    await workers.finish("child2")
    assert task.done()
    await task
    assert workers.since(2) == "-child2 -child1"


async def test_auto_shutdown_temporary_abnormal() -> None:
    """A significant temporary child that fails ends its supervisor, which raises that."""
    workers = Workers()
    held_sup = await held(
        supervise(workers.plain("child1"), significant(workers, "child2", **temporary))
    )
    last = await workers.fail("child2")
    assert workers.since(2) == "-child2 -child1"
    error = held_sup.error()
    assert (error.exceptions, error.service) == ((last,), "child2")


async def test_auto_shutdown_any_significant() -> None:
    """The first of several significant children that returns ends the supervisor."""
    workers = Workers()
    task = await awaited(
        supervise(significant(workers, "child1"), significant(workers, "child2"))
    )
    await workers.finish("child1")
    assert task.done()
    await task
    assert workers.since(2) == "-child1 -child2"


async def test_auto_shutdown_all_significant() -> None:
    """Without a significant child, an awaited supervisor ends with the last that returns."""
    workers = Workers()
    services = [workers.plain(name, **transient) for name in ("child1", "child2")]
    task = await awaited(supervise(*services))
    await workers.finish("child1")
    assert not task.done()
    await workers.fail("child2")
    assert not task.done()
    await workers.finish("child2")
    assert task.done()
    await task
    assert workers.since(2) == "-child1 -child2 +child2 -child2"


async def test_auto_shutdown_last_active() -> None:
    """One that was stopped is not waited for: the last active one's return is the end."""
    workers = Workers()
    services = [workers.plain(name, **transient) for name in ("child1", "child2")]
    sup = supervise(*services)
    task = await awaited(sup)
    await sup.stop("child1")
    await settle()
    assert not task.done()
    await workers.finish("child2")
    assert task.done()
    await task


async def test_auto_shutdown_explicit_terminate() -> None:
    """A significant child that is stopped or restarted on request ends nothing."""
    workers = Workers()
    sup = supervise(workers.plain("child1"), significant(workers, "child2"))
    task = await awaited(sup)
    await sup.restart("child2")
    await sup.stop("child2")
    await settle()
    assert not task.done()
    assert states(sup) == {"child1": "ready", "child2": "stopped"}
    await sup.restart("child2")
    await workers.finish("child2")
    assert task.done()
    await task


async def test_auto_shutdown_rejected_significant_permanent() -> None:
    """A significant child that is always restarted never ends, so it is refused."""
    with pytest.raises(ValueError, match='essential=True with restart="always"'):
        Service(waiting, restart="always", essential=True)


async def test_auto_shutdown_rejected_significant_permanent__start() -> None:
    """It is refused of a dynamic child, too, and nothing is started."""
    async with supervise() as sup:
        with pytest.raises(ValueError, match='essential=True with restart="always"'):
            await sup.start(waiting, restart="always", essential=True)
        assert names(sup) == []
