"""One session's way out: straight to the transport, or through a queue and a writer."""

# Invariants; the code names them where it keeps them.
#
# 1. Only the writer awaits the transport's `send`, and only while something waits: an idle
#    session has no task.
# 2. What `put` has taken is sent, in order, unless the session ends; what it was cancelled
#    in has not been taken.

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Any, final

from ..exceptions import CloseInfo
from ._limits import Limits
from ._outbox import Budget, Outbox, Outcome, Slow
from ._transport import TransportClosed, WebSocketTransport, broken


@final
class Outgoing:
    """What one session sends.

    Args:
        loop: Its loop.
        transport: Where it goes.
        limits: How much may wait.
        budget: How much may wait in all sessions of the hub.
        on_lost: Called if the transport turns out to be closed.

    Attributes:
        busy: Whether anything waits; else the transport's `try_send` may be called.
        moved_at: When something last got through, while something waits.
        lags_since: Since when more than half of what may wait does; None if it does not.
    """

    __slots__ = (
        "_box",
        "_budget",
        "_buffered",
        "_limits",
        "_line",
        "_loop",
        "_on_lost",
        "_room",
        "_stopped",
        "_transport",
        "_writer",
        "busy",
        "lags_since",
        "moved_at",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: WebSocketTransport,
        limits: Limits,
        budget: Budget,
        on_lost: Callable[[CloseInfo], object],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._limits = limits
        self._budget = budget
        self._on_lost = on_lost
        self._box: Outbox | None = None
        self.busy: bool = False
        self._writer: asyncio.Task[None] | None = None
        self._line: asyncio.Lock | None = None
        self._room: asyncio.Future[None] | None = None
        self._stopped = False
        self._buffered: int | None = None
        self.moved_at: float = 0.0
        self.lags_since: float | None = None

    @property
    def bytes(self) -> int:
        """How many wait."""
        return 0 if self._box is None else self._box.bytes

    @property
    def messages(self) -> int:
        """How many wait."""
        return 0 if self._box is None else len(self._box)

    @property
    def dropped(self) -> int:
        """How many were dropped, or replaced by newer ones."""
        return 0 if self._box is None else self._box.dropped

    async def put(self, prepared: Any, size: int) -> bool:
        """Queue a message, and wait for room if there is none.

        Returns:
            False if it was not, since the hub has no memory left, or the session ends.
        """
        box = self._open()
        if not box.has_room(size) or (self._line is not None and self._line.locked()):
            await self._wait_for_room(box, size)
        if self._stopped or not box.fits(size):
            return False
        box.put(prepared, size)  # 2
        self._write_on()
        return True

    def offer(self, prepared: Any, size: int, slow: Slow, key: Hashable) -> Outcome:
        """Queue a message, or do what its policy says."""
        outcome = self._open().offer(prepared, size, slow, key)
        if outcome is Outcome.QUEUED:
            self._write_on()
        return outcome

    async def flush(self) -> None:
        """Wait until nothing waits."""
        while self.busy and self._writer is not None:
            await asyncio.wait([self._writer])

    def stop(self) -> asyncio.Task[None] | None:
        """Send nothing more; return the writer, which was cancelled, if there was one."""
        self._stopped = True
        if self._box is not None:
            self._box.clear()
        self._wake()
        if self._writer is not None:
            self._writer.cancel()
        return self._writer

    def let_go(self, on_lost: Callable[[CloseInfo], object]) -> None:
        """Hold the session no more, now that it is over."""
        self._on_lost = on_lost
        self._writer = None  # its cancel holds this

    def has_moved(self, now: float) -> None:
        """Look whether anything has got through; for the sweeper, while something waits."""
        buffered = self._transport.buffered()
        if buffered != self._buffered:
            self._buffered, self.moved_at = buffered, now
        limits, box = self._limits, self._box
        if box is None or (
            2 * box.bytes <= limits.max_queue_bytes
            and 2 * len(box) <= limits.max_queue_messages
        ):
            self.lags_since = None
        elif self.lags_since is None:
            self.lags_since = now

    def _open(self) -> Outbox:
        if self._box is None:  # few sessions are ever slow
            limits = self._limits
            self._box = Outbox(
                self._budget, limits.max_queue_bytes, limits.max_queue_messages
            )
        return self._box

    async def _wait_for_room(self, box: Outbox, size: int) -> None:
        if self._line is None:
            self._line = asyncio.Lock()
        async with self._line:
            while not self._stopped and not box.has_room(size):
                self._room = self._loop.create_future()
                await self._room

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _write_on(self) -> None:
        if not self.busy:
            self.busy = True  # an eager writer may be over when it has been made
            self.moved_at = self._loop.time()
            self._buffered = self._transport.buffered()
            self._writer = self._loop.create_task(self._write(), context=Context())

    async def _write(self) -> None:
        box, transport = self._open(), self._transport
        try:
            while box:
                prepared = box.take()
                if not transport.try_send(prepared):
                    await transport.send(prepared)  # 1
                box.sent()
                self.moved_at = self._loop.time()
                self._wake()
        except TransportClosed as exc:
            self._on_lost(exc.info)
        except Exception as exc:  # noqa: BLE001 - of a transport that breaks its promise
            self._on_lost(broken(self._loop, exc))
        finally:
            self.busy = False
            self._buffered = self.lags_since = None
