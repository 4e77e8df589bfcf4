"""`supervise` under `safeaio.run`: the first signal drains, the second hurries."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeAlias

import pytest
import uvloop

import safeaio
from safeaio import Service, supervise

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Log = list[str]

real_loops = pytest.mark.parametrize(
    "new_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def after(seconds: float, *callbacks: Callable[[], object]) -> None:
    """Call back, one after another, `seconds` apart."""
    for index, callback in enumerate(callbacks, 1):
        asyncio.get_running_loop().call_later(seconds * index, callback)


def service(log: Log, name: str, cleanup: float = 0.0) -> Service:
    async def serve() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append(f"stopping {name}")
            await asyncio.sleep(cleanup)
            log.append(f"stopped {name}")

    return Service(serve, name=name)


@real_loops
def test_first_signal_stops_in_order(new_loop: LoopFactory) -> None:
    """Main is not cancelled: it returns, and that is success."""
    log: Log = []

    async def main() -> None:
        after(0.05, terminate)
        inner = Service(supervise, service(log, "c"), service(log, "d"), name="inner")
        await supervise(service(log, "a"), inner, service(log, "b", 0.1))
        log.append("main")

    safeaio.run(main, loop_factory=new_loop)
    assert [line.split()[-1] for line in log[::2]] == ["b", "d", "c", "a", "main"]


@real_loops
def test_body_that_waits_for_its_services(new_loop: LoopFactory) -> None:
    """It goes on when they have been stopped."""
    log: Log = []

    async def main() -> None:
        async with supervise(service(log, "a"), service(log, "b")) as sup:
            after(0.05, terminate)
            await sup.wait()
            log.append("body")

    safeaio.run(main, loop_factory=new_loop)
    assert log == ["stopping b", "stopped b", "stopping a", "stopped a", "body"]


@real_loops
def test_body_that_waits_for_something_else(new_loop: LoopFactory) -> None:
    """It is part of main, which is cancelled: then they stop in order."""
    log: Log = []

    async def main() -> None:
        async with supervise(service(log, "a"), service(log, "b")):
            after(0.05, terminate)
            await asyncio.sleep(60)

    with pytest.raises(safeaio.Terminated):
        safeaio.run(main, loop_factory=new_loop)
    assert log == ["stopping b", "stopped b", "stopping a", "stopped a"]


@real_loops
def test_body_that_winds_up_by_itself(new_loop: LoopFactory) -> None:
    """Its services are there until it is left."""
    log: Log = []

    async def main() -> None:
        async with supervise(service(log, "a")):
            after(0.05, terminate)
            await safeaio.wait_for_shutdown()
            log.append("body")

    safeaio.run(main, loop_factory=new_loop)
    assert log == ["body", "stopping a", "stopped a"]


@real_loops
def test_second_signal_hurries(new_loop: LoopFactory) -> None:
    """All are cancelled at once, and cleanup under way goes on."""
    log: Log = []

    async def main() -> None:
        after(0.3, terminate, terminate)
        inner = [service(log, name, 0.6) for name in ("i", "j", "k")]
        workers = Service(supervise, *inner, name="inner")
        await supervise(service(log, "a", 0.6), workers, service(log, "c", 0.6))

    with pytest.raises(safeaio.Terminated):
        safeaio.run(main, loop_factory=new_loop)
    assert log[0] == "stopping c"
    assert sorted(log[1:5]) == [f"stopping {name}" for name in "aijk"]
    assert sorted(log[5:]) == [f"stopped {name}" for name in "acijk"]


@real_loops
def test_order_is_given_up_when_the_drain_has_had_its_time(
    new_loop: LoopFactory,
) -> None:
    """Who takes too long is cut, and whoever is left is cancelled at once."""
    log: Log = []

    async def main() -> None:
        after(0.05, terminate)
        slow = service(log, "b", 60)
        await supervise(service(log, "a"), slow, service(log, "c", 0.1))

    began = monotonic()
    with (
        pytest.warns(safeaio.TaskStuckWarning, match="supervisor/b: still running"),
        pytest.raises(safeaio.Terminated),
    ):
        safeaio.run(main, grace=3, loop_factory=new_loop)
    assert 1.8 < monotonic() - began < 3.5
    assert log == ["stopping c", "stopped c", "stopping b", "stopping a", "stopped a"]


@real_loops
def test_stop_without_a_limit_has_that_of_the_drain(new_loop: LoopFactory) -> None:
    """Whoever may take for ever may not while the program ends."""
    log: Log = []

    async def slow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(60)

    async def main() -> None:
        after(0.05, terminate)
        await supervise(service(log, "a"), Service(slow, stop_timeout=None))

    with (
        pytest.warns(safeaio.TaskStuckWarning, match="still running"),
        pytest.raises(safeaio.Terminated),
    ):
        safeaio.run(main, grace=3, loop_factory=new_loop)
    assert log == ["stopping a", "stopped a"]


PROGRAM = """
import asyncio, os, signal
import safeaio
from safeaio import Service, supervise

async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("swallowed", flush=True)

async def good():
    try:
        await asyncio.sleep(3600)
    finally:
        print("good stopped", flush=True)

async def main():
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
    await supervise(good, Service(stubborn, name="poller"))

safeaio.run(main, grace=2.0)
"""


def test_stuck_child_is_named_and_the_process_ends() -> None:
    """By the deadline of the run, which nothing survives; the others were stopped."""
    began = monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "good stopped" in done.stdout
    assert "supervisor/poller: still running" in done.stderr
    assert "in stubborn" in done.stderr
    assert monotonic() - began < 10


@real_loops
def test_what_is_awaited_after_the_first_signal(new_loop: LoopFactory) -> None:
    """It stops at once, in order: nobody will tell it again."""
    log: Log = []

    async def main() -> None:
        async with supervise(service(log, "a"), service(log, "b")) as sup:
            after(0.05, terminate)
            await safeaio.wait_for_shutdown()
            await sup.wait()
            log.append("body")
        await supervise(service(log, "c"), service(log, "d"))

    safeaio.run(main, loop_factory=new_loop)
    assert log[:5] == ["stopping b", "stopped b", "stopping a", "stopped a", "body"]
    late = ["stopping d", "stopped d", "stopping c", "stopped c"]
    assert log[5:] in (late, late[2:], [])  # without those that were not to begin


@real_loops
@pytest.mark.parametrize("start", [safeaio.background, asyncio.create_task])
def test_supervisor_in_a_task_that_main_left_behind(
    start: Callable[[Coroutine[Any, Any, None]], object], new_loop: LoopFactory
) -> None:
    """It stops in order, and nothing cuts a cleanup."""
    log: Log = []

    async def services() -> None:
        inner = Service(supervise, service(log, "b", 0.05), name="inner")
        await supervise(service(log, "a", 0.05), inner, service(log, "c", 0.05))

    async def main() -> None:
        start(services())
        await asyncio.sleep(0.05)

    safeaio.run(main, loop_factory=new_loop, on_leak="ignore")
    assert log == [
        f"{what} {name}" for name in "cba" for what in ("stopping", "stopped")
    ]
