"""`run` in this very process: what it refuses, whom it lets in, and what it raises."""

import asyncio
import fcntl
import functools
import gc
import inspect
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from math import inf, nan
from time import monotonic
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
import uvloop

import safeaio
from safeaio import (
    LeakError,
    Terminated,
    _shutdown,
    cleanup_scope,
    request_shutdown,
    run,
    shutdown_requested,
    wait_for_shutdown,
)
from safeaio._run import Options, Run
from safeaio._runner import _active, _forget
from safeaio._shutdown import Shutdown

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
EVERY_LOOP = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS.keys())


class Error(Exception):
    """What main raises."""


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def surroundings() -> list[object]:
    """What a run must leave as it was."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return [handlers, wakeup_fd(), set(threading.enumerate()), files, list(_active)]


@pytest.fixture(autouse=True, scope="module")
def first_loops() -> None:
    """The first loop of each kind opens files that stay open."""
    for loop in LOOPS.values():
        run(nothing, loop_factory=loop)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Handlers, wake-up fd, threads and open files are as they were, run or no run."""
    gc.collect()
    before = surroundings()
    yield
    gc.collect()
    assert surroundings() == before


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None: ...


async def echo(value: object) -> object:
    await turns(1)
    return value


def in_thread(work: Callable[[], object]) -> object:
    """Return what `work` returns or raises in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).exception() or pool.submit(lambda: None).result()


# What main may be


@EVERY_LOOP
def test_function_with_arguments(loop: LoopFactory) -> None:
    """It is called with them, and what it returns is returned."""
    assert run(echo, "result", loop_factory=loop) == "result"


@EVERY_LOOP
def test_coroutine(loop: LoopFactory) -> None:
    """So that `asyncio.run(main())` needs one word changed."""
    assert run(echo("result"), loop_factory=loop) == "result"


def test_partial_and_method() -> None:
    """Anything that returns a coroutine is an async function."""

    class Application:
        async def main(self) -> str:
            return "result"

        async def __call__(self) -> str:
            return "called"

    assert run(functools.partial(echo, value="result")) == "result"
    assert run(Application().main) == "result"
    assert run(Application()) == "called"
    assert run(lambda: echo("lambda")) == "lambda"


def test_default_loop() -> None:
    """Without a factory it is what asyncio makes."""

    async def main() -> type:
        return type(asyncio.get_running_loop())

    with asyncio.Runner() as runner:
        assert run(main) is type(runner.get_loop())


def test_one_after_another() -> None:
    """Each has a loop of its own, which is closed after it."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(3):
        run(main)
    assert len(set(loops)) == 3
    assert all(loop.is_closed() for loop in loops)


# What it must not be


def not_async() -> int:
    return 1


async def generator() -> AsyncIterator[int]:
    yield 1


class Application:
    async def main(self) -> None: ...


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (not_async, "not_async.* returned 1; write `async def not_async`"),
        (functools.partial(not_async), "partial.* returned 1"),
        (generator, "takes an async function or a coroutine, got <function generator"),
        (Application, "takes an async function or a coroutine, got <class"),
        (None, "takes an async function or a coroutine, got None"),
        (1, "takes an async function or a coroutine, got 1"),
    ],
)
def test_main_of_the_wrong_kind(main: Any, message: str) -> None:
    """It says what it got, and how to write it."""
    with pytest.raises(TypeError, match=message):
        run(main)


def test_async_generator_object() -> None:
    """It is no coroutine either."""
    with pytest.raises(TypeError, match="coroutine, got <async_generator object gen"):
        run(generator())  # type: ignore[call-overload]


def test_coroutine_that_was_awaited() -> None:
    """The same object cannot run twice."""
    main = echo("result")
    assert run(main) == "result"
    with pytest.raises(RuntimeError, match=r"awaited already; write run\(main\)"):
        run(main)


def test_coroutine_that_is_suspended() -> None:
    """Somebody else has begun it; it is closed all the same."""
    main = echo("result")
    main.send(None)
    with pytest.raises(RuntimeError, match="awaited already"):
        run(main)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_coroutine_with_arguments() -> None:
    """They cannot be given to it any more."""
    main = nothing()
    with pytest.raises(TypeError, match=r"arguments for it: \(1,\); write run\(func"):
        run(main, 1)  # type: ignore[call-overload]
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_function_that_raises() -> None:
    """Before there is any coroutine, and any loop."""

    def main() -> Coroutine[Any, Any, None]:
        raise Error

    with pytest.raises(Error):
        run(main)


# What the options must not be

SIGNALS = "; write signals=(signal.SIGINT, signal.SIGTERM), or () for none"

BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"grace": -1}, ValueError, "run(): grace must be at least 0 seconds, got -1"),
    ({"grace": nan}, ValueError, "run(): grace must be at least 0 seconds, got nan"),
    ({"grace": True}, TypeError, "run(): grace must be a number of seconds, got True"),
    ({"grace": "8"}, TypeError, "run(): grace must be a number of seconds, got '8'"),
    ({"signals": [999]}, ValueError, f"there is no signal 999 here{SIGNALS}"),
    ({"signals": [0]}, ValueError, f"there is no signal 0 here{SIGNALS}"),
    ({"signals": [signal.SIGKILL]}, ValueError, "no process can handle"),
    ({"signals": [int(signal.SIGSTOP)]}, ValueError, "no process can handle"),
    ({"signals": ["SIGTERM"]}, TypeError, f"must be an int, got 'SIGTERM'{SIGNALS}"),
    ({"signals": [True]}, TypeError, f"must be an int, got True{SIGNALS}"),
    ({"signals": [15.0]}, TypeError, f"must be an int, got 15.0{SIGNALS}"),
    ({"signals": "SIGTERM"}, TypeError, "signals must be an iterable, got 'SIGTERM'"),
    ({"signals": signal.SIGTERM}, TypeError, "signals must be an iterable, got"),
    ({"signals": None}, TypeError, f"must be an iterable, got None{SIGNALS}"),
    ({"on_leak": "log"}, ValueError, '"warn", "raise" or "ignore", got \'log\''),
    ({"on_leak": None}, ValueError, '"warn", "raise" or "ignore", got None'),
    ({"watchdog": 0}, ValueError, "more than 0 seconds, got 0; write None for none"),
    (
        {"watchdog": -1},
        ValueError,
        "run(): watchdog must be more than 0 seconds, got -1",
    ),
    (
        {"watchdog": nan},
        ValueError,
        "run(): watchdog must be more than 0 seconds, got nan",
    ),
    ({"watchdog": True}, TypeError, "run(): watchdog must be a number of seconds"),
    ({"loop_factory": lambda: None}, TypeError, "must return an event loop, got None"),
    ({"loop_factory": 3}, TypeError, ""),
]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    BAD_OPTIONS,
    ids=[str(options) for options, _, _ in BAD_OPTIONS],
)
def test_bad_option(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """It says what is wrong; a coroutine is closed, a function not even called."""
    called: list[str] = []
    main = nothing()
    with pytest.raises(error) as caught:
        run(main, **options)
    assert message in str(caught.value)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED
    if "loop_factory" not in options:
        with pytest.raises(error):
            run(lambda: called.append("main"), **options)  # type: ignore[arg-type, call-arg, return-value]
    assert called == []


def test_context_of_the_wrong_kind() -> None:
    """A task with such a one would never take its first step."""
    with pytest.raises(TypeError, match="context"):
        run(nothing, context={})  # type: ignore[call-arg, call-overload]
    main = nothing()
    with pytest.raises(TypeError, match="context"):
        run(main, context={})  # type: ignore[call-overload]
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_factory_of_a_closed_loop() -> None:
    """It says so."""
    closed = asyncio.new_event_loop()
    closed.close()
    main = nothing()
    with pytest.raises(ValueError, match="must return a new loop, got one closed"):
        run(main, loop_factory=lambda: closed)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_factory_of_a_running_loop() -> None:
    """It is left alone, and runs on."""
    main = nothing()
    found: list[asyncio.AbstractEventLoop] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def other() -> str:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(functools.partial(loop.call_soon_threadsafe, ended.set))
        found.append(loop)
        ready.set()
        await ended.wait()
        return "ran on"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, other())
        ready.wait(60)
        with pytest.raises(ValueError, match="got one running already"):
            run(main, loop_factory=lambda: found[0])
        stop[0]()
        assert running.result(60) == "ran on"
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_factory_that_raises() -> None:
    """Its error is raised as it is."""

    def factory() -> asyncio.AbstractEventLoop:
        raise Error

    main = nothing()
    with pytest.raises(Error):
        run(main, loop_factory=factory)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_loop_that_cannot_be_set_up() -> None:
    """What fails after the loop was made closes it, and the coroutine."""
    made: list[asyncio.AbstractEventLoop] = []

    class Loop(asyncio.SelectorEventLoop):
        def set_debug(self, enabled: bool) -> None:
            if enabled:
                raise Error
            super().set_debug(enabled)

    def factory() -> Loop:
        made.append(Loop())
        return cast(Loop, made[0])

    main = nothing()
    with pytest.raises(Error):
        run(main, loop_factory=factory, debug=True)
    assert made[0].is_closed()
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_default_loop_that_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed as well, and forgotten as this thread's loop."""

    def set_debug(self: Any, enabled: bool) -> None:
        self._debug = False
        if enabled:
            raise Error

    monkeypatch.setattr(asyncio.SelectorEventLoop, "set_debug", set_debug)
    with pytest.raises(Error):
        run(nothing, debug=True)
    with pytest.raises(RuntimeError, match="no current event loop"):
        asyncio.get_event_loop_policy().get_event_loop()


def test_task_factory_that_raises() -> None:
    """The loop is closed all the same, and so is the coroutine."""
    main = nothing()
    made = asyncio.SelectorEventLoop()

    def fail(*_: Any, **__: Any) -> asyncio.Task[Any]:
        raise Error

    made.set_task_factory(fail)
    with pytest.raises(Error):
        run(main, loop_factory=lambda: made)
    assert made.is_closed()
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


# Without a run


def test_request_without_run() -> None:
    """There is nobody to ask."""
    with pytest.raises(
        RuntimeError, match=r"no run is active; .* safeaio\.run\(main\)"
    ):
        request_shutdown()


def test_wait_under_asyncio_run() -> None:
    """Nothing would ever end that wait."""
    with pytest.raises(RuntimeError, match="this loop was started by something else"):
        asyncio.run(wait_for_shutdown())


def test_shutdown_requested_without_run() -> None:
    """It is a question, not a misuse."""
    assert shutdown_requested() is False


# One run at a time


@EVERY_LOOP
def test_run_in_a_running_loop(loop: LoopFactory) -> None:
    """It says what to write there instead."""
    inner = nothing()

    async def main() -> None:
        run(inner)

    with pytest.raises(RuntimeError, match="running event loop; there, write `await m"):
        run(main, loop_factory=loop)
    assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED


def test_run_under_asyncio_run() -> None:
    """The loop of somebody else is a running loop, too."""

    async def main() -> None:
        run(nothing)

    with pytest.raises(RuntimeError, match="write `await main"):
        asyncio.run(main())


