"""`run`, and how its shutdown is asked for."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, overload

from ._main import close, coroutine_of
from ._run import OnLeak, Options, Run
from ._seconds import check_seconds
from ._signals import check_signals, in_main_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_active: list[Run] = []
_lock = threading.Lock()  # to add to it; never taken to look


@overload
def run(
    main: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    grace: float | None = 8.0,
    signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM),
    on_leak: OnLeak = "warn",
    debug: bool | None = None,
    loop_factory: LoopFactory | None = None,
    context: Context | None = None,
    watchdog: float | None = None,
    allow_concurrent: bool = False,
    exit_on_stuck_thread: bool = True,
) -> T: ...


@overload
def run(
    main: Coroutine[Any, Any, T],
    /,
    *,
    grace: float | None = 8.0,
    signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM),
    on_leak: OnLeak = "warn",
    debug: bool | None = None,
    loop_factory: LoopFactory | None = None,
    context: Context | None = None,
    watchdog: float | None = None,
    allow_concurrent: bool = False,
    exit_on_stuck_thread: bool = True,
) -> T: ...


def run(  # type: ignore[misc]  # mypy: of *args: *Ts it asks for more than Any
    main: object,
    /,
    *args: Any,
    grace: float | None = 8.0,
    signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM),
    on_leak: OnLeak = "warn",
    debug: bool | None = None,
    loop_factory: LoopFactory | None = None,
    context: Context | None = None,
    watchdog: float | None = None,
    allow_concurrent: bool = False,
    exit_on_stuck_thread: bool = True,
) -> Any:
    """Run an async program: an `asyncio.run` that answers SIGTERM, and that ends.

    Args:
        main: An async function, or a coroutine.
        *args: The arguments of the function; `functools.partial` gives it keywords.
        grace: The seconds from the first signal, or `request_shutdown`, to the end of
            the process. Until 60 % of it whoever awaits `wait_for_shutdown` may wind
            up, until 90 % main and other tasks that were cancelled may clean up, and
            the rest is for the teardown. Without a shutdown, what the teardown may
            take after main has ended. None: no limit.
        signals: What to take as a request to shut down, where Python's own handler
            stands; further signals, at least 0.25 s apart, are one phase on each. In a
            thread other than the main one: ().
        on_leak: Whether to `"warn"` of tasks, async generators, non-daemon threads and
            child processes that main left behind, to `"raise"` or to `"ignore"` them.
        debug: Whether the loop is in debug mode; None: as Python is.
        loop_factory: What makes the loop, such as `uvloop.new_event_loop`.
        context: The context that main runs in, instead of a copy of the caller's.
        watchdog: The seconds after which a loop that stands still is logged, with what
            holds it.
        allow_concurrent: Whether another run may be active in another thread.
        exit_on_stuck_thread: Whether a thread that would keep the process from exiting
            after a signal is killed with it when `grace` is over. Whoever is killed, it
            is the process, with every other run in it.

    Returns:
        What main returns, also after a signal.

    Raises:
        TypeError: If main is no async function and no coroutine, or an option is of the
            wrong type.
        ValueError: If an option is out of its domain.
        RuntimeError: If a loop is running in this thread, or another run is active, or
            signals are asked for outside the main thread.
        KeyboardInterrupt: If main was cancelled for SIGINT.
        Terminated: If main was cancelled for another signal, or for `request_shutdown`.
        LeakError: If main succeeded, left something behind, and `on_leak` is `"raise"`.
        BaseException: What main raises. A KeyboardInterrupt or SystemExit goes before all
            else, out of a group as well as out of another task; if main raises while it
            is cancelled, a note and the `__context__` tell of the shutdown.

    Cancellation:
        Main is cancelled once, natively. The tasks that it left behind are cancelled
        after it has ended, once, and waited for.
    """
    coro: object = main
    loop = None
    try:
        options = Options(
            grace=_checked_seconds("grace", grace),
            signals=check_signals(signals),
            on_leak=_checked_on_leak(on_leak),
            context=_checked_context(context),
            watchdog=_checked_watchdog(watchdog),
            exit_on_stuck_thread=_checked_bool(
                "exit_on_stuck_thread", exit_on_stuck_thread
            ),
        )
        _checked_bool("allow_concurrent", allow_concurrent)
        if debug is not None:
            _checked_bool("debug", debug)
        _refuse_here(options)
        _refuse_second(allow_concurrent)
        coro = work = coroutine_of(main, args, context)
        loop = _new_loop(loop_factory)
        if debug is not None:
            loop.set_debug(debug)
        with _lock:
            _refuse_second(allow_concurrent)
            current = Run(loop, options)
            _active.append(current)
    except BaseException:
        close(coro)
        if loop is not None:
            _let_go(loop, loop_factory)
        raise
    try:
        return current.execute(work)
    finally:
        close(work)  # if it never came to a task
        with suppress(ValueError):  # in a child that main has forked
            _active.remove(current)
        if loop_factory is None:
            asyncio.set_event_loop(None)


def request_shutdown(reason: str | None = None) -> None:
    """Ask the run to shut down, as a first signal does.

    From any thread, and from a signal handler: it takes no lock. In a loop of
    `safeaio.run` it means that run, elsewhere every one that is active. Once the shutdown
    has begun, this does nothing.

    Args:
        reason: What to say of it in `Terminated`.

    Raises:
        RuntimeError: If no run is active.
    """
    for active in _meant("request_shutdown()"):
        active.request(reason)


def shutdown_requested() -> bool:
    """Tell whether a shutdown has begun: by a signal, or by `request_shutdown`.

    For loops that look now and then, also in worker threads. Since they will look again,
    the run gives them the drain share of its `grace` before it cancels main.

    Returns:
        Whether it has; False where no run is active.
    """
    answers = [active.poll() for active in _here() or tuple(_active)]  # tells each
    return any(answers)


async def wait_for_shutdown() -> None:
    """Wait until a shutdown begins: by a signal, or by `request_shutdown`.

    While something waits here, the first signal does not cancel main at once: it ends
    this wait, and leaves 60 % of the `grace` to wind up.

    >>> import safeaio
    >>> async def main() -> str:
    ...     asyncio.get_running_loop().call_soon(safeaio.request_shutdown)
    ...     await safeaio.wait_for_shutdown()
    ...     return "wound up"
    >>> safeaio.run(main)
    'wound up'

    Raises:
        RuntimeError: If the loop is not one of `safeaio.run`.

    Cancellation:
        Nothing but the wait ends. If the shutdown has begun already, it returns without a
        checkpoint.
    """
    here = _here()
    if not here:
        raise RuntimeError(
            "wait_for_shutdown() waits for the shutdown of safeaio.run(main), and this "
            "loop was started by something else"
        )
    await here[0].wait()


def _here() -> tuple[Run, ...]:
    """Return the run whose loop is running in this thread, if there is one."""
    loop = asyncio._get_running_loop()
    return tuple(active for active in _active if active.loop is loop)


def _meant(name: str) -> tuple[Run, ...]:
    runs = _here() or tuple(_active)
    if not runs:
        raise RuntimeError(
            f"{name}: no run is active; start the program with safeaio.run(main)"
        )
    return runs


def _refuse_here(options: Options) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "safeaio.run() cannot be called from a running event loop; there, write "
            "`await main()`"
        )
    if options.signals and not in_main_thread():
        raise RuntimeError(
            "safeaio.run() takes signals, and only the main thread can; elsewhere, write "
            "run(main, signals=())"
        )


def _refuse_second(allow_concurrent: bool) -> None:
    if _active and not allow_concurrent:
        raise RuntimeError(
            "another safeaio.run() is active in this process; one loop is enough for it, "
            "or write run(main, allow_concurrent=True)"
        )


def _new_loop(factory: LoopFactory | None) -> asyncio.AbstractEventLoop:
    if factory is None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # as asyncio.run does
        return loop
    if not callable(factory):
        raise TypeError(
            f"run(): loop_factory must be a function, got {factory!r}; write "
            "loop_factory=asyncio.new_event_loop"
        )
    made = factory()
    if not isinstance(made, asyncio.AbstractEventLoop):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"run(): loop_factory must return an event loop, got {made!r}")
    if made.is_closed() or made.is_running():
        state = "closed" if made.is_closed() else "running already"
        raise ValueError(f"run(): loop_factory must return a new loop, got one {state}")
    return made


def _let_go(loop: asyncio.AbstractEventLoop, factory: LoopFactory | None) -> None:
    loop.close()
    if factory is None:
        asyncio.set_event_loop(None)


def _checked_seconds(name: str, value: float | None) -> float | None:
    check_seconds(f"run(): {name}", value)
    return value


def _checked_context(value: object) -> Context | None:
    if value is None or isinstance(value, Context):
        return value
    raise TypeError(
        f"run(): context must be a contextvars.Context, got {value!r}; write "
        "context=contextvars.copy_context()"
    )


def _checked_watchdog(value: float | None) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
        raise ValueError(
            f"run(): watchdog must be more than 0 seconds, got {value!r}; write None for none"
        )
    check_seconds("run(): watchdog", value)
    return value


def _checked_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"run(): {name} must be True or False, got {value!r}")
    return value


def _checked_on_leak(value: OnLeak) -> OnLeak:
    if value not in ("warn", "raise", "ignore"):
        raise ValueError(
            f'run(): on_leak must be "warn", "raise" or "ignore", got {value!r}'
        )
    return value


def _forget() -> None:
    """Forget, in a forked child, the runs of its parent."""
    global _lock
    _lock = threading.Lock()
    while _active:
        _active.pop().forget()


if sys.platform != "win32":  # pragma: no branch - tested on Linux only
    os.register_at_fork(after_in_child=_forget)
