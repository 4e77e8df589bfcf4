"""One run of one loop, from its first step to what it leaves behind."""

# Invariants; the code names them where it keeps them.
#
# 1. The loop runs for main, then for the teardown. Whatever is thrown out of it, it goes
#    on in phase CANCEL; what was thrown is raised at the end.
# 2. Main is cancelled natively, and once.
# 3. Every step of the end is taken, whatever the one before raised.
# 4. Handlers and wake-up fd are found as they were.
# 5. The thread that watches never touches the loop, but by `call_soon_threadsafe`.

import asyncio
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from contextvars import Context
from math import inf
from time import monotonic
from typing import Any, Literal, TypeAlias, final

import attrs

from ._crew import error_of
from ._dump import flush_stdout, kill
from ._grace import Grace, give, take_back
from ._leaks import Leaks
from ._shutdown import Phase, Share, Shutdown
from ._signals import Signals
from ._teardown import OWNER, Teardown, report, worker_threads
from ._verdict import interrupt_of, verdict
from ._watch import Watch
from ._watchdog import Watchdog
from .exceptions import LeakError, LeakWarning, signal_name

OnLeak: TypeAlias = Literal["warn", "raise", "ignore"]

_MOST_ESCAPES = 100  # of a loop that throws the same again and again


@attrs.frozen(eq=False, repr=False)
@final
class Options:
    """What `run` was asked for."""

    grace: float | None
    signals: tuple[int, ...]
    on_leak: OnLeak
    context: Context | None
    watchdog: float | None
    exit_on_stuck_thread: bool