def test_second_run_in_another_thread() -> None:
    """It is refused beside an active one, unless that is meant."""
    refused, allowed = nothing(), echo("allowed")

    async def main() -> object:
        with pytest.raises(RuntimeError, match=r"another safeaio\.run.* is active"):
            await asyncio.to_thread(run, refused, signals=())
        return await asyncio.to_thread(
            functools.partial(run, allowed, signals=(), allow_concurrent=True)
        )

    assert run(main) == "allowed"
    assert inspect.getcoroutinestate(refused) == inspect.CORO_CLOSED


def test_second_run_that_comes_while_the_first_begins() -> None:
    """Between the first look and the registration there is a second look."""
    outcome: list[object] = []

    def factory() -> asyncio.AbstractEventLoop:
        outcome.append(in_thread(lambda: run(holds_on, signals=())))
        return asyncio.SelectorEventLoop()

    async def holds_on() -> None:
        assert isinstance(in_thread(other), RuntimeError)

    def other() -> None:
        run(nothing, signals=())

    run(nothing, loop_factory=factory)
    assert outcome == [None]


def test_registration_looks_again() -> None:
    """A run that began in another thread meanwhile is seen, and the loop closed."""
    made = asyncio.SelectorEventLoop()
    begun, over = threading.Event(), threading.Event()

    async def first() -> None:
        begun.set()
        await asyncio.to_thread(over.wait, 60)

    with ThreadPoolExecutor(1) as pool:
        running = []

        def factory() -> asyncio.AbstractEventLoop:
            running.append(pool.submit(lambda: run(first, signals=())))
            begun.wait(60)
            return made

        with pytest.raises(RuntimeError, match=r"another safeaio\.run"):
            run(nothing, loop_factory=factory)
        over.set()
        running[0].result(60)
    assert made.is_closed()


def test_off_the_main_thread() -> None:
    """Only without signals, and it says so."""
    error = in_thread(lambda: run(nothing))
    assert isinstance(error, RuntimeError)
    assert "elsewhere, write run(main, signals=())" in str(error)
    assert in_thread(lambda: run(nothing, signals=())) is None


def test_request_of_one_of_two() -> None:
    """In a loop of `run` it means that run; from elsewhere, all of them."""
    asked = threading.Event()

    async def other() -> None:
        await asyncio.to_thread(asked.wait, 60)
        request_shutdown("mine")
        await forever()

    async def main() -> object:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: run(other, signals=(), allow_concurrent=True))
            asked.set()
            with pytest.raises(Terminated, match="mine"):
                await asyncio.wrap_future(running)
        return shutdown_requested()

    assert run(main) is False


def test_request_of_all() -> None:
    """A thread outside of every loop means every run."""
    both = threading.Barrier(3)

    async def main() -> None:
        await asyncio.to_thread(both.wait, 60)
        await forever()

    def ask() -> None:
        both.wait(60)
        request_shutdown("all")

    def other() -> None:
        run(main, signals=(), allow_concurrent=True)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(ask)
        running = pool.submit(other)
        with pytest.raises(Terminated, match="all"):
            run(main, allow_concurrent=True)
        with pytest.raises(Terminated, match="all"):
            running.result(60)


# Forks


def in_child(work: Callable[[], object]) -> tuple[int, str]:
    """Return the status of a forked child, and what `work` returned there."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the threads
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        except BaseException as exc:  # noqa: BLE001 - the parent's test shows it
            os.write(writer, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


@EVERY_LOOP
def test_run_in_a_forked_child(loop: LoopFactory) -> None:
    """There no run is active, and no handler is taken."""

    def work() -> object:
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        return handlers == before, wakeup_fd(), run(echo, "run", loop_factory=loop)

    async def main() -> tuple[int, str]:
        return in_child(work)

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert run(main, loop_factory=loop) == (0, "(True, -1, 'run')")


@EVERY_LOOP
def test_signal_in_a_forked_child(loop: LoopFactory) -> None:
    """It ends the child, and does not reach the run of its parent."""

    def work() -> object:
        signal.raise_signal(signal.SIGTERM)
        return "outlived it"

    async def main() -> tuple[int, str]:
        status, said = in_child(work)
        await asyncio.sleep(0.05)  # a byte in the parent's pipe would be read by now
        return os.waitstatus_to_exitcode(status), said

    assert run(main, loop_factory=loop) == (-signal.SIGTERM, "")


def test_shutdown_in_a_forked_child() -> None:
    """A child's own run shuts down by itself."""

    async def child() -> None:
        signal.raise_signal(signal.SIGTERM)
        await forever()

    async def main() -> tuple[int, str]:
        return in_child(lambda: run(child))

    assert run(main) == (0, "Terminated(15, None)")


def _say(connection: Any) -> None:
    connection.send((shutdown_requested(), run(echo, "run"), wakeup_fd()))


def test_multiprocessing_fork() -> None:
    """The same through `multiprocessing`."""

    def work() -> object:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_say, args=(there,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        process.join(60)
        said = here.recv() if here.poll() else None
        here.close()
        there.close()
        process.close()
        return said

    async def main() -> object:
        return work()

    assert run(main) == (False, "run", -1)


def test_what_a_fork_forgets() -> None:
    """The runs, with what they hold open; a forked child itself cannot be measured."""
    files = len(os.listdir("/proc/self/fd"))
    loop = asyncio.SelectorEventLoop()
    options = Options(8.0, (signal.SIGTERM,), "warn", None, None, True)
    _active.append(Run(loop, options))
    _forget()
    assert _active == []
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == files


# Results


@EVERY_LOOP
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_value_after_a_signal(loop: LoopFactory, signum: int) -> None:
    """A main that winds up by itself is a success."""

    async def main() -> str:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signum)
        await wait_for_shutdown()
        return "wound up"

    assert run(main, loop_factory=loop) == "wound up"


