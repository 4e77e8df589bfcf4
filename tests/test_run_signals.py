"""`run` in processes of its own, which get real signals."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import pytest

PROGRAMS = Path(__file__).parent / "programs.py"
SPACING = 0.3  # between two signals
LAST_SECOND = 1.0  # what a second signal leaves
MARGIN = 0.5  # after the deadline; faulthandler's timer takes up to 0.4 s of it
BUFFERED = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
TIMED_OUT = 1  # the exit status of faulthandler's timer
PATIENCE = 40.0  # for a program that never gets ready, or never ends

# Processes side by side: many that wait, and as many that compute as there are cores.
WAITING = 6
COMPUTING = os.cpu_count() or 1

End = Literal["ends", "drained", "killed", "timer", "either"]


class Row(NamedTuple):
    """A program, the signals that it gets, and what shall come of them.

    Attributes:
        program: Which one of programs.py.
        cleanup: The seconds that its cleanup takes.
        grace: That of `run`.
        signals: What it gets, 0.3 s apart.
        status: The exit status; -n for a process that died of signal n.
        end: It "ends" by itself, or so when the drain is over ("drained"), or it is
            "killed" at the deadline, or by the "timer" of faulthandler, or by "either".
        prints: What it has printed after "ready", in lines that it has not flushed; one
            with a question mark may be missing.
        uncounted: How many signals come first that do not mean the run.
    """

    program: str
    cleanup: float
    grace: float
    signals: str
    status: int
    end: End
    prints: str = ""
    uncounted: int = 0


CLEANED = "waiting, cleaning up, cleaned up, restored"
CUT = "waiting, cleaning up"
DONE = "waiting, cleaning up, cleaned up"
NO_MAIN = "waiting, restored"

# fmt: off
MATRIX = (
    # Main waits. A second signal leaves a second, so that a short cleanup still comes to
    # its end; a third leaves nothing.
    Row("sleeping",          0.7, 2.0, "INT",         -2,  "ends",   CLEANED),
    Row("sleeping",          0.7, 2.0, "TERM",        143, "ends",   CLEANED),
    Row("sleeping",          0.7, 2.0, "INT INT",     -2,  "ends",   CLEANED),
    Row("sleeping",          0.7, 2.0, "TERM INT",    143, "ends",   CLEANED),
    Row("sleeping",          9.0, 2.0, "INT INT INT", 130, "killed", CUT),
    # Main is cleaning up already.
    Row("in_cleanup",        0.7, 2.0, "INT",         -2,  "ends",   CLEANED),
    Row("in_cleanup",        0.7, 2.0, "TERM",        143, "ends",   CLEANED),
    Row("in_cleanup",        0.7, 2.0, "INT INT",     -2,  "ends",   CLEANED),
    Row("in_cleanup",        0.7, 2.0, "TERM INT",    143, "ends",   CLEANED),
    Row("in_cleanup",        9.0, 2.0, "INT INT INT", 130, "killed", CUT),
    # A cleanup that takes longer than all there is.
    Row("sleeping",          9.0, 1.0, "INT",         130, "killed", CUT),
    Row("sleeping",          9.0, 1.0, "TERM",        143, "killed", CUT),
    Row("sleeping",          9.0, 3.0, "INT INT",     130, "killed", CUT),
    Row("sleeping",          9.0, 3.0, "TERM INT",    143, "killed", CUT),
    # A task that main left behind is given up; the run ends.
    Row("leftover_swallows", 0.0, 2.0, "INT",         -2,  "ends",   CLEANED),
    Row("leftover_swallows", 0.0, 2.0, "TERM",        143, "ends",   CLEANED),
    Row("leftover_swallows", 0.0, 3.0, "INT INT",     -2,  "ends",   CLEANED),
    Row("leftover_swallows", 0.0, 3.0, "TERM INT",    143, "ends",   CLEANED),
    Row("leftover_swallows", 0.0, 3.0, "INT INT INT", 130, "killed", DONE + ", restored?"),
    # Main itself cannot be given up.
    Row("main_swallows",     0.0, 1.0, "INT",         130, "killed", "waiting"),
    Row("main_swallows",     0.0, 1.0, "TERM",        143, "killed", "waiting"),
    Row("main_swallows",     0.0, 3.0, "INT INT",     130, "killed", "waiting"),
    Row("main_swallows",     0.0, 3.0, "TERM INT",    143, "killed", "waiting"),
    Row("main_swallows",     0.0, 3.0, "INT INT INT", 130, "killed", "waiting"),
    # The loop stands still.
    Row("in_python",         0.0, 0.8, "INT",         130, "killed", "waiting"),
    Row("in_python",         0.0, 0.8, "TERM",        143, "killed", "waiting"),
    Row("in_python",         0.0, 2.0, "INT INT",     130, "killed", "waiting"),
    Row("in_python",         0.0, 2.0, "TERM INT",    143, "killed", "waiting"),
    Row("in_python",         0.0, 2.0, "INT INT INT", 130, "killed", "waiting"),
    Row("in_sleep",          0.0, 1.0, "INT",         130, "killed", "waiting"),
    Row("in_sleep",          0.0, 1.0, "TERM",        143, "killed", "waiting"),
    Row("in_sleep",          0.0, 3.0, "INT INT",     130, "killed", "waiting"),
    Row("in_sleep",          0.0, 3.0, "TERM INT",    143, "killed", "waiting"),
    Row("in_sleep",          0.0, 3.0, "INT INT INT", 130, "killed", "waiting"),
    Row("in_c",              0.0, 0.8, "INT",         130, "killed", "waiting"),
    Row("in_c",              0.0, 0.8, "TERM",        143, "killed", "waiting"),
    Row("in_c",              0.0, 2.0, "INT INT",     130, "killed", "waiting"),
    Row("in_c",              0.0, 2.0, "TERM INT",    143, "killed", "waiting"),
    Row("in_c",              0.0, 2.0, "INT INT INT", 130, "killed", "waiting"),
    # No thread can run, so nobody flushes, and the status cannot tell of the signal.
    Row("in_c_with_gil",     0.0, 0.8, "INT",         1,   "timer"),
    Row("in_c_with_gil",     0.0, 0.8, "TERM",        1,   "timer"),
    Row("in_c_with_gil",     0.0, 1.0, "INT INT",     1,   "timer"),
    Row("in_c_with_gil",     0.0, 1.0, "TERM INT",    1,   "timer"),
    # In the handler of the third the thread gets the GIL, maybe for long enough.
    Row("in_c_with_gil",     0.0, 2.0, "INT INT INT", 130, "either", "waiting?"),
    # The run ends at 97 %, just before the process is killed for the sake of its thread.
    Row("executor_thread",   0.0, 2.0, "INT",         130, "killed", NO_MAIN + "?"),
    Row("executor_thread",   0.0, 2.0, "TERM",        143, "killed", NO_MAIN + "?"),
    Row("executor_thread",   0.0, 4.0, "INT INT",     130, "killed", NO_MAIN + "?"),
    Row("executor_thread",   0.0, 4.0, "TERM INT",    143, "killed", NO_MAIN + "?"),
    Row("executor_thread",   0.0, 4.0, "INT INT INT", 130, "killed", NO_MAIN + "?"),
    Row("anyio_thread",      0.0, 2.0, "INT",         130, "killed", NO_MAIN + "?"),
    Row("anyio_thread",      0.0, 2.0, "TERM",        143, "killed", NO_MAIN + "?"),
    Row("anyio_thread",      0.0, 4.0, "INT INT",     130, "killed", NO_MAIN + "?"),
    Row("anyio_thread",      0.0, 4.0, "TERM INT",    143, "killed", NO_MAIN + "?"),
    Row("anyio_thread",      0.0, 4.0, "INT INT INT", 130, "killed", NO_MAIN + "?"),
    # The run has ended by the second signal, which ends the interpreter's wait.
    Row("own_thread",        0.0, 1.0, "INT",         130, "killed", CLEANED),
    Row("own_thread",        0.0, 1.0, "TERM",        143, "killed", CLEANED),
    Row("own_thread",        0.0, 1.5, "INT INT",     -2,  "ends",   CLEANED),
    Row("own_thread",        0.0, 1.5, "TERM INT",    143, "ends",   CLEANED),
    Row("own_thread",        0.0, 1.5, "INT INT INT", -2,  "ends",   CLEANED),
    # The run has not taken the signals yet: Python itself handles them.
    Row("making_loop",       0.0, 1.0, "INT",         -2,  "ends",   NO_MAIN),
    Row("making_loop",       0.0, 1.0, "TERM",        -15, "ends"),
    Row("making_loop",       0.0, 1.0, "INT INT",     -2,  "ends",   NO_MAIN),
    Row("making_loop",       0.0, 1.0, "TERM INT",    -15, "ends"),
    Row("making_loop",       0.0, 1.0, "INT INT INT", -2,  "ends",   NO_MAIN),
    # It has: main is cancelled before its first step.
    Row("making_task",       0.7, 2.0, "INT",         -2,  "ends",   NO_MAIN),
    Row("making_task",       0.7, 2.0, "TERM",        143, "ends",   NO_MAIN),
    Row("making_task",       0.7, 2.0, "INT INT",     -2,  "ends",   NO_MAIN),
    Row("making_task",       0.7, 2.0, "TERM INT",    143, "ends",   NO_MAIN),
    Row("making_task",       9.0, 2.0, "INT INT INT", 130, "killed", "waiting"),
    # Main has returned: its result stands.
    Row("teardown",          0.7, 2.0, "INT",         0,   "ends",   DONE + ", result, restored"),
    Row("teardown",          0.7, 2.0, "TERM",        0,   "ends",   DONE + ", result, restored"),
    Row("teardown",          0.7, 2.0, "INT INT",     0,   "ends",   DONE + ", result, restored"),
    Row("teardown",          0.7, 2.0, "TERM INT",    0,   "ends",   DONE + ", result, restored"),
    Row("teardown",          9.0, 2.0, "INT INT INT", 130, "killed", CUT + ", result?, restored?"),
    Row("teardown",          9.0, 2.0, "TERM",        0,   "ends",   CUT + ", result, restored"),
    # So has the run.
    Row("returned",          0.0, 1.0, "INT",         -2,  "ends",   "result, restored, waiting"),
    Row("returned",          0.0, 1.0, "TERM",        -15, "ends"),
    Row("returned",          0.0, 1.0, "INT INT",     -2,  "ends",   "result, restored, waiting"),
    Row("returned",          0.0, 1.0, "TERM INT",    -15, "ends"),
    Row("returned",          0.0, 1.0, "INT INT INT", -2,  "ends",   "result, restored, waiting"),
)
# fmt: on

# fmt: off
# Somebody else handles a signal: that handler runs, once, and stays.
HANDLED = (
    # A SIGINT that was somebody else's before, or becomes so, is no request to end.
    Row("own_sigint",           0.0, 2.0, "INT TERM",  143, "ends",
        "waiting, SIGINT handled, cleaning up, cleaned up, restored", uncounted=1),
    Row("own_sigint_in_main",   0.0, 2.0, "INT TERM",  143, "ends",
        "waiting, SIGINT handled, cleaning up, cleaned up, changed: SIGINT", uncounted=1),
    # Any other that becomes so still is: main gets the drain, and is cancelled after it.
    Row("own_sigterm_in_main",  0.0, 2.0, "TERM",      143, "drained",
        "waiting, SIGTERM handled, cleaning up, cleaned up, changed: SIGTERM"),
    Row("own_sigterm_in_main",  0.0, 4.0, "TERM INT",  143, "ends",
        "waiting, SIGTERM handled, cleaning up, cleaned up, changed: SIGTERM"),
)
# The loop's handlers, too. asyncio takes the wake-up fd for them, so the run does not see
# these signals; where main adds its handler before it is suspended for the first time, the
# run takes the fd back. uvloop takes it only once, before main, and leaves its handlers.
HANDLED_BY_ASYNCIO = (
    Row("loop_sigint",  0.0, 2.0, "INT TERM",  143, "ends",
        "waiting, SIGINT handled, cleaning up, cleaned up, restored", uncounted=1),
    Row("loop_sigterm", 0.0, 2.0, "TERM INT",  -2,  "ends",
        "waiting, SIGTERM handled, cleaning up, cleaned up, restored", uncounted=1),
)
HANDLED_BY_UVLOOP = (
    Row("loop_sigint",  0.0, 2.0, "INT TERM",  143, "ends",
        "waiting, SIGINT handled, cleaning up, cleaned up, changed: SIGINT", uncounted=1),
    Row("loop_sigterm", 0.0, 2.0, "TERM",      143, "drained",
        "waiting, SIGTERM handled, cleaning up, cleaned up, changed: SIGTERM"),
)
# What the parent has ignored, as `nohup` does, stays ignored.
IGNORED = {
    "TERM": Row("sleeping",     0.0, 2.0, "TERM INT",  -2,  "ends", CLEANED, uncounted=1),
    "INT":  Row("sleeping",     0.0, 2.0, "INT TERM",  143, "ends", CLEANED, uncounted=1),
}
# A signal cannot kill the first process of a container, which nobody has to handle it for.
AS_PID_1 = (
    Row("sleeping",             0.0, 2.0, "INT",       130, "ends",   CLEANED),
    Row("sleeping",             0.0, 2.0, "TERM",      143, "ends",   CLEANED),
    Row("main_swallows",        0.0, 1.0, "INT",       130, "killed", "waiting"),
    Row("main_swallows",        0.0, 1.0, "TERM",      143, "killed", "waiting"),
)
# fmt: on


class Case(NamedTuple):
    """A row on a loop, maybe started by another program."""

    row: Row
    loop: str
    starter: tuple[str, ...] = ()

    def __str__(self) -> str:
        row = self.row
        return f"{row.program} {row.cleanup} {row.signals} {self.loop}"


LOOPS = ("asyncio", "uvloop")
IGNORE = 'trap "" $0; exec "$@"'
PID_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
COMPUTES = ("in_python", "in_c", "in_c_with_gil")


def cases(
    rows: tuple[Row, ...], *loops: str, starter: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """Return the decorator that makes a test of each row on each loop."""
    found = [Case(row, loop, starter) for row in rows for loop in loops or LOOPS]
    return pytest.mark.parametrize("case", found, ids=str)


class Ended(NamedTuple):
    """What came of a process; all times are in seconds on one clock."""

    status: int
    printed: list[str]
    stderr: str
    sent: list[float]
    ended: float


Results = Callable[[Case], Ended]
Check = Callable[[Case], None]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """Run the processes of all the tests that were selected, several side by side."""
    found: list[Any] = [
        getattr(item, "callspec", None) for item in request.session.items
    ]
    chosen = [spec.params["case"] for spec in found if spec and "case" in spec.params]
    with ordinary_sigint(), ExitStack() as pools:
        waiting = ThreadPoolExecutor(WAITING)
        computing = ThreadPoolExecutor(COMPUTING)
        for pool in (waiting, computing):
            pools.callback(pool.shutdown, cancel_futures=True)
        futures: dict[Case, Future[Ended]] = {
            case: (computing if case.row.program in COMPUTES else waiting).submit(
                run_case, case
            )
            for case in chosen
        }
        yield lambda case: futures[case].result()


@contextmanager
def ordinary_sigint() -> Iterator[None]:
    """Let no process inherit an ignored SIGINT: shells start jobs like that."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_case(case: Case) -> Ended:
    row = case.row
    program = [row.program, case.loop, str(row.grace), str(row.cleanup)]
    with subprocess.Popen(
        [*case.starter, sys.executable, str(PROGRAMS), *program],
        env=BUFFERED,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # `communicate` does not know of what a buffer has read
    ) as process:
        overdue = threading.Timer(PATIENCE, process.kill)
        overdue.start()
        try:
            return signalled(process, case)
        finally:
            overdue.cancel()
            process.kill()


