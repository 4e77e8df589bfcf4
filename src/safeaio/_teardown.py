"""What is done with the loop after main has ended."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, final

from ._background import is_background
from ._grace import owned
from ._leaks import Leaks
from ._shutdown import Share
from ._verdict import is_fatal
from ._wait import STUCK_AFTER, Children, current_task

OWNER = "safeaio.run()"

# A coroutine that waits for executor threads joins them when it is closed, too.
_unfinished: list[Coroutine[Any, Any, None]] = []


@final
class Teardown:
    """Ends tasks, async generators and the default executor, each as long as it may take.

    Args:
        main: The task of main; it may run on.
        leaks: Gets what main left behind.
        bounded: Whether there is a limit for all this.
    """

    def __init__(self, main: asyncio.Task[Any], leaks: Leaks, *, bounded: bool) -> None:
        self._loop = main.get_loop()
        self._main = main
        self._leaks = leaks
        self._waiting: Children[None] | None = None
        self._stuck_after = None if bounded else STUCK_AFTER
        self._share = Share.ANYTHING
        self._enough = self._loop.create_future()
        self._since = 0.0

    async def run(self) -> None:
        """Take every step, whatever the one before raised."""
        for step in (
            self._end_tasks,
            self._close_generators,
            self._shut_executor,
            self._close_transports,
        ):
            try:
                await step()
            except BaseException as exc:  # noqa: BLE001 - reported; the next step follows
                # From a callback: what this raises is thrown out of the loop, not of here.
                message = f"{OWNER}: could not {_what(step)}"
                self._loop.call_soon(_report_or_throw, self._loop, message, exc)

    def limit(self, share: Share) -> None:
        """Wait for no more than `share` has it."""
        self._share = share
        if share >= Share.TEARDOWN and self._waiting is not None:
            age = self._loop.time() - self._since
            for stuck in self._waiting.abandon(age):
                self._loop.call_exception_handler({"message": stuck})
        if share >= Share.NOTHING and not self._enough.done():
            self._enough.set_result(None)

    async def _end_tasks(self) -> None:
        children: Children[None] = Children(OWNER, self._stuck_after)
        known = {self._main, asyncio.current_task()}
        while tasks := asyncio.all_tasks(self._loop) - known - owned(self._loop):
            known |= tasks
            for task in tasks:
                self._take(children, task)
            children.cancel()
            self._since = self._loop.time()
            await _undisturbed(_a_few_turns())
            self._waiting = children
            self.limit(self._share)
            await _undisturbed(children.wait(shielded=True))
            if self._share >= Share.TEARDOWN:
                return

    def _take(self, children: Children[None], task: asyncio.Task[Any]) -> None:
        # Of a main that runs on, one cannot tell what it will leave behind.
        if is_background(task):
            children.add(task, None, children.ended, Context())
            return
        if self._main.done():
            self._leaks.add_task(task)
        children.add(task, None, partial(self._ended, children), Context())

    def _ended(self, children: Children[None], task: asyncio.Future[Any]) -> None:
        children.ended(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not is_fatal(error):
            report(
                self._loop, f"unhandled exception during {OWNER} shutdown", error, task
            )
        del error

    async def _close_generators(self) -> None:
        self._leaks.find_async_generators(self._loop)
        closing = self._loop.create_task(self._loop.shutdown_asyncgens())
        if await self._within(closing):
            closing.result()
        else:
            closing.cancel()
            await _a_few_turns()

    async def _shut_executor(self) -> None:
        closing = self._loop.shutdown_default_executor()
        before = set(threading.enumerate())
        while True:
            try:
                waiting_for = closing.send(None)
            except StopIteration:
                return
            self._leaks.ignore(set(threading.enumerate()) - before)  # waits for others
            if not await self._within(waiting_for):
                _unfinished.append(closing)
                return

    async def _close_transports(self) -> None:
        await _a_few_turns()  # one that was closed still tells its protocol

    async def _within(self, future: asyncio.Future[Any]) -> bool:
        while not (future.done() or self._enough.done()):
            either = [future, self._enough]
            await _undisturbed(
                asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            )
        return future.done()


def worker_threads(loop: asyncio.AbstractEventLoop) -> list[threading.Thread]:
    """Return the threads of `anyio.to_thread`; they end after main, when they are idle."""
    return [
        thread
        for thread in threading.enumerate()
        if type(thread).__module__ == "anyio._backends._asyncio"
        and getattr(thread, "loop", None) is loop
    ]


def report(
    loop: asyncio.AbstractEventLoop,
    message: str,
    error: BaseException,
    task: asyncio.Future[Any] | None = None,
) -> None:
    """Hand an error that nobody will see raised to the loop's exception handler."""
    context: dict[str, Any] = {"message": message, "exception": error}
    if task is not None:
        context["task"] = task
    loop.call_exception_handler(context)


def _report_or_throw(
    loop: asyncio.AbstractEventLoop, message: str, error: BaseException
) -> None:
    if is_fatal(error):
        raise error
    report(loop, message, error)


async def _undisturbed(work: Coroutine[Any, Any, object]) -> None:
    """Await `work`; a leftover may cancel every task that it finds."""
    try:
        await work
    except asyncio.CancelledError:
        current_task().uncancel()


async def _a_few_turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _what(step: Callable[..., object]) -> str:
    return step.__name__.strip("_").replace("_", " ")
