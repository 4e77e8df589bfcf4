"""The line at a rate limit, and the arithmetic under it."""

import asyncio
import gc
import math
import sys
import tracemalloc
from collections.abc import Coroutine
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import attrs
import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from safeaio import RateLimiter
from safeaio._rate import Bucket
from safeaio.testing import VirtualClockLoop


class BusyLoop(asyncio.SelectorEventLoop):
    """A loop whose callbacks may take long without anybody waiting for that."""

    spent = 0.0

    def time(self) -> float:
        return super().time() + self.spent


class CoarseLoop(asyncio.SelectorEventLoop):
    """A virtual clock that shows whole milliseconds, and timers that come too early."""

    now = 0
    iterations = 0
    most = 100_000

    def time(self) -> float:
        return self.now / 1000

    def _run_once(self) -> None:
        self.iterations += 1
        assert self.iterations < self.most
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.now = max(self.now, math.floor(1000 * timers[0].when() + 0.5))
            for timer in timers:
                if math.floor(1000 * timer.when() + 0.5) <= self.now:
                    timer._when = self.now / 1000  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def virtually(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main)


@attrs.frozen
class Ask:
    """Someone who comes to the limiter, and what became of that."""

    at: float
    tokens: int
    patience: float | None


@attrs.frozen
class Answer:
    passed: bool
    at: float


def moments(most: int) -> st.SearchStrategy[float]:
    # Eighths are exact, and often coincide.
    return st.integers(0, 8 * most).map(lambda n: n / 8)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[float, float, int, list[Ask]]:
    burst = draw(st.integers(1, 5))
    ask = st.builds(
        Ask,
        at=moments(10),
        tokens=st.integers(1, burst),
        patience=st.none() | moments(5),
    )
    asks = sorted(draw(st.lists(ask, max_size=12)), key=lambda ask: ask.at)
    rate, per = draw(st.sampled_from([(1.0, 1.0), (4.0, 1.0), (1.0, 2.0), (8.0, 16.0)]))
    return rate, per, burst, asks


async def answers(limiter: RateLimiter, asks: list[Ask]) -> list[Answer]:
    loop = asyncio.get_running_loop()

    async def stand_in_line(ask: Ask) -> Answer:
        try:
            await limiter.acquire(ask.tokens)
        except asyncio.CancelledError:
            return Answer(False, loop.time())
        return Answer(True, loop.time())

    tasks: list[asyncio.Task[Answer]] = []
    for ask in asks:
        await asyncio.sleep(ask.at - loop.time())
        tasks.append(asyncio.create_task(stand_in_line(ask)))
        if ask.patience is not None:
            # Behind the first step, for a task cancelled before never asks.
            loop.call_soon(partial(loop.call_later, ask.patience, tasks[-1].cancel))
    return [await task for task in tasks]


@given(crowds())
@example((1.0, 1.0, 1, [Ask(0, 1, None), Ask(0, 1, 1.0), Ask(0, 1, None)]))
@example(
    (1.0, 1.0, 2, [Ask(0, 2, None), Ask(0, 2, 1.0), Ask(0, 1, 1.0), Ask(0, 1, None)])
)
def test_everyone_passes_as_soon_as_the_rate_and_the_line_allow(
    crowd: tuple[float, float, int, list[Ask]],
) -> None:
    """First come, first served, never above the rate, and never later than it implies."""
    rate, per, burst, asks = crowd
    line: list[Answer] = []

    async def main() -> None:
        line.extend(await answers(RateLimiter(rate, per, burst=burst), asks))

    virtually(main())
    head = -math.inf  # when whoever came before had left the line
    grants: list[tuple[float, int]] = []
    for ask, answer in zip(asks, line, strict=True):
        sums = list(
            accumulate(tokens for _, tokens in reversed([*grants, (0, ask.tokens)]))
        )
        windows = [
            at + (total - burst) * per / rate
            for (at, _), total in zip(reversed(grants), sums[1:], strict=True)
        ]
        earliest = max(ask.at, head, *windows, -math.inf)
        if answer.passed:
            assert answer.at == earliest
            grants.append((answer.at, ask.tokens))
        else:
            assert ask.patience is not None
            assert answer.at == ask.at + ask.patience <= earliest
        head = max(head, answer.at)


