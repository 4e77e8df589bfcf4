"""Reads for a handler that is away, so that the peer's end, and its pongs, are seen."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import final

from ..exceptions import CloseInfo
from ._limits import Limits
from ._outbox import Budget
from ._transport import Data, TransportClosed, WebSocketTransport, broken, size_of


@final
class Reader:
    """What was received while nobody asked for it.

    Args:
        loop: The session's.
        transport: Where it comes from.
        limits: How much may wait.
        budget: How much may wait in all sessions of the hub.
        admits: Called with every message; tells whether it is one for the handler. If it
            ends the session, this is stopped.
        on_lost: Called once the transport is closed.
        turn: Awaited before each message; None if there is no rate.
    """

    __slots__ = (
        "_admits",
        "_arrival",
        "_budget",
        "_bytes",
        "_limits",
        "_loop",
        "_messages",
        "_on_lost",
        "_reading",
        "_room",
        "_stopped",
        "_task",
        "_transport",
        "_turn",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: WebSocketTransport,
        limits: Limits,
        budget: Budget,
        admits: Callable[[Data], bool],
        on_lost: Callable[[CloseInfo], object],
        turn: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._limits = limits
        self._budget = budget
        self._admits = admits
        self._on_lost = on_lost
        self._turn = turn
        self._messages: deque[tuple[Data, int]] = deque()
        self._bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._reading = False
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    @property
    def bytes(self) -> int:
        """How many wait."""
        return self._bytes

    @property
    def has_some(self) -> bool:
        """Whether any message waits."""
        return bool(self._messages)

    @property
    def paused(self) -> bool:
        """Whether there is no room for more."""
        return self._room is not None

    def start(self) -> None:
        """Read until the handler is back, as far as there is room."""
        if not self._reading:
            self._reading = True  # an eager task may be over when it has been made
            self._task = self._loop.create_task(self._read(), context=Context())

    async def next(self) -> Data | None:
        """Return the next message; None if nobody reads, so that the caller has to."""
        while not self._messages:
            if not self._reading:
                return None
            self._arrival = self._loop.create_future()
            self.look()
            try:
                await self._arrival
            finally:
                self._arrival = None
        data, size = self._messages.popleft()
        self._count(-size)
        self.look()
        return data

    def look(self) -> None:
        """Read on if there is room again."""
        room = self._room
        if room is not None and not room.done() and self._may_read():
            room.set_result(None)

    def stop(self) -> asyncio.Task[None] | None:
        """Read nothing more; return the task that did, which was cancelled."""
        self._stopped = True  # an eager task is not known before its first wait
        if self._task is not None:
            self._task.cancel()
        return self._task

    def clear(self) -> None:
        """Let go of everything."""
        self._messages.clear()
        self._count(-self._bytes)

    async def _read(self) -> None:
        try:
            while not self._stopped:
                await self._wait_for_room()
                if self._turn is not None:
                    await self._turn()
                data = await self._transport.receive()
                if not self._admits(data):
                    continue
                size = size_of(data)
                self._messages.append((data, size))
                self._count(size)
                if self._arrival is not None:
                    return
        except TransportClosed as exc:
            self._on_lost(exc.info)
        except Exception as exc:  # noqa: BLE001 - of a transport that breaks its promise
            self._on_lost(broken(self._loop, exc))
        finally:
            self._reading = False
            if self._arrival is not None and not self._arrival.done():
                self._arrival.set_result(None)

    async def _wait_for_room(self) -> None:
        while not self._may_read():
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    def _may_read(self) -> bool:
        limits, budget = self._limits, self._budget
        return self._arrival is not None or (  # the handler is back
            self._bytes < limits.max_queue_bytes
            and len(self._messages) < limits.max_queue_messages
            and budget.used < budget.limit
        )

    def _count(self, size: int) -> None:
        self._bytes += size
        self._budget.used += size
