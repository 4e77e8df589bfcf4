"""`supervise` from the outside: entering, leaving, asking, and what it raises."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from safeaio import (
    Backoff,
    ChildFailed,
    ChildReady,
    ChildStarting,
    Event,
    Health,
    Intensity,
    Service,
    SupervisionError,
    Supervisor,
    SupervisorClosed,
    beat,
    supervise,
)

AT_ONCE = Backoff(base=0)

Log = list[str]


async def settle(turns: int = 30) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


def forever(log: Log, name: str, cleanup: float = 0.0) -> Service:
    """A service that says when it starts and when it has ended."""

    async def serve() -> None:
        log.append(f"+{name}")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if cleanup:
                await asyncio.sleep(cleanup)
            log.append(f"-{name}")

    return Service(serve, name=name)


def crashing(error: BaseException, **options: Any) -> Service:
    async def crash() -> None:
        await asyncio.sleep(0)
        raise error

    options.setdefault("backoff", AT_ONCE)
    return Service(crash, **options)


async def returning(value: object = None) -> object:
    await asyncio.sleep(0)
    return value


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


async def port(number: int, *, task_status: TaskStatus[int]) -> None:
    await asyncio.sleep(0)
    task_status.started(number)
    await waiting()


def names(sup: Supervisor) -> list[str]:
    return [child.name for child in sup.snapshot().children]


def states(sup: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in sup.snapshot().children}


# Awaited


async def test_awaited_until_all_have_finished() -> None:
    """It returns when no service is left."""
    log: Log = []

    async def job(name: str) -> None:
        await asyncio.sleep(0)
        log.append(name)

    await supervise(Service(job, "a"), Service(job, "b"))
    assert log == ["a", "b"]


async def test_awaited_until_an_essential_one_has_finished() -> None:
    """The others are stopped, in reverse order, and nothing is raised."""
    log: Log = []
    essential = Service(returning, essential=True)
    await supervise(forever(log, "a"), forever(log, "b"), essential)
    assert log == ["+a", "+b", "-b", "-a"]


async def test_gives_up_loudly() -> None:
    """What the service raised is a leaf; the text says how often, and in what time."""
    error = OSError("refused")
    log: Log = []
    sup = supervise(forever(log, "a"), crashing(error, name="db", max_restarts=2))
    with pytest.raises(
        SupervisionError, match="service 'db' failed 3 times in "
    ) as info:
        await sup
    assert info.value.exceptions == (error,)
    assert info.value.service == "db"
    assert [failure.error for failure in info.value.history] == [repr(error)] * 3
    assert log == ["+a", "-a"]


async def test_leaves_are_what_the_services_raised() -> None:
    """So that `except*` finds them, and keeps what the group says."""
    found: list[BaseException] = []
    try:
        await supervise(crashing(ConnectionError("gone"), name="db", max_restarts=0))
    except* ConnectionError as group:
        found.append(group)
    [part] = found
    assert isinstance(part, SupervisionError)
    assert part.service == "db"
    assert len(part.history) == 1


async def test_one_that_is_never_restarted_disturbs_nobody() -> None:
    """Its error is raised when all have ended."""
    error = OSError("broken")
    with pytest.raises(SupervisionError) as info:
        await supervise(crashing(error, restart="never", backoff=Backoff()), returning)
    assert info.value.exceptions == (error,)
    assert info.value.service is None


@pytest.mark.parametrize("fatal", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_fatal_errors_come_out_bare(fatal: BaseException) -> None:
    """The same object, after the ordered stop; the loop never sees it."""
    log: Log = []
    with pytest.raises(type(fatal)) as info:
        await supervise(forever(log, "a"), forever(log, "b"), crashing(fatal))
    assert info.value is fatal
    assert log == ["+a", "+b", "-b", "-a"]


async def test_first_fatal_error_wins() -> None:
    """Also over one that is raised while all stop."""
    first, second = KeyboardInterrupt("first"), SystemExit("second")

    async def ends_it_when_it_is_stopped() -> None:
        try:
            await waiting()
        finally:
            raise second

    with pytest.raises(KeyboardInterrupt) as info:
        await supervise(ends_it_when_it_is_stopped, crashing(first))
    assert info.value is first


@pytest.mark.parametrize("fatal", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_who_waits_for_a_service_with_a_fatal_error(fatal: BaseException) -> None:
    """Gets an ordinary one, which no loop takes for its own; the supervisor has it bare."""
    log: Log = []
    seen: list[BaseException] = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    async def side(awaited: Any) -> None:
        with pytest.raises((SupervisorClosed, RuntimeError)) as info:
            await awaited
        seen.append(info.value)

    async def run() -> None:
        async with supervise(forever(log, "a")) as sup:
            starting = asyncio.create_task(side(sup.start(slow)))
            handle = await sup.start(crashing(fatal))
            waiter = asyncio.create_task(side(handle.wait()))
            try:
                await asyncio.wait([starting, waiter])
            finally:
                await asyncio.wait([starting, waiter])

    # Awaited in a task, a bare one would be raised by the loop.
    with pytest.raises(type(fatal)) as info:
        await run()
    assert info.value is fatal
    assert log == ["+a", "-a"]
    closed, ended = sorted(seen, key=lambda error: type(error) is RuntimeError)
    assert isinstance(closed, SupervisorClosed)
    assert (type(ended), ended.__cause__) == (RuntimeError, fatal)


@pytest.mark.parametrize("turns", [0, 1])
async def test_start_of_a_service_with_a_fatal_error(turns: int) -> None:
    """Whoever starts it is told that all is over."""
    fatal = SystemExit(3)
    started: list[str] = []

    async def dies(*, task_status: TaskStatus[None]) -> None:
        await settle(turns)
        raise fatal

    async def start() -> None:
        with pytest.raises(SupervisorClosed):
            await sup.start(dies)
        started.append("closed")

    sup = supervise()

    async def run() -> None:
        async with sup:
            task = asyncio.create_task(start())
            try:
                await waiting()
            finally:
                await task

    with pytest.raises(SystemExit) as info:
        await run()
    assert info.value is fatal
    assert started == ["closed"]


async def test_fatal_error_goes_before_any_other(reported: list[Any]) -> None:
    """What others raise while they stop is reported."""
    broken = OSError("broken")

    async def breaks() -> None:
        try:
            await waiting()
        finally:
            raise broken

    with pytest.raises(SystemExit):
        await supervise(breaks, crashing(SystemExit(3)))
    [context] = reported
    assert context["exception"].exceptions == (broken,)


async def test_cancelled_it_stops_in_order() -> None:
    """And the cancel goes on, the same one."""
    log: Log = []

    async def run() -> None:
        await supervise(*(forever(log, name, cleanup=0) for name in "abc"))

    task = asyncio.create_task(run())
    await settle()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


@pytest.mark.virtual_time
async def test_cancelled_again_it_still_stops_in_order() -> None:
    """Every child has its cleanup."""
    log: Log = []

    async def run() -> None:
        await supervise(*(forever(log, name, cleanup=1) for name in "abc"))

    task = asyncio.create_task(run())
    await settle()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.3)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


@pytest.mark.virtual_time
async def test_scope_around_it_is_overrun_by_the_ordered_stop() -> None:
    """A cancelled anyio scope does not disturb the cleanup, and gets its cancel."""
    log: Log = []
    with anyio.move_on_after(1) as scope:
        await supervise(*(forever(log, name, cleanup=2) for name in "ab"))
    assert scope.cancelled_caught
    assert asyncio.get_running_loop().time() == pytest.approx(5)
    assert log == ["+a", "+b", "-b", "-a"]


async def test_nothing_to_supervise() -> None:
    """An empty list is a mistake where it is awaited, and only there."""
    with pytest.raises(ValueError, match="nothing to supervise"):
        await supervise()
    async with supervise():
        pass


async def test_runs_once() -> None:
    """Neither awaited twice, nor entered after that."""
    sup = supervise(returning)
    await sup
    with pytest.raises(RuntimeError, match="runs once"):
        await sup
    with pytest.raises(RuntimeError, match="runs once"):
        async with sup:
            pass


async def test_closed_coroutine_cancels_its_children(reported: list[Any]) -> None:
    """Nobody can wait for them then, nor are they restarted; each is cancelled once."""
    cancels: Log = []

    async def serve() -> None:
        try:
            await waiting()
        except asyncio.CancelledError:
            cancels.append("cancelled")
            await asyncio.sleep(0)
            raise

    async def run() -> None:
        await supervise(serve, Service(serve, restart="always", backoff=AT_ONCE))

    coro = run()
    coro.send(None)
    await settle()
    coro.close()
    await settle()
    assert cancels == ["cancelled"] * 2


async def test_closed_coroutine_that_was_about_to_enter(reported: list[Any]) -> None:
    """So it is while the first ones start."""
    log: Log = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    coro = supervise(forever(log, "a"), slow, forever(log, "b")).__aenter__()
    coro.send(None)
    await settle()
    coro.close()
    await settle()
    assert log == ["+a", "-a"]


# As a block


async def test_leaving_the_block_stops_in_reverse_order() -> None:
    """Services are there for the body."""
    log: Log = []
    async with supervise(*(forever(log, name) for name in "abc")) as sup:
        assert log == [] or log == ["+a", "+b", "+c"]
        await sup.start(forever(log, "d"))
        await settle()
        assert log == ["+a", "+b", "+c", "+d"]
    assert log[4:] == ["-d", "-c", "-b", "-a"]


async def test_giving_up_cancels_the_body_once() -> None:
    """That cancel is taken back, and SupervisionError raised."""
    error = OSError("refused")
    with pytest.raises(SupervisionError) as info:
        async with supervise(crashing(error, max_restarts=0)):
            await waiting()
    assert info.value.exceptions == (error,)


async def test_essential_one_that_finishes_ends_the_body() -> None:
    """Silently."""
    after = False
    async with supervise(Service(returning, essential=True)):
        await waiting()
        after = True
    assert not after


async def test_error_of_the_body_leaves_as_it_is() -> None:
    """After the services have been stopped."""
    log: Log = []
    error = OSError("body")

    async def run() -> None:
        async with supervise(forever(log, "a")):
            await settle()
            raise error

    with pytest.raises(OSError, match="body") as info:
        await run()
    assert info.value is error
    assert log == ["+a", "-a"]


async def test_errors_of_services_beside_that_of_the_body(reported: list[Any]) -> None:
    """They go to the loop's exception handler."""
    broken = OSError("cleanup")

    async def serve() -> None:
        try:
            await waiting()
        finally:
            raise broken

    async def run() -> None:
        async with supervise(serve):
            await settle()
            raise KeyError

    with pytest.raises(KeyError):
        await run()
    [context] = reported
    assert context["exception"].exceptions == (broken,)


