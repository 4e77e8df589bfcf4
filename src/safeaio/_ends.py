"""Tells the ends of lives, all those of a turn in one callback."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, final

from ._child import Child
from ._wait import Children


@final
class Ends:
    """Waits until lives that are in their last step have ended, and tells of each.

    A done callback of each task would be a callback of the loop for each.

    Args:
        tasks: The tasks of all lives; each is taken out when it has ended.
    """

    def __init__(self, tasks: Children[Child | None]) -> None:
        self._tasks = tasks
        self._loop = tasks.loop
        self._noted: deque[Child] = deque()
        self._due = False
        self._context = Context()

    def note(self, child: Child) -> None:
        """Have the end of a life told in the next turn."""
        self._noted.append(child)
        if not self._due:
            self._call_soon()

    def wait_for(self, task: asyncio.Task[Any]) -> None:
        """Have the end of a life told that cannot note it."""
        task.add_done_callback(self._ended, context=self._context)

    def _call_soon(self) -> None:
        if self._loop.is_closed():  # it is the garbage collector that ends them
            return
        self._due = True
        self._loop.call_soon(self._tell_all, context=self._context)

    def _tell_all(self) -> None:
        try:
            for _ in range(len(self._noted)):  # not those that end meanwhile
                self._look_at(self._noted.popleft())
        finally:
            self._due = False
            if self._noted:
                self._call_soon()

    def _look_at(self, child: Child) -> None:
        task = child.task
        assert task is not None
        if not task.done():  # somebody closed its coroutine, which it has yet to notice
            self.wait_for(task)
            return
        del self._tasks.running[task], task  # it holds an error; see `Family`
        child.overseer.ended(child)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        child = self._tasks.running.pop(task)
        del task
        assert child is not None
        child.overseer.ended(child)
