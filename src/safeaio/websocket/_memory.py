"""A pair of connected WebSockets in memory, whose network is in the hands of a test."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, Literal, TypeAlias, final

from ..exceptions import CloseInfo
from ._close import ABNORMAL
from ._transport import Data, TransportCaps, TransportClosed, size_of

_CONTROL = 6  # bytes of a control frame, more or less

_Kind: TypeAlias = Literal["data", "ping", "pong", "close"]
_Frame: TypeAlias = tuple[_Kind, Any, int]


def memory_pair(
    *, window: int = 1 << 16, latency: float = 0.0
) -> "tuple[MemoryWebSocket, MemoryWebSocket]":
    """Return the two ends of a connection: one for the hub, one for a test's client.

    Args:
        window: Bytes under way and unread in each direction before the sender's buffer
            fills: what the kernels' buffers are to TCP. A message passes as a whole.
        latency: Seconds that each frame takes.

    Returns:
        The server's end, for `WebSocketHub.session`, and the client's.

    Raises:
        RuntimeError: If no loop runs.
    """
    loop = asyncio.get_running_loop()
    server = MemoryWebSocket(loop, window, latency)
    client = MemoryWebSocket(loop, window, latency)
    server.peer, client.peer = client, server
    return server, client


@final
class MemoryWebSocket:
    """One end of a `memory_pair`.

    Attributes:
        peer: The other end.
        deaf: Whether it reads nothing more: neither messages nor pings nor a close.
        half_open: Whether nothing it sends arrives any more, and nothing arrives here.
    """

    caps: TransportCaps = TransportCaps(
        sync_send=True,
        native_ping=True,
        can_abort=True,
        detects_close_on_send=True,
        cancel_send="sent",
    )
    peer: "MemoryWebSocket"

    def __init__(
        self, loop: asyncio.AbstractEventLoop, window: int, latency: float
    ) -> None:
        self.deaf = False
        self.half_open = False
        self._loop = loop
        self._window = window
        self._latency = latency
        self._outgoing: deque[_Frame] = deque()
        self._under_way: deque[_Frame] = deque()
        self._under_way_bytes = 0
        self._arrived: deque[tuple[Data, int]] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._pings: deque[tuple[float, asyncio.Future[float]]] = deque()
        self._close_sent = False
        self._close_info: CloseInfo | None = None

    # What a session uses

    @staticmethod
    def prepare(data: Data) -> Data:
        """Return what `send` and `try_send` take."""
        return data

    async def receive(self) -> Data:
        """Return the next message.

        Raises:
            TransportClosed: If there will be none.
        """
        while not self._arrived:
            if self._close_info is not None:
                raise TransportClosed(self._close_info)
            await self._changes()
        data, size = self._arrived.popleft()
        self.peer._freed(size)
        return data

    def try_send(self, prepared: Data) -> bool:
        """Send a message if nothing waits before it; return whether it was sent."""
        if self._outgoing or self._close_sent or self._close_info is not None:
            return False
        self._send(("data", prepared, size_of(prepared)))
        return True

    async def send(self, prepared: Data) -> None:
        """Send a message, and wait until the sender's buffer is empty.

        Raises:
            TransportClosed: If nothing can be sent any more.
        """
        if self._close_info is not None:
            raise TransportClosed(self._close_info)
        self._send(("data", prepared, size_of(prepared)))
        while self._outgoing:
            if self._close_info is not None:
                raise TransportClosed(self._close_info)
            await self._changes()

    async def close(self, code: int = 1000, reason: str = "") -> bool:
        """Send a close frame, and wait until the connection has ended; tell whether cleanly."""
        if not self._close_sent and self._close_info is None:
            self._close_sent = True
            self._send(("close", (code, reason), _CONTROL + len(reason)))
            self._discard()
        while self._close_info is None:
            await self._changes()
        return self._close_info.clean

    def abort(self) -> None:
        """End the connection at once."""
        if self._close_info is None:
            self._end(CloseInfo(ABNORMAL, "", "local", False, "vanished"))
            self._outgoing.clear()
            if not self.half_open and self.peer._close_info is None:
                self.peer._end(CloseInfo(ABNORMAL, "", "remote", False, "vanished"))

    def buffered(self) -> int:
        """Return how many bytes wait in the sender's buffer."""
        return sum(size for _, _, size in self._outgoing)

    def ping(self) -> "asyncio.Future[float]":
        """Send a ping; return what is told the seconds until the pong."""
        pong: asyncio.Future[float] = self._loop.create_future()
        self._pings.append((self._loop.time(), pong))
        self._send(("ping", None, _CONTROL))
        return pong

    # What a test uses

    @property
    def closed(self) -> CloseInfo | None:
        """How the connection ended, if it has."""
        return self._close_info

    # The network

    def _send(self, frame: _Frame) -> None:
        self._outgoing.append(frame)
        self._push()

    def _push(self) -> None:
        while self._outgoing and self._under_way_bytes < self._window:
            frame = self._outgoing.popleft()
            self._under_way_bytes += frame[2]
            if self._latency:
                self._under_way.append(frame)
                self._loop.call_later(self._latency, self._arrive, context=Context())
            else:
                self.peer._take(frame)
        if not self._outgoing:
            self._wake()

    def _arrive(self) -> None:
        self.peer._take(self._under_way.popleft())

    def _freed(self, size: int) -> None:
        self._under_way_bytes -= size
        self._push()

    def _take(self, frame: _Frame) -> None:
        if self.deaf or self.half_open or self.peer.half_open:
            return  # its bytes stay under way for ever
        if self._close_info is not None:
            return
        kind, content, size = frame
        if kind == "data" and not self._close_sent:
            self._arrived.append((content, size))
            self._wake()
            return
        self.peer._freed(size)
        if kind == "data":  # which nobody will ask for
            return
        if kind == "ping":
            self._send(("pong", None, _CONTROL))
        elif kind == "pong":
            sent_at, pong = self._pings.popleft()
            if not pong.done():
                pong.set_result(self._loop.time() - sent_at)
        else:
            self._closed_by_peer(*content)

    def _discard(self) -> None:
        while self._arrived:
            self.peer._freed(self._arrived.popleft()[1])

    def _closed_by_peer(self, code: int, reason: str) -> None:
        if self._close_sent:
            self._end(CloseInfo(code, reason, "local", True, "closed"))
        else:
            self._close_sent = True
            self._outgoing.clear()
            self._send(("close", (code, reason), _CONTROL))
            self._end(CloseInfo(code, reason, "remote", True, "peer"))

    def _end(self, info: CloseInfo) -> None:
        self._close_info = info
        for _, pong in self._pings:
            pong.cancel()
        self._wake()

    async def _changes(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