async def test_error_of_the_body_after_the_services_gave_up() -> None:
    """It came of our cancel: a leaf among others."""
    error, late = OSError("refused"), KeyError("late")

    async def run() -> None:
        async with supervise(crashing(error, max_restarts=0)):
            try:
                await waiting()
            finally:
                raise late

    with pytest.raises(SupervisionError) as info:
        await run()
    assert info.value.exceptions == (error, late)


async def test_errors_raised_while_they_stop() -> None:
    """Are raised when nothing else is."""
    broken = OSError("cleanup")

    async def serve() -> None:
        try:
            await waiting()
        finally:
            raise broken

    with pytest.raises(SupervisionError, match="services failed") as info:
        async with supervise(serve):
            await settle()
    assert info.value.exceptions == (broken,)
    assert info.value.service is None


async def test_body_that_swallows_our_cancel() -> None:
    """The error is raised all the same, and the count of cancels is right again."""
    task = asyncio.current_task()
    assert task is not None

    async def run() -> None:
        async with supervise(crashing(OSError(), max_restarts=0)):
            with pytest.raises(asyncio.CancelledError):
                await waiting()

    with pytest.raises(SupervisionError):
        await run()
    assert task.cancelling() == 0


async def test_body_cancelled_from_outside_as_well(reported: list[Any]) -> None:
    """That cancel goes on; what was to be raised is reported."""
    error = OSError("refused")
    sup = supervise(Service(port, 1, name="a"), crashing(error, max_restarts=0))

    async def run() -> None:
        async with sup:
            try:
                await waiting()
            except asyncio.CancelledError:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                raise

    task = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await task
    [context] = reported
    assert context["exception"].exceptions == (error,)


