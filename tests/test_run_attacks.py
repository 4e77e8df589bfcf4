"""`run` against programs that mean it ill: what a hostile review had found."""

import asyncio
import dataclasses
import faulthandler
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple, NoReturn

import anyio.to_thread
import pytest
import uvloop

import safeaio
from safeaio import CleanupError, LeakWarning, Terminated, request_shutdown, run
from safeaio import _backstop as backstop
from safeaio._runner import _active

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, type[asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.Loop,
}
EVERY_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS.keys())
MANY = 20_000
MARGIN = 0.5  # after the deadline
NOISE = 0.25  # until this process has seen it
PATIENCE = 20  # for what should end at once

PRELUDE = """
import asyncio, os, re, signal, sys, threading, time
from contextlib import suppress
import safeaio
from safeaio import run

signal.alarm(15)  # should nobody else end this

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

def hold_the_gil():
    re.match(r"(a|a)*b", "a" * 60)

async def swallow():
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
"""


class Error(Exception):
    """What main raises."""


class Ended(NamedTuple):
    """A process that has ended; `seconds` after the first line that it had printed."""

    status: int
    printed: str
    errors: str
    seconds: float


def ended(code: str, *args: object, stderr: int = subprocess.PIPE) -> Ended:
    """Run a program, which says "ready" and sends signals to itself."""
    return _ended([sys.executable, "-c", PRELUDE + code, *map(str, args)], stderr)


def _ended(command: list[str], stderr: int) -> Ended:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, bufsize=0
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        began = monotonic()
        printed, errors = process.communicate(timeout=40)
        seconds = monotonic() - began
    text = (first + printed).decode(), (errors or b"").decode()
    return Ended(process.returncode, *text, seconds)


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None: ...


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    if fd != -1:
        signal.set_wakeup_fd(fd)
    return fd


def surroundings() -> list[object]:
    """What a run must leave as it was."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    return [handlers, wakeup_fd(), set(threading.enumerate()), list(_active)]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    before = surroundings()
    yield
    assert surroundings() == before


# 1: a signal while run joins a worker that main has abandoned

JOINED = """
import anyio, uvloop
mode, loop = sys.argv[1:]
began, joining, over = threading.Event(), threading.Event(), threading.Event()

def work():
    thread = threading.current_thread()
    join = thread.join
    def tell(timeout=None):
        joining.set()
        join(timeout)
    thread.join = tell
    began.set()
    over.wait(60)

def send():
    joining.wait()
    if mode == "hurried":
        while time.monotonic() < main.first + 0.4:  # else it would not count
            time.sleep(0.01)
    os.write(1, b"ready\\n")
    terminate()
    if mode != "hurried":
        over.set()

async def main():
    main.left = asyncio.create_task(anyio.to_thread.run_sync(work, abandon_on_cancel=True))
    while not began.is_set():
        await asyncio.sleep(0.001)
    if mode != "returned":
        main.first = time.monotonic()
        terminate()
        await asyncio.sleep(60)
    return "result"

threading.Thread(target=send, daemon=True).start()
try:
    factory = uvloop.new_event_loop if loop == "uvloop" else None
    print(run(main, on_leak="ignore", grace=30, loop_factory=factory))
finally:
    print("finally", flush=True)
"""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("mode", "status", "printed"),
    [
        ("returned", 0, "ready\nresult\nfinally\n"),
        ("cancelled", 143, "ready\nfinally\n"),
    ],
)
def test_signal_while_a_worker_is_joined(
    mode: str, status: int, printed: str, loop: str
) -> None:
    """The verdict stands, and what is outside of run is reached."""
    done = ended(JOINED, mode, loop)
    assert done[:2] == (status, printed)


def test_second_signal_while_a_worker_is_joined() -> None:
    """It leaves a second of the thirty."""
    done = ended(JOINED, "hurried", "asyncio")
    assert done[:2] == (143, "ready\nfinally\n")
    assert done.seconds < 1.0 + MARGIN + NOISE


# 2, 12: a stderr that nobody reads, or that is none

BLOCKED = """
async def main():
    print("ready", flush=True)
    terminate()
    hold_the_gil() if sys.argv[1] == "re" else time.sleep(60)