@given(
    rate=st.floats(0.01, 1e4),
    per=st.floats(0.01, 1e3),
    burst=st.integers(1, 20),
    start=st.floats(-1e6, 1e6),
    steps=st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1, max_size=40
    ),
)
def test_bucket_admits_no_more_than_the_rate_over_any_window(
    rate: float, per: float, burst: int, start: float, steps: list[tuple[float, int]]
) -> None:
    """However takers come, every window holds, up to the rounding of floats."""
    interval = per / rate
    bucket = Bucket(interval, burst)
    now, taken = start, [(start, 0)]
    for step, wanted in steps:
        tokens = min(wanted, burst)
        now = max(now + step * interval, bucket.free_at(tokens, now))
        bucket.take(tokens, now)
        taken.append((now, tokens))
    for first in range(len(taken)):
        total = 0
        for at, tokens in taken[first:]:
            total += tokens
            window = at - taken[first][0]
            slack = 1e-9 * max(1.0, abs(now), window)
            assert (total - burst) * interval <= window + slack


@given(burst=st.integers(1, 9), pause=st.integers(0, 1000), tokens=st.integers(1, 9))
def test_bucket_fills_up_to_the_burst_and_no_further(
    burst: int, pause: float, tokens: int
) -> None:
    """A pause, however long, never earns more than the burst."""
    bucket = Bucket(1.0, burst)
    bucket.take(burst, 0.0)
    now = float(burst + pause)
    assert bucket.free_at(burst, now) <= now
    bucket.take(burst, now)
    assert bucket.free_at(min(tokens, burst), now) == now + min(tokens, burst)


@given(
    interval=st.floats(1e-6, 1e3), burst=st.integers(1, 50), now=st.floats(-1e6, 1e6)
)
def test_bucket_has_the_whole_burst_at_one_time(
    interval: float, burst: int, now: float
) -> None:
    """Taken one by one, by a clock that stands still, to the last token."""
    bucket = Bucket(interval, burst)
    for _ in range(burst):
        assert bucket.free_at(1, now) <= now
        bucket.take(1, now)
    assert bucket.free_at(1, now) >= now + interval / 2 or now + interval / 2 == now


def test_bucket_goes_on_by_another_clock() -> None:
    """What is owed by one clock is owed by the next, however that one counts."""
    bucket = Bucket(2.0, 1)
    bucket.take(1, 1_000.0)
    bucket.rebase(1_000.5, -7.0)
    assert bucket.free_at(1, -7.0) == -5.5


@pytest.mark.virtual_time
async def test_try_acquire_does_not_overtake() -> None:
    """Nobody passes while somebody waits, though there are tokens enough for them."""
    limiter = RateLimiter(1, burst=3)
    await limiter.acquire(2)
    large = asyncio.create_task(limiter.acquire(3))
    await asyncio.sleep(0)
    assert not limiter.try_acquire(1)
    small = asyncio.create_task(limiter.acquire(1))
    await large
    assert asyncio.get_running_loop().time() == 2
    assert not small.done()
    await small
    assert asyncio.get_running_loop().time() == 3


async def test_whoever_comes_in_the_tick_of_a_grant_is_behind_it() -> None:
    """A waiter that may pass, but has not gone on yet, still goes first."""
    limiter = RateLimiter(1e-6, burst=3)
    order: list[str] = []

    async def stand_in_line(name: str, tokens: int) -> None:
        try:
            await limiter.acquire(tokens)
        except asyncio.CancelledError:
            assert not limiter.try_acquire()
            await limiter.acquire()
            name = "late"
        order.append(name)

    await limiter.acquire(1)
    large = asyncio.create_task(stand_in_line("large", 3))
    first = asyncio.create_task(stand_in_line("first", 1))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.gather(first, large)
    assert order == ["first", "late"]