async def test_first_start_that_fails() -> None:
    """Those already started are stopped, and the body is never entered."""
    log: Log = []

    async def refuse(*, task_status: TaskStatus[None]) -> None:
        await asyncio.sleep(0)
        raise OSError("port in use")

    with pytest.raises(SupervisionError, match="'refuse' failed to start") as info:
        async with supervise(forever(log, "a"), refuse, forever(log, "b")):
            log.append("body")
    assert isinstance(info.value.exceptions[0], OSError)
    assert log == ["+a", "-a"]


async def test_cancelled_while_it_starts() -> None:
    """Those already started are stopped."""
    log: Log = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    async def run() -> None:
        async with supervise(forever(log, "a"), slow, forever(log, "b")):
            log.append("body")

    task = asyncio.create_task(run())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+a", "-a"]


async def test_essential_one_that_is_over_before_the_block_began() -> None:
    """There is no body to be cancelled yet."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    with pytest.raises(SupervisorClosed, match="'supervisor' is stopping"):
        async with supervise(Service(returning, essential=True), slow):
            raise AssertionError


# Starting more


async def test_start_returns_when_it_is_ready() -> None:
    """With what it gave to `started()`."""
    async with supervise() as sup:
        handle = await sup.start(port, 8080)
        assert handle.value == 8080
        assert handle.name == "port"
        assert handle.state == "ready"
        await handle.wait_ready()
        assert repr(handle) == "<Handle 'supervisor/port' ready>"
    assert handle.state == "stopped"
    with pytest.raises(RuntimeError, match="'port' has ended: stopped"):
        await handle.wait_ready()


async def test_start_that_fails() -> None:
    """Its error comes out bare, and no entry is left."""
    error = OSError("port in use")

    async def refuse(*, task_status: TaskStatus[None]) -> None:
        raise error

    async with supervise() as sup:
        with pytest.raises(OSError, match="in use") as info:
            await sup.start(refuse)
        assert info.value is error
        assert names(sup) == []


async def test_start_that_returns_too_early() -> None:
    """It never said that it was ready."""

    async def early(*, task_status: TaskStatus[None]) -> None: ...

    async with supervise() as sup:
        with pytest.raises(RuntimeError, match="'early' returned before it called"):
            await sup.start(early)


async def test_start_that_is_cancelled() -> None:
    """Nothing is left of it."""
    log: Log = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        try:
            await waiting()
        finally:
            log.append("stopped")

    async with supervise() as sup:
        task = asyncio.create_task(sup.start(slow))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert names(sup) == []
        assert log == ["stopped"]


@pytest.mark.virtual_time
async def test_start_that_is_cancelled_and_takes_its_time() -> None:
    """It keeps its name until it has ended, and the block is not left before."""
    log: Log = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        try:
            await waiting()
        finally:
            await asyncio.sleep(5)
            log.append("stopped")

    async with supervise() as sup:
        task = asyncio.create_task(sup.start(slow))
        await settle()
        task.cancel()
        await settle()
        assert states(sup) == {"slow": "stopping"}
    assert log == ["stopped"]
    assert task.cancelled()


async def test_start_that_is_cancelled_when_it_has_failed() -> None:
    """In one tick: nothing is left of it."""
    go = asyncio.Event()

    async def refuse(*, task_status: TaskStatus[None]) -> None:
        await go.wait()
        raise OSError

    async with supervise() as sup:
        task = asyncio.create_task(sup.start(refuse))
        await settle()
        go.set()
        for _ in range(3):
            await asyncio.sleep(0)
            if states(sup).get("refuse") == "failed":
                break
        task.cancel()
        await asyncio.wait([task])
        assert names(sup) == []


@pytest.mark.parametrize("restart", ["on-failure", "never"])
async def test_start_of_one_that_is_stopped_meanwhile(restart: Any) -> None:
    """It says so."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    async with supervise() as sup:
        task = asyncio.create_task(sup.start(slow, restart=restart))
        await settle()
        await sup.stop("slow")
        with pytest.raises(RuntimeError, match="'slow' was stopped while it started"):
            await task