@EVERY_LOOP
def test_value_of_a_main_that_swallows_its_cancel(loop: LoopFactory) -> None:
    """It returned, whatever it was told."""

    async def main() -> str:
        signal.raise_signal(signal.SIGTERM)
        with suppress(asyncio.CancelledError):
            await forever()
        return "went on"

    assert run(main, loop_factory=loop) == "went on"


@EVERY_LOOP
def test_sigint(loop: LoopFactory) -> None:
    """A main that was cancelled for it ends as Python does: with a KeyboardInterrupt."""

    async def main() -> None:
        signal.raise_signal(signal.SIGINT)
        await forever()

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main, loop_factory=loop)
    assert isinstance(caught.value.__context__, asyncio.CancelledError)


@EVERY_LOOP
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_another_signal(loop: LoopFactory, signum: signal.Signals) -> None:
    """The exit status is that of a process killed by it."""

    async def main() -> None:
        os.kill(os.getpid(), signum)
        await forever()

    with pytest.raises(Terminated, match=f"shut down by {signum.name}") as caught:
        run(main, signals=[signum], loop_factory=loop)
    assert caught.value.signum == signum
    assert caught.value.reason is None
    assert caught.value.code == 128 + signum
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.signum, copy.reason, copy.code) == (signum, None, 128 + signum)


def test_requested() -> None:
    """Status 0: it was asked for."""

    async def main() -> None:
        request_shutdown("enough")
        await forever()

    with pytest.raises(Terminated) as caught:
        run(main)
    assert str(caught.value) == "shut down by request_shutdown(): enough"
    assert (caught.value.signum, caught.value.code) == (None, 0)
    assert pickle.loads(pickle.dumps(caught.value)).reason == "enough"


def test_main_cancels_itself() -> None:
    """Nobody asked for a shutdown, so that is main's own error."""

    async def main() -> None:
        raise asyncio.CancelledError("mine")

    with pytest.raises(asyncio.CancelledError, match="mine"):
        run(main)


@EVERY_LOOP
def test_error(loop: LoopFactory) -> None:
    """What main raises is raised, the same object."""
    error = Error()

    async def main() -> None:
        await turns(1)
        raise error

    with pytest.raises(Error) as caught:
        run(main, loop_factory=loop)
    assert caught.value is error


def test_error_in_the_cleanup() -> None:
    """It does not hide that main was cancelled."""

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        try:
            await forever()
        finally:
            raise Error

    with pytest.raises(Error) as caught:
        run(main)
    assert isinstance(caught.value.__context__, Terminated)
    assert caught.value.__notes__ == [
        "raised while main was cancelled: Terminated(15, None)"
    ]


def test_result_is_not_kept() -> None:
    """Neither the result nor an error is held by anything of ours."""
    import weakref

    class Result:
        pass

    async def main() -> Result:
        return Result()

    async def fail() -> None:
        error = Error()
        refs.append(weakref.ref(error))
        raise error

    refs: list[weakref.ref[Any]] = [weakref.ref(run(main))]
    with suppress(Error):
        run(fail)
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


# KeyboardInterrupt and SystemExit

FATAL = pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])


class Sibling:
    """A task that says whether it could clean up."""

    cleaned = False

    async def run(self) -> None:
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):  # else anyio's group cancels it again
                await turns(3)
            self.cleaned = True


async def fail(error: BaseException) -> None:
    await turns(2)
    raise error


async def by_main(error: BaseException, sibling: Sibling) -> None:
    task = asyncio.create_task(sibling.run())
    await turns(1)
    try:
        raise error
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def by_task(error: BaseException, sibling: Sibling) -> None:
    task = asyncio.create_task(fail(error))
    await sibling.run()
    await task


async def by_awaited_task(error: BaseException, sibling: Sibling) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sibling.run())
        await asyncio.create_task(fail(error))


async def by_task_group(error: BaseException, sibling: Sibling) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sibling.run())
        group.create_task(fail(error))


async def by_anyio_group(error: BaseException, sibling: Sibling) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(sibling.run)
        group.start_soon(fail, error)


async def by_nested_groups(error: BaseException, sibling: Sibling) -> None:
    async with anyio.create_task_group() as outer:
        outer.start_soon(by_task_group, error, sibling)


async def by_gather(error: BaseException, sibling: Sibling) -> None:
    await safeaio.bounded_gather(sibling.run(), fail(error))


async def by_callback(error: BaseException, sibling: Sibling) -> None:
    def callback() -> None:
        raise error

    asyncio.get_running_loop().call_later(0.001, callback)
    await sibling.run()


async def by_background(error: BaseException, sibling: Sibling) -> None:
    safeaio.background(fail(error))
    await sibling.run()


@EVERY_LOOP
@FATAL
@pytest.mark.parametrize(
    "route",
    [
        by_main,
        by_task,
        by_awaited_task,
        by_task_group,
        by_anyio_group,
        by_nested_groups,
        by_gather,
        by_callback,
        by_background,
    ],
)
def test_fatal(
    route: Callable[[BaseException, Sibling], Coroutine[Any, Any, None]],
    kind: type[BaseException],
    loop: LoopFactory,
) -> None:
    """By whatever way it comes: the same object is raised, when all have cleaned up."""
    error, sibling = kind(3), Sibling()
    with pytest.raises(kind) as caught:
        run(route, error, sibling, loop_factory=loop, on_leak="ignore")
    assert caught.value is error
    assert sibling.cleaned


@EVERY_LOOP
def test_fatal_in_the_teardown(loop: LoopFactory) -> None:
    """A leftover that exits does not keep the others from their cleanup."""
    error, sibling = SystemExit(3), Sibling()

    async def leftover() -> None:
        try:
            await forever()
        finally:
            raise error

    async def main() -> None:
        safeaio.background(leftover())
        safeaio.background(sibling.run())
        await turns(1)

    with pytest.raises(SystemExit) as caught:
        run(main, loop_factory=loop)
    assert caught.value is error
    assert sibling.cleaned