run(main, grace=0.4)
"""


@contextmanager
def full_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(("blocked_in", "status"), [("re", 1), ("sleep", 143)])
def test_stderr_that_nobody_reads(blocked_in: str, status: int) -> None:
    """Last words wait for nobody."""
    with full_pipe() as stderr:
        done = ended(BLOCKED, blocked_in, stderr=stderr)
    assert done.status == status
    assert done.seconds < 0.4 + MARGIN + NOISE


FILE_AS_STDERR = """
file = open(sys.argv[1], "wb", buffering=0)
file.write(b"header")
print("ready", file.fileno(), sys.stderr, flush=True)

async def main():
    terminate()
    hold_the_gil() if sys.argv[2] == "re" else await swallow()

run(main, grace=0.3)
"""


@pytest.mark.parametrize(("blocked_in", "status"), [("re", 1), ("loop", 143)])
def test_stderr_closed_from_the_start(
    blocked_in: str, status: int, tmp_path: Path
) -> None:
    """The file that got its number gets no last words; the process ends in time."""
    file = tmp_path / "data"
    shell = ["sh", "-c", 'exec "$0" "$@" 2>&-']
    program = [sys.executable, "-c", PRELUDE + FILE_AS_STDERR]
    done = _ended([*shell, *program, str(file), blocked_in], subprocess.PIPE)
    assert done[:2] == (status, "ready 2 None\n")
    assert done.seconds < 0.3 + MARGIN + NOISE
    assert file.read_bytes() == b"header"


# 3, 15: what the dump says of tasks

MANY_TASKS = """
async def main():
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(20_000)]
    await asyncio.sleep(0)
    print("ready", flush=True)
    terminate()
    time.sleep(60)

run(main, grace=0.4)
"""


def test_dump_of_many_tasks() -> None:
    """It names some, says how many more there are, and comes in time."""
    done = ended(MANY_TASKS)
    assert done.status == 143
    assert done.seconds < 0.4 + MARGIN + NOISE
    more = re.search(r"^and (\d+) more tasks$", done.errors, re.MULTILINE)
    assert more is not None
    named = len(re.findall("^task 'Task-", done.errors, re.MULTILINE))
    assert named > 10
    assert named + int(more[1]) == MANY + 1


BAD_REPR = """
from collections.abc import Coroutine

class Bad(Coroutine):
    def send(self, value): return None
    def throw(self, *error): raise asyncio.CancelledError
    def close(self): pass
    def __await__(self): yield
    def __repr__(self): raise ValueError("repr")

async def main():
    main.bad = asyncio.create_task(Bad(), name="bad")
    main.good = asyncio.create_task(asyncio.sleep(60), name="good")
    await asyncio.sleep(0)
    if sys.argv[1] == "left":
        return "result"
    print("ready", flush=True)
    terminate()
    time.sleep(60)

print(run(main, grace=0.3))
"""


def test_leftover_with_a_bad_repr() -> None:
    """It is ended, and reported, all the same."""
    done = ended(BAD_REPR, "left")
    assert done[:2] == (0, "result\n")
    assert "task 'bad' (Bad)" in done.errors
    assert "repr" not in done.errors


def test_dump_of_a_task_with_a_bad_repr() -> None:
    """It names that one, and the others."""
    done = ended(BAD_REPR, "blocked")
    assert done.status == 143
    assert "task 'bad' (Bad)" in done.errors
    assert "task 'good' (sleep)" in done.errors


# 4: where nothing more can be opened

NO_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []

async def main(raising):
    with suppress(OSError):
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    if raising:
        raise ValueError("main's own")
    return "result"

try:
    run(main, True)
except ValueError as error:
    print(repr(error))
while opened:
    os.close(opened.pop())
print(run(main, False))
"""