async def test_start_while_stopping() -> None:
    """Refused, and nothing started; also to those who wait for a start."""
    tried: list[BaseException] = []

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    async def starts() -> None:
        try:
            await waiting()
        finally:
            with pytest.raises(SupervisorClosed) as info:
                await sup.start(returning)
            tried.append(info.value)

    async with supervise(starts) as sup:
        task = asyncio.create_task(sup.start(slow))
        await settle()
    with pytest.raises(SupervisorClosed, match="supervisor 'supervisor' is stopping"):
        await task
    assert len(tried) == 1
    with pytest.raises(SupervisorClosed):
        await sup.start(returning)


async def test_pool_keeps_nothing_of_what_has_finished() -> None:
    """One that is never restarted is forgotten when it ends; its handle is not."""
    async with supervise() as sup:
        handles = [await sup.start(returning, n, restart="never") for n in range(100)]
        assert [await handle.wait() for handle in handles] == list(range(100))
        assert names(sup) == []
        failed = await sup.start(crashing(OSError("x"), restart="never"))
        with pytest.raises(OSError, match="x"):
            await failed.wait()
        assert names(sup) == []


async def test_handle_of_one_that_is_stopped() -> None:
    """It has no result."""
    async with supervise() as sup:
        handle = await sup.start(waiting)
        task = asyncio.create_task(handle.wait())
        await settle()
    assert await task is None


async def test_names() -> None:
    """A taken default name gets a number; an explicit one is refused."""
    async with supervise(waiting, Service(waiting, name="b")) as sup:
        await sup.start(waiting)
        await sup.start(waiting)
        assert names(sup) == ["waiting", "b", "waiting-2", "waiting-3"]
        with pytest.raises(ValueError, match="has a service 'b'"):
            await sup.start(returning, name="b")
        await sup.start(returning, name="waiting-4")
        await sup.start(waiting)
        assert names(sup)[-1] == "waiting-5"


async def test_explicit_names_go_before_default_ones() -> None:
    """Also if they come later."""
    async with supervise(waiting, Service(waiting, name="waiting")) as sup:
        assert names(sup) == ["waiting-2", "waiting"]


def test_names_given_twice() -> None:
    """Refused at the call."""
    service = Service(waiting, name="a")
    with pytest.raises(ValueError, match="two services are called 'a'"):
        supervise(service, service)


class Empty(Exception):
    """An error that is false, as one with a length may be."""

    def __len__(self) -> int:
        return 0


