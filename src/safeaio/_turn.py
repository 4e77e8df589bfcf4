"""What one turn of a loop may spend on work that never suspends.

One budget for each loop, whoever runs in it: eight pools side by side hold the loop no
longer than one.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, final
from weakref import WeakKeyDictionary

import attrs

CreateTask: TypeAlias = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]

SLICE = 0.005  # seconds; a tenth of the longest gap in the loop that we allow ourselves

_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


@attrs.define(eq=False, repr=False)
@final
class Turn:
    """The budget of the loop's current turn.

    Attributes:
        ends: When it is spent, on `time.perf_counter`; minus infinity while nobody has
            begun to spend it, so that one comparison serves the hot path.
        starting: Whether somebody on this stack starts children, maybe eagerly. Who finds
            it set does not: recursion would go as deep as calls are nested.
    """

    ends: float = attrs.field(default=float("-inf"), init=False)
    starting: bool = attrs.field(default=False, init=False)

    def spent(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether to yield to the loop now. Without a budget, open one."""
        if self.ends > 0.0:
            return perf_counter() >= self.ends
        self.ends = perf_counter() + SLICE
        loop.call_soon(self._close, context=Context())
        return False

    def create_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any],
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Create a task as the loop does: at once, if its factory is an eager one."""
        nested, self.starting = self.starting, True
        try:
            return loop.create_task(coro, context=context)
        finally:
            self.starting = nested

    async def leave_stack(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait a turn, if an eager factory would recurse as deep as calls are nested."""
        if self.starting and loop.get_task_factory() is not None:
            await asyncio.sleep(0)

    def _close(self) -> None:
        self.ends = float("-inf")


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """Return the budget of `loop`."""
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = Turn()
    return turn


def eager_start(loop: asyncio.AbstractEventLoop) -> CreateTask:
    """Return what makes tasks that run to their first suspension at once.

    Ordinary ones before Python 3.12, and where that would bypass a task factory.
    """
    if loop.get_task_factory() is not None:
        return loop.create_task
    return partial(asyncio.Task, loop=loop, **_EAGER)