def signalled(process: subprocess.Popen[bytes], case: Case) -> Ended:
    """Send a process its signals, once it is ready, and wait for its end."""
    assert process.stdout is not None
    first = process.stdout.readline()
    if first != b"ready\n":
        _, stderr = process.communicate()
        pytest.fail(f"not ready: {first!r}, {stderr.decode()}")
    pid = only_child(process.pid) if case.starter == PID_1 else process.pid
    sent: list[float] = []
    for name in case.row.signals.split():
        sent.append(monotonic())
        os.kill(pid, signal.Signals[f"SIG{name}"])
        if ends_within(process, SPACING):
            break
    stdout, stderr = process.communicate()
    ended = monotonic()
    lines = stdout.decode().splitlines()
    return Ended(process.returncode, lines, stderr.decode(), sent, ended)


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.fixture
def check(request: pytest.FixtureRequest, results: Results) -> Check:
    """Compare what came of a process with its row."""

    def check(case: Case) -> None:
        row, ended = case.row, results(case)
        assert (ended.status, how(ended)) in ways(row), ended.stderr
        check_lines(row, ended)
        counted = ended.sent[row.uncounted :]
        took, latest = ended.ended - counted[0], deadline(row, counted)
        if row.end == "killed":
            request.node.user_properties.append(("late", took - latest))
        assert took <= latest + MARGIN
        assert took >= earliest(row, latest)

    return check