@pytest.mark.virtual_time
async def test_the_large_does_not_starve() -> None:
    """A large request gets its turn among small ones that never stop coming."""
    limiter = RateLimiter(1, burst=5)
    await limiter.acquire(5)

    async def small() -> None:
        while True:
            await limiter.acquire()

    crowd = [asyncio.create_task(small()) for _ in range(3)]
    await asyncio.sleep(0)
    await limiter.acquire(5)
    assert asyncio.get_running_loop().time() == 3 + 5
    for task in crowd:
        task.cancel()
    await asyncio.wait(crowd)


@pytest.mark.virtual_time
async def test_async_with_takes_one_token() -> None:
    """`async with` waits on entering, and gives nothing back on leaving."""
    limiter = RateLimiter(2)
    for expected in (0, 0.5, 1.0):
        async with limiter:
            assert asyncio.get_running_loop().time() == expected


@pytest.mark.parametrize("backwards", [False, True])
async def test_thousands_of_cancelled_waiters_leave_the_line_as_it_was(
    backwards: bool,
) -> None:
    """All that wait may be cancelled in one tick, in any order; they took nothing."""
    limiter = RateLimiter(1e-6, burst=2)
    assert limiter.try_acquire()
    tasks = [asyncio.create_task(limiter.acquire(2)) for _ in range(10_000)]
    await asyncio.sleep(0)
    for task in reversed(tasks) if backwards else tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert limiter.try_acquire()
    assert not limiter.try_acquire()


@pytest.mark.virtual_time
@pytest.mark.parametrize("granted_first", [False, True])
async def test_cancel_in_the_tick_of_the_grant(granted_first: bool) -> None:
    """Tokens that a cancelled waiter had been given go to the next in line, at once."""
    loop = asyncio.get_running_loop()
    limiter = RateLimiter(1)
    await limiter.acquire()
    first = asyncio.create_task(limiter.acquire())
    if not granted_first:
        loop.call_at(1.0, first.cancel)
    await asyncio.sleep(0)
    second = asyncio.create_task(limiter.acquire())
    if granted_first:
        await asyncio.sleep(0)
        loop.call_at(1.0, first.cancel)
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert loop.time() == 1.0


@pytest.mark.virtual_time
async def test_all_cancelled_in_the_tick_of_the_grant() -> None:
    """A cancelled waiter that has yet to notice is passed over, without an error."""
    loop = asyncio.get_running_loop()
    limiter = RateLimiter(1, burst=3)
    await limiter.acquire(3)
    tasks = [asyncio.create_task(limiter.acquire(1)) for _ in range(5)]
    last = asyncio.create_task(limiter.acquire(3))

    def cancel_all() -> None:
        for task in tasks:
            task.cancel()

    loop.call_at(0.5, loop.call_at, 3.0, cancel_all)
    tasks[0].add_done_callback(lambda _: cancel_all())
    await last
    assert [task.cancelled() for task in tasks] == [False, True, True, True, True]
    assert loop.time() == 4.0


