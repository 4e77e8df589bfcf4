"""One run of a scenario, with a cancel at one tick."""

import asyncio
import enum
import gc
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast, final
from warnings import WarningMessage, catch_warnings, simplefilter

import anyio
import attrs

from ._ticks import drive
from ._trail import trail
from ._unstarted import throw_first

# Nobody sweeps a scenario this long, so whatever gets here spins.
_TICK_LIMIT = 20_000


@final
class Route(enum.Enum):
    """The way by which a cancel reaches the scenario.

    Attributes:
        NATIVE: `Task.cancel()`.
        NATIVE_TWICE: `Task.cancel()`, and again while the task still runs: at each of
            the next eight ticks, then in ever larger steps up to a thousand.
        SCOPE: An `anyio.CancelScope` around the scenario is cancelled.
        SCOPE_AND_NATIVE: Both in one tick.
        TIMEOUT: An `asyncio.timeout` around the scenario expires.
    """

    NATIVE = enum.auto()
    NATIVE_TWICE = enum.auto()
    SCOPE = enum.auto()
    SCOPE_AND_NATIVE = enum.auto()
    TIMEOUT = enum.auto()


@final
@attrs.frozen
class Run:
    """What happened in one run of a scenario.

    Attributes:
        route: How it was cancelled; None if it was left alone.
        tick: Before which tick it was cancelled, counted from 0, where the scenario
            has been called, but not awaited. None if it was left alone.
        again: Before which tick it was cancelled for the second time, if it was.
        started: Whether the scenario took its first step before the cancel. A plain
            coroutine that did not never ran at all.
        hung: Why it was given up, if it did not end.
        value: What the scenario returned, if it did.
        raised: What left the scenario, if anything did.
        exception: What left the scope or the timeout that the route puts around the
            scenario. Without one of these the same as `raised`.
        cancel_delivered: Whether the cancel came before the scenario had ended.
        native_cancels: How many times `Task.cancel()` returned True.
        cancelling: What `Task.cancelling()` said after the end.
        left_running: The other tasks that were not done when it ended, and where
            they were.
        reported: What the loop's exception handler was called with.
        warnings: Every warning issued during the run. None of them is shown.
        ticks: How many ticks it took to end.
    """

    route: Route | None
    tick: int | None
    again: int | None
    started: bool
    hung: str | None
    value: object
    raised: BaseException | None
    exception: BaseException | None
    cancel_delivered: bool
    native_cancels: int
    cancelling: int
    left_running: tuple[str, ...]
    reported: tuple[Mapping[str, Any], ...]
    warnings: tuple[WarningMessage, ...]
    ticks: int