def deadline(row: Row, counted: list[float]) -> float:
    """Return after how many seconds a process has to be at its end."""
    first = counted[0]
    ends = [row.grace]
    if len(counted) > 1:
        ends.append(counted[1] - first + LAST_SECOND)
    if len(counted) > 2:
        ends.append(counted[2] - first)
    return min(ends)


def earliest(row: Row, latest: float) -> float:
    """Return how long a process has at least, before it is cancelled or killed."""
    if row.end == "ends":
        return 0.0
    return 0.6 * row.grace if row.end == "drained" else latest


def how(ended: Ended) -> str:
    """Return what ended a process, going by its last words."""
    if "Timeout (" in ended.stderr:
        return "timer"
    return "killed" if "safeaio.run(): not over" in ended.stderr else "ends"


def ways(row: Row) -> list[tuple[int, str]]:
    """Return each exit status that a process may have, with what ends it then."""
    if row.end == "either":
        return [(row.status, "killed"), (TIMED_OUT, "timer")]
    return [(row.status, "ends" if row.end == "drained" else row.end)]


def check_lines(row: Row, ended: Ended) -> None:
    """Compare what was printed; only the last lines are ever marked as unsure."""
    lines = row.prints.split(", ") if row.prints else []
    sure = [line for line in lines if not line.endswith("?")]
    every = [line.rstrip("?") for line in lines]
    assert ended.printed == every[: max(len(ended.printed), len(sure))]