def test_out_of_file_descriptors() -> None:
    """What main came to stands, and nothing is said of the rest."""
    done = ended(NO_FILES)
    assert done[:3] == (0, 'ValueError("main\'s own")\nresult\n', "")


def test_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children are not found then."""

    def denied(path: str) -> NoReturn:
        raise PermissionError(path)

    async def main() -> str:
        return "result"

    monkeypatch.setattr(os, "listdir", denied)
    assert run(main) == "result"


# 5: what is the user's, and raises


async def leave(value: str | Exception, set_up: Callable[[], object]) -> str:
    """Leave a task behind."""
    set_up()
    _left.append(asyncio.create_task(forever()))
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


_left: list[asyncio.Task[Any]] = []


@pytest.fixture
def showwarning() -> Iterator[None]:
    """`warnings.warn` raises OSError: its sink is broken."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("sink")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = fail
        yield


def exit_from_handler(code: int = 7) -> None:
    def handle(*_: object) -> NoReturn:
        sys.exit(code)

    asyncio.get_running_loop().set_exception_handler(handle)


@EVERY_LOOP
@pytest.mark.filterwarnings("ignore::safeaio.LeakWarning")
def test_exception_handler_that_exits(loop: LoopFactory) -> None:
    """Main's result gives way to that; its error is shown with it."""
    with pytest.raises(SystemExit) as caught:
        run(leave, "result", exit_from_handler, loop_factory=loop)
    assert caught.value.code == 7
    error = Error()
    with pytest.raises(SystemExit) as caught:
        run(leave, error, exit_from_handler, loop_factory=loop)
    assert caught.value.__context__ is error


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> NoReturn:
        raise RuntimeError("log sink down")


@pytest.fixture
def broken_log() -> Iterator[None]:
    handler = Broken()
    logging.getLogger("asyncio").addHandler(handler)
    yield
    logging.getLogger("asyncio").removeHandler(handler)


@pytest.mark.filterwarnings("ignore::safeaio.LeakWarning")
@pytest.mark.usefixtures("broken_log")
def test_log_handler_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """What main came to stands."""
    assert run(leave, "result", lambda: None) == "result"
    error = Error()
    with pytest.raises(Error) as caught:
        run(leave, error, lambda: None)
    assert caught.value is error


@pytest.mark.usefixtures("showwarning")
def test_showwarning_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """What main came to stands, also here."""
    assert run(leave, "result", lambda: None) == "result"
    error = Error()
    with pytest.raises(Error) as caught:
        run(leave, error, lambda: None)
    assert caught.value is error


CLOSED_STDERR = """
async def main(raising):
    sys.stderr.close()
    main.left = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    if raising:
        raise ValueError("main's own")
    return "result"

print(run(main, False))
try:
    run(main, True)
except ValueError as error:
    print(repr(error), flush=True)
"""


def test_stderr_closed_by_main() -> None:
    """Reports are lost, and nothing else."""
    done = ended(CLOSED_STDERR)
    assert done[:2] == (0, 'result\nValueError("main\'s own")\n')


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """One to which nothing can be added."""

    number: int


def test_frozen_exception_from_a_cleanup() -> None:
    """It leaves as it is, without a note."""
    error = FrozenError(1)

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        try:
            await forever()
        finally:
            raise error

    with pytest.raises(FrozenError) as caught:
        run(main)
    assert caught.value is error


