"""One run of a supervisor: where it belongs, who is told of it, and what it refuses."""

import asyncio
import warnings
from typing import Any

import pytest
from anyio.abc import TaskStatus

import safeaio
from safeaio import Event, Intensity, Service, Snapshot, Supervisor, supervise

virtual = pytest.mark.virtual_time


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def needs(argument: int) -> None: ...


# Supervisors inside of services


def below(sup: Supervisor) -> list[str]:
    """Return the paths of what runs inside of the first service."""
    [service] = sup.snapshot().children
    return [child.path for child in service.children]


async def test_one_that_a_service_opens_for_a_while() -> None:
    """Meanwhile it is part of the tree; then the service is what it says."""
    close = asyncio.Event()

    async def worker() -> None:
        async with supervise(waiting, name="batch") as batch:
            await batch.stop("waiting")
            await close.wait()
        await waiting()

    async with supervise(worker, name="app") as app:
        await settle()
        assert below(app) == ["app/worker/batch/waiting"]
        assert not app.health().ready
        close.set()
        await settle()
        assert below(app) == []
        assert app.health().ready


async def test_two_in_one_service() -> None:
    """The first is shown, until it is closed; its end takes nothing of the second away."""
    first = asyncio.Event()

    async def one() -> None:
        async with supervise(waiting, name="one"):
            await first.wait()

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(one())
            async with supervise(waiting, name="two"):
                await waiting()

    async with supervise(both, name="app") as app:
        await settle()
        [shown] = below(app)
        assert app.health().ready
        first.set()
        await settle()
        assert below(app) in ([shown], [])
        assert app.health().ready


async def test_one_in_a_thread_of_a_service() -> None:
    """It has a loop of its own, so it is no part of this tree."""
    done = asyncio.Event()

    async def inner() -> None:
        snapshots.append(sup.snapshot())

    snapshots: list[Snapshot] = []
    sup = supervise(inner, name="inner")

    async def main() -> None:
        await sup

    async def worker() -> None:
        await asyncio.to_thread(asyncio.run, main())
        done.set()
        await waiting()

    async with supervise(worker, name="app") as app:
        await done.wait()
        assert [found.path for found in snapshots] == ["inner"]
        assert below(app) == []
        assert app.health().ready


@virtual
async def test_since_when_it_is_in_its_state() -> None:
    """The root of a snapshot knows that, as its children do."""

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await asyncio.sleep(3)
        task_status.started()
        try:
            await waiting()
        finally:
            await asyncio.sleep(5)

    sup = supervise(slow)
    host = asyncio.ensure_future(sup)
    seen: list[tuple[str, float]] = []
    for _ in range(4):
        await asyncio.sleep(2)
        seen.append((sup.snapshot().state, sup.snapshot().since))
    host.cancel()
    await asyncio.sleep(4)
    seen.append((sup.snapshot().state, sup.snapshot().since))
    await asyncio.wait([host])
    await asyncio.sleep(2)
    seen.append((sup.snapshot().state, sup.snapshot().since))
    assert seen == [
        ("starting", 2.0),
        ("ready", 1.0),
        ("ready", 3.0),
        ("ready", 5.0),
        ("stopping", 4.0),
        ("stopped", 2.0),
    ]


# What is refused


@pytest.mark.parametrize("options", [{}, {"strategy": "one"}, {"name": 3}])
def test_every_coroutine_is_closed(options: Any) -> None:
    """Also if something else is wrong: nobody else could."""
    funcs: list[Any] = [waiting(), waiting()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((TypeError, ValueError)):
            supervise(waiting, *funcs, **options)
        del funcs


def test_names_and_hooks_of_the_wrong_kind() -> None:
    """An empty path, and a hook that nobody would await."""

    async def hook(event: Event) -> None: ...

    with pytest.raises(ValueError, match="name must not be empty"):
        supervise(waiting, name="")
    wrong: Any = hook
    with pytest.raises(TypeError, match="called and not awaited"):
        supervise(waiting, on_event=wrong)
    wrong = "yes"
    with pytest.raises(TypeError, match="essential must be a bool"):
        Service(waiting, essential=wrong)


async def test_arguments_that_the_function_does_not_take() -> None:
    """Every life would fail, so it is told at the call."""
    match = "cannot be called with the arguments"
    with pytest.raises(TypeError, match=match):
        supervise(needs)
    with pytest.raises(TypeError, match=match):
        supervise(Service(needs, 1), Service(needs, 1, 2))
    async with supervise() as sup:
        start: Any = sup.start
        with pytest.raises(TypeError, match=match):
            await start(needs)
        with pytest.raises(TypeError, match=match):
            await start(Service(needs))
        await sup.start(needs, 3)


def test_function_without_a_signature() -> None:
    """Of a builtin nobody knows what it takes."""
    builtin: Any = min
    supervise(builtin)


def test_intensity_for_those_that_are_started_later() -> None:
    """Services that are never restarted say nothing about it."""
    supervise(Service(waiting, restart="never"), intensity=Intensity(3, 60))


async def test_restart_after_the_end() -> None:
    """Nothing is started any more, whatever its name."""
    async with supervise(waiting) as sup:
        pass
    with pytest.raises(safeaio.SupervisorClosed):
        await sup.restart("waiting")


async def test_handle_from_another_loop() -> None:
    """It belongs to the loop of its supervisor."""
    async with supervise() as sup:
        handle = await sup.start(waiting)
        with pytest.raises(RuntimeError, match="another loop"):
            await asyncio.to_thread(asyncio.run, handle.wait())
