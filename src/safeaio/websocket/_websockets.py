"""Connections of websockets' asyncio server and client."""

# `try_send` does what `websockets.broadcast` does: `send` would wait where this must not.
# Of what it uses, `paused` and `send_data` are not documented: a test pins them.

import asyncio
from contextlib import suppress
from contextvars import Context
from typing import TypeAlias, cast, final

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ..exceptions import CloseInfo
from ._close import ABNORMAL, NO_STATUS, cause_of
from ._step import Rest, finish
from ._transport import Data, TransportCaps, TransportClosed

_Payload: TypeAlias = tuple[bool, bytes]

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

    __slots__ = ("_connection", "_pinging")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pinging: asyncio.Task[None] | None = None

    async def receive(self) -> Data:
        """Return the next message."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            closed = exc
        raise TransportClosed(_info_of(closed))

    @staticmethod
    def prepare(data: Data) -> _Payload:
        """Encode it, whether it is text or not."""
        if isinstance(data, str):
            return True, data.encode()
        return False, data

    def try_send(self, prepared: _Payload) -> bool:
        """Send a message if the buffer is not full."""
        connection = self._connection
        protocol = connection.protocol
        if connection.paused or protocol.state is not State.OPEN:
            return False
        text, payload = prepared
        if text:
            protocol.send_text(payload)
        else:
            protocol.send_binary(payload)
        connection.send_data()
        return True

    async def send(self, prepared: _Payload) -> None:
        """Send a message, and wait until the buffer is not full."""
        text, payload = prepared
        try:
            await self._connection.send(payload, text=text)
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
        if connection.protocol.state is State.OPEN and room:
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