def test_exact_as_the_callers_see_it() -> None:
    """A waiter that goes on late has passed late: the next one waits from then on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, BusyLoop)
        limiter = RateLimiter(0.01)
        await limiter.acquire()
        first, second = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        loop.spent += 100
        while not first.done():  # what is slow comes between its timer and itself
            loop.spent += 10
            await asyncio.sleep(0)
        passed = loop.time()
        while not second.done():
            loop.spent += 1
            await asyncio.sleep(0)
        assert loop.time() - passed >= 100 - 1e-6

    with asyncio.Runner(loop_factory=BusyLoop) as runner:
        runner.run(main())


@pytest.mark.virtual_time
async def test_shared_between_calls() -> None:
    """Whoever shares the limiter shares the rate."""
    limiter = RateLimiter(1)
    times: list[float] = []

    async def call(n: int) -> None:
        for _ in range(n):
            await limiter.acquire()
            times.append(asyncio.get_running_loop().time())

    await asyncio.gather(call(3), call(2))
    assert times == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("start", [0.0, 5.0, -1e6, 2.0**30])
def test_next_loop_pays_what_is_owed(start: float) -> None:
    """The next loop goes on where the last one left off, whatever its clock shows."""
    limiter = RateLimiter(1)

    async def use(seconds: float) -> None:
        begin = asyncio.get_running_loop().time()
        await limiter.acquire()
        took = asyncio.get_running_loop().time() - begin
        assert took == pytest.approx(seconds, abs=1e-6)
        assert not limiter.try_acquire()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(use(0))
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(start)) as runner:
        runner.run(use(1))
        runner.run(use(1))


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("used_meanwhile", [False, True])
def test_loop_closed_with_waiters_left(granted: bool, used_meanwhile: bool) -> None:
    """Waiters of a loop that is no more neither stand in the way nor hand anything back."""
    limiter = RateLimiter(1, burst=2)
    loop = VirtualClockLoop()
    loop.run_until_complete(limiter.acquire(2))
    waiting = [limiter.acquire(2) for _ in range(3)]
    tasks = [loop.create_task(coro) for coro in waiting]
    if granted:
        loop.call_at(2.0, loop.stop)
        loop.run_forever()
    else:
        loop.run_until_complete(asyncio.sleep(1))
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def main() -> None:
        assert limiter.try_acquire(2) is granted
        await asyncio.sleep(3)
        await limiter.acquire(2)

    async def after() -> None:
        assert not limiter.try_acquire()
        await limiter.acquire(2)
        assert asyncio.get_running_loop().time() == 2

    if used_meanwhile:
        virtually(main())
    del tasks
    for coro in waiting:
        coro.close()
    if not used_meanwhile:
        virtually(main())
    virtually(after())


def test_two_loops_at_once() -> None:
    """A limiter with waiters in one loop is refused in another, until they are gone."""
    limiter = RateLimiter(1)
    loop = VirtualClockLoop()
    loop.run_until_complete(limiter.acquire())
    task = loop.create_task(limiter.acquire())
    loop.run_until_complete(asyncio.sleep(0))

    async def refused() -> None:
        with pytest.raises(RuntimeError, match="another loop"):
            limiter.try_acquire()
        with pytest.raises(RuntimeError, match="another loop"):
            await limiter.acquire()

    virtually(refused())
    loop.run_until_complete(task)
    assert loop.time() == 1
    loop.close()
    virtually(limiter.acquire())


def test_two_loops_at_once_with_a_waiter_on_its_way() -> None:
    """So it is while a waiter has been let through, but has not gone on."""
    limiter = RateLimiter(1)
    loop = VirtualClockLoop()
    loop.run_until_complete(limiter.acquire())
    task = loop.create_task(limiter.acquire())
    loop.call_at(1.0, loop.stop)
    loop.run_forever()
    assert not task.done()

    async def refused() -> None:
        with pytest.raises(RuntimeError, match="another loop"):
            limiter.try_acquire()

    virtually(refused())
    loop.run_until_complete(task)
    loop.close()


@pytest.mark.parametrize("closed", [False, True])
def test_closed_outside_of_a_loop(closed: bool) -> None:
    """A waiting acquire may be closed where no loop runs; the next in line moves up."""
    limiter = RateLimiter(1, burst=3)
    loop = VirtualClockLoop()
    loop.run_until_complete(limiter.acquire(3))

    async def step(coro: Coroutine[Any, Any, None]) -> None:
        coro.send(None)

    first, second = limiter.acquire(3), limiter.acquire(1)
    loop.run_until_complete(step(first))
    loop.run_until_complete(step(second))
    third = loop.create_task(limiter.acquire(1))
    loop.run_until_complete(asyncio.sleep(0))
    if closed:
        third.cancel()
        loop.run_until_complete(asyncio.wait([third]))
        loop.close()
        first.close()
        second.close()
        return
    first.close()
    second.close()
    loop.run_until_complete(third)
    assert loop.time() == 1
    loop.close()


def test_without_a_loop() -> None:
    """There is no clock without a loop."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        RateLimiter(1).try_acquire()