@EVERY_LOOP
@pytest.mark.parametrize("closed_in_main", [False, True])
def test_wakeup_fd_that_is_closed(loop: LoopFactory, closed_in_main: bool) -> None:
    """Somebody has left it there; run does not fail for that."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    async def main() -> str:
        writer.close()
        return "result"

    with reader:
        signal.set_wakeup_fd(writer.fileno())
        try:
            if not closed_in_main:
                writer.close()
            assert run(main, loop_factory=loop) == "result"
        finally:
            signal.set_wakeup_fd(-1)


def test_loop_without_is_closed() -> None:
    """A fake, as tests have them, is no leak."""

    fake: Any = type("Fake", (asyncio.AbstractEventLoop,), {})

    async def main() -> object:
        return fake()

    before = fake()
    assert run(main, debug=True) is not before


# 6: an exception handler that exits in the midst of the teardown


async def failing_step(_: object) -> None:
    raise Error


async def generator() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        raise Error


@EVERY_LOOP
@pytest.mark.parametrize("failing", ["step", "generator"])
def test_exit_in_the_teardown(
    failing: str, loop: type[asyncio.AbstractEventLoop]
) -> None:
    """The steps after it are taken, and it leaves run."""
    done: list[str] = []
    kept: list[AsyncIterator[int]] = []
    go = threading.Event()

    def work() -> None:
        go.wait(PATIENCE)
        done.append("job")

    async def main() -> str:
        exit_from_handler()
        if failing == "generator":
            kept.append(generator())
            await anext(kept[0])
        asyncio.get_running_loop().run_in_executor(None, work)
        asyncio.get_running_loop().call_later(0.1, go.set)
        return "result"

    methods = {"shutdown_asyncgens": failing_step} if failing == "step" else {}
    kind = type("Loop", (loop,), methods)
    try:
        with pytest.raises(SystemExit) as caught:
            run(main, loop_factory=kind, on_leak="ignore")
        assert caught.value.code == 7
        assert done == ["job"]
    finally:
        go.set()


# 7: one timer for all


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that faulthandler's timer is set to, if it is."""
    armed: list[float] = []

    def arm(seconds: float, *, exit: bool, file: object) -> None:
        assert exit
        armed[:] = [seconds]

    monkeypatch.setattr(faulthandler, "dump_traceback_later", arm)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", armed.clear)
    return armed


def armed_for(timer: list[float], deadline: float) -> bool:
    (seconds,) = timer
    return abs(monotonic() + seconds - backstop.AFTER - deadline) < NOISE


def test_timer_is_for_the_earliest(timer: list[float]) -> None:
    """Whoever came first."""
    now = monotonic()
    backstop.arm("first", now + 20)
    assert armed_for(timer, now + 20)
    backstop.arm("second", now + 30)
    assert armed_for(timer, now + 20)
    backstop.arm("third", now + 10)
    assert armed_for(timer, now + 10)
    backstop.disarm("third")
    assert armed_for(timer, now + 20)
    backstop.disarm("first")
    assert armed_for(timer, now + 30)
    backstop.disarm("second")
    assert timer == []


def test_timer_that_is_moved(timer: list[float]) -> None:
    """A later call stands for the earlier one of the same owner."""
    now = monotonic()
    backstop.arm("one", now + 30)
    backstop.arm("one", now + 10)
    assert armed_for(timer, now + 10)
    backstop.disarm("one")
    assert timer == []


def test_timer_that_somebody_else_has_armed(timer: list[float]) -> None:
    """Who has no deadline disarms nothing."""
    now = monotonic()
    backstop.arm("one", now + 10)
    backstop.disarm("other")
    assert armed_for(timer, now + 10)
    backstop.disarm("one")
    backstop.disarm("one")
    assert timer == []


def test_timer_for_the_far_future(timer: list[float]) -> None:
    """It is not set; what comes earlier is."""
    now = monotonic()
    backstop.arm("never", float("inf"))
    assert timer == []
    backstop.arm("soon", now + 10)
    assert armed_for(timer, now + 10)
    backstop.disarm("soon")
    backstop.disarm("never")
    assert timer == []


