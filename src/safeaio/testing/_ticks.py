"""Run a loop until a task is done, stopping to look before each tick."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ._clock import DeadlockError, VirtualClockLoop
from ._trail import trail


def drive(
    loop: asyncio.AbstractEventLoop,
    create_task: Callable[[], asyncio.Task[object]],
    before_tick: Callable[[], object],
    tick_limit: int,
) -> str | None:
    """Run `loop` until the task is done; return why that was given up, or None."""
    ticks = 0

    def count() -> None:
        nonlocal ticks
        before_tick()
        ticks += 1
        if ticks > tick_limit:
            loop.stop()

    with _ticking(loop, count):
        task = create_task()
        task.add_done_callback(lambda _: loop.stop())
        # A loop because the task may stop the loop, too, and because the callback of
        # an earlier one that raised KeyboardInterrupt may still be in the queue.
        while not task.done():
            if ticks > tick_limit:
                return f"still running after {tick_limit} ticks: {trail(task)}"
            try:
                loop.run_forever()
            except DeadlockError as exc:
                return str(exc)
    return None


@contextmanager
def _ticking(
    loop: asyncio.AbstractEventLoop, before_tick: Callable[[], object]
) -> Generator[None]:
    if isinstance(loop, VirtualClockLoop):
        loop.on_tick = before_tick
        try:
            yield
        finally:
            loop.on_tick = None
        return

    handle: asyncio.Handle

    def once_per_iteration() -> None:
        nonlocal handle
        before_tick()
        handle = loop.call_soon(once_per_iteration)

    handle = loop.call_soon(once_per_iteration)
    try:
        yield
    finally:
        handle.cancel()
