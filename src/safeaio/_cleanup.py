"""The stack of a `cleanup_scope`, and how it is unwound."""

# Invariants; the code names them where it keeps them.
#
# 1. Each step is taken off the stack before it runs: it runs once.
# 2. A deferred call is awaited in a task of its own, through `_wait`: no cancel of the
#    host reaches it. Context managers are left in the host's task, where they were
#    entered: scopes and locks are tied to it.
# 3. No step keeps another from running, whatever it raises and however long it takes.
# 4. Whether a cancel came from outside is read from the host's `cancelling()`, compared
#    with its value when the block was entered.

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple, cast, final

from ._contexts import chain
from ._crew import carry, error_of, let_go
from ._grace import Limit
from ._outcome import Outcome
from ._wait import Children
from .exceptions import TaskStuckError

OWNER = "cleanup_scope()"


@final
class Call(NamedTuple):
    """A deferred call."""

    func: Callable[..., object]
    args: tuple[Any, ...]

    def __str__(self) -> str:
        func: Any = self.func
        while isinstance(func, partial):
            func = func.func
        # Not its repr, which may fail, and may be large.
        return f"{getattr(func, '__qualname__', type(func).__qualname__)}()"


@final
class Exit(NamedTuple):
    """A context manager that was entered."""

    manager: object
    leave: Callable[..., Any]
    is_async: bool

    def __str__(self) -> str:
        return f"{type(self.manager).__qualname__}.{self.leave.__name__}()"


@final
class Cleanup:
    """What has to be done when the block is left, the last first.

    Attributes:
        timeout: The seconds after which a step is cut.
        running: What runs in the task of the deferred call that is awaited.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.stack: list[Call | Exit] = []
        self.running: Coroutine[Any, Any, object] | None = None

    async def run(
        self,
        exc: BaseException | None,
        outcome: Outcome,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Unwind the stack.

        Args:
            exc: What left the body.
            outcome: What that means; gets what the steps raise.
            is_cancelled: Tells whether a cancel of the host from outside stands.
        """
        try:
            while self.stack:
                step = self.stack.pop()  # 1
                if isinstance(step, Call):
                    await self._call(step, outcome)
                else:
                    await self._leave(step, exc, outcome, is_cancelled)
            if outcome.hides_failures():
                await _settle(outcome)
        finally:
            del exc, outcome  # tracebacks hold this frame, and those that it has called

    async def _call(self, call: Call, outcome: Outcome) -> None:
        try:
            work = call.func(*call.args)
            if type(work) is CoroutineType or inspect.isawaitable(work):
                await self._see_through(call, cast("Awaitable[object]", work), outcome)
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised when the block is left
            outcome.failed(str(call), exc)  # 3
        finally:
            del outcome

    async def _see_through(
        self, call: Call, work: Awaitable[object], outcome: Outcome
    ) -> None:
        children: Children[Awaitable[object]] = Children(OWNER, None)
        overtime = _Overtime(children, self.timeout)
        self.running = carry(work)  # known before an eager task takes its first step
        try:
            task = children.loop.create_task(self.running)
        except BaseException:  # of the loop's task factory
            self.running.close()
            self.running = None
            _let_fall(work)
            raise
        overtime.begin(task, work)
        try:
            await children.wait(shielded=True)  # 2
        except asyncio.CancelledError as exc:
            outcome.cancelled(exc)
        finally:
            overtime.end()
            self.running = None
        failure = overtime.failure(call, task)
        if failure is not None:
            outcome.failed(str(call), failure)
        del failure, outcome, task

    async def _leave(
        self,
        step: Exit,
        exc: BaseException | None,
        outcome: Outcome,
        is_cancelled: Callable[[], bool],
    ) -> None:
        seen = outcome.seen()
        loop = asyncio.get_running_loop()
        deadline = asyncio.timeout(None)
        limit = Limit(loop, self.timeout, lambda: deadline.reschedule(loop.time()))
        raised: BaseException | None = None
        suppress = False
        try:
            async with deadline:
                suppress = step.leave(step.manager, *_details(seen))
                if step.is_async:
                    suppress = await suppress
                suppress = bool(suppress)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised when the block is left
            raised = error
        finally:
            limit.cancel()
        try:
            if raised is None:
                if suppress:
                    outcome.suppressed()
            elif deadline.expired() and isinstance(raised, TimeoutError):
                outcome.failed(str(step), _cut(step, limit.age, raised.__cause__))
            elif isinstance(raised, asyncio.CancelledError) and is_cancelled():  # 4
                outcome.cancelled(raised)
            elif raised is not seen:
                chain(raised, seen, exc)
                outcome.replaced(str(step), raised, cancelled=is_cancelled())
        finally:
            del seen, exc, outcome, raised

    def run_at_once(self, gone: GeneratorExit) -> list[tuple[str, BaseException]]:
        """Unwind what needs no await: Python allows none when it closes a coroutine.

        Args:
            gone: What left the body, or a step.

        Returns:
            The steps that raised, and what: nobody else will see it.
        """
        raised: list[tuple[str, BaseException]] = []
        while self.stack:
            step = self.stack.pop()
            try:
                if isinstance(step, Call):
                    _let_fall(step.func(*step.args))
                elif not step.is_async:
                    step.leave(step.manager, *_details(gone))
            except BaseException as exc:  # noqa: BLE001 - reported, beside GeneratorExit
                raised.append((str(step), exc))
        return raised


