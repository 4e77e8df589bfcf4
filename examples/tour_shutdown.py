"""A chapter: a service gets real signals, under asyncio.run and under safeaio.run."""

import socket
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from subprocess import Popen, TimeoutExpired
from typing import BinaryIO

import attrs
from tour_program import GRACE, RUNNERS
from tour_stage import Report, Stage, child

STEPS = 2  # a goodbye to its client, and no file any more
LIMIT = 5.0  # then it hangs
PAUSE = 0.3  # between two signals


@attrs.frozen
class Case:
    """What happens to the service.

    Attributes:
        name: How to call it.
        main: Which service it is.
        signals: What it gets, one after the other.
    """

    name: str
    main: str
    signals: tuple[Signals, ...]


CASES = [
    Case("SIGTERM", "willing", (SIGTERM,)),
    Case("SIGTERM, twice", "willing", (SIGTERM, SIGTERM)),
    Case("Ctrl-C, twice", "willing", (SIGINT, SIGINT)),
    Case("SIGTERM; a task will not die", "stubborn", (SIGTERM,)),
    Case("Ctrl-C; a task will not die", "stubborn", (SIGINT,)),
]


def real_signals(stage: Stage) -> Report:
    runs = [(case, runner) for case in CASES for runner in RUNNERS]
    rows = []
    with stage.step("real signals", len(runs)) as advance:
        for case, runner in runs:
            rows.append(_stop(case, runner))
            advance(len(rows))
    complete = Counter(row["way"] for row in rows if row["cleaned up"] == STEPS)
    return Report(
        "Stop a service that has a connection and a file; "
        f"it may take {GRACE:g} s, and is killed after {LIMIT:g} s",
        rows,
        "Cleaned up both: "
        + ", ".join(
            f"{complete[runner]} of {len(CASES)} times with {runner}"
            for runner in RUNNERS
        )
        + ".",
    )


def _stop(case: Case, runner: str) -> dict[str, str | int | float]:
    """Start the service, be its client, send it the signals and see what is left."""
    with child("tour_program.py", runner, case.main, quiet=True) as service:
        started = next(iter(service))
        file = Path(started["file"])
        try:
            with (
                socket.create_connection(("127.0.0.1", started["port"])) as client,
                client.makefile("rb") as heard,
            ):
                heard.readline()
                seconds = _send(service.process, case.signals)
                status = _status(service.process)
                said_goodbye = _last_line(heard) == b"bye\n"
            return {
                "stopped by": case.name,
                "way": runner,
                "cleaned up": said_goodbye + (not file.exists()),
                "seconds": seconds,
                "status": status,
            }
        finally:
            file.unlink(missing_ok=True)


def _send(process: Popen[str], signums: tuple[Signals, ...]) -> float:
    """Return how long the process took to end, from the first signal on."""
    began = time.perf_counter()
    for signum in signums[:-1]:
        process.send_signal(signum)
        with suppress(TimeoutExpired):
            process.wait(PAUSE)
    process.send_signal(signums[-1])
    with suppress(TimeoutExpired):
        process.wait(LIMIT)
    return time.perf_counter() - began


def _status(process: Popen[str]) -> str:
    if process.returncode is None:
        process.kill()
        return "hangs"
    if process.returncode < 0:
        return f"by {Signals(-process.returncode).name}"
    return str(process.returncode)


def _last_line(file: BinaryIO) -> bytes:
    with suppress(ConnectionError):  # it was killed, and reset the connection
        return (file.readlines() or [b""])[-1]
    return b""