def perform(
    scenario: Callable[[], Awaitable[object]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    route: Route | None = None,
    tick: int | None = None,
    again: int | None = None,
) -> Run:
    """Run `scenario` on a new loop, cancelled by `route` before `tick`."""
    reported: list[Mapping[str, Any]] = []
    with _undisturbed() as caught:
        loop = loop_factory()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        try:
            run = _Attempt(loop, route, tick, again).run(scenario)
        finally:
            _wind_up(loop)
        reported_excs = (context.get("exception") for context in reported)
        _drop_frames(run.raised, run.exception, *reported_excs)
        del loop
    return attrs.evolve(run, reported=tuple(reported), warnings=tuple(caught))


@final
@attrs.define(eq=False)
class _Attempt:
    loop: asyncio.AbstractEventLoop
    route: Route | None
    tick: int | None
    again: int | None
    task: asyncio.Task[object] = attrs.field(init=False)
    scope: anyio.CancelScope | None = None
    timeout: asyncio.Timeout | None = None
    called: bool = False
    started: bool = False
    ended: bool = False
    fired: bool = False
    delivered: bool = False
    native_cancels: int = 0
    raised: BaseException | None = None
    left_running: tuple[str, ...] = ()
    next_tick: int = 0
    ticks: int = 0

    def run(self, scenario: Callable[[], Awaitable[object]]) -> Run:
        def create_task() -> asyncio.Task[object]:
            self.task = self.loop.create_task(self._enclose(scenario), name="scenario")
            return self.task

        try:
            hung = drive(self.loop, create_task, self._before_tick, _TICK_LIMIT)
        except (KeyboardInterrupt, SystemExit) as exc:
            if exc is not self.raised:
                raise
            hung = None
        return self._describe(hung)

    async def _enclose(self, scenario: Callable[[], Awaitable[object]]) -> object:
        awaitable = scenario()
        self.called = True
        if self.route in (Route.SCOPE, Route.SCOPE_AND_NATIVE):
            self.scope = anyio.CancelScope()
        try:
            await asyncio.sleep(0)  # ends where the scenario's task would begin
            self.started = True
        except asyncio.CancelledError as exc:
            if not isinstance(awaitable, Coroutine):
                raise
            coro = cast(Coroutine[Any, Any, object], awaitable)
            awaitable = throw_first(coro, exc)
        if self.scope is not None:
            with self.scope:
                return await self._watch(awaitable)
        elif self.route is Route.TIMEOUT:
            async with asyncio.timeout(0 if self.fired else None) as self.timeout:
                return await self._watch(awaitable)
        else:
            return await self._watch(awaitable)
        return None

    async def _watch(self, awaitable: Awaitable[object]) -> object:
        try:
            return await awaitable
        except BaseException as exc:
            self.raised = exc
            raise
        finally:
            self.ended = True
            others = asyncio.all_tasks(self.loop) - {self.task}
            self.left_running = tuple(sorted(map(trail, others)))

    def _before_tick(self) -> None:
        if not self.called:
            return
        tick = self.next_tick
        self.next_tick += 1
        if not self.ended:
            self.ticks = self.next_tick
        if tick == self.tick:
            self._cancel()
        elif tick == self.again:
            self.native_cancels += self.task.cancel()

    def _cancel(self) -> None:
        self.fired = True
        self.delivered = not self.ended
        if self.scope is not None:
            self.scope.cancel()
        if self.timeout is not None and not self.ended:
            self.timeout.reschedule(self.loop.time())
        if self.route not in (Route.SCOPE, Route.TIMEOUT):
            self.native_cancels += self.task.cancel()

    def _describe(self, hung: str | None) -> Run:
        value, exception = None, None
        if hung is None:
            try:
                exception = self.task.exception()
            except asyncio.CancelledError as exc:
                exception = exc
            if exception is None:
                value = self.task.result()
        return Run(
            route=self.route,
            tick=self.tick,
            again=self.again,
            started=self.started,
            hung=hung,
            value=value,
            raised=self.raised,
            exception=exception,
            cancel_delivered=self.delivered,
            native_cancels=self.native_cancels,
            cancelling=self.task.cancelling(),
            left_running=self.left_running,
            reported=(),
            warnings=(),
            ticks=self.ticks,
        )


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    # A task that ignores its cancel, too, is left to the garbage collector.
    try:
        end_the_rest = partial(loop.create_task, _end_the_rest(loop))
        drive(loop, end_the_rest, lambda: None, _TICK_LIMIT // 10)
    finally:
        loop.close()


async def _end_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


@contextmanager
def _undisturbed() -> Generator[list[WarningMessage]]:
    # A warning out of the garbage must come in the run that made it. So the collector
    # is off meanwhile, the run's cycles all stay young, and collecting those is cheap.
    # Before, those go that only the last run's tracebacks kept alive.
    collecting = gc.isenabled()
    gc.disable()
    gc.collect(1)
    try:
        with catch_warnings(record=True) as caught:
            simplefilter("always")
            yield caught
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()


def _drop_frames(*excs: BaseException | None) -> None:
    # A frame holds its locals, among them coroutines never awaited, which would not
    # warn before it is gone.
    seen: set[int] = set()
    stack = list(excs)
    while stack:
        exc = stack.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        traceback.clear_frames(exc.__traceback__)
        stack += [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            stack += cast(BaseExceptionGroup[BaseException], exc).exceptions
