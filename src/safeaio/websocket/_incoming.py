"""One session's way in: straight from the transport, or through a reader."""

# Invariants; the code names them where it keeps them.
#
# 1. One reads from the transport at a time: the handler, or the reader while it is away.
# 2. Whoever waits here when the session ends is woken by a cancel that is taken back: some
#    transports go on waiting for a peer that we have given up.
# 3. What arrived before the peer closed can still be received.

import asyncio
from functools import partial
from typing import Protocol, final

from .._rate import Bucket
from ..exceptions import CloseInfo, SessionClosed
from ._close import Cause
from ._limits import Limits
from ._outbox import Budget
from ._reader import Reader
from ._transport import Data, TransportClosed, WebSocketTransport, size_of


class Owner(Protocol):
    """The session."""

    info: CloseInfo | None

    def end(self, cause: Cause) -> None:
        """End the session."""

    def lost(self, info: CloseInfo) -> None:
        """The transport has closed."""

    def ignore(self) -> None:
        """A message was dropped, since there are too many."""


@final
class Incoming:
    """What one session receives.

    Args:
        owner: The session.
        loop: Its loop.
        transport: Where it comes from.
        limits: What is let in.
        budget: How much may wait in all sessions of the hub.

    Attributes:
        messages: How many there were.
    """

    __slots__ = (
        "_bucket",
        "_budget",
        "_delays",
        "_limits",
        "_loop",
        "_owner",
        "_reader",
        "_receive",
        "_short",
        "_transport",
        "_waiter",
        "_woken",
        "messages",
    )

    def __init__(
        self,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        transport: WebSocketTransport,
        limits: Limits,
        budget: Budget,
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._transport = transport
        self._limits = limits
        self._budget = budget
        self._receive = transport.receive
        self._bucket: Bucket | None = limits.bucket()
        # What is this long needs no second look, however many bytes a character takes.
        most = limits.max_message_bytes // 4
        self._short: int = most if self._bucket is None else -1
        self._delays = False
        self._reader: Reader | None = None
        self._waiter: asyncio.Task[object] | None = None
        self._woken = False
        self.messages: int = 0

    @property
    def bytes(self) -> int:
        """How many wait."""
        return 0 if self._reader is None else self._reader.bytes

    @property
    def has_some(self) -> bool:
        """Whether any message waits."""
        return self._reader is not None and self._reader.has_some

    @property
    def waits(self) -> bool:
        """Whether somebody waits for a message."""
        return self._waiter is not None

    @property
    def paused(self) -> bool:
        """Whether nothing is read at all, by our choice: not even a pong."""
        return self._delays or (
            self._waiter is None and (self._reader is None or self._reader.paused)
        )

    async def next(self) -> Data:
        """Return the next message.

        Raises:
            SessionClosed: If there will be none.
            RuntimeError: If somebody else waits for it, or this is another loop.
        """
        task = asyncio.current_task()
        if task is None or task.get_loop() is not self._loop:
            raise RuntimeError(
                "this session belongs to the tasks of another loop, or thread; let one "
                "of these receive, and hand the messages on"
            )
        if self._waiter is not None:
            raise RuntimeError(
                "somebody else receives from this session: let one task receive, and "
                "hand the messages on"
            )
        self._waiter = task
        cancelling = task.cancelling()
        try:
            if self._reader is not None or self._owner.info is not None:
                data = await self._next_of_reader()
                if data is not None:
                    return data
            while True:
                if self._bucket is not None:
                    await self._turn(self._bucket)
                data = await self._receive()
                if len(data) <= self._short:
                    self.messages += 1
                    return data
                if self.admits(data):
                    return data
                if self._owner.info is not None:
                    break
        except TransportClosed as exc:
            self._owner.lost(exc.info)
        except asyncio.CancelledError:
            if not self._woken or task.cancelling() > cancelling + 1:
                raise
        finally:
            self._waiter = None
            if self._woken:  # 2
                self._woken = False
                task.uncancel()
        raise self._closed()

    def read_on(self) -> None:
        """Read while the handler is away, which it is."""
        if self._reader is None:
            self._reader = Reader(
                self._loop,
                self._transport,
                self._limits,
                self._budget,
                self.admits,
                self._owner.lost,
                None if self._bucket is None else partial(self._turn, self._bucket),
            )
        self._reader.start()
        self._reader.look()

    def admits(self, data: Data) -> bool:
        """Tell whether a message is within the limits; one that is not may end it all."""
        self.messages += 1
        if len(data) > self._limits.max_message_bytes or (
            4 * len(data) > self._limits.max_message_bytes
            and size_of(data) > self._limits.max_message_bytes
        ):
            self._owner.end("too-big")
            return False
        if self._bucket is None:
            return True
        now = self._loop.time()
        late = self._bucket.free_at(1, now) > now
        if late and self._limits.over_rate != "delay":
            if self._limits.over_rate == "close":
                self._owner.end("rate")
            else:
                self._owner.ignore()
            return False
        self._bucket.take(1, now)
        return True

    def end(self) -> None:
        """Wake who waits, and let go of what was not received."""
        task = self._waiter
        if task is not None and task is not asyncio.current_task(self._loop):
            self._woken = task.cancel()  # 2
        if self._reader is not None:
            self._reader.stop()
            self._reader.clear()

    def stop(self) -> asyncio.Task[None] | None:
        """Read nothing more; return the reader's task, if it has one."""
        return None if self._reader is None else self._reader.stop()

    def clear(self) -> None:
        """Let go of what was not received."""
        if self._reader is not None:
            self._reader.clear()

    def let_go(self, owner: Owner) -> None:
        """Hold the session no more, now that it is over."""
        self._owner = owner
        self._reader = None

    async def _next_of_reader(self) -> Data | None:
        reader = self._reader
        data = None if reader is None else await reader.next()
        if data is None and self._owner.info is not None:  # 3
            raise self._closed()
        return data

    def _closed(self) -> SessionClosed:
        assert self._owner.info is not None
        return SessionClosed(self._owner.info)

    async def _turn(self, bucket: Bucket) -> None:
        """Wait until one more message is within the rate, if that is to delay them."""
        now = self._loop.time()
        wait = bucket.free_at(1, now) - now
        if wait <= 0 or self._limits.over_rate != "delay":
            return
        self._delays = True
        try:
            await asyncio.sleep(wait)
        finally:
            self._delays = False