OTHER_RUN = """
go = threading.Event()

async def other():
    print("ready", flush=True)
    await asyncio.to_thread(go.wait)
    safeaio.request_shutdown()
    await asyncio.sleep(60)

def run_other():
    with suppress(SystemExit):
        run(other, signals=(), allow_concurrent=True, grace=20)

thread = threading.Thread(target=run_other)
thread.start()

async def main():
    terminate()
    try:
        await asyncio.sleep(60)
    finally:
        go.set()
        thread.join()
        hold_the_gil()

run(main, allow_concurrent=True, grace=0.5)
"""


def test_timer_survives_the_end_of_another_run() -> None:
    """It ends what holds the GIL."""
    done = ended(OTHER_RUN)
    assert done.status == 1
    assert "hold_the_gil" in done.errors
    assert done.seconds < 0.5 + MARGIN + NOISE


FORK_AFTER = """
async def main():
    threading.Thread(target=time.sleep, args=(60,)).start()
    terminate()
    await asyncio.sleep(60)

async def of_the_child():
    safeaio.request_shutdown("child")
    await asyncio.sleep(60)

try:
    run(main, grace=20, on_leak="ignore")
except SystemExit:
    child = os.fork()
    if child == 0:
        try:
            run(of_the_child)
        except safeaio.Terminated:
            sys.exit(5)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            print("child", os.waitstatus_to_exitcode(status), flush=True)
            os._exit(0)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os._exit(1)
"""


def test_fork_while_the_timer_is_armed() -> None:
    """The child has a run of its own, and ends."""
    done = ended(FORK_AFTER)
    assert done[:2] == (0, "child 5\n")


FORK_BEFORE_BLOCKED = """
async def main():
    terminate()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    print("ready", flush=True)
    hold_the_gil()

run(main, grace=0.5)
"""


def test_timer_survives_a_fork() -> None:
    """In the parent."""
    done = ended(FORK_BEFORE_BLOCKED)
    assert done[:2] == (1, "ready\n")
    assert done.seconds < 0.5 + MARGIN + NOISE


# 8: no thread can be started


@EVERY_LOOP
@pytest.mark.parametrize("watchdog", [None, 10.0])
def test_thread_that_cannot_be_started(
    watchdog: float | None, loop: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what run raises; nothing stays behind."""
    start = threading.Thread.start
    refused = RuntimeError("can't start new thread")
    name = "safeaio.run" if watchdog is None else "safeaio.run watchdog"
    made: list[asyncio.AbstractEventLoop] = []

    def refuse(self: threading.Thread) -> None:
        if self.name == name:
            raise refused
        start(self)

    def factory() -> asyncio.AbstractEventLoop:
        made.append(loop())
        return made[0]

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError) as caught:
        run(nothing, loop_factory=factory, watchdog=watchdog)
    assert caught.value is refused
    assert made[0].is_closed()


# 9: the user's own executor


def wait_until_idle(pool: ThreadPoolExecutor) -> None:
    (thread,) = pool._threads
    assert thread.ident is not None
    while not (
        pool._idle_semaphore._value > 0
        and sys._current_frames()[thread.ident].f_code.co_name == "_worker"
    ):
        sleep(0.001)


async def use(pool: ThreadPoolExecutor, name: str | None) -> str:
    await asyncio.get_running_loop().run_in_executor(pool, threading.get_ident)
    wait_until_idle(pool)
    if name is not None:
        signal.raise_signal(signal.Signals[name])
        await forever()
    return "result"


def test_idle_thread_of_an_executor() -> None:
    """It is no leak, and after a signal nobody is killed for it."""
    with ThreadPoolExecutor(1) as pool:
        assert run(use, pool, None, on_leak="raise") == "result"
        with pytest.raises(Terminated):
            run(use, pool, "SIGTERM", grace=PATIENCE)
        assert [t for t in threading.enumerate() if t.name == "safeaio.run"] == []


def test_busy_thread_of_an_executor() -> None:
    """It is a leak."""
    go = threading.Event()

    async def main() -> str:
        asyncio.get_running_loop().run_in_executor(pool, go.wait, PATIENCE)
        return await asyncio.sleep(0, "result")

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        with pytest.warns(LeakWarning, match="thread 'mine_0', for which"):
            assert run(main) == "result"
        go.set()


BUSY_EXECUTOR = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)

async def main():
    asyncio.get_running_loop().run_in_executor(pool, time.sleep, 60)
    print("ready", flush=True)
    terminate()
    await asyncio.sleep(60)

run(main, grace=0.3, on_leak="ignore")
"""


def test_busy_thread_of_an_executor_after_a_signal() -> None:
    """The process is killed for it."""
    done = ended(BUSY_EXECUTOR)
    assert done.status == 143
    assert done.seconds < 0.3 + MARGIN + NOISE


# 10: who replaces our handler, and calls it


@EVERY_LOOP
def test_handler_that_calls_ours(loop: LoopFactory) -> None:
    """Main is cancelled at once: nobody else will wind it up."""
    told: list[float] = []

    async def main() -> None:
        ours: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: ours(*args))
        signal.raise_signal(signal.SIGTERM)
        began = monotonic()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            told.append(monotonic() - began)

    try:
        with pytest.raises(Terminated) as caught:
            run(main, grace=PATIENCE, loop_factory=loop)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert caught.value.code == 143
    assert told[0] < PATIENCE / 4