def test_loop_that_throws_again_and_again() -> None:
    """It is given up in the end, and what was thrown first is raised."""
    first = SystemExit(1)
    thrown: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def callback() -> None:
            loop.call_soon(callback)
            thrown.append(SystemExit(2) if thrown else first)
            raise thrown[-1]

        loop.call_soon(callback)
        await forever()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(SystemExit) as caught:
            run(main, on_leak="ignore", grace=1)
        assert caught.value is first
        gc.collect()


@EVERY_LOOP
def test_loop_that_main_stops(loop: LoopFactory) -> None:
    """asyncio's own error says so, after the cleanup."""
    sibling = Sibling()

    async def main() -> None:
        asyncio.get_running_loop().stop()
        await sibling.run()

    with pytest.raises(
        RuntimeError, match="Event loop stopped before Future completed"
    ):
        run(main, loop_factory=loop)
    assert sibling.cleaned


# Drain


@EVERY_LOOP
def test_drain_by_waiting(loop: LoopFactory) -> None:
    """Who waits for the shutdown is not cancelled when it comes."""
    seen: list[bool] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(request_shutdown)
        seen.append(shutdown_requested())
        await wait_for_shutdown()
        seen.append(shutdown_requested())
        await wait_for_shutdown()  # at once
        await turns(5)

    run(main, loop_factory=loop)
    assert seen == [False, True]


@EVERY_LOOP
def test_drain_by_polling(loop: LoopFactory) -> None:
    """Who asks now and then is not cancelled either."""

    async def main() -> int:
        steps = 0
        while not shutdown_requested():
            steps += 1
            if steps == 3:
                signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(0.001)
        return steps

    assert run(main, loop_factory=loop) >= 3


def test_poll_from_a_thread() -> None:
    """A worker thread may ask as well, and count as one who will notice."""

    def work() -> str:
        while not shutdown_requested():
            if not asked.is_set():
                asked.set()
        return "wound up"

    async def main() -> str:
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGTERM)
        return await asyncio.to_thread(work)

    asked = threading.Event()
    assert run(main) == "wound up"


