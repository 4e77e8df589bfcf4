"""The virtual clock."""

import asyncio
import contextvars
import math
import pickle
import socket
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest

from safeaio.testing import DeadlockError, VirtualClockLoop

T = TypeVar("T")


def run(
    func: Callable[[], Coroutine[Any, Any, T]],
    new_loop: Callable[[], VirtualClockLoop] = VirtualClockLoop,
) -> T:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(func())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_sleep_takes_exactly_its_virtual_time() -> None:
    """A timer fires at its time, and time starts at 0."""

    async def main() -> list[float]:
        times = [now()]
        for delay in (0.1, 0.2, 3600, 0):
            await asyncio.sleep(delay)
            times.append(now())
        return times

    later = 0.1 + 0.2
    assert run(main) == [0, 0.1, later, later + 3600, later + 3600]


def test_start_is_where_time_starts() -> None:
    """Time may start anywhere."""

    async def main() -> float:
        await asyncio.sleep(1)
        return now()

    assert run(main, lambda: VirtualClockLoop(start=-5.0)) == -4


@pytest.mark.parametrize("start", [0.0, 1e6, 1e9, 1e12, 1e15])
@pytest.mark.parametrize("delay", [5e-324, 1e-9, 0.1, 86_400.0, 1e9, 1e300])
def test_time_reaches_every_timer_at_once(start: float, delay: float) -> None:
    """However late or long a sleep is, it takes one jump and never falls short."""

    async def main() -> tuple[float, float, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.call_at(start + delay, lambda: None)
        before = loop.ticks
        await asyncio.sleep(delay)
        return start + delay, now(), loop.ticks - before

    due, reached, ticks = run(main, lambda: VirtualClockLoop(start))
    assert due <= reached <= math.nextafter(math.nextafter(due, math.inf), math.inf)
    assert ticks <= 3


def test_timers_fire_in_order_of_time() -> None:
    """Timers fire by time, not by when they were set, and cancelled ones not at all."""

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[str, float]] = []
        loop.call_later(2, lambda: fired.append(("second", now())))
        loop.call_later(1, lambda: fired.append(("first", now())))
        loop.call_later(1.5, lambda: fired.append(("never", now()))).cancel()
        loop.call_at(3, lambda: fired.append(("third", now())))
        await asyncio.sleep(10)
        return fired

    assert run(main) == [("first", 1), ("second", 2), ("third", 3)]


def test_timeouts_that_never_expire_cost_no_time() -> None:
    """Cancelled timers are forgotten, and the clock does not visit them."""

    async def main() -> float:
        for _ in range(1000):
            async with asyncio.timeout(3600):
                await asyncio.sleep(0.5)
        return now()

    assert run(main) == 500


def test_callbacks_keep_their_context() -> None:
    """`context=` reaches the callback, by every way to schedule one."""
    name = contextvars.ContextVar("name", default="outside")

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(name.set, "inside")
        seen: list[str] = []

        def see() -> None:
            seen.append(name.get())

        loop.call_soon(see, context=context)
        loop.call_soon_threadsafe(see, context=context)
        loop.call_later(1, see, context=context)
        loop.call_soon(see)
        await asyncio.sleep(2)
        return seen

    assert run(main) == ["inside", "inside", "outside", "inside"]


def test_tick_is_one_callback() -> None:
    """Before each callback of one loop iteration `on_tick` may act on the next one."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        events: list[str] = []
        loop.on_tick = lambda: events.append("tick")
        loop.call_soon(events.append, "a")
        loop.call_soon(events.append, "cancelled").cancel()
        loop.call_soon(events.append, "b")
        before = loop.ticks
        await asyncio.sleep(0)
        loop.on_tick = None
        assert loop.ticks == before + 3
        return events

    assert run(main) == ["tick", "a", "tick", "b", "tick"]


@pytest.mark.parametrize("idle_timeout", [60, None])
def test_thread_wakes_an_idle_loop(idle_timeout: float | None) -> None:
    """Without a timer the loop waits for a thread, for real."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[str] = loop.create_future()
        args = (woken.set_result, "from a thread")
        # Long enough for the loop to have nothing left to do.
        thread = threading.Timer(0.02, loop.call_soon_threadsafe, args)
        thread.start()
        try:
            return await woken
        finally:
            thread.join()

    new_loop = partial(VirtualClockLoop, idle_timeout=idle_timeout)
    assert run(main, new_loop) == "from a thread"


def test_executor_is_shut_down_without_a_warning() -> None:
    """The clock does not overtake the threads that end with the loop."""

    async def main() -> int:
        return await asyncio.to_thread(int)

    assert run(main) == 0


def test_socket_wakes_an_idle_loop() -> None:
    """Without a timer the loop waits for a socket, for real."""

    async def main() -> bytes:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            asyncio.get_running_loop().call_soon(right.send, b"x")
            return await asyncio.get_running_loop().sock_recv(left, 1)

    assert run(main) == b"x"


@pytest.mark.parametrize("forever", [asyncio.Event().wait, anyio.sleep_forever])
def test_deadlock_names_who_waits(
    forever: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """A loop that can only wait for ever says so, and which tasks wait."""

    async def main() -> None:
        await asyncio.create_task(forever(), name="waits for ever")

    with pytest.raises(DeadlockError, match="waits for ever") as caught:
        run(main, lambda: VirtualClockLoop(idle_timeout=0.01))
    assert len(caught.value.tasks) == 2


def test_deadlock_is_certain_without_threads_and_sockets() -> None:
    """Nobody waits `idle_timeout` if nobody is there who could wake the loop."""
    if threading.active_count() > 1:
        pytest.skip("another test left a thread behind")

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError) as caught:
        run(main, lambda: VirtualClockLoop(idle_timeout=3600))
    assert caught.value.waited == 0


def test_deadlock_waits_while_a_socket_is_open() -> None:
    """With a socket that may yet become readable, `idle_timeout` is waited out."""

    async def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            await asyncio.get_running_loop().sock_recv(left, 1)

    with pytest.raises(DeadlockError) as caught:
        run(main, lambda: VirtualClockLoop(idle_timeout=0.01))
    assert caught.value.waited == 0.01


def test_deadlock_error_pickles() -> None:
    """The error survives the way to another process."""
    copy = pickle.loads(pickle.dumps(DeadlockError(("<Task>",), 0.5)))
    assert (copy.tasks, copy.waited) == (("<Task>",), 0.5)
    assert "no task" in str(DeadlockError((), 0.5))


@pytest.mark.parametrize("start", [math.inf, math.nan])
def test_start_must_be_finite(start: float) -> None:
    """A clock that cannot advance is refused, naming what was given."""
    with pytest.raises(ValueError, match=f"start must be a finite number, got {start}"):
        VirtualClockLoop(start)


@pytest.mark.parametrize("idle_timeout", [0, -1.0, math.nan])
def test_idle_timeout_must_be_positive(idle_timeout: float) -> None:
    """A wait that is none is refused, naming what was given."""
    with pytest.raises(ValueError, match=f"more than 0, got {idle_timeout}"):
        VirtualClockLoop(idle_timeout=idle_timeout)