@EVERY_LOOP
def test_handler_that_calls_ours_with_a_subscriber(loop: LoopFactory) -> None:
    """That one winds up, as if ours stood there; main is not cancelled."""

    async def main() -> str:
        ours: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: ours(*args))
        waiter = asyncio.create_task(safeaio.wait_for_shutdown())
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await waiter
        return await asyncio.sleep(0.05, "wound up")

    try:
        assert run(main, grace=PATIENCE, loop_factory=loop) == "wound up"
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


async def ours_for(signum: int) -> Any:
    return signal.getsignal(signum)


def test_our_handler_after_the_run() -> None:
    """It does what stood there before."""
    handler = run(ours_for, signal.SIGINT)
    assert callable(handler)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGINT, None)


STALE = """
async def main():
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *args: (print("mine", flush=True), ours(*args)))

run(main)
terminate()
print("survived")
"""


def test_our_handler_after_the_run_where_none_stood() -> None:
    """The process dies of the signal."""
    assert ended(STALE)[:2] == (-signal.SIGTERM, "mine\n")


# 11: a cleanup that begins in the drain


@EVERY_LOOP
@pytest.mark.parametrize("_", range(2))
def test_cleanup_begun_in_the_drain(_: int, loop: LoopFactory) -> None:
    """It is cut when the drain is over, whatever else happens at that moment."""
    told: list[float] = []
    grace = 0.6

    async def clean_up() -> None:
        began = monotonic()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            told.append(monotonic() - began)

    async def main() -> None:
        waiter = asyncio.create_task(safeaio.wait_for_shutdown())
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await waiter
        async with safeaio.cleanup_scope(cleanup_timeout=PATIENCE) as scope:
            scope.defer(clean_up)

    # Which one it is depends on whether main is cancelled before the step has ended.
    with pytest.raises((CleanupError, Terminated)):
        run(main, grace=grace, loop_factory=loop)
    assert told[0] < 0.75 * grace


# 13: a child that main forks

FORK = """
async def main():
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(run(main))
"""


def test_exit_of_a_forked_child() -> None:
    """It has its status, and there is nothing to tell."""
    done = ended(FORK)
    assert done[:2] == (0, "3\n")
    assert "Traceback" not in done.errors


# 14, 15: what main leaves behind


async def leave_many() -> Any:
    _left[:] = [asyncio.create_task(forever()) for _ in range(MANY)]
    await asyncio.sleep(0)
    return _active[0]._leaks


@pytest.fixture
def cleared() -> Iterator[None]:
    yield
    _left.clear()


