"""The thread that notices when the loop stands still."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop

from safeaio import run

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
EVERY_LOOP = pytest.mark.parametrize(
    "loop",
    [asyncio.SelectorEventLoop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


class Log(logging.Handler):
    """Takes what the watchdog logs, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.said = threading.Event()
        self.error: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.said.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(autouse=True)
def listen(log: Log) -> Iterator[None]:
    logger = logging.getLogger("safeaio")
    logger.addHandler(log)
    yield
    logger.removeHandler(log)


def block(log: Log) -> None:
    """Hold the loop until the watchdog has said so, and for a while longer."""
    log.said.clear()
    log.said.wait(20)
    time.sleep(0.1)


@EVERY_LOOP
def test_stall_is_reported_once(loop: LoopFactory, log: Log) -> None:
    """With where the loop's thread is, however long it stands."""

    async def main() -> None:
        block(log)

    run(main, watchdog=0.02, loop_factory=loop)
    [text] = log.texts
    assert text.startswith("the event loop has not run for 0.02 s; its thread is at:\n")
    assert "in block" in text
    assert "log.said.wait(20)" in text


def test_every_stall_is_reported(log: Log) -> None:
    """Once each."""

    async def main() -> None:
        for _ in range(3):
            block(log)
            await asyncio.sleep(0.1)

    run(main, watchdog=0.02)
    assert len(log.texts) == 3


def test_loop_that_runs(log: Log) -> None:
    """Nothing is said of it, though main does nothing for long."""

    async def main() -> None:
        await asyncio.sleep(0.3)

    run(main, watchdog=0.25)
    assert log.texts == []


def test_log_handler_that_raises(log: Log) -> None:
    """The program does not notice; the next stall is reported again."""
    log.error = ValueError("handler")

    async def main() -> str:
        block(log)
        await asyncio.sleep(0.1)
        block(log)
        return "result"

    assert run(main, watchdog=0.02) == "result"
    assert len(log.texts) == 2


def test_stops_with_the_run() -> None:
    """Its thread does not outlive the run, stalled or not."""
    before = threading.active_count()

    async def main() -> None:
        await asyncio.sleep(0)

    for _ in range(20):
        run(main, watchdog=30)
    assert threading.active_count() == before


@pytest.mark.parametrize("seconds", [1e9, 1e300, float("inf")])
def test_longer_than_a_thread_can_wait(seconds: float) -> None:
    """That is as good as none."""
    assert run(asyncio.sleep, 0.01, "result", watchdog=seconds) == "result"