def test_drain_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its share main is cancelled."""
    monkeypatch.setattr(_shutdown, "_DRAIN", 0.01)  # long before the process is killed

    async def main() -> None:
        request_shutdown("late")
        await wait_for_shutdown()
        await forever()

    with pytest.raises(Terminated, match="late"):
        run(main, grace=20)


def test_drain_that_a_second_signal_ends() -> None:
    """One phase on: main is cancelled."""

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        await wait_for_shutdown()
        asyncio.get_running_loop().call_later(0.3, signal.raise_signal, signal.SIGINT)
        await forever()

    with pytest.raises(Terminated, match="SIGTERM"):
        run(main, grace=60)


def test_wait_that_was_cancelled() -> None:
    """Nobody waits any more, so a signal cancels at once."""

    async def main() -> None:
        waiter = asyncio.create_task(wait_for_shutdown())
        await turns(1)
        waiter.cancel()
        await asyncio.wait([waiter])
        request_shutdown()
        await forever()

    with pytest.raises(Terminated):
        run(main, grace=60)


def test_several_waiters() -> None:
    """All of them are told, also one that was cancelled in that very turn."""

    async def main() -> int:
        waiters = [asyncio.create_task(wait_for_shutdown()) for _ in range(3)]
        await turns(1)
        request_shutdown()
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if waiters[0].done():
                break
        await asyncio.wait(waiters)
        return len(waiters)

    assert run(main) == 3


# Who asks


@EVERY_LOOP
def test_request_from_a_thread(loop: LoopFactory) -> None:
    """The loop is woken."""

    async def main() -> None:
        threading.Thread(target=request_shutdown, args=("thread",)).start()
        await forever()

    with pytest.raises(Terminated, match="thread"):
        run(main, loop_factory=loop)


@EVERY_LOOP
def test_request_from_a_signal_handler(loop: LoopFactory) -> None:
    """Of a signal that is not ours."""

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        await forever()

    before = signal.signal(signal.SIGUSR1, lambda *_: request_shutdown("user"))
    try:
        with pytest.raises(Terminated, match="user"):
            run(main, loop_factory=loop)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_request_twice() -> None:
    """The first one counts, and the second does not hurry."""

    async def main() -> None:
        request_shutdown("first")
        request_shutdown("second")
        try:
            await forever()
        finally:
            request_shutdown("third")
            await turns(5)

    with pytest.raises(Terminated, match="first"):
        run(main)


def test_handler_that_is_not_pythons_own() -> None:
    """It is left in place, and called."""
    seen: list[int] = []

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        await turns(5)

    before = signal.signal(signal.SIGTERM, lambda signum, _: seen.append(signum))
    try:
        run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_ignored_signal_stays_ignored() -> None:
    """As `nohup` has it."""

    async def main() -> str:
        signal.raise_signal(signal.SIGTERM)
        await turns(5)
        return "alive"

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run(main) == "alive"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handler_that_main_puts_there() -> None:
    """It gets the signal, and is left where it is; main counts as told of it."""
    seen: list[int] = []

    async def main() -> str:
        signal.signal(signal.SIGTERM, lambda signum, _: seen.append(signum))
        os.kill(os.getpid(), signal.SIGTERM)
        await wait_for_shutdown()
        return "wound up"

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(main) == "wound up"
        assert signal.getsignal(signal.SIGTERM) not in (before, None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_no_signals() -> None:
    """With `signals=()` nothing is taken."""

    async def main() -> list[object]:
        return [signal.getsignal(signal.SIGINT), wakeup_fd() == -1]

    assert run(main, signals=(), loop_factory=asyncio.SelectorEventLoop) == [
        signal.default_int_handler,
        True,
    ]


@EVERY_LOOP
def test_wakeup_fd_of_somebody_else(loop: LoopFactory) -> None:
    """It gets every byte meanwhile, and is back in place at the end."""
    import socket

    reader, writer = socket.socketpair()
    writer.setblocking(False)

    async def main() -> bytes:
        signal.raise_signal(signal.SIGTERM)
        await wait_for_shutdown()
        reader.settimeout(60)
        return reader.recv(1)

    signal.set_wakeup_fd(writer.fileno())
    try:
        assert run(main, loop_factory=loop) == bytes([signal.SIGTERM])
        assert signal.set_wakeup_fd(-1) == writer.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        reader.close()
        writer.close()


def test_signal_when_all_is_over() -> None:
    """What came too late for the run goes where it would have gone without it."""
    seen: list[int] = []

    class Loop(asyncio.SelectorEventLoop):
        def close(self) -> None:
            if not self.is_closed():
                super().close()
                signal.raise_signal(signal.SIGINT)

    async def main() -> str:
        return "result"

    with pytest.raises(KeyboardInterrupt):
        seen.append(len(run(main, loop_factory=Loop)))
    assert seen == []


# Options


@EVERY_LOOP
def test_context(loop: LoopFactory) -> None:
    """Main runs in the one that was given, and so does what makes its coroutine."""
    var: ContextVar[str] = ContextVar("var", default="outside")
    seen: list[str] = []

    def main() -> Coroutine[Any, Any, None]:
        seen.append(var.get())
        return inner()

    async def inner() -> None:
        seen.append(var.get())
        var.set("set")

    context = copy_context()
    context.run(var.set, "inside")
    run(main, context=context, loop_factory=loop)
    assert seen == ["inside", "inside"]
    assert context[var] == "set"
    assert var.get() == "outside"


def test_context_of_the_caller() -> None:
    """Without one main has a copy."""
    var: ContextVar[str] = ContextVar("var")
    var.set("caller")

    async def main() -> str:
        before = var.get()
        var.set("main")
        return before

    assert run(main) == "caller"
    assert var.get() == "caller"


@EVERY_LOOP
@pytest.mark.parametrize("debug", [True, False])
def test_debug(loop: LoopFactory, debug: bool) -> None:
    """The loop is told; left out, it is as it was."""

    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    def factory() -> asyncio.AbstractEventLoop:
        made = loop()
        made.set_debug(not debug)
        return made

    assert run(main, debug=debug, loop_factory=factory) is debug
    assert run(main, loop_factory=factory) is not debug


def test_no_event_loop_is_set_afterwards() -> None:
    """As with `asyncio.run`: the policy knows the loop meanwhile, and then none."""

    async def main() -> bool:
        policy = asyncio.get_event_loop_policy()
        return policy.get_event_loop() is asyncio.get_running_loop()

    assert run(main)
    with pytest.raises(RuntimeError, match="no current event loop"):
        asyncio.get_event_loop_policy().get_event_loop()


def test_factory_leaves_the_set_loop_alone() -> None:
    """With a factory of one's own the policy is not asked."""
    mine = asyncio.new_event_loop()
    asyncio.set_event_loop(mine)
    try:
        run(nothing, loop_factory=asyncio.SelectorEventLoop)
        assert asyncio.get_event_loop_policy().get_event_loop() is mine
    finally:
        asyncio.set_event_loop(None)
        mine.close()


@pytest.mark.parametrize("grace", [None, 0, 0.0, inf, 1e300])
def test_unusual_graces(grace: float | None) -> None:
    """Without a shutdown none of them gets in the way."""
    assert run(echo, "result", grace=grace) == "result"


@pytest.mark.parametrize("grace", [None, inf, 1e300])
def test_shutdown_without_limit(grace: float | None) -> None:
    """It goes its way; nothing is armed that could not wait so long."""

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        await forever()

    with pytest.raises(Terminated):
        run(main, grace=grace)


# The teardown


@EVERY_LOOP
def test_default_executor_is_waited_for(loop: LoopFactory) -> None:
    """Its threads end within the run, though nobody awaits them."""
    ended: list[str] = []
    go = threading.Event()

    def work() -> None:
        go.wait(60)
        ended.append(threading.current_thread().name)

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)
        asyncio.get_running_loop().call_later(0.01, go.set)
        await asyncio.sleep(0)

        async def linger() -> None:
            with suppress(asyncio.CancelledError):
                await forever()
            await asyncio.sleep(0.02)

        safeaio.background(linger())
        await turns(1)

    run(main, loop_factory=loop)
    assert len(ended) == 1


# What uvloop, and asyncio before 3.12, have join it finds the loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@EVERY_LOOP
def test_default_executor_that_is_stuck(loop: LoopFactory) -> None:
    """It is waited for as long as the grace allows, and reported; the run ends."""
    go = threading.Event()

    async def main() -> str:
        asyncio.get_running_loop().run_in_executor(None, go.wait, 60)
        return "result"

    with pytest.warns(safeaio.LeakWarning, match=r"thread '(asyncio|uvloop)_0'"):
        assert run(main, grace=0.2, loop_factory=loop) == "result"
    go.set()
    join_threads("_0")
    join_threads("_do_shutdown")


def test_stuck_thread_after_a_signal() -> None:
    """With `exit_on_stuck_thread=False` it outlives the deadline."""
    go = threading.Event()

    async def main() -> None:
        threading.Thread(target=go.wait, name="stuck").start()
        signal.raise_signal(signal.SIGTERM)
        await forever()

    with pytest.raises(Terminated):
        run(main, grace=0.1, on_leak="ignore", exit_on_stuck_thread=False)
    go.set()
    join_threads("stuck")


