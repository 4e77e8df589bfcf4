"""What `run` finds when main has left something behind."""

import asyncio
import gc
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from safeaio import LeakError, LeakWarning, run
from safeaio._leaks import Leaks, _runs

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
EVERY_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS.keys())

kept: list[Any] = []


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    kept.clear()


class Error(Exception):
    """What main raises."""


async def leftover() -> None:
    await asyncio.Event().wait()


async def leave_task() -> str:
    kept.append(asyncio.create_task(leftover(), name="left"))
    await asyncio.sleep(0)
    return "result"


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


@contextmanager
def sleeper() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes, which are ended."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


# What is done about it


@EVERY_LOOP
def test_warn(loop: LoopFactory) -> None:
    """By a warning where `run` was called, and through the loop's exception handler."""
    reports: list[dict[str, Any]] = []

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reports.append(context)
        )
        return await leave_task()

    with pytest.warns(LeakWarning) as caught:
        assert run(main, loop_factory=loop) == "result"
    [warning] = caught
    assert warning.filename == __file__
    text = str(warning.message)
    assert text.startswith("safeaio.run(): main left behind:\ntask 'left' (leftover),")
    assert "await asyncio.Event().wait()" in text
    assert [report["message"] for report in reports] == [text]


def test_warning_that_is_an_error() -> None:
    """A filter makes it one, as in tests; main's own error goes before it."""

    async def main() -> None:
        await leave_task()
        raise Error

    with pytest.raises(LeakWarning, match="task 'left'"):
        run(leave_task)
    with pytest.raises(Error):
        run(main)


@EVERY_LOOP
def test_raise(loop: LoopFactory) -> None:
    """With `on_leak="raise"` it is an error, if main has none of its own."""

    async def main() -> None:
        await leave_task()
        raise Error

    with pytest.raises(LeakError, match="task 'left'"):
        run(leave_task, on_leak="raise", loop_factory=loop)
    with pytest.warns(LeakWarning), pytest.raises(Error):
        run(main, on_leak="raise", loop_factory=loop)


@EVERY_LOOP
def test_ignore(loop: LoopFactory, caplog: pytest.LogCaptureFixture) -> None:
    """With `on_leak="ignore"` nobody hears of it."""
    assert run(leave_task, on_leak="ignore", loop_factory=loop) == "result"
    assert caplog.records == []
    assert kept[0].cancelled()


@EVERY_LOOP
def test_nothing_to_report(loop: LoopFactory) -> None:
    """A main that ends its tasks, generators, threads and processes leaks none."""

    async def main() -> str:
        async for _ in numbers():
            pass
        thread = threading.Thread(target=gc.collect)
        thread.start()
        await asyncio.to_thread(thread.join)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await process.wait()
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        return "result"

    assert run(main, on_leak="raise", loop_factory=loop) == "result"


# What is found


def test_where_a_task_was_created() -> None:
    """In debug mode asyncio knows, so the report says it."""
    with pytest.raises(LeakError, match="created at:") as caught:
        run(leave_task, on_leak="raise", debug=True)
    assert "in leave_task" in str(caught.value)
    with pytest.raises(LeakError) as caught:
        run(leave_task, on_leak="raise", debug=False)
    assert "created at:" not in str(caught.value)


@EVERY_LOOP
def test_async_generator(loop: LoopFactory) -> None:
    """One that was begun, and is suspended at a `yield`."""

    async def main() -> None:
        kept.append(numbers())
        await anext(kept[0])

    with pytest.raises(LeakError, match=r"async generator numbers\(\)") as caught:
        run(main, on_leak="raise", loop_factory=loop)
    assert "yield number" in str(caught.value)
    assert kept[0].ag_frame is None


def test_async_generator_without_a_search() -> None:
    """asyncio knows its own; uvloop does not show them, and the heap is not searched."""

    async def main() -> None:
        kept.append(numbers())
        await anext(kept[-1])

    with pytest.warns(LeakWarning, match=r"async generator numbers\(\)"):
        run(main)
    run(main, loop_factory=uvloop.new_event_loop)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="one cannot tell before")
def test_async_generator_that_was_not_begun() -> None:
    """It holds nothing."""

    async def main() -> None:
        kept.append(numbers())

    run(main, on_leak="raise", loop_factory=uvloop.new_event_loop)


@EVERY_LOOP
def test_async_generator_of_before(loop: LoopFactory) -> None:
    """It is not main's."""
    before = numbers()
    with pytest.raises(StopIteration):
        anext(before).__await__().send(None)
    run(asyncio.sleep, 0, on_leak="raise", loop_factory=loop)


