"""WebSockets of aiohttp's server and client."""

# aiohttp has no public way to drop a connection, nor to tell how much waits to be
# written: `_req` of the server's and `_response` of the client's lead to the transport.
# A test pins them.

import asyncio
from typing import Any, TypeAlias, cast, final

from aiohttp import ClientWebSocketResponse, WebSocketError, WSMsgType
from aiohttp.web import WebSocketResponse

from ..exceptions import CloseInfo
from ._close import ABNORMAL, NO_STATUS, cause_of
from ._transport import Data, TransportCaps, TransportClosed
from ._trying import Trying

_Payload: TypeAlias = tuple[WSMsgType, bytes]

_FULL = 1 << 16  # bytes that asyncio's transport holds before it wants no more

_GONE = CloseInfo(ABNORMAL, "", "remote", False, "vanished")


@final
class AiohttpTransport:
    """A `WebSocketResponse` that has been prepared, or one of a client session."""

    caps: TransportCaps = TransportCaps(
        sync_send=True,
        native_ping=False,  # aiohttp answers pings, and keeps the pongs for itself
        can_abort=True,
        detects_close_on_send=True,
        cancel_send="sent",
    )

    __slots__ = ("_trying", "_websocket")

    def __init__(self, websocket: WebSocketResponse | ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self._trying = Trying(self._send)

    async def receive(self) -> Data:
        """Return the next message."""
        try:
            message = await self._websocket.receive()
        except OSError:  # of a pong that was not sent
            raise TransportClosed(_GONE) from None
        if message.type is WSMsgType.TEXT:
            return cast("str", message.data)
        if message.type is WSMsgType.BINARY:
            return cast("bytes", message.data)
        raise TransportClosed(_info_of(message.type, message.data, message.extra))

    @staticmethod
    def prepare(data: Data) -> _Payload:
        """Encode it, with the kind of its frame."""
        if isinstance(data, str):
            return WSMsgType.TEXT, data.encode()
        return WSMsgType.BINARY, data

    def try_send(self, prepared: _Payload) -> bool:
        """Send a message if the buffer is not full."""
        return self.buffered() < _FULL and self._trying.try_send(prepared)

    async def send(self, prepared: _Payload) -> None:
        """Send a message, and wait until the buffer is not full."""
        try:
            await self._trying.send(prepared)
        except (OSError, RuntimeError):
            pass
        else:
            return
        raise TransportClosed(_GONE)

    async def close(self, code: int, reason: str) -> bool:
        """Send a close frame, and wait for the peer's; tell whether it came."""
        self._trying.stop()
        await self._websocket.close(code=code, message=reason.encode())
        return self._websocket.close_code != ABNORMAL

    def abort(self) -> None:
        """Drop the connection."""
        self._trying.stop()
        transport = self._transport()
        if transport is not None:
            transport.abort()

    def buffered(self) -> int:
        """Return how many bytes wait to be written."""
        transport = self._transport()
        return 0 if transport is None else transport.get_write_buffer_size()

    def ping(self) -> "asyncio.Future[float]":
        """Not to be called: see `caps`."""
        raise NotImplementedError

    async def _send(self, prepared: _Payload) -> None:
        kind, payload = prepared
        await self._websocket.send_frame(payload, kind)

    def _transport(self) -> asyncio.Transport | None:
        websocket: Any = self._websocket
        if isinstance(self._websocket, WebSocketResponse):
            return None if websocket._req is None else websocket._req.transport
        connection = websocket._response.connection
        return None if connection is None else connection.transport


def _info_of(kind: WSMsgType, data: Any, reason: Any) -> CloseInfo:
    if kind is WSMsgType.CLOSE:
        return CloseInfo(data or NO_STATUS, reason or "", "remote", True, "peer")
    if kind is WSMsgType.ERROR and isinstance(data, WebSocketError):
        return CloseInfo(data.code, str(data), "local", False, cause_of(data.code))
    return _GONE
