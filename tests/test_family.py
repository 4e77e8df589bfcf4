"""What follows when a child ends: restarts, groups, giving up, and the order of the end."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from anyio.abc import TaskStatus

import safeaio
from safeaio import (
    Backoff,
    ChildFailed,
    ChildStuck,
    Event,
    GroupRestart,
    Intensity,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorGaveUp,
    TaskStuckWarning,
    supervise,
)

SECOND = Backoff(base=1, factor=1, jitter=0)
AT_ONCE = Backoff(base=0)

virtual = pytest.mark.virtual_time

Log = list[str]


def now() -> float:
    return asyncio.get_running_loop().time()


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


class Worker:
    """A service that does what it is told, life after life."""

    def __init__(self, name: str, log: Log, **options: Any) -> None:
        options.setdefault("backoff", SECOND)
        self.name = name
        self.log = log
        self.service = Service(self._live, name=name, **options)
        self.tasks: list[asyncio.Task[Any]] = []
        self._order: asyncio.Future[Callable[[], object]]

    async def _live(self) -> object:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        self.log.append(f"+{self.name}")
        self._order = loop.create_future()
        try:
            return (await self._order)()
        finally:
            self.log.append(f"-{self.name}")

    def crash(self) -> None:
        def fail() -> None:
            raise OSError(self.name)

        self._order.set_result(fail)

    def finish(self) -> None:
        self._order.set_result(lambda: None)


def workers(log: Log, names: str, **options: Any) -> list[Worker]:
    return [Worker(name, log, **options) for name in names]


def services(team: list[Worker]) -> list[Service]:
    return [worker.service for worker in team]


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


# One for one


@virtual
async def test_backoff_between_restarts() -> None:
    """The delays grow, and are capped; each is counted from the failure."""
    times: list[float] = []

    async def crash() -> None:
        times.append(now())
        raise OSError

    backoff = Backoff(base=1, factor=3, cap=5, jitter=0)
    with pytest.raises(SupervisionError, match=r"'crash' failed 6 times in 19\.0 s"):
        await supervise(Service(crash, backoff=backoff))
    assert times == pytest.approx([0, 1, 4, 9, 14, 19])


@virtual
async def test_healthy_life_begins_the_count_anew() -> None:
    """One that was ready long enough; a shorter one does not."""
    lives = iter([1, 1, 30, 1, 29, 1])
    events: list[Event] = []

    async def crash() -> None:
        await asyncio.sleep(next(lives))
        raise OSError

    service = Service(crash, max_restarts=3, backoff=SECOND)
    with pytest.raises(SupervisionError):
        await supervise(service, on_event=events.append)
    attempts = [event.attempt for event in events if isinstance(event, ChildFailed)]
    assert attempts == [1, 2, 1, 2, 3, 0]


@virtual
async def test_healthy_life_that_was_stopped_begins_the_count_anew() -> None:
    """It was healthy, whatever ended it."""
    log: Log = []
    [worker] = workers(log, "a")
    async with supervise(worker.service) as sup:
        await settle()
        worker.crash()
        await asyncio.sleep(40)
        await sup.restart("a")
        await settle()
        worker.crash()
        await settle()
        [child] = sup.snapshot().children
        assert (child.restarts, child.streak) == (2, 1)


@virtual
async def test_stop_of_the_last_one_in_its_backoff() -> None:
    """Then nothing is left to be awaited."""
    log: Log = []
    [worker] = workers(log, "a")
    sup = supervise(worker.service)
    task = asyncio.ensure_future(sup)
    await settle()
    worker.crash()
    await asyncio.sleep(0.5)
    await sup.stop("a")
    await task


@virtual
async def test_siblings_are_left_alone() -> None:
    """Only the one that failed is restarted."""
    log: Log = []
    team = workers(log, "abc")
    async with supervise(*services(team)):
        await settle()
        team[1].crash()
        await asyncio.sleep(2)
        assert log == ["+a", "+b", "+c", "-b", "+b"]
    assert log[5:] == ["-c", "-b", "-a"]


@virtual
async def test_return_under_always_counts() -> None:
    """A service that is always restarted, and returns at once, is given up, too."""

    async def job() -> None: ...

    sup = supervise(Service(job, restart="always", max_restarts=2, backoff=SECOND))
    with pytest.raises(ExceptionGroup) as info:
        await sup
    [error] = info.value.exceptions
    assert "'job' returned" in str(error)


# Groups


@virtual
async def test_one_for_all() -> None:
    """All stop in reverse order, and start again in order after the delay."""
    log: Log = []
    team = workers(log, "abc")
    events: list[Event] = []
    sup = supervise(*services(team), strategy="one_for_all", on_event=events.append)
    async with sup:
        await settle()
        del log[:]
        team[1].crash()
        await asyncio.sleep(0.5)
        assert log == ["-b", "-c", "-a"]
        assert set(states(sup).values()) == {"waiting"}
        await asyncio.sleep(1)
        assert log[3:] == ["+a", "+b", "+c"]
    [restart] = [event for event in events if isinstance(event, GroupRestart)]
    assert restart.children == ("a", "b", "c")
    assert restart.delay == pytest.approx(1)


@virtual
async def test_rest_for_one() -> None:
    """Only those that were started after it are restarted with it."""
    log: Log = []
    team = workers(log, "abcd")
    async with supervise(*services(team), strategy="rest_for_one"):
        await settle()
        del log[:]
        team[1].crash()
        await asyncio.sleep(2)
        assert log == ["-b", "-d", "-c", "+b", "+c", "+d"]


@virtual
@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_failures_at_once_are_one_restart(strategy: Any) -> None:
    """All that fail before the group is up again belong to it."""
    log: Log = []
    team = workers(log, "abc")
    sup = supervise(*services(team), strategy=strategy, intensity=Intensity(1, 10))
    async with sup:
        await settle()
        for worker in team:
            worker.crash()
        await asyncio.sleep(5)
        assert log == ["+a", "+b", "+c", "-a", "-b", "-c", "+a", "+b", "+c"]


@virtual
async def test_later_failure_of_an_earlier_child() -> None:
    """The group grows; it waits for the longer of the delays."""
    log: Log = []
    a = Worker("a", log, backoff=Backoff(base=5, jitter=0))
    b = Worker("b", log, backoff=SECOND)
    async with supervise(a.service, b.service, strategy="rest_for_one"):
        await settle()
        b.crash()
        await asyncio.sleep(0.5)
        a.crash()
        await asyncio.sleep(4.9)
        assert log == ["+a", "+b", "-b", "-a"]
        await asyncio.sleep(0.2)
        assert log[4:] == ["+a", "+b"]


@virtual
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_all", ["+a", "+b", "-a", "+a", "+b"]),
        ("rest_for_one", ["+a", "+b", "+b"]),
    ],
)
async def test_failure_during_the_restart_of_a_group(
    strategy: Any, expected: Log
) -> None:
    """It counts, and those concerned start again."""
    log: Log = []
    broken = False

    async def fragile(*, task_status: TaskStatus[None]) -> None:
        log.append("+b")
        if broken:
            raise OSError
        task_status.started()
        await asyncio.get_running_loop().create_future()

    a = Worker("a", log)
    b = Service(fragile, name="b", backoff=SECOND)
    async with supervise(a.service, b, strategy=strategy) as sup:
        await settle()
        del log[:]
        broken = True
        a.crash()
        await asyncio.sleep(1.5)
        broken = False
        await asyncio.sleep(1)
        assert log == ["-a", *expected]
        assert states(sup) == {"a": "ready", "b": "ready"}


@virtual
async def test_who_is_not_revived() -> None:
    """Neither what has finished or was stopped, nor what is never restarted."""
    log: Log = []
    team = workers(log, "abd")
    never = Worker("c", log, restart="never")
    order = [team[0].service, team[1].service, never.service, team[2].service]
    async with supervise(*order, strategy="one_for_all") as sup:
        await settle()
        team[0].finish()
        await sup.stop("b")
        del log[:]
        team[2].crash()
        await asyncio.sleep(2)
        assert log == ["-d", "-c", "+d"]
        assert states(sup) == {"a": "finished", "b": "stopped", "d": "ready"}


@virtual
async def test_start_during_a_restart_of_the_group() -> None:
    """The new one starts with the others, as the last."""
    log: Log = []
    a, b = workers(log, "ab")
    async with supervise(a.service, strategy="one_for_all") as sup:
        await settle()
        a.crash()
        await asyncio.sleep(0.5)
        handle = await sup.start(b.service)
        assert now() == pytest.approx(1)
        assert handle.state == "ready"
        await settle()
        assert log == ["+a", "-a", "+a", "+b"]


@virtual
@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_one_taken_out_of_a_group(verb: str) -> None:
    """Whoever is stopped or restarted by hand meanwhile is left out."""
    log: Log = []
    team = workers(log, "ab")
    async with supervise(*services(team), strategy="one_for_all") as sup:
        await settle()
        del log[:]
        team[0].crash()
        await asyncio.sleep(0.5)
        await getattr(sup, verb)("b")
        await settle()
        assert log == ["-a", "-b"] + ["+b"] * (verb == "restart")
        await asyncio.sleep(1)
        assert log[-1] == "+a"
        assert states(sup)["a"] == "ready"


@virtual
async def test_one_taken_out_while_its_group_is_stopped() -> None:
    """Whoever is being stopped then stays down."""
    log: Log = []

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(3)

    a = Worker("a", log)
    b, c = Service(slow, name="b"), Service(slow, name="c")
    never = Service(slow, name="d", restart="never")
    async with supervise(a.service, b, c, never, strategy="one_for_all") as sup:
        await settle()
        a.crash()
        await asyncio.sleep(1)
        assert states(sup)["d"] == "stopping"
        await asyncio.gather(sup.stop("c"), sup.stop("d"))
        await asyncio.sleep(10)
        assert states(sup) == {"a": "ready", "b": "ready", "c": "stopped"}


@virtual
async def test_one_taken_out_in_the_tick_in_which_another_fails() -> None:
    """What was left of the first restart does not end the second."""
    log: Log = []
    a, c = workers(log, "ac")
    slow_start = False

    async def slow(*, task_status: TaskStatus[None]) -> None:
        if slow_start:
            await asyncio.sleep(60)
        task_status.started()
        await asyncio.get_running_loop().create_future()

    b = Service(slow, name="b")
    async with supervise(a.service, b, c.service, strategy="one_for_all") as sup:
        await settle()
        slow_start = True
        a.crash()
        await asyncio.sleep(1.5)
        assert states(sup) == {"a": "ready", "b": "starting", "c": "waiting"}
        a.crash()
        await asyncio.sleep(0)
        stop = asyncio.create_task(sup.stop("b"))
        await settle()
        assert states(sup) == {"a": "waiting", "b": "stopped", "c": "waiting"}
        started = asyncio.create_task(sup.start(Worker("d", log).service))
        await settle()
        assert states(sup)["d"] == "waiting"
        await asyncio.sleep(2)
        assert states(sup) == {"a": "ready", "b": "stopped", "c": "ready", "d": "ready"}
    await stop
    assert (await started).name == "d"


@virtual
async def test_failure_while_the_first_ones_start() -> None:
    """The group starts anew; the block is entered when all are up."""
    log: Log = []
    a = Worker("a", log)

    async def slow(*, task_status: TaskStatus[None]) -> None:
        log.append("+b")
        await asyncio.sleep(2)
        task_status.started()
        await asyncio.get_running_loop().create_future()

    async def break_a() -> None:
        await asyncio.sleep(1)
        a.crash()

    task = asyncio.create_task(break_a())
    async with supervise(a.service, slow, strategy="one_for_all"):
        assert now() == pytest.approx(4)
        assert log == ["+a", "+b", "-a", "+a", "+b"]
    await task


@virtual
async def test_start_that_waits_through_two_restarts_of_the_group() -> None:
    """Also of one that is never restarted: its only life has yet to begin."""
    lives = 0

    async def flaky(*, task_status: TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            raise OSError(lives)
        task_status.started()
        if lives == 1:
            await asyncio.sleep(1)
            raise OSError(lives)
        await asyncio.get_running_loop().create_future()

    service = Service(flaky, backoff=SECOND)
    async with supervise(service, strategy="one_for_all") as sup:
        await asyncio.sleep(1.5)
        assert states(sup) == {"flaky": "waiting"}
        async with asyncio.timeout(60):
            handle = await sup.start(asyncio.sleep, 10, name="job", restart="never")
        assert now() == pytest.approx(3)
        assert states(sup) == {"flaky": "ready", "job": "ready"}
        assert (lives, handle.state) == (3, "ready")


@virtual
async def test_first_start_that_waits_while_its_group_is_restarted() -> None:
    """So it is with those that were given to `supervise`."""
    log: Log = []
    a, c = Worker("a", log), Worker("c", log, restart="never")

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await asyncio.sleep(2)
        task_status.started()
        await asyncio.get_running_loop().create_future()

    async def break_a() -> None:
        await asyncio.sleep(1)
        a.crash()

    task = asyncio.create_task(break_a())
    async with supervise(a.service, slow, c.service, strategy="one_for_all") as sup:
        assert set(states(sup).values()) == {"ready"}
        await settle()
        assert log == ["+a", "-a", "+a", "+c"]
    await task


# Giving up


@virtual
async def test_too_many_restarts_in_all() -> None:
    """More than the intensity allows, over all children."""
    log: Log = []
    team = workers(log, "abc", backoff=AT_ONCE)
    sup = supervise(*services(team), intensity=Intensity(2, 10))

    async def run() -> None:
        async with sup:
            for worker in team:
                await settle()
                worker.crash()
            await asyncio.sleep(60)

    with pytest.raises(SupervisionError, match="'c' failed") as info:
        await run()
    assert [str(error) for error in info.value.exceptions] == ["c"]


@virtual
async def test_restarts_further_apart_are_not_too_many() -> None:
    """They are counted over a sliding time."""
    log: Log = []
    [worker] = workers(log, "a", healthy_after=1)
    async with supervise(worker.service, intensity=Intensity(2, 10)):
        for _ in range(20):
            await asyncio.sleep(6)
            worker.crash()


@virtual
async def test_inner_supervisor_that_gives_up() -> None:
    """Its parent gives up, too: n times n restarts would be too many."""
    lives = 0

    async def crash() -> None:
        nonlocal lives
        lives += 1
        raise OSError

    inner = Service(supervise, Service(crash, backoff=SECOND), name="inner")
    with pytest.raises(SupervisionError, match="service 'inner' failed") as info:
        await supervise(inner, strategy="one_for_all")
    assert lives == 6
    [error] = info.value.exceptions
    assert isinstance(error, SupervisionError)
    assert error.service == "crash"


@virtual
async def test_inner_supervisor_that_is_always_restarted() -> None:
    """That has to be asked for."""
    lives = 0

    async def crash() -> None:
        nonlocal lives
        lives += 1
        raise OSError

    one = Service(crash, max_restarts=1, backoff=SECOND)
    inner = Service(supervise, one, restart="always", max_restarts=2, name="inner")
    with pytest.raises(SupervisionError):
        await supervise(inner)
    assert lives == 6


# The end


@virtual
async def test_no_restart_while_stopping() -> None:
    """Whoever fails while others are stopped is not restarted, and its error is raised."""
    log: Log = []
    a = Worker("a", log)

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            a.crash()
            await asyncio.sleep(5)

    with pytest.raises(SupervisionError) as info:
        async with supervise(a.service, slow):
            await settle()
    assert [str(error) for error in info.value.exceptions] == ["a"]
    assert log == ["+a", "-a"]


async def test_failure_in_the_tick_in_which_it_would_be_stopped() -> None:
    """It came after the stop had begun, and so is raised."""
    log: Log = []
    a = Worker("a", log)

    async def last() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            a.crash()
            await asyncio.sleep(0)

    with pytest.raises(SupervisionError) as info:
        async with supervise(a.service, last):
            await settle()
    assert [str(error) for error in info.value.exceptions] == ["a"]


@virtual
async def test_one_that_finishes_while_others_are_stopped() -> None:
    """That is no error."""
    log: Log = []
    a = Worker("a", log)

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            a.finish()
            await asyncio.sleep(5)

    async with supervise(a.service, slow) as sup:
        await settle()
    assert states(sup)["a"] == "finished"


@virtual
async def test_stop_during_a_backoff() -> None:
    """Is over at once."""
    log: Log = []
    [worker] = workers(log, "a", backoff=Backoff(base=30, jitter=0))
    async with supervise(worker.service) as sup:
        await settle()
        worker.crash()
        await asyncio.sleep(1)
        assert states(sup) == {"a": "backoff"}
        await sup.restart("a")
        await settle()
        worker.crash()
        await asyncio.sleep(1)
        await sup.stop("a")
        assert states(sup) == {"a": "stopped"}
        await sup.restart("a")
        await settle()
        worker.crash()
        await asyncio.sleep(1)
    assert now() == pytest.approx(3)


def stubborn(cancels: list[float], times: int = 2) -> Service:
    """A service that ends only when it is cancelled again."""

    async def swallow() -> None:
        for _ in range(times):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancels.append(now())
        raise asyncio.CancelledError

    return Service(swallow, name=f"stubborn {id(cancels)}")


@virtual
async def test_stuck_children_cost_one_timeout() -> None:
    """After the first the order is given up: three are no worse than one."""
    log: Log = []
    quick = workers(log, "abcdefgh")
    cancels: list[list[float]] = [[], [], []]
    events: list[Event] = []
    stuck = [stubborn(each) for each in cancels]
    order = [
        *services(quick[:4]),
        stuck[0],
        *services(quick[4:]),
        stuck[1],
        stuck[2],
    ]
    with pytest.warns(TaskStuckWarning):
        async with supervise(*order, on_event=events.append):
            await settle()
    named: dict[str, float] = {}
    for event in events:
        if isinstance(event, ChildStuck):
            named.setdefault(event.path, event.age)
    assert sorted(named.values()) == pytest.approx([1, 1, 10])
    assert cancels == [
        pytest.approx([10, 20]),
        pytest.approx([10, 20]),
        pytest.approx([0, 10]),
    ]
    assert len(log) == 16


def deaf(name: str, stop_timeout: float) -> Service:
    """A service that takes 100 s to end."""

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(100)

    return Service(slow, name=name, stop_timeout=stop_timeout)


def first_named(events: list[Event]) -> dict[str, float]:
    """Return when each was called stuck for the first time, by the age of its cancel."""
    named: dict[str, float] = {}
    for event in events:
        if isinstance(event, ChildStuck):
            named.setdefault(event.path.rpartition("/")[2], event.age)
    return named


@virtual
async def test_each_stuck_child_is_named_in_time() -> None:
    """Whoever else is, and whenever that was cancelled."""
    events: list[Event] = []
    team = [deaf("a", 0.2), deaf("b", 0.3), deaf("c", 2)]

    async def run() -> None:
        async with supervise(*team, on_event=events.append) as sup:
            stop = asyncio.create_task(sup.stop("b"))
            await settle()
        await stop

    with pytest.warns(TaskStuckWarning):
        await run()
    assert first_named(events) == pytest.approx({"a": 0.02, "b": 0.3, "c": 2})


@virtual
async def test_three_stuck_among_a_thousand_cost_one_timeout() -> None:
    """The rest is cancelled as soon as the order is given up, and ends at once."""
    events: list[Event] = []

    async def quick() -> None:
        await asyncio.get_running_loop().create_future()

    team = [Service(quick, name=f"quick-{n}") for n in range(1000)]
    for place in (100, 500, 900):
        team[place] = deaf(f"deaf-{place}", 10)
    with pytest.warns(TaskStuckWarning):
        async with supervise(*team, on_event=events.append):
            await settle()
    assert first_named(events) == pytest.approx(
        {"deaf-900": 10, "deaf-500": 1, "deaf-100": 1}
    )


@virtual
async def test_one_that_ends_before_the_order_is_given_up() -> None:
    """It need not be cancelled then."""
    log: Log = []
    cancels: list[float] = []
    a, b = workers(log, "ab")

    async def end_a() -> None:
        await asyncio.sleep(5)
        a.finish()

    task = asyncio.create_task(end_a())
    with pytest.warns(TaskStuckWarning):
        async with supervise(b.service, a.service, stubborn(cancels)) as sup:
            await settle()
    await task
    assert states(sup)["a"] == "finished"
    assert states(sup)["b"] == "stopped"


@pytest.mark.parametrize("error", [OSError("x"), None], ids=["raised", "returned"])
@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_stop_in_the_tick_after_an_end(verb: str, error: OSError | None) -> None:
    """What had ended before it was told to stop is not restarted for that."""
    lives = 0
    ended = asyncio.Event()

    async def serve() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            await ended.wait()
            if error is not None:
                raise error
        else:
            await asyncio.get_running_loop().create_future()

    service = Service(serve, restart="always", backoff=AT_ONCE)
    async with supervise(service) as sup:
        await settle()
        ended.set()
        await asyncio.sleep(0)
        await getattr(sup, verb)("serve")
        await settle()
        assert lives == 1 + (verb == "restart")


@virtual
async def test_total_stop_timeout() -> None:
    """Once it is over all that are left are cancelled at once."""
    log: Log = []

    async def slow(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(4)
            log.append(f"{name} at {now():.0f}")

    team = [Service(slow, name, name=name) for name in "abcd"]
    async with supervise(*team, total_stop_timeout=5):
        await settle()
    assert log == ["d at 4", "c at 8", "b at 9", "a at 9"]


@virtual
async def test_no_order_at_all() -> None:
    """With no time for it, all are cancelled at once."""
    log: Log = []

    async def slow(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(4)
            log.append(f"{name} at {now():.0f}")

    team = [Service(slow, name, name=name) for name in "ab"]
    async with supervise(*team, total_stop_timeout=0):
        await settle()
    assert log == ["b at 4", "a at 4"]


# Events and the log


@virtual
async def test_events_of_a_life() -> None:
    """Every transition is told, with the path."""
    log: Log = []
    events: list[str] = []
    [worker] = workers(log, "a", max_restarts=1)

    def note(event: Event) -> None:
        events.append(str(event))

    async def run() -> None:
        async with supervise(worker.service, on_event=note, name="app") as sup:
            await settle()
            worker.crash()
            await asyncio.sleep(2)
            await sup.restart("a")
            await settle()
            worker.crash()
            await asyncio.sleep(60)

    with pytest.raises(SupervisionError):
        await run()
    assert events == [
        "app/a: starting",
        "app/a: ready",
        "app/a: failed: OSError('a'); restart 1 in 1.0 s",
        "app/a: starting, life 2",
        "app/a: ready",
        "app/a: stopping",
        "app/a: stopped",
        "app/a: starting, life 3",
        "app/a: ready",
        "app/a: failed: OSError('a'); not restarted",
        "app: giving up: service 'a' failed 2 times in 2.0 s",
    ]


async def test_events_of_one_that_finishes() -> None:
    """And of one whose cleanup fails when it is stopped."""
    events: list[str] = []

    async def breaks() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise OSError("cleanup")

    async with supervise(
        breaks, on_event=lambda event: events.append(str(event))
    ) as sup:
        await settle()
        await sup.stop("breaks")
        await sup.start(asyncio.sleep, 0, name="job")
        await settle()
    assert events == [
        "supervisor/breaks: starting",
        "supervisor/breaks: ready",
        "supervisor/breaks: stopping",
        "supervisor/breaks: stopped, and raised OSError('cleanup')",
        "supervisor/job: starting",
        "supervisor/job: ready",
        "supervisor/job: finished",
    ]


@virtual
async def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """Every event is a record, with its kind and path as fields."""
    log: Log = []
    [worker] = workers(log, "a", max_restarts=1)
    with caplog.at_level(logging.DEBUG, "safeaio.supervise"):
        async with supervise(worker.service):
            await settle()
            worker.crash()
            await asyncio.sleep(2)
    records: list[Any] = caplog.records
    assert [(record.levelname, record.event) for record in records[-7:]] == [
        ("DEBUG", "ChildStarting"),
        ("INFO", "ChildReady"),
        ("WARNING", "ChildFailed"),
        ("DEBUG", "ChildStarting"),
        ("INFO", "ChildReady"),
        ("DEBUG", "ChildStopping"),
        ("INFO", "ChildStopped"),
    ]
    assert {record.path for record in records[-7:]} == {"supervisor/a"}
    assert records[-5].exc_info[1].args == ("a",)


async def test_hook_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and not called again; the children never notice."""
    calls = 0

    def hook(_: Event) -> None:
        nonlocal calls
        calls += 1
        raise KeyError("hook")

    log: Log = []
    team = workers(log, "ab")
    async with supervise(*services(team), on_event=hook):
        await settle()
    assert calls == 1
    assert log == ["+a", "+b", "-b", "-a"]
    [record] = caplog.records
    assert "supervisor: on_event raised, and is not called again" in record.getMessage()