@final
class Run:
    """A loop that runs main; `execute` is called once.

    Attributes:
        loop: The loop.
        shutdown: How far its shutdown has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Options) -> None:
        self.loop = loop
        shutdown = Shutdown(inf if options.grace is None else options.grace)
        self.shutdown = shutdown
        self._options = options
        self._grace = Grace(lambda: shutdown.left(monotonic()))
        self._watch = Watch(self.shutdown, self)
        self._signals = Signals(self._signalled)
        wanted = options.on_leak != "ignore"
        thorough = wanted and (options.on_leak == "raise" or loop.get_debug())
        self._leaks = Leaks(wanted=wanted, thorough=thorough)
        self._main: asyncio.Task[Any]  # from before the loop runs
        self._teardown: Teardown | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._polled = False
        self._cancelled = False
        self._left = False
        self._error: BaseException | None = None
        self._escaped: BaseException | None = None
        self._escapes = 0
        self._threads: list[threading.Thread] = []
        self._over = False

    def execute(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run `coro` to its end, and whatever has to follow.

        Returns:
            Its result.

        Raises:
            BaseException: The verdict.
        """
        with ExitStack() as end:  # 3
            end.callback(self._signals.redeliver)
            end.callback(self._give_back)
            end.callback(self._close_loop)
            self._watch.start()
            self._take()
            self._before_loop()  # before main, which may block in its first step
            give(self.loop, self._grace)
            end.callback(take_back, self.loop)
            main = self.loop.create_task(coro, context=self._options.context)
            self._main = main
            with self._watchdog():
                self._run_main(main)
                self._tear_down(main)
            for step in (self._join_workers, self._find_leaks, self._decide):
                self._attempt(step)
            self._hear()  # what came in the meantime has been counted by its byte
            try:
                if self._error is not None:
                    raise self._error
                return main.result()
            finally:
                self._error = self._escaped = None  # their tracebacks hold this frame

    # What the outside asks for

    def request(self, reason: str | None) -> None:
        """Begin the shutdown; from any thread, or a signal handler."""
        self._watch.request(reason)

    def poll(self) -> bool:
        """Tell whether the shutdown has begun; whoever asks will look again."""
        self._polled = True
        return self.shutdown.begun

    async def wait(self) -> None:
        """Wait until the shutdown begins."""
        if self.shutdown.begun:
            return
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def forget(self) -> None:
        """Give back, in a forked child, what this process does not have."""
        self._signals.give_back()
        self._watch.forget()

    # What the watch asks for

    def subscribed(self) -> bool:
        return bool(self._polled or self._waiters) or self._grace.subscribed

    def takes(self, signum: int) -> bool:
        return self._signals.takes(signum)

    def owns(self, signum: int) -> bool:
        return self._signals.owns(signum)

    def wake(self) -> None:
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(self._obey)  # 5

    def end_process(self) -> None:
        if self._over and not any(thread.is_alive() for thread in self._threads):
            return
        ago = monotonic() - self.shutdown.began_at
        why = f"{OWNER}: not over {ago:.1f} s after {self._cause()}"
        kill(self.shutdown.status, why, self.loop)

    # In the loop

    def _signalled(self) -> None:
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(self._hear)
        self._watch.let_in(self._signals.arrived)

    def _hear(self) -> None:
        while self._signals.pending:
            self._watch.hear(self._signals.pending.popleft(), monotonic())

    def _obey(self) -> None:
        main, shutdown = self._main, self.shutdown
        if shutdown.begun:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._grace.shrink()
            self._grace.shut_down(hurry=shutdown.hurries)
        if shutdown.phase >= Phase.CANCEL and not self._cancelled:
            self._cancelled = main.cancel()  # 2
        if self._teardown is not None:
            self._teardown.limit(shutdown.share)
        elif shutdown.share >= Share.TEARDOWN:
            self._left = True
            self.loop.stop()

    # Around the loop

    def _take(self) -> None:
        if self._options.signals:
            self._signals.take(self._options.signals)
            self._watch.take_wakeup_fd()

    def _watchdog(self) -> AbstractContextManager[None]:
        seconds = self._options.watchdog
        return nullcontext() if seconds is None else Watchdog(self.loop, seconds)

    def _before_loop(self) -> None:
        """Have the wake-up fd taken when the loop starts: uvloop has its own."""
        if self._options.signals:
            self.loop.call_soon(self._watch.take_wakeup_fd)

    def _run_main(self, main: asyncio.Task[Any]) -> None:
        while not main.done() and not self._left and self._escapes < _MOST_ESCAPES:
            self._stretch(main)
        if main.done():
            self._watch.tell(lambda shutdown: shutdown.main_ended(monotonic()))

    def _tear_down(self, main: asyncio.Task[Any]) -> None:
        grace = self._options.grace
        self._teardown = Teardown(main, self._leaks, bounded=grace is not None)
        task = self.loop.create_task(self._teardown.run())
        # Most teardowns are over before it is worth the while to wake the thread.
        poke = self.loop.call_later((grace or 0.0) / 100, self._watch.poke)
        for awaited in (task, main):  # a main that was left: until it has to be killed
            while not awaited.done() and self._escapes < _MOST_ESCAPES:
                self._stretch(awaited)
        poke.cancel()
        if self._left and main.done():  # unseen, if it ended during the teardown
            self._error = self._error or error_of(main)

    def _stretch(self, task: asyncio.Task[Any]) -> None:
        """Run the loop until a task has ended, or something is thrown out of it."""
        self.loop.call_soon(self._obey)  # what was said while it stood still
        try:
            self.loop.run_until_complete(task)
        except BaseException as exc:  # noqa: BLE001 - raised in the end
            self._thrown(task, exc)
        finally:
            self._watch.loop_stopped()
            self._before_loop()

    def _thrown(self, task: asyncio.Task[Any], exc: BaseException) -> None:
        if _raised(task, exc):  # main: the teardown raises nothing
            self._error = exc
        elif not self._left or self._teardown is not None:  # else we stopped it
            self._escapes += 1
            self._escaped = self._escaped or exc
            self._watch.tell(lambda shutdown: shutdown.interrupt(monotonic()))  # 1
            self._watch.poke()

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (KeyboardInterrupt, SystemExit) as exc:
            self._error, _ = verdict(self._error, exc, None)
        except Exception as exc:  # noqa: BLE001 - of a handler of the user's
            with suppress(Exception):
                sys.excepthook(type(exc), exc, exc.__traceback__)

    def _join_workers(self) -> None:
        for thread in worker_threads(self.loop):
            while thread.is_alive() and monotonic() < self.shutdown.closed_until:
                rest = self.shutdown.closed_until - monotonic()
                thread.join(min(max(rest, 0.0), 0.1))  # a signal may leave less

    def _find_leaks(self) -> None:
        self._threads = self._leaks.find_all(self.loop)

    def _decide(self) -> None:
        interrupt = None
        if self._cancelled:
            interrupt = interrupt_of(self.shutdown.signum, self.shutdown.reason)
        self._error, hidden = verdict(self._error, self._escaped, interrupt)
        if hidden is not None:
            report(self.loop, f"{OWNER}: raised beside {self._error!r}", hidden)
        self._tell_of_leaks()

    def _tell_of_leaks(self) -> None:
        if not self._leaks.found:
            return
        text = str(self._leaks)
        if self._options.on_leak == "raise" and self._error is None:
            self._error = LeakError(text)
            return
        self.loop.call_exception_handler({"message": text})
        try:
            warnings.warn(LeakWarning(text), stacklevel=6)
        except LeakWarning as exc:  # by a filter
            self._error = self._error or exc

    def _close_loop(self) -> None:
        try:
            self.loop.close()
        except Exception as exc:  # noqa: BLE001 - reported; the end goes on
            report(self.loop, f"{OWNER}: could not close the loop", exc)

    def _give_back(self) -> None:
        self._signals.give_back()  # 4
        self._watch.give_back_wakeup_fd()
        self._over = True
        if (
            self._threads
            and self.shutdown.signum is not None
            and self._options.exit_on_stuck_thread
        ):
            flush_stdout()  # while that is sure to work
        else:
            self._watch.stop()

    def _cause(self) -> str:
        if self.shutdown.signum is not None:
            return signal_name(self.shutdown.signum)
        if not self.shutdown.requested:
            return repr(self._escaped)
        because = "" if self.shutdown.reason is None else f": {self.shutdown.reason}"
        return f"request_shutdown(){because}"


def _raised(task: asyncio.Task[Any], exc: BaseException) -> bool:
    """Tell whether `exc` is what a task ended with."""
    if not task.done() or task.cancelled():
        return task.done() and isinstance(exc, asyncio.CancelledError)
    return task.exception() is exc
