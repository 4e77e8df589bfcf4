"""The last words of a process."""

import asyncio
import os
import sys
import threading
from time import monotonic

import pytest

from safeaio import _dump

from .conftest import LoopFactory


class Stream:
    """A stderr that writes to a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd


def test_report(loop_factory: LoopFactory) -> None:
    """Every other thread with its stack, and every task of the loop with its own."""
    loop = loop_factory()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="waits")

    async def main() -> None:
        task = asyncio.create_task(asyncio.Event().wait(), name="sleeps")
        await asyncio.sleep(0)
        thread.start()
        text = await asyncio.to_thread(
            lambda: "".join(_dump._report("why", loop))  # as the thread that watches
        )
        assert text.startswith("why; every thread and task:\n")
        assert "thread 'waits':\n" in text
        assert "thread 'MainThread':\n" in text
        assert "task 'sleeps' (Event.wait):\n" in text
        assert "await fut" in text
        assert threading.current_thread().name in text
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(main())
    go.set()
    thread.join()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_report_while_tasks_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asyncio cannot list then is left out."""

    def fail(_: object) -> set[object]:
        raise RuntimeError("Set changed size during iteration")

    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stderr", Stream(writer))
    monkeypatch.setattr(asyncio, "all_tasks", fail)
    loop = asyncio.new_event_loop()
    _dump._write(_dump._report("why", loop))
    assert os.read(reader, 1 << 16).startswith(b"why; ")
    loop.close()
    os.close(reader)
    os.close(writer)


async def test_report_of_many_tasks() -> None:
    """A hundred are enough."""
    tasks = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(150)]
    await asyncio.sleep(0)
    text = "".join(_dump._report("why", asyncio.get_running_loop()))
    assert text.count("\ntask ") == 100
    assert text.endswith("and 51 more tasks\n")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it arrives, in as many pieces as the pipe takes."""
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stderr", Stream(writer))
    _dump._write(iter(["x" * 5000 + "ü\udcff"]))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"x" * 5000 + "ü".encode() + rb"\udcff"


def test_write_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe holds it up for a moment, and no longer."""
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stderr", Stream(writer))
    began = monotonic()
    _dump._write(iter(["x" * 1_000_000]))
    assert 0.15 < monotonic() - began < 5.0
    os.close(reader)
    _dump._write(iter(["nobody is there any more"]))
    os.close(writer)
    _dump._write(iter(["nor a descriptor"]))


@pytest.mark.parametrize("stderr", [None, object()])
def test_stderr_that_is_no_file(
    stderr: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always the usual descriptor."""
    monkeypatch.setattr(sys, "stderr", stderr)
    assert _dump.stderr_fd() == 2


def test_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was printed is flushed; a stdout that is blocked or gone holds up nothing."""
    go, flushed = threading.Event(), threading.Event()

    class Stuck:
        def flush(self) -> None:
            flushed.set()
            go.wait(60)

    monkeypatch.setattr(sys, "stdout", Stuck())
    began = monotonic()
    _dump._flush()
    assert flushed.is_set()
    assert monotonic() - began < 5.0
    go.set()
    monkeypatch.setattr(sys, "stdout", None)
    _dump._flush()


def test_flush_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the very end of the interpreter it is done right there."""
    flushed: list[str] = []

    class Stdout:
        def flush(self) -> None:
            flushed.append(threading.current_thread().name)

    def fail(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(sys, "stdout", Stdout())
    monkeypatch.setattr(threading.Thread, "start", fail)
    _dump._flush()
    assert flushed == [threading.current_thread().name]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_kill(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends the process with the status, whatever the report ran into."""
    loop = asyncio.new_event_loop()

    def end(status: int) -> None:
        raise Killed(status)

    def fail(text: str) -> None:
        raise OSError

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "stderr", Stream(2))
    with pytest.raises(Killed, match="143"):
        _dump.kill(143, "why", loop)
    assert capfd.readouterr().err.startswith("why; every thread and task:\n")
    monkeypatch.setattr(_dump, "_write", fail)
    with pytest.raises(Killed, match="130"):
        _dump.kill(130, "why", loop)
    loop.close()


def test_write_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said, and nothing written to whatever got its descriptor."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "__stderr__", None)
    said = iter(["said"])
    _dump._write(said)
    assert list(said) == ["said"]