def hook_that_raises(error: BaseException, at: int) -> Callable[[Event], None]:
    """An `on_event` that raises at one event."""
    calls = iter(range(10**9))

    def hook(_: Event) -> None:
        call = next(calls)
        assert call <= at, "called again"
        if call == at:
            raise error

    return hook


async def eventful(log: Log, on_event: Callable[[Event], None]) -> None:
    """A start, a restart of the group, a stop, and a service that gives up."""
    team = workers(log, "ab", max_restarts=1)
    sup = supervise(*services(team), strategy="one_for_all", on_event=on_event)
    async with sup:
        await settle()
        team[0].crash()
        await asyncio.sleep(2)
        await sup.start(Worker("c", log).service)
        await settle()
        await sup.stop("c")
        team[0].crash()
        await asyncio.sleep(60)


@virtual
async def test_hook_that_raises_a_cancel(caplog: pytest.LogCaptureFixture) -> None:
    """At any event: nobody is cancelled, and all goes on as if it had not."""
    events: list[Event] = []
    undisturbed: Log = []
    with pytest.raises(SupervisionError, match="'a' failed 2 times"):
        await eventful(undisturbed, events.append)
    assert len(events) == 20
    for at in range(len(events)):
        caplog.clear()
        log: Log = []
        with pytest.raises(SupervisionError, match="'a' failed 2 times"):
            await eventful(log, hook_that_raises(asyncio.CancelledError(), at))
        assert log == undisturbed
        assert sum("on_event raised" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("fatal", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("run", [asyncio.run, safeaio.run], ids=["asyncio", "safeaio"])
def test_hook_that_ends_the_program(
    run: Any, fatal: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """At any event the loop raises it, and every service is cleaned up."""

    async def main(at: int) -> None:
        hook = hook_that_raises(type(fatal)(*fatal.args), at)
        async with (
            asyncio.timeout(10),
            supervise(*services(team), on_event=hook) as sup,
        ):
            await settle()
            team[0].crash()
            await settle()
            await sup.stop("b")

    for at in range(11):
        log: Log = []
        team = workers(log, "ab", backoff=AT_ONCE)
        with pytest.raises(type(fatal)) as info:
            run(main(at))
        assert info.value.args == fatal.args
        assert all(log.count(f"+{name}") == log.count(f"-{name}") for name in "ab")
    assert "on_event raised" not in caplog.text


@virtual
async def test_hook_and_logging_that_raise(
    reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Both are reported, and nothing hangs."""

    def refuse(_: logging.LogRecord) -> bool:
        raise KeyError("filter")

    log: Log = []
    logger = logging.getLogger("safeaio.supervise")
    logger.addFilter(refuse)
    try:
        with (
            caplog.at_level(logging.DEBUG, "safeaio.supervise"),
            pytest.raises(SupervisionError),
        ):
            await eventful(log, hook_that_raises(KeyError("hook"), 0))
    finally:
        logger.removeFilter(refuse)
    assert sorted(log) == sorted(["+a", "-a", "+b", "-b"] * 2 + ["+c", "-c"])
    assert any("on_event raised" in context["message"] for context in reported)


async def test_logging_that_raises(
    reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A filter of the user's does not disturb the children either."""

    def refuse(_: logging.LogRecord) -> bool:
        raise KeyError("filter")

    log: Log = []
    team = workers(log, "ab")
    logger = logging.getLogger("safeaio.supervise")
    logger.addFilter(refuse)
    try:
        with caplog.at_level(logging.DEBUG, "safeaio.supervise"):
            async with supervise(*services(team), on_event=lambda _: None):
                await settle()
    finally:
        logger.removeFilter(refuse)
    assert log == ["+a", "+b", "-b", "-a"]
    assert {repr(context["exception"]) for context in reported} == {
        "KeyError('filter')"
    }


async def test_task_factory_that_raises() -> None:
    """A task that cannot be made is a life that failed."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()

    def refuse(*_: object, **__: object) -> Any:
        raise OSError("no task")

    loop.set_task_factory(refuse)
    try:
        with pytest.raises(SupervisionError) as info:
            await supervise(Service(settle, max_restarts=1, backoff=AT_ONCE))
    finally:
        loop.set_task_factory(factory)
    assert [str(error) for error in info.value.exceptions] == ["no task"]


@virtual
async def test_gave_up_is_told_before_the_stop() -> None:
    """So that a hook can raise an alarm at once."""
    events: list[Event] = []

    async def crash() -> None:
        raise OSError

    with pytest.raises(SupervisionError):
        await supervise(Service(crash, max_restarts=0), on_event=events.append)
    assert isinstance(events[-1], SupervisorGaveUp)
    assert events[-1].reason == "service 'crash' failed"
