"""WebSockets of aiohttp's server and client."""

# aiohttp has no public way to drop a connection, to tell how much waits to be written, or
# to send without a coroutine: `_req` of the server's and `_response` of the client's lead
# to the transport, and its protocol has `_paused`. A test pins them.

import asyncio
from typing import Any, final

from aiohttp import ClientWebSocketResponse, WebSocketError, WSMsgType
from aiohttp.web import WebSocketResponse

from ..exceptions import CloseInfo
from ._close import ABNORMAL, NO_STATUS, cause_of
from ._framing import TEXT, Framed, framed
from ._tcp import hold_little
from ._transport import Data, TransportCaps, TransportClosed
from ._trying import Trying

_TEXT, _BINARY = WSMsgType.TEXT, WSMsgType.BINARY
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

    __slots__ = ("_plain", "_protocol", "_transport", "_trying", "_websocket")

    def __init__(self, websocket: WebSocketResponse | ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self._transport = _transport_of(websocket)
        self._protocol: Any = None
        if self._transport is not None:
            self._protocol = self._transport.get_protocol()
            hold_little(self._transport)
        self._plain: bool = (
            isinstance(websocket, WebSocketResponse) and not websocket.compress
        )
        self._trying = Trying(self._send)

    async def receive(self) -> Data:
        """Return the next message."""
        try:
            message = await self._websocket.receive()
        except OSError:  # of a pong that was not sent
            raise TransportClosed(_GONE) from None
        if message.type is _TEXT or message.type is _BINARY:
            data: Data = message.data
            return data
        raise TransportClosed(_info_of(message.type, message.data, message.extra))

    @staticmethod
    def prepare(data: Data) -> Framed:
        """Encode it."""
        return framed(data)

    def try_send(self, prepared: Framed) -> bool:
        """Send a message if the buffer is not full."""
        transport = self._transport
        if transport is None or self._protocol._paused:
            return False
        if not self._plain:
            return self._trying.try_send(prepared)
        if self._websocket.closed or transport.is_closing():
            return False
        transport.write(prepared[0])
        return True

    async def send(self, prepared: Framed) -> None:
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
        if self._transport is not None:
            self._transport.abort()

    def buffered(self) -> int:
        """Return how many bytes wait to be written."""
        transport = self._transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def ping(self) -> "asyncio.Future[float]":
        """Not to be called: see `caps`."""
        raise NotImplementedError

    async def _send(self, prepared: Framed) -> None:
        frame, start = prepared
        kind = _TEXT if frame[0] == TEXT else _BINARY
        await self._websocket.send_frame(frame[start:], kind)


def _transport_of(
    owner: WebSocketResponse | ClientWebSocketResponse,
) -> asyncio.Transport | None:
    websocket: Any = owner
    if isinstance(owner, WebSocketResponse):
        return None if websocket._req is None else websocket._req.transport
    connection = websocket._response.connection
    return None if connection is None else connection.transport


def _info_of(kind: WSMsgType, data: Any, reason: Any) -> CloseInfo:
    if kind is WSMsgType.CLOSE:
        return CloseInfo(data or NO_STATUS, reason or "", "remote", True, "peer")
    if kind is WSMsgType.ERROR and isinstance(data, WebSocketError):
        return CloseInfo(data.code, str(data), "local", False, cause_of(data.code))
    return _GONE
