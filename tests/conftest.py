"""Runs every async test on several loops, and lets nothing pass unseen on any."""

import asyncio
import gc
import inspect
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop

from safeaio.testing import VirtualClockLoop

from .clock import Clock

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = VirtualClockLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS: dict[str, LoopFactory] = {
    "asyncio": VirtualClockLoop,
    "uvloop": uvloop.new_event_loop,
}
if sys.version_info >= (3, 12):
    LOOPS["eager"] = eager_loop


def pytest_configure(config: pytest.Config) -> None:
    # A shell has its background jobs ignore SIGINT, and nohup SIGHUP: both are tested here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line(
        "markers", "virtual_time: needs the virtual clock, so not on uvloop"
    )


def pytest_collection_finish() -> None:
    # Many tests ask the garbage collector what is left, and need not hear of what the
    # modules of all the others hold.
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_factory" not in metafunc.fixturenames and inspect.iscoroutinefunction(
        metafunc.function
    ):
        metafunc.fixturenames.append("loop_factory")
    if "loop_factory" in metafunc.fixturenames:
        virtual = metafunc.definition.get_closest_marker("virtual_time") is not None
        loops = {
            name: loop
            for name, loop in LOOPS.items()
            if not virtual or name != "uvloop"
        }
        metafunc.parametrize("loop_factory", loops.values(), ids=loops.keys())


@pytest.fixture
def reported() -> list[dict[str, Any]]:
    """What the loop's exception handler got; a test that does not ask for it fails on any."""
    return []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {
        name: pyfuncitem.funcargs[name]
        for name in inspect.signature(pyfuncitem.obj).parameters
    }
    reported = pyfuncitem.funcargs.get("reported")
    run_strictly(
        pyfuncitem.obj(**arguments),
        cast(LoopFactory, pyfuncitem.callspec.params["loop_factory"]),
        cast("list[Any] | None", reported),
    )
    return True


def run_strictly(
    test: Coroutine[Any, Any, None],
    loop_factory: LoopFactory,
    reported: list[Any] | None,
) -> None:
    """Run `test`; it may leave no task behind, no report unexpected, and no cancel."""
    seen: list[Any] = [] if reported is None else reported

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: seen.append(context)
        )
        await test
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.all_tasks() == {task}
        assert task.cancelling() == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    if reported is None:
        assert seen == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("safeaio._pool.perf_counter", clock)
    monkeypatch.setattr("safeaio._turn.perf_counter", clock)
    return clock