@final
class _Overtime:
    """Cuts a call after `timeout`, and gives it up after as long again."""

    def __init__(
        self, children: Children[Awaitable[object]], timeout: float | None
    ) -> None:
        self.children = children
        self.timeout = timeout
        self.cut_after = 0.0
        self._limit: Limit | None = None
        self._reports: tuple[str, ...] = ()

    def begin(self, task: asyncio.Task[object], work: Awaitable[object]) -> None:
        if not task.done():
            self.children.add(task, work, partial(let_go, self.children), Context())
            self._set(partial(self._cut, task))

    def end(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _set(self, callback: Callable[[], object]) -> None:
        self._limit = Limit(self.children.loop, self.timeout, callback)

    def _cut(self, task: asyncio.Task[object]) -> None:
        if not task.done():
            self.cut_after = self._age()
            self.children.cancel()
            self._set(partial(self._give_up, task))

    def _give_up(self, task: asyncio.Task[object]) -> None:
        if not task.done():
            self._reports = self.children.abandon(self._age())

    def _age(self) -> float:
        return 0.0 if self._limit is None else self._limit.age

    def failure(self, call: Call, task: asyncio.Task[object]) -> BaseException | None:
        """Return what the call has raised, or that it took too long."""
        if self._reports:
            return TaskStuckError(self._reports)
        error = error_of(task)
        try:
            if self.children.cancelled and not isinstance(
                error, KeyboardInterrupt | SystemExit
            ):
                return _cut(call, self.cut_after, error)
            return error
        finally:
            del error  # the traceback of a cancel holds this frame


async def _settle(outcome: Outcome) -> None:
    """Wait a turn, so that no cancel ends the last await of the cleanup.

    Where one does, Python itself sets the `__context__` of whatever leaves then.
    """
    settled = False
    while not settled:
        try:
            await asyncio.sleep(0)
            settled = True
        except asyncio.CancelledError as exc:
            outcome.cancelled(exc)


def _cut(step: object, age: float, cause: BaseException | None) -> TimeoutError:
    late = TimeoutError(f"{step} was cut after {round(age, 2):g} s")
    late.__cause__ = cause
    return late


def _details(exc: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)


def _let_fall(work: object) -> None:
    if inspect.iscoroutine(work):
        work.close()
    elif asyncio.isfuture(work):
        work.cancel()
