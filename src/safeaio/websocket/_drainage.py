"""Empties a hub, when its user asks for that or a shutdown begins."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from random import random
from typing import Any, final

import attrs

from .._background import background
from .._grace import Limit
from .._rate import check_count
from .._seconds import check_seconds
from ._close import check_code
from ._connection import Connection
from ._drain import Drained, batches
from ._registry import Registry

_ABORTED = 0.9  # of the deadline: what is left is for handlers to end


@attrs.frozen(kw_only=True)
@final
class Plan:
    """What `WebSocketHub.drain` was asked for.

    Raises:
        TypeError: For the wrong type.
        ValueError: For what is out of its bounds.
    """

    code: int = 1012
    grace: float = 0.0
    batch: int = 500
    interval: float = 0.1
    jitter: float = 0.5
    deadline: float = 30.0

    def __attrs_post_init__(self) -> None:
        check_code(self.code)
        check_count("drain(): batch", self.batch)
        for name in ("grace", "interval", "jitter", "deadline"):
            check_seconds(f"drain(): {name}", getattr(self, name), optional=False)
        if self.jitter > 1:
            raise ValueError(
                f"drain(): jitter is a part of the interval, up to 1, got {self.jitter!r}"
            )


@final
class Drainage:
    """The one drain of a hub.

    Args:
        registry: Of the hub.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._task: asyncio.Task[Drained] | None = None
        self._told: set[Connection] = set()
        self._aborted: set[Connection] = set()
        self._over = False

    async def drain(self, plan: Plan) -> Drained:
        """Drain, or wait for the drain that is under way.

        Raises:
            RuntimeError: From within a session of the hub.
        """
        registry = self._registry
        task = asyncio.current_task()
        if any(connection.task is task for connection in registry.connections):
            raise RuntimeError(
                "drain() waits for all sessions of its hub, so none of them can wait "
                "for it"
            )
        registry.bind(asyncio.get_running_loop())
        draining = self._begin(plan)
        await asyncio.wait([draining])
        return draining.result()

    def take_back(self) -> None:
        """Admit again.

        Raises:
            RuntimeError: While a drain is under way.
        """
        if self._task is not None and not self._task.done():
            raise RuntimeError("this WebSocketHub still drains; wait for drain() first")
        self._task = None
        self._registry.draining = False

    def _begin(self, plan: Plan) -> "asyncio.Task[Drained]":
        if self._task is None:
            self._registry.draining = True
            self._task = background(self._run(plan))
        return self._task

    async def _run(self, plan: Plan) -> Drained:
        registry = self._registry
        before = len(registry.connections)
        limits = (
            Limit(registry.loop, _ABORTED * plan.deadline, self._abort),
            Limit(registry.loop, plan.deadline, self._give_up),
        )
        try:
            await registry.empty(within=plan.grace)
            for wait, size in batches(
                len(registry.connections),
                plan.batch,
                plan.interval,
                plan.jitter,
                random,
            ):
                if self._over:
                    break
                await registry.empty(within=wait)
                self._tell(size, plan.code)
            if not self._over:
                await registry.empty(within=plan.deadline)
        except asyncio.CancelledError:
            self._abort()
            raise
        finally:
            for limit in limits:
                limit.cancel()
            closed, aborted = len(self._told - self._aborted), len(self._aborted)
            self._told.clear()
            self._aborted.clear()
        return Drained(max(before - closed - aborted, 0), closed, aborted)

    def _tell(self, size: int, code: int) -> None:
        still_open = (c for c in self._registry.connections if c.info is None)
        told = tuple(islice(still_open, size))
        reason = "going away" if code == 1001 else "service restart"
        for connection in told:
            connection.end("drain", code, reason)
        self._told.update(told)

    def _abort(self) -> None:
        for connection in tuple(self._registry.connections):
            connection.end("drain")
            connection.abort()
            connection.interrupt()
            self._aborted.add(connection)

    def _give_up(self) -> None:
        self._over = True
        self._registry.wake()

    # What a shutdown asks

    @property
    def subscribed(self) -> bool:
        """Whether there is anything to drain."""
        return bool(self._registry.connections)

    @property
    def owned(self) -> Iterable[asyncio.Future[Any]]:
        """No tasks: those of the sessions are somebody else's."""
        return ()

    def shut_down(self, *, hurry: bool) -> None:
        """Drain; or abort what is left."""
        self._begin(Plan())
        if hurry:
            self._abort()