async def test_errors_that_are_false() -> None:
    """Are lost nowhere."""
    error = Empty()

    async def refuse(*, task_status: TaskStatus[None]) -> None:
        raise error

    with pytest.raises(SupervisionError) as info:
        await supervise(crashing(error, max_restarts=0))
    assert [id(leaf) for leaf in info.value.exceptions] == [id(error)]
    with pytest.raises(SupervisionError) as info:
        await supervise(crashing(error, restart="never"))
    assert [id(leaf) for leaf in info.value.exceptions] == [id(error)]
    async with supervise() as sup:
        with pytest.raises(Empty) as raised:
            await sup.start(refuse)
        assert raised.value is error
        handle = await sup.start(crashing(error, restart="never"))
        with pytest.raises(Empty) as raised:
            await handle.wait()
        assert raised.value is error
    with pytest.raises(Empty) as raised:
        async with supervise(waiting):
            raise error
    assert raised.value is error


class Nothing(KeyboardInterrupt):
    """A fatal error that is false."""

    def __len__(self) -> int:
        return 0


async def test_fatal_error_that_is_false(reported: list[Any]) -> None:
    """Goes before any other all the same, also as that of the body."""

    async def breaks() -> None:
        try:
            await waiting()
        finally:
            raise OSError("broken")

    async def body() -> None:
        async with supervise(breaks):
            await settle()
            raise Nothing

    with pytest.raises(Nothing):
        await supervise(breaks, crashing(Nothing()))
    with pytest.raises(Nothing):
        await body()
    assert len(reported) == 2


# Stopping and restarting one


async def test_stop_one() -> None:
    """It ends, stays in the list, and can be started again."""
    log: Log = []
    async with supervise(forever(log, "a"), forever(log, "b")) as sup:
        await settle()
        await sup.stop("a")
        assert log == ["+a", "+b", "-a"]
        assert states(sup) == {"a": "stopped", "b": "ready"}
        await sup.stop("a")
        await sup.restart("a")
        await settle()
        assert states(sup) == {"a": "ready", "b": "ready"}
        assert log == ["+a", "+b", "-a", "+a"]


async def test_restart_one() -> None:
    """A new life, which counts as no failure; its value is new, too."""
    lives = iter((1, 2))

    async def serve(*, task_status: TaskStatus[int]) -> None:
        task_status.started(next(lives))
        await waiting()

    async with supervise() as sup:
        handle = await sup.start(serve)
        assert handle.value == 1
        await sup.restart("serve")
        assert handle.value == 2
        [child] = sup.snapshot().children
        assert (child.restarts, child.streak) == (0, 0)


async def test_restart_that_fails() -> None:
    """The caller gets the error; one that had ended is not tried again."""
    broken = False

    async def serve(*, task_status: TaskStatus[None]) -> None:
        if broken:
            raise OSError("in use")
        task_status.started()
        await waiting()

    async with supervise() as sup:
        await sup.start(serve)
        await sup.stop("serve")
        broken = True
        with pytest.raises(OSError, match="in use"):
            await sup.restart("serve")
        assert states(sup) == {"serve": "failed"}


@pytest.mark.virtual_time
async def test_restart_that_fails_of_one_that_was_up() -> None:
    """The caller gets the error, and the restarts go on."""
    broken = False

    async def serve(*, task_status: TaskStatus[None]) -> None:
        if broken:
            raise OSError("in use")
        task_status.started()
        await waiting()

    async with supervise() as sup:
        await sup.start(serve)
        broken = True
        with pytest.raises(OSError, match="in use"):
            await sup.restart("serve")
        assert states(sup) == {"serve": "backoff"}
        broken = False
        await asyncio.sleep(1)
        assert states(sup) == {"serve": "ready"}


async def test_restart_of_one_that_is_stopped_meanwhile() -> None:
    """Or of one whose supervisor stops: the caller is told."""
    first = True

    async def serve(*, task_status: TaskStatus[None]) -> None:
        if first:
            task_status.started()
        await waiting()

    async with supervise() as sup:
        await sup.start(serve)
        first = False
        task = asyncio.create_task(sup.restart("serve"))
        await settle()
        await sup.stop("serve")
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await task
        task = asyncio.create_task(sup.restart("serve"))
        await settle()
    with pytest.raises(SupervisorClosed):
        await task


@pytest.mark.virtual_time
async def test_stop_of_one_that_is_being_restarted() -> None:
    """The stop goes before: it is not started again."""
    log: Log = []
    async with supervise(forever(log, "a", cleanup=1)) as sup:
        await settle()
        task = asyncio.create_task(sup.restart("a"))
        await settle()
        await sup.stop("a")
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await task
        assert log == ["+a", "-a"]


