"""Cancel a scenario at every one of its ticks, by every route."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import final

import attrs

from ._clock import VirtualClockLoop
from ._invariants import (
    awaited_every_coroutine,
    ended,
    kept_cancel_count,
    left_nothing_running,
    raises_its_cancel,
)
from ._run import Route, Run, perform

_SHOWN = 10

# Each of them costs as much as thousands of others.
_HUNG_RUNS = 3


@final
@attrs.frozen
class Broken:
    """One invariant that one run broke.

    Attributes:
        run: What happened.
        invariant: The name of the function that objected.
        message: Its objection.
    """

    run: Run
    invariant: str
    message: str

    def __str__(self) -> str:
        return f"{_where(self.run)}: {self.invariant}: {self.message}"


@final
@attrs.frozen
class SweepReport:
    """What a sweep did that found nothing.

    Attributes:
        runs: How many times the scenario ran.
        ticks: How many ticks it takes when left alone.
    """

    runs: int
    ticks: int


@final
class SweepError(AssertionError):
    """A scenario broke an invariant.

    Attributes:
        broken: Each objection, in the order of the runs.
        runs: How many times the scenario ran.
    """

    def __init__(self, broken: tuple[Broken, ...], runs: int) -> None:
        super().__init__(broken, runs)
        self.broken = broken
        self.runs = runs

    def __str__(self) -> str:
        first = self.broken[0].run
        lines = [f"{len(self.broken)} broken invariant(s) in {self.runs} run(s):"]
        lines += [f"  {broken}" for broken in self.broken[:_SHOWN]]
        if len(self.broken) > _SHOWN:
            lines.append(f"  ... and {len(self.broken) - _SHOWN} more")
        if (
            sum(broken.invariant == ended.__name__ for broken in self.broken)
            >= _HUNG_RUNS
        ):
            lines.append(f"given up after {_HUNG_RUNS} runs that did not end")
        if first.route is not None:
            lines.append(f"to run the first alone: only=({first.route}, {first.tick})")
        return "\n".join(lines)


def cancel_sweep(
    scenario: Callable[[], Awaitable[object]],
    *invariants: Callable[[Run], object],
    routes: Iterable[Route] = tuple(Route),
    may_raise: type[BaseException] | tuple[type[BaseException], ...] = (),
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = VirtualClockLoop,
    only: tuple[Route, int] | None = None,
) -> SweepReport:
    """Cancel a scenario at every one of its ticks, and check what comes of it.

    The scenario is run once untouched, which counts its ticks, and then anew for
    every route and every tick, up to the one after its end.
    Each run has a new loop and a new task.

    >>> import asyncio
    >>> from safeaio.testing import Run, cancel_sweep
    >>> closed: list[str] = []
    >>> async def scenario() -> None:
    ...     closed.clear()
    ...     try:
    ...         await asyncio.sleep(1)
    ...     finally:
    ...         closed.append("connection")
    >>> def closes_its_connection(run: Run) -> None:
    ...     assert closed == ["connection"]
    >>> cancel_sweep(scenario, closes_its_connection)
    SweepReport(runs=22, ticks=3)

    Of every run it is checked that the scenario

    - ends;
    - leaves no task running when it does;
    - leaves no coroutine that was never awaited;
    - raises CancelledError after a `Task.cancel()`, also one beside a cancelled scope;
    - lets no CancelledError leave a cancelled scope, and nothing but TimeoutError
      leave an expired timeout;
    - leaves `Task.cancelling()` at the number of `Task.cancel()` calls from outside.

    With a `VirtualClockLoop` a tick is a single callback, and no time passes for
    real. With any other loop it is one loop iteration, and the scenario should not
    wait for real time or for I/O: the iterations meanwhile all count.
    In both cases a run is given up after 20 000 ticks.

    Args:
        scenario: Called without arguments for each run, gives what is awaited. State
            that the invariants look at is best reset in its first lines.
        *invariants: Called with the `Run` after each one in which the scenario
            started and ended. To object they raise AssertionError or return False.
        routes: The ways to cancel it.
        may_raise: What the scenario may raise, whether it is cancelled or not.
        loop_factory: Makes the loop of each run.
        only: A route and a tick, to repeat what a `SweepError` reports.

    Raises:
        SweepError: If a run broke an invariant.
        RuntimeError: If a loop is already running in this thread.
        TypeError: If the scenario is not a function.
        ValueError: If `only` names a tick that the scenario does not have.
    """
    _check_call(scenario)
    built_in = (
        raises_its_cancel(may_raise),
        left_nothing_running,
        awaited_every_coroutine,
        kept_cancel_count,
    )
    sweep = _Sweep(scenario, invariants, built_in, loop_factory)
    untouched = sweep.run_once()
    if not sweep.broken:
        if only is not None:
            _check_tick(only, untouched.ticks)
            sweep.cut(*only)
        else:
            sweep.cut_everywhere(routes, untouched.ticks)
    if sweep.broken:
        raise SweepError(tuple(sweep.broken), sweep.runs) from sweep.first_objection
    return SweepReport(sweep.runs, untouched.ticks)


@final
@attrs.define(eq=False)
class _Sweep:
    scenario: Callable[[], Awaitable[object]]
    invariants: tuple[Callable[[Run], object], ...]
    built_in: tuple[Callable[[Run], object], ...]
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
    broken: list[Broken] = attrs.field(factory=list[Broken])
    first_objection: AssertionError | None = None
    runs: int = 0
    hung: int = 0

    def cut_everywhere(self, routes: Iterable[Route], ticks: int) -> None:
        for route in routes:
            for tick in range(ticks + 1):
                if self.hung < _HUNG_RUNS:
                    self.cut(route, tick)

    def cut(self, route: Route, tick: int) -> None:
        if route is not Route.NATIVE_TWICE:
            self.run_once(route, tick)
            return
        for gap in _gaps():
            if not _was_cancelled_twice(self.run_once(route, tick, tick + gap)):
                return

    def run_once(
        self,
        route: Route | None = None,
        tick: int | None = None,
        again: int | None = None,
    ) -> Run:
        run = perform(self.scenario, self.loop_factory, route, tick, again)
        self.runs += 1
        self._check(run, ended)
        if run.hung is not None:
            self.hung += 1
            return run
        for invariant in self.built_in:
            self._check(run, invariant)
        if run.started:
            for invariant in self.invariants:
                self._check(run, invariant)
        return run

    def _check(self, run: Run, invariant: Callable[[Run], object]) -> None:
        name = getattr(invariant, "__name__", repr(invariant))
        try:
            if invariant(run) is False:
                raise AssertionError("returned False")
        except AssertionError as exc:
            self.first_objection = self.first_objection or exc
            self.broken.append(Broken(run, name, str(exc)))
        except Exception as exc:
            exc.add_note(f"raised by {name} for {_where(run)}")
            raise


def _was_cancelled_twice(run: Run) -> bool:
    return run.native_cancels == 2 and run.hung is None


def _gaps() -> Iterator[int]:
    gap = 1
    while gap < 1000:
        yield gap
        gap += 1 + gap // 8


def _where(run: Run) -> str:
    if run.route is None:
        return "without any cancel"
    again = "" if run.again is None else f" and {run.again}"
    return f"{run.route} at tick {run.tick}{again}"


def _check_call(scenario: Callable[[], Awaitable[object]]) -> None:
    if isinstance(scenario, Coroutine):
        scenario.close()
        raise TypeError(
            f"cancel_sweep() calls the scenario for each run, got coroutine {scenario!r}; "
            "pass the function"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "cancel_sweep() runs loops of its own, but this thread is already running one; "
        "call it from a plain function"
    )


def _check_tick(only: tuple[Route, int], ticks: int) -> None:
    route, tick = only
    if not 0 <= tick <= ticks:
        raise ValueError(
            f"only must name one of the ticks 0 to {ticks}, got ({route}, {tick!r})"
        )