def test_early_timers_do_not_spin() -> None:
    """On a clock of milliseconds whose timers round, a wait takes a few iterations."""
    grants: list[float] = []

    async def main() -> None:
        limiter = RateLimiter(1000 / 7.3)
        for _ in range(200):
            await limiter.acquire()
            grants.append(asyncio.get_running_loop().time())

    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CoarseLoop)
        runner.run(main())
        assert loop.iterations < 200 * 6
    assert all(later - sooner >= 0.0073 - 1e-9 for sooner, later in pairwise(grants))
    assert grants[-1] <= 199 * (0.0073 + 0.002)


def test_real_time_on_uvloop() -> None:
    """On uvloop's coarse clock the rate holds, and waiting does not keep the loop busy."""
    interval = 0.0073
    calls = 0
    grants: list[float] = []

    async def main() -> None:
        limiter = RateLimiter(1 / interval, burst=2)
        for _ in range(40):
            await limiter.acquire()
            grants.append(asyncio.get_running_loop().time())

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.setprofile(count)
        try:
            runner.run(main())
        finally:
            sys.setprofile(None)
    assert calls < 40 * 200
    for first in range(len(grants)):
        for last in range(first, len(grants)):
            most = 2 + (grants[last] - grants[first] + 0.001) / interval
            assert last - first + 1 <= most


@pytest.mark.virtual_time
async def test_memory_is_flat() -> None:
    """Waiting a hundred thousand times leaves nothing behind."""
    limiter = RateLimiter(1000)

    async def acquire(times: int) -> None:
        for _ in range(times):
            await limiter.acquire()

    await acquire(1000)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await asyncio.gather(*[acquire(1000) for _ in range(10)])
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 32_768


@pytest.mark.parametrize("value", [0, -1, -0.5, math.inf, -math.inf, math.nan, 0.0])
@pytest.mark.parametrize("name", ["rate", "per"])
def test_refuses_a_rate_that_is_none(name: str, value: float) -> None:
    """A rate is positive and finite."""
    arguments = {"rate": 1.0, "per": 1.0, name: value}
    with pytest.raises(
        ValueError, match=f"{name} must be positive and finite, got {value!r}"
    ):
        RateLimiter(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, "3", None, 1j])
@pytest.mark.parametrize("name", ["rate", "per"])
def test_refuses_a_rate_that_is_no_number(name: str, value: Any) -> None:
    """A rate is a number, and True is not meant as one."""
    arguments = {"rate": 1.0, "per": 1.0, name: value}
    with pytest.raises(TypeError, match=f"{name} must be a number, got "):
        RateLimiter(**arguments)


@pytest.mark.parametrize(
    ("rate", "per"), [(1e308, 1e-308), (1e-308, 1e308), (1, 10**400), (10**400, 1.0)]
)
def test_refuses_a_rate_beyond_arithmetic(rate: float, per: float) -> None:
    """A rate that no float can hold is refused, instead of limiting nothing or all."""
    with pytest.raises(ValueError, match="rate / per"):
        RateLimiter(rate, per)


@pytest.mark.parametrize(
    ("burst", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        (True, TypeError),
        ("3", TypeError),
    ],
)
def test_refuses_a_burst_that_is_none(burst: Any, error: type[Exception]) -> None:
    """A burst is a count of at least 1."""
    with pytest.raises(error, match=f"burst must be .*, got {burst!r}"):
        RateLimiter(1, burst=burst)


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (4, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
async def test_refuses_tokens_that_could_never_pass(
    tokens: Any, error: type[Exception]
) -> None:
    """More than the burst would wait for ever; nothing is taken."""
    limiter = RateLimiter(1e-6, burst=3)
    with pytest.raises(error, match=r"tokens must be .*, got"):
        await limiter.acquire(tokens)
    with pytest.raises(error, match=r"tokens must be .*, got"):
        limiter.try_acquire(tokens)
    assert limiter.try_acquire(3)
