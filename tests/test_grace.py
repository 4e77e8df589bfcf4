"""While a run shuts down, its cleanup gets no more than what is left."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import pytest
import uvloop

import safeaio
from safeaio._grace import Grace, Limit, give

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

real_loops = pytest.mark.parametrize(
    "new_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def hang(log: list[str], name: str) -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        log.append(f"{name} was cut")
        raise


async def swallow() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def terminated(
    main: Callable[[], Coroutine[Any, Any, None]],
    new_loop: LoopFactory,
    grace: float,
) -> float:
    """Run `main`, which sends SIGTERM; return how long it took from then on."""
    began = monotonic()
    with pytest.raises(safeaio.Terminated):
        safeaio.run(main, grace=grace, loop_factory=new_loop, on_leak="ignore")
    return monotonic() - began


@real_loops
def test_every_step_of_a_cleanup_runs_within_the_grace(
    new_loop: LoopFactory,
) -> None:
    """Slow ones are cut in time for those below them, though each might take longer."""
    log: list[str] = []

    async def main() -> None:
        async with safeaio.cleanup_scope(cleanup_timeout=None) as scope:
            scope.defer(log.append, "last")
            scope.defer(hang, log, "second")
            scope.defer(hang, log, "first")
            terminate()
            await asyncio.sleep(3600)

    errors: list[object] = []

    async def quietly() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: errors.append(context.get("exception"))
        )
        await main()

    assert terminated(quietly, new_loop, grace=2.0) < 2.0
    assert log == ["first was cut", "second was cut", "last"]
    (error,) = errors
    assert isinstance(error, safeaio.CleanupError)
    assert [str(leaf)[:20] for leaf in error.exceptions] == 2 * ["hang() was cut after"]


@real_loops
def test_a_context_manager_is_cut_as_well(new_loop: LoopFactory) -> None:
    """What its `__aexit__` awaits gets no more than what is left."""
    log: list[str] = []

    class Slow:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            await hang(log, "aexit")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with safeaio.cleanup_scope() as scope:
            scope.defer(log.append, "last")
            await scope.enter_async_context(Slow())
            terminate()
            await asyncio.sleep(3600)

    assert terminated(main, new_loop, grace=2.0) < 2.0
    assert log == ["aexit was cut", "last"]


@real_loops
def test_cleanup_under_way_is_cut_when_the_shutdown_begins(
    new_loop: LoopFactory,
) -> None:
    """The limit that it began with shrinks."""
    log: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with safeaio.cleanup_scope() as scope:
            scope.defer(log.append, "last")
            scope.defer(hang, log, "first")
            loop.call_soon(terminate)

    assert terminated(main, new_loop, grace=2.0) < 2.0
    assert log == ["first was cut", "last"]


@real_loops
@pytest.mark.parametrize("timeout", [10.0, None])
def test_cancel_and_wait_gives_up_in_time(
    new_loop: LoopFactory, timeout: float | None
) -> None:
    """A task that swallows its cancel does not take the whole of the grace."""
    stuck: list[safeaio.TaskStuckError] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        task = safeaio.background(swallow())
        terminate()
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await safeaio.cancel_and_wait(task, timeout=timeout)
            except safeaio.TaskStuckError as error:
                stuck.append(error)

    assert terminated(main, new_loop, grace=2.0) < 2.0
    assert len(stuck) == 1


async def test_a_limit_without_a_run_is_its_own() -> None:
    """Elsewhere nothing is left out, and no limit is none."""
    called: list[str] = []
    loop = asyncio.get_running_loop()
    none = Limit(loop, None, partial(called.append, "none"))
    at_once = Limit(loop, 0.0, partial(called.append, "at once"))
    cancelled = Limit(loop, 0.0, partial(called.append, "cancelled"))
    cancelled.cancel()
    await asyncio.sleep(0.01)
    assert called == ["at once"]
    at_once.cancel()
    none.cancel()


@pytest.mark.virtual_time
async def test_a_limit_follows_the_grace() -> None:
    """It shrinks with what is left, grows back never beyond its own, and forgets itself."""
    loop = asyncio.get_running_loop()
    left = [100.0]
    grace = Grace(lambda: left[0])
    give(loop, grace)
    ended: list[float] = []

    def note() -> None:
        ended.append(round(limit.age, 3))

    limit = Limit(loop, 10.0, note)
    await asyncio.sleep(1)
    left[0] = 2.0
    grace.shrink()
    await asyncio.sleep(60)
    assert ended == [3.0]
    assert grace.limits == set()
    grace.shrink()
    await asyncio.sleep(60)
    assert ended == [3.0]