@pytest.mark.usefixtures("cleared")
def test_report_of_many_leftovers(caplog: pytest.LogCaptureFixture) -> None:
    """It can be read, and says how many more there are."""
    with pytest.warns(LeakWarning) as caught:
        run(leave_many)
    text = str(caught[0].message)
    more = re.search(r"and (\d+) more tasks", text)
    assert more is not None
    assert int(more[1]) + text.count("(forever)") == MANY
    assert len(text) < 200_000
    assert len(caplog.text) < 200_000


@pytest.mark.usefixtures("cleared")
def test_leftovers_that_nobody_asks_for() -> None:
    """Nothing is formatted."""
    assert run(leave_many, on_leak="ignore").found == []
    assert all(task.cancelled() for task in _left)


@EVERY_LOOP
def test_leftover_that_cancels_all(loop: LoopFactory) -> None:
    """The teardown goes on; what is born in it is ended too, and nothing is reported."""
    told: list[dict[str, Any]] = []
    done: list[str] = []
    kept: list[Any] = []

    async def clean_up(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            done.append(name)

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.01)
            done.append("generator")

    async def rude() -> None:
        try:
            await forever()
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            kept.append(asyncio.create_task(clean_up("born")))
            await asyncio.sleep(0.01)

    async def main() -> str:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context)
        )
        kept.append(generator())
        await anext(kept[0])
        kept.append(asyncio.create_task(rude()))
        return await asyncio.sleep(0.01, "result")

    assert run(main, on_leak="ignore", loop_factory=loop) == "result"
    assert sorted(done) == ["born", "generator"]
    assert told == []
    assert kept[2].cancelled()


# 16: what is said


EXITED = """
async def leave():
    sys.exit(3)

async def main():
    print("ready", flush=True)
    safeaio.background(leave())
    await swallow()

run(main, grace=0.3)
"""


def test_last_words_after_an_exit() -> None:
    """They name what came out of the loop: nobody has asked for a shutdown."""
    done = ended(EXITED)
    assert done.status == 1
    assert "SystemExit(3)" in done.errors
    assert "request_shutdown" not in done.errors


@EVERY_LOOP
def test_watchdog_while_a_worker_is_joined(
    loop: LoopFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is at its end: it does not stall."""
    joining, seconds = threading.Event(), 0.05

    def work() -> None:
        thread = threading.current_thread()
        join = thread.join

        def tell(timeout: float | None = None) -> None:
            joining.set()
            join(timeout)

        thread.join = tell  # type: ignore[method-assign]
        began.set()
        joining.wait(PATIENCE)
        threading.Event().wait(5 * seconds)  # for as long as it takes to report

    async def main() -> str:
        worker = asyncio.create_task(
            anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        )
        await asyncio.to_thread(began.wait)
        worker.cancel()
        return "result"

    began = threading.Event()
    assert run(main, watchdog=seconds, loop_factory=loop) == "result"
    assert joining.is_set()
    assert caplog.text == ""


# 17: options


@pytest.mark.parametrize(
    "options",
    [{"debug": "x"}, {"allow_concurrent": "no"}, {"exit_on_stuck_thread": 1}],
    ids=str,
)
def test_option_that_is_no_bool(options: dict[str, Any]) -> None:
    """It is refused, and named."""
    ((name, value),) = options.items()
    main: Coroutine[Any, Any, None] = nothing()
    with pytest.raises(TypeError) as caught:
        run(main, **options)
    assert str(caught.value) == f"run(): {name} must be True or False, got {value!r}"


@pytest.mark.parametrize("seconds", [-1, 0, -0.5, 0.0])
def test_watchdog_of_no_time(seconds: float) -> None:
    """It says what is wrong with it."""
    with pytest.raises(ValueError, match="watchdog must be more than 0 seconds, got"):
        run(nothing, watchdog=seconds)


def test_request_outside_of_any_run() -> None:
    """None of these has stayed active."""
    with pytest.raises(RuntimeError, match="no run is active"):
        request_shutdown()