@EVERY_LOOP
def test_thread(loop: LoopFactory) -> None:
    """One that keeps the interpreter from exiting; not a daemon, nor one from before."""
    go = threading.Event()
    before = threading.Thread(target=go.wait, name="before")
    before.start()

    async def main() -> None:
        kept.append(threading.Thread(target=go.wait, name="keeps"))
        kept.append(threading.Thread(target=go.wait, name="daemon", daemon=True))
        for thread in kept:
            thread.start()

    with pytest.raises(LeakError, match="thread 'keeps'") as caught:
        run(main, on_leak="raise", loop_factory=loop)
    go.set()
    for thread in (before, *kept):
        thread.join()
    assert "go.wait" in str(caught.value) or "in wait" in str(caught.value)
    assert "'before'" not in str(caught.value)
    assert "'daemon'" not in str(caught.value)


@EVERY_LOOP
def test_loop(loop: LoopFactory) -> None:
    """One that nobody closed; searched for only where that was asked for."""

    async def main() -> None:
        kept.append(loop())

    with pytest.raises(LeakError, match=r"event loop <.*, not closed"):
        run(main, on_leak="raise", loop_factory=loop)
    with pytest.warns(LeakWarning, match=r"event loop <.*, not closed"):
        run(main, debug=True, loop_factory=loop)
    run(main, loop_factory=loop)
    for made in kept:
        made.close()


def test_loop_of_before_and_loop_that_runs() -> None:
    """Neither is main's."""
    before = asyncio.new_event_loop()
    running, stop = threading.Event(), threading.Event()

    async def other() -> None:
        running.set()
        await asyncio.to_thread(stop.wait, 60)

    async def main() -> None:
        thread = threading.Thread(target=asyncio.run, args=(other(),), daemon=True)
        thread.start()
        kept.append(thread)
        await asyncio.to_thread(running.wait, 60)

    run(main, on_leak="raise")
    stop.set()
    kept[0].join(60)
    before.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@EVERY_LOOP
def test_process(loop: LoopFactory) -> None:
    """One that main started; not one from before, nor one that ended unnoticed."""
    with sleeper() as processes:
        processes.append(subprocess.Popen(["sleep", "61"]))
        time.sleep(0.05)  # the kernel counts in hundredths

        def start() -> None:
            processes.append(subprocess.Popen(["sleep", "62"]))
            processes.append(subprocess.Popen([sys.executable, "-c", ""]))
            os.waitid(os.P_PID, processes[-1].pid, os.WEXITED | os.WNOWAIT)  # a zombie

        async def main() -> None:
            start()

        with pytest.raises(LeakError, match="child process") as caught:
            run(main, on_leak="raise", loop_factory=loop)
        [line] = str(caught.value).splitlines()[1:]
        assert line == f"child process {processes[1].pid}: sleep 62"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_process_while_no_file_can_be_opened() -> None:
    """It is not found, and nothing fails."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with sleeper() as processes:
        leaks = Leaks(wanted=True, thorough=False)
        processes.append(subprocess.Popen(["sleep", "60"]))
        loop = asyncio.new_event_loop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            leaks.find_all(loop)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        loop.close()
    assert leaks.found == []


def test_several() -> None:
    """Each is in the report."""
    go = threading.Event()

    async def main() -> None:
        await leave_task()
        kept.append(numbers())
        await anext(kept[-1])
        thread = threading.Thread(target=go.wait, name="keeps")
        thread.start()
        kept.append(thread)

    with pytest.raises(LeakError) as caught:
        run(main, on_leak="raise")
    go.set()
    kept[-1].join()
    found = ("task 'left'", "async generator numbers()", "thread 'keeps'")
    assert all(what in str(caught.value) for what in found)


def test_report_without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /proc, no process is found, and nothing fails."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with sleeper() as processes:
        leaks = Leaks(wanted=True, thorough=False)
        processes.append(subprocess.Popen(["sleep", "60"]))
        loop = asyncio.new_event_loop()
        leaks.find_all(loop)
        loop.close()
    assert leaks.found == []


def test_search_does_not_ask_proxies() -> None:
    """An object that fails when it is asked for its class is passed by."""

    class Proxy:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise Error

    proxy = Proxy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(asyncio.sleep, 0, on_leak="raise")
    assert type(proxy) is Proxy


def test_process_that_has_ended() -> None:
    """It is none that was left behind, although it was there a moment ago."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert not _runs(process.pid, since=0.0)


def test_loop_that_is_none() -> None:
    """A fake that cannot say whether it is closed is no leak."""

    class Fake(asyncio.AbstractEventLoop): ...

    async def main() -> None:
        kept.append(Fake())  # type: ignore[abstract]

    run(main, on_leak="raise")