def test_thread_that_ends_before_the_deadline() -> None:
    """The process lives on, and the thread that watched goes away."""
    go = threading.Event()

    async def main() -> None:
        threading.Thread(target=go.wait, name="slow").start()
        signal.raise_signal(signal.SIGTERM)
        await forever()

    with pytest.raises(Terminated):
        run(main, grace=1, on_leak="ignore")
    go.set()
    join_threads("slow")
    join_threads("safeaio.run")


def join_threads(name: str) -> None:
    for thread in threading.enumerate():
        if name in thread.name:
            thread.join(60)


@EVERY_LOOP
def test_anyio_threads_are_waited_for(loop: LoopFactory) -> None:
    """Those of `anyio.to_thread` end with the run."""

    async def main() -> str:
        return await anyio.to_thread.run_sync(lambda: "result")

    assert run(main, loop_factory=loop) == "result"


@EVERY_LOOP
def test_step_that_raises(loop: LoopFactory, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported, and the next one follows."""
    ended: list[str] = []

    async def main() -> str:
        current = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1)
        current.set_default_executor(executor)
        await asyncio.to_thread(ended.append, "executor")
        executor.shutdown = fail_now  # type: ignore[assignment, method-assign]
        executor_of.append(executor)
        return "result"

    def fail_now(wait: bool = True) -> None:
        if wait:
            raise Error("executor")

    executor_of: list[ThreadPoolExecutor] = []
    assert run(main, on_leak="ignore", loop_factory=loop) == "result"
    assert "could not shut executor" in caplog.text
    ThreadPoolExecutor.shutdown(executor_of[0])


def test_loop_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported; handlers are given back all the same."""

    class Loop(asyncio.SelectorEventLoop):
        refused = False

        def close(self) -> None:
            if not self.refused:
                self.refused = True
                raise Error("close")
            super().close()

    made = Loop()
    assert run(echo, "result", loop_factory=lambda: made) == "result"
    assert "could not close the loop" in caplog.text
    made.close()


@EVERY_LOOP
def test_cleanup_under_a_signal(loop: LoopFactory) -> None:
    """What was deferred in a `cleanup_scope` runs, and may await."""
    done: list[str] = []

    async def clean_up() -> None:
        await asyncio.sleep(0.01)
        done.append("cleaned up")

    async def main() -> None:
        async with cleanup_scope() as scope:
            scope.defer(clean_up)
            signal.raise_signal(signal.SIGTERM)
            await forever()

    with pytest.raises(Terminated):
        run(main, loop_factory=loop)
    assert done == ["cleaned up"]


def test_leftover_that_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    """It is given up when its share is over, and named; main's result stands."""

    async def stubborn() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await forever()

    async def main() -> str:
        tasks.append(asyncio.create_task(stubborn(), name="mule"))
        await turns(1)
        return "result"

    tasks: list[asyncio.Task[None]] = []
    assert run(main, grace=0.2, on_leak="ignore") == "result"
    assert "safeaio.run() waits for task 'mule'" in caplog.text
    tasks[0].get_coro().close()  # type: ignore[union-attr]
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]


@EVERY_LOOP
def test_generator_that_is_stuck(loop: LoopFactory) -> None:
    """Closing it is given up when there is no time left, and run ends."""

    async def stuck() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await forever()

    async def main() -> str:
        kept.append(stuck())
        await anext(kept[0])
        return "result"

    kept: list[AsyncIterator[int]] = []
    assert run(main, grace=0.2, on_leak="ignore", loop_factory=loop) == "result"


def test_leftover_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody will see it raised, so it is reported."""

    async def leftover() -> None:
        try:
            await forever()
        finally:
            raise Error

    async def main() -> str:
        safeaio.background(leftover())
        kept.append(asyncio.create_task(leftover()))
        await turns(1)
        return "result"

    kept: list[asyncio.Task[None]] = []
    assert run(main, on_leak="ignore") == "result"
    assert "unhandled exception during safeaio.run() shutdown" in caplog.text
    assert "background(): task" in caplog.text


def test_leftover_that_starts_another() -> None:
    """That one is cancelled as well, and waited for."""
    sibling = Sibling()

    async def leftover() -> None:
        try:
            await forever()
        finally:
            safeaio.background(sibling.run())
            await turns(2)

    async def main() -> None:
        safeaio.background(leftover())
        await turns(1)

    run(main)
    assert sibling.cleaned


# What a run costs in the long run


GROWTH = """
import asyncio, gc, sys, tracemalloc, uvloop
from safeaio import run

async def nothing(): pass

def some(count):
    for _ in range(count):
        run(nothing, loop_factory=LOOP)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]

tracemalloc.start()
first = some(300)  # free lists fill up
print(some(700) - first)
"""


@pytest.mark.parametrize("loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_memory_is_flat(loop: str) -> None:
    """A thousand runs leave nothing behind."""
    # In a process of its own: coverage keeps something for each thread that it has seen.
    code = GROWTH.replace("LOOP", loop)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) < 30_000


@EVERY_LOOP
def test_leaves_no_cycles(loop: LoopFactory) -> None:
    """What a run was made of is gone with it: nothing waits for the garbage collector."""
    run(nothing, loop_factory=loop)  # imports
    gc.collect()
    gc.disable()
    try:
        run(nothing, loop_factory=loop)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_leak_error_is_in_the_reports() -> None:
    """`on_leak="raise"` does not hide what main raised."""

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        tasks.append(asyncio.create_task(forever()))
        raise Error

    tasks: list[asyncio.Task[None]] = []
    with pytest.warns(safeaio.LeakWarning), pytest.raises(Error):
        run(main, on_leak="raise")
    assert issubclass(LeakError, safeaio.SafeaioError)


@pytest.fixture
def left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave main so early that the process is not killed, however slow the machine."""
    monkeypatch.setattr(_shutdown, "_TASKS", 0.02)


