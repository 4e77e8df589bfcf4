"""Connections of websockets' asyncio server and client."""

# `try_send` does what `websockets.broadcast` does: `send` would wait where this must not.
# Where a frame is the same for every connection, it is made once, and goes straight to
# asyncio's transport. Of what this uses, `paused`, `send_data`, and `side`, `extensions`,
# `debug` and `expect_continuation_frame` of the protocol are not documented: a test pins them.

import asyncio
from contextlib import suppress
from contextvars import Context
from typing import cast, final

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import SERVER, State

from ..exceptions import CloseInfo
from ._close import ABNORMAL, NO_STATUS, cause_of
from ._framing import TEXT, Framed, framed
from ._step import Rest, finish
from ._tcp import hold_little
from ._transport import Data, TransportCaps, TransportClosed

_OPEN = State.OPEN
_PING = 16  # bytes of a ping of websockets, and more


@final
class WebsocketsTransport:
    """A connection whose opening handshake is over."""

    caps: TransportCaps = TransportCaps(
        sync_send=True,
        native_ping=True,
        can_abort=True,
        detects_close_on_send=True,
        cancel_send="sent",
    )

    __slots__ = ("_connection", "_pinging", "_plain")

    def __init__(self, connection: Connection) -> None:
        protocol = connection.protocol
        hold_little(connection.transport)
        self._connection = connection
        self._pinging: asyncio.Task[None] | None = None
        self._plain: bool = (
            protocol.side is SERVER and not protocol.extensions and not protocol.debug
        )

    async def receive(self) -> Data:
        """Return the next message."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            closed = exc
        raise TransportClosed(_info_of(closed))

    @staticmethod
    def prepare(data: Data) -> Framed:
        """Encode it."""
        return framed(data)

    def try_send(self, prepared: Framed) -> bool:
        """Send a message if the buffer is not full."""
        connection = self._connection
        protocol = connection.protocol
        if connection.paused or protocol.state is not _OPEN:
            return False
        if protocol.expect_continuation_frame:  # somebody sends the parts of a message
            return False
        frame, start = prepared
        if self._plain:
            connection.transport.write(frame)
            return True
        if frame[0] == TEXT:
            protocol.send_text(frame[start:])
        else:
            protocol.send_binary(frame[start:])
        connection.send_data()
        return True

    async def send(self, prepared: Framed) -> None:
        """Send a message, and wait until the buffer is not full."""
        frame, start = prepared
        try:
            await self._connection.send(frame[start:], text=frame[0] == TEXT)
        except ConnectionClosed as exc:
            closed = exc
        else:
            return
        raise TransportClosed(_info_of(closed))

    async def close(self, code: int, reason: str) -> bool:
        """Send a close frame, and wait for the peer's; tell whether it came."""
        await self._connection.close(code, reason)
        return self._connection.protocol.close_rcvd is not None

    def abort(self) -> None:
        """Drop the connection."""
        self._connection.transport.abort()

    def buffered(self) -> int:
        """Return how many bytes wait to be written."""
        return self._connection.transport.get_write_buffer_size()

    def ping(self) -> "asyncio.Future[float]":
        """Send a ping; return what is told its latency."""
        connection = self._connection
        _, high = connection.transport.get_write_buffer_limits()
        room = high - self.buffered() > _PING and not connection.paused
        if connection.protocol.state is _OPEN and room:
            pinging = connection.ping()
            try:
                rest = pinging, pinging.send(None)
            except StopIteration as sent:
                return cast("asyncio.Future[float]", sent.value)
            # It waits, for a turn of the loop: the peer has just gone.
            self._pinging = asyncio.create_task(_end(rest), context=Context())
        nothing: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        nothing.cancel()
        return nothing


async def _end(rest: Rest) -> None:
    with suppress(ConnectionClosed):
        await finish(rest)


def _info_of(closed: ConnectionClosed) -> CloseInfo:
    received, sent = closed.rcvd, closed.sent
    if received is not None and (closed.rcvd_then_sent or sent is None):
        code, reason = received.code, received.reason
        return CloseInfo(code or NO_STATUS, reason, "remote", sent is not None, "peer")
    if sent is None:
        return CloseInfo(ABNORMAL, "", "remote", False, "vanished")
    # By websockets itself: whatever we close, we know of.
    return CloseInfo(
        sent.code, sent.reason, "local", received is not None, cause_of(sent.code)
    )