@pytest.mark.virtual_time
async def test_stop_of_one_that_is_restarted_meanwhile() -> None:
    """What was to be stopped has ended; whoever started another life is content, too."""
    log: Log = []
    async with supervise(forever(log, "a", cleanup=1)) as sup:
        await settle()
        stop = asyncio.create_task(sup.stop("a"))
        await settle()
        await sup.restart("a")
        await settle()
        assert stop.done()
        assert log == ["+a", "-a", "+a"]
        assert states(sup) == {"a": "ready"}


@pytest.mark.virtual_time
async def test_wait_until_it_is_ready_again() -> None:
    """Through a failure, its backoff, and the next start."""
    crash = asyncio.Event()

    async def serve(*, task_status: TaskStatus[None]) -> None:
        await asyncio.sleep(1)
        task_status.started()
        await crash.wait()
        crash.clear()
        raise OSError

    async with supervise() as sup:
        handle = await sup.start(serve, backoff=Backoff(base=2, jitter=0))
        crash.set()
        await settle()
        assert handle.state == "backoff"
        await handle.wait_ready()
        assert asyncio.get_running_loop().time() == pytest.approx(4)


async def test_restart_of_one_that_finishes_at_once() -> None:
    """That is as good as being ready."""
    async with supervise() as sup:
        handle = await sup.start(returning, 3)
        assert await handle.wait() == 3
        await sup.restart("returning")
        assert await handle.wait() == 3


async def test_restart_in_the_tick_in_which_it_returns() -> None:
    """It lives again, as if it had been up."""
    lives = 0
    end = asyncio.Event()

    async def serve() -> None:
        nonlocal lives
        lives += 1
        await (end.wait() if lives == 1 else waiting())

    async with supervise(serve) as sup:
        await settle()
        end.set()
        await asyncio.sleep(0)
        await sup.restart("serve")
        await settle()
        assert (lives, states(sup)) == (2, {"serve": "ready"})