async def end_late(raising: Exception | None = None) -> None:
    """Be cancelled, and take more than the share of tasks, but not all of the grace."""
    quiet(asyncio.get_running_loop())
    child = asyncio.create_task(forever())
    request_shutdown()
    try:
        await forever()
    finally:
        with suppress(asyncio.CancelledError):
            await child  # until the teardown cancels it, too
        if raising is not None:
            raise raising


def quiet(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_exception_handler(lambda *_: None)


@EVERY_LOOP
@pytest.mark.usefixtures("left_early")
def test_main_that_ends_in_the_share_of_the_teardown(loop: LoopFactory) -> None:
    """It is left at its share, and yet has ended when all is over: it has its verdict."""
    with pytest.raises(Terminated):
        run(end_late, grace=20.0, loop_factory=loop)


@EVERY_LOOP
@pytest.mark.usefixtures("left_early")
def test_main_that_raises_in_the_share_of_the_teardown(loop: LoopFactory) -> None:
    """What it raises is not lost."""
    with pytest.raises(Error) as caught:
        run(end_late, Error(), grace=20.0, loop_factory=loop)
    assert isinstance(caught.value.__context__, Terminated)


async def end_last() -> None:
    """Be cancelled, and end only after the teardown has."""
    quiet(asyncio.get_running_loop())
    request_shutdown()
    try:
        await forever()
    finally:
        await asyncio.sleep(0.9)


@EVERY_LOOP
@pytest.mark.usefixtures("left_early")
def test_main_that_ends_after_the_teardown(loop: LoopFactory) -> None:
    """The loop runs on for it, as long as the process lives."""
    with pytest.raises(Terminated):
        run(end_last, grace=20.0, loop_factory=loop)


@EVERY_LOOP
def test_group_with_a_system_exit(loop: LoopFactory) -> None:
    """The exit leaves, the same object; what was beside it is reported."""
    told: list[dict[str, Any]] = []
    gone, beside = SystemExit(3), Error()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context)
        )
        raise BaseExceptionGroup("both", [beside, gone])

    with pytest.raises(SystemExit) as caught:
        run(main, loop_factory=loop)
    assert caught.value is gone
    assert [context["exception"].exceptions for context in told] == [(beside,)]


@EVERY_LOOP
def test_leftover_that_returns(loop: LoopFactory) -> None:
    """Nothing is reported of one that takes its cancel back, but that it was there."""

    async def leftover() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    async def main() -> None:
        tasks.append(asyncio.create_task(leftover()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    run(main, loop_factory=loop, on_leak="ignore")
    assert tasks[0].done()
    assert not tasks[0].cancelled()


def test_handler_that_is_called_later() -> None:
    """Somebody may have kept our handler, and call it when the run is over."""

    async def main() -> Any:
        return signal.getsignal(signal.SIGINT)

    handler = run(main)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGINT, None)


def test_default_that_is_called_later() -> None:
    """If nothing but the default stood before, it gets the signal."""

    async def main() -> Any:
        return signal.getsignal(signal.SIGURG)

    handler = run(main, signals=(signal.SIGURG,))
    handler(signal.SIGURG, None)  # which Linux ignores by default
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_wakeup_fd_that_is_closed() -> None:
    """It is somebody's mistake, and no reason not to run."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    closed = fcntl.fcntl(writer.fileno(), fcntl.F_DUPFD, 200)  # not to be reused
    signal.set_wakeup_fd(closed)
    for fd in (closed, reader.detach(), writer.detach()):
        os.close(fd)
    assert run(echo, 1) == 1
    assert wakeup_fd() == -1


def test_exception_handler_that_exits() -> None:
    """The exit that it asks for leaves the run; what main raised is its context."""
    error = Error()

    def leave(*_: object) -> None:
        raise SystemExit(7)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(leave)
        kept.append(asyncio.create_task(forever()))
        raise error

    kept: list[asyncio.Task[None]] = []
    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 7
    assert caught.value.__context__ is error


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (
            lambda shutdown: shutdown.signal(15, monotonic(), subscribed=False),
            "SIGTERM",
        ),
        (
            lambda shutdown: shutdown.request("idle", monotonic(), subscribed=False),
            "request_shutdown(): idle",
        ),
        (
            lambda shutdown: shutdown.request(None, monotonic(), subscribed=False),
            "request_shutdown()",
        ),
        # What was thrown out of the loop, and here is none.
        (lambda shutdown: shutdown.interrupt(monotonic()), "None"),
    ],
)
def test_last_words(
    begin: Callable[[Shutdown], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say for how long the process was given time, and since what."""
    killed: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "safeaio._run.kill", lambda status, why, _: killed.append((status, why))
    )
    loop = asyncio.new_event_loop()
    current = Run(loop, Options(8.0, (), "warn", None, None, True))
    begin(current.shutdown)
    current.end_process()
    current.forget()
    loop.close()
    ((status, said),) = killed
    assert status == current.shutdown.status
    assert said == f"safeaio.run(): not over 0.0 s after {why}"


@EVERY_LOOP
def test_waiter_that_is_cancelled_as_the_shutdown_begins(loop: LoopFactory) -> None:
    """Its cancel stands."""

    async def main() -> bool:
        task = asyncio.create_task(wait_for_shutdown())
        await asyncio.sleep(0)
        (current,) = _active
        current.shutdown.request(None, monotonic(), subscribed=True)
        task.cancel()
        current._obey()
        with suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert run(main, loop_factory=loop)