@cases(MATRIX)
def test_matrix(case: Case, check: Check) -> None:
    """A program that gets a signal ends in time, with the right status and last lines."""
    check(case)


@cases(HANDLED)
def test_handler_of_the_program(case: Case, check: Check) -> None:
    """A handler that is not ours runs, and stays; of SIGINT nobody else takes note."""
    check(case)


@cases(HANDLED_BY_ASYNCIO, "asyncio")
def test_handler_of_asyncio(case: Case, check: Check) -> None:
    """A handler that was added to the loop is all that runs."""
    check(case)


@cases(HANDLED_BY_UVLOOP, "uvloop")
def test_handler_of_uvloop(case: Case, check: Check) -> None:
    """A handler added to the loop runs; of SIGTERM the run takes note as well."""
    check(case)


@cases((IGNORED["INT"],), starter=("sh", "-c", IGNORE, "INT"))
def test_ignored_sigint(case: Case, check: Check) -> None:
    """A SIGINT that the parent has ignored stays ignored; SIGTERM is not."""
    check(case)


@cases((IGNORED["TERM"],), starter=("sh", "-c", IGNORE, "TERM"))
def test_ignored_sigterm(case: Case, check: Check) -> None:
    """A SIGTERM that the parent has ignored stays ignored; SIGINT is not."""
    check(case)


@cases(AS_PID_1, starter=PID_1)
def test_as_pid_1(case: Case, check: Check) -> None:
    """The first process of a container has its status, too."""
    why_not = no_pid_1()
    if why_not:
        pytest.skip(f"no process can be PID 1 here, so this is UNTESTED: {why_not}")
    check(case)


@cache
def no_pid_1() -> str:
    """Return why `unshare` makes no PID namespace, if it does not."""
    if shutil.which(PID_1[0]) is None:
        return "there is no `unshare`"
    tried = subprocess.run(
        [*PID_1, "true"], capture_output=True, text=True, check=False
    )
    return tried.stderr if tried.returncode else ""