async def test_restart_during_the_first_start_that_fails() -> None:
    """It is that start: the supervisor gives up, as without the restart."""
    lives = 0

    async def serve(*, task_status: TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            raise OSError("in use")
        await waiting()

    sup = supervise(serve)
    task = asyncio.ensure_future(sup)
    await settle()
    assert states(sup) == {"serve": "starting"}
    with pytest.raises(OSError, match="in use"):
        await sup.restart("serve")
    with pytest.raises(SupervisionError, match="'serve' failed to start") as info:
        await task
    assert [str(error) for error in info.value.exceptions] == ["in use"]
    assert lives == 2


async def test_restart_that_fails_while_others_start() -> None:
    """Of one that had ended: the caller gets the error, and nobody else is disturbed."""
    go_on = asyncio.Event()
    lives = 0

    async def job(*, task_status: TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            raise OSError("in use")
        task_status.started()

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await go_on.wait()
        task_status.started()
        await waiting()

    sup = supervise(job, slow)
    task = asyncio.ensure_future(sup)
    await settle()
    assert states(sup) == {"job": "finished", "slow": "starting"}
    with pytest.raises(OSError, match="in use"):
        await sup.restart("job")
    assert states(sup) == {"job": "failed", "slow": "starting"}
    go_on.set()
    await settle()
    assert states(sup) == {"job": "failed", "slow": "ready"}
    await sup.stop("slow")
    await task


@pytest.mark.virtual_time
async def test_result_of_a_life_before_the_last() -> None:
    """Is not that of one that was stopped."""

    async def serve() -> str:
        await asyncio.sleep(1)
        return "first"

    async with supervise() as sup:
        handle = await sup.start(serve, restart="always", backoff=AT_ONCE)
        await asyncio.sleep(1.5)
        await sup.stop("serve")
        assert sup.snapshot().children[0].restarts == 1
        assert await handle.wait() is None


async def test_restart_of_one_that_is_never_restarted() -> None:
    """Asked for, it is."""
    lives: Log = []

    async def serve() -> None:
        lives.append("life")
        await waiting()

    async with supervise() as sup:
        await sup.start(serve, restart="never")
        await settle()
        await sup.restart("serve")
        await settle()
        assert len(lives) == 2


class Lives:
    """Counts the lives of services, and those that there are at one time."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._live: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, name: str) -> Iterator[int]:
        self.begun[name] += 1
        self._live[name] += 1
        self.most[name] = max(self.most[name], self._live[name])
        try:
            yield self.begun[name]
        finally:
            self._live[name] -= 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_asked_in_a_first_step(verb: str) -> None:
    """Even if that is taken while the child is being launched, it has but one life."""
    lives = Lives()

    async def asks(own: str, other: str) -> None:
        with lives.one(own) as life:
            if life == 1:
                await getattr(sup, verb)(other)
            await waiting()

    pair = Service(asks, "a", "b", name="a"), Service(asks, "b", "a", name="b")
    sup = supervise(*pair)
    async with sup:
        await settle()
        assert set(lives.most.values()) == {1}
        assert lives.begun.total() <= 4
        assert set(states(sup).values()) <= {"ready", "stopped"}
        assert verb == "stop" or states(sup) == {"a": "ready", "b": "ready"}


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", ["stop", "restart"])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("kind", [ChildStarting, ChildReady, ChildFailed])
async def test_asked_by_a_task_of_a_hook(verb: str, at: int, kind: type[Event]) -> None:
    """Even if that begins at once: the supervisor is amid a change then."""
    lives = Lives()
    tasks: list[asyncio.Task[None]] = []
    told = 0

    async def serve() -> None:
        with lives.one("serve") as life:
            await settle(5)
            if life <= 2:
                raise OSError
            await waiting()

    def hook(event: Event) -> None:
        nonlocal told
        told += isinstance(event, kind)
        if told == at and not tasks:
            loop = asyncio.get_running_loop()
            tasks.append(loop.create_task(getattr(sup, verb)("serve")))

    sup = supervise(Service(serve, backoff=AT_ONCE), on_event=hook)
    async with sup:
        await settle(60)
        assert states(sup) == {"serve": "ready" if verb == "restart" else "stopped"}
        assert lives.most == {"serve": 1} or not lives.begun
        assert [task.result() for task in tasks] == [None]


async def test_restart_while_stopping() -> None:
    """Refused."""
    tried: Log = []

    async def serve() -> None:
        try:
            await waiting()
        finally:
            with pytest.raises(SupervisorClosed):
                await sup.restart("other")
            await sup.stop("other")
            await sup.stop("returning")
            tried.append("refused")

    async with supervise(Service(waiting, name="other"), returning, serve) as sup:
        await settle()
        stop = asyncio.create_task(sup.stop("other"))
        await stop
        restarted = asyncio.create_task(sup.restart("other"))
        await restarted
    assert tried == ["refused"]


async def test_stop_of_all_while_one_is_being_stopped() -> None:
    """Both wait for its end."""
    log: Log = []
    async with supervise(forever(log, "a", cleanup=0.001), forever(log, "b")) as sup:
        await settle()
        task = asyncio.create_task(sup.stop("a"))
        await settle(3)
    await task
    assert sorted(log[2:]) == ["-a", "-b"]


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_of_an_unknown_name(verb: str) -> None:
    """The message has the known ones."""
    async with supervise(Service(waiting, name="a")) as sup:
        with pytest.raises(ValueError, match=r"no service 'b'; it has 'a'"):
            await getattr(sup, verb)("b")
    async with supervise() as sup:
        with pytest.raises(ValueError, match="it has none"):
            await getattr(sup, verb)("b")


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_of_itself(verb: str) -> None:
    """A service would wait for its own end; so would one that an inner supervisor runs."""
    tried: list[str] = []

    async def suicidal() -> None:
        with pytest.raises(RuntimeError, match="cannot wait for its own end") as info:
            await getattr(outer, verb)("tree")
        tried.append(str(info.value))

    tree = Service(supervise, suicidal, name="tree")
    async with supervise(tree) as outer:
        await outer.wait()
    assert len(tried) == 1


# Asking


async def test_wait_for_all() -> None:
    """From the body, or from elsewhere, but not from a service."""
    tried: Log = []

    async def waits() -> None:
        with pytest.raises(RuntimeError, match="none of them can wait for it"):
            await sup.wait()
        tried.append("refused")

    async with supervise(returning) as sup:
        await sup.start(waits)
        await sup.wait()
        assert states(sup) == {"returning": "finished", "waits": "finished"}
    assert tried == ["refused"]


async def test_before_it_was_entered() -> None:
    """Nothing can be asked."""
    sup = supervise(waiting)
    with pytest.raises(RuntimeError, match="has not been entered"):
        sup.snapshot()
    with pytest.raises(RuntimeError, match="has not been entered"):
        await sup.start(waiting)


async def test_from_another_thread() -> None:
    """Refused, since a supervisor belongs to its loop."""
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            sup.snapshot()
        except RuntimeError as exc:
            errors.append(exc)

    async with supervise(waiting) as sup:
        thread = threading.Thread(target=ask)
        thread.start()
        await asyncio.to_thread(thread.join)
    [error] = errors
    assert "another loop than this one, or to another thread" in str(error)


@pytest.mark.virtual_time
async def test_snapshot() -> None:
    """Everything at one moment, the tree below included."""
    flaky = crashing(OSError("x"), name="flaky", backoff=Backoff(base=8, jitter=0))
    inner = Service(supervise, Service(port, 1, name="one"), name="workers")
    async with supervise(inner, flaky, name="app") as sup:
        await asyncio.sleep(2)
        shot = sup.snapshot()
    assert (shot.name, shot.path, shot.state) == ("app", "app", "ready")
    workers, flaky_shot = shot.children
    [one] = workers.children
    assert (one.path, one.state) == ("app/workers/one", "ready")
    assert one.since == pytest.approx(2)
    assert flaky_shot.state == "backoff"
    assert flaky_shot.restarts == flaky_shot.streak == 1
    assert flaky_shot.next_restart_in == pytest.approx(6)
    assert flaky_shot.last_error == "OSError('x')"
    assert sup.snapshot().state == "stopped"


@pytest.mark.virtual_time
async def test_health() -> None:
    """Ready while all are; alive while it works on it, also in a backoff."""
    broken = asyncio.Event()
    seen: list[Health] = []

    async def flaky() -> None:
        await broken.wait()
        broken.clear()
        raise OSError

    async def last() -> None:
        try:
            await waiting()
        finally:
            seen.append(sup.health())

    async with supervise(flaky, last, returning) as sup:
        await asyncio.sleep(1)
        seen.append(sup.health())
        broken.set()
        await asyncio.sleep(0.01)
        seen.append(sup.health())
        await asyncio.sleep(1)
        seen.append(sup.health())
    up, down = Health(live=True, ready=True), Health(live=True, ready=False)
    assert seen == [up, down, up, down]
    assert sup.health() == Health(live=False, ready=False)


async def test_health_of_a_tree() -> None:
    """Not ready while something in it is not."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await waiting()

    inner: list[Supervisor] = []

    async def tree() -> None:
        async with supervise() as sup:
            inner.append(sup)
            await sup.start(waiting)
            await sup.start(slow)

    async with supervise(tree) as sup:
        await settle()
        assert not sup.health().ready
        await inner[0].stop("slow")
        await settle()


def test_repr() -> None:
    """A supervisor is shown with its path."""
    assert repr(supervise(waiting, name="app")) == "<Supervisor 'app'>"
    assert repr(supervise(waiting)) == "<Supervisor 'supervisor'>"


async def test_closed_body_after_the_services_gave_up(reported: list[Any]) -> None:
    """What closes it goes on; the error is reported."""
    error = OSError("refused")

    async def run() -> None:
        async with supervise(Service(crash, max_restarts=0)):
            await waiting()

    async def crash() -> None:
        raise error

    coro = run()
    coro.send(None)
    with contextlib.suppress(asyncio.CancelledError):  # of the body, which is in here
        await settle()
    coro.close()
    await settle()
    [context] = reported
    assert context["exception"].exceptions == (error,)


# Bad input


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: supervise(waiting()), TypeError, r"write waiting, not waiting\("),  # type: ignore[arg-type]
        (lambda: supervise(3), TypeError, "takes an async function, got 3"),  # type: ignore[arg-type]
        (lambda: supervise(supervise(waiting)), TypeError, "Service"),  # type: ignore[arg-type]
        (lambda: supervise(waiting, strategy="one"), ValueError, "strategy must be"),  # type: ignore[arg-type]
        (lambda: supervise(waiting, total_stop_timeout=-1), ValueError, "total_stop"),
        (lambda: supervise(waiting, total_stop_timeout=None), TypeError, "total_stop"),  # type: ignore[arg-type]
        (
            lambda: supervise(waiting, intensity=Intensity(100, 1)),
            ValueError,
            "can never be exceeded",
        ),
        (lambda: supervise(waiting, intensity=3), TypeError, "an Intensity, got 3"),  # type: ignore[arg-type]
        (lambda: supervise(waiting, on_event=3), TypeError, "on_event"),  # type: ignore[arg-type]
        (lambda: supervise(waiting, name=3), TypeError, "name"),  # type: ignore[arg-type]
    ],
)
def test_what_supervise_refuses(
    make: Callable[[], object], error: type[Exception], match: str
) -> None:
    """At the call."""
    with pytest.raises(error, match=match):
        make()


async def test_what_start_refuses() -> None:
    """A coroutine, which is closed; options for what has its own."""
    async with supervise() as sup:
        with pytest.raises(TypeError, match="write waiting, not waiting"):
            await sup.start(waiting())  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="has its arguments and options already"):
            await sup.start(Service(waiting), name="x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unexpected keyword argument 'nam'"):
            await sup.start(waiting, nam="x")  # type: ignore[call-overload]
        assert names(sup) == []


async def test_function_that_is_not_async() -> None:
    """Shown when it is called, since only then can it be known."""

    def sync() -> int:
        return 3

    with pytest.raises(SupervisionError) as info:
        await supervise(Service(sync, max_restarts=0))  # type: ignore[arg-type]
    [error] = info.value.exceptions
    assert isinstance(error, TypeError)
    assert "returned 3; write `async def`" in str(error)


async def test_beat_without_a_supervisor() -> None:
    """Does nothing."""
    beat()
