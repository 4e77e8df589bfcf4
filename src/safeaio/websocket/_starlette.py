"""WebSockets of Starlette and FastAPI, on any ASGI server."""

# An ASGI application cannot drop a connection, nor see how much waits to be written. Where
# `HubMiddleware` is the outermost one, it leaves the server's transport in the scope.
#
# What comes in and goes out passes by Starlette's own checks of the order of events, which
# take longer than all of ours: its `_receive` and `_send` are what these end in. A test
# pins them.
#
# That a peer has gone, `receive` alone tells: on hypercorn each `send` to it succeeds.

import asyncio
from typing import Any, final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..exceptions import CloseInfo
from ._asgi import LINE, Line, Message, Receive, refusal
from ._close import ABNORMAL, NO_STATUS
from ._transport import Data, TransportCaps, TransportClosed
from ._trying import Trying

_CONNECTED = WebSocketState.CONNECTED
_GONE = CloseInfo(ABNORMAL, "", "remote", False, "vanished")


@final
class StarletteDoor:
    """Accepts a WebSocket, unless its endpoint has."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def open(self) -> "StarletteTransport":
        """Accept it.

        Raises:
            TransportClosed: If the peer has gone.
        """
        websocket = self._websocket
        if websocket.application_state is WebSocketState.CONNECTING:
            try:
                await websocket.accept()
            except (OSError, RuntimeError, WebSocketDisconnect):
                raise TransportClosed(_GONE) from None
        return StarletteTransport(websocket)

    async def refuse(self, code: int, reason: str, retry_after: float) -> None:
        """Answer the handshake with 503, or 403 if the server can do no other."""
        websocket = self._websocket
        if websocket.application_state is not WebSocketState.CONNECTING:
            await websocket.close(code, reason)
            return
        for message in refusal(websocket.scope, retry_after):
            await websocket.send(message)


@final
class StarletteTransport:
    """A WebSocket that has been accepted."""

    __slots__ = ("_has_room", "_line", "_receive", "_trying", "_websocket", "caps")

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._line: Line | None = websocket.scope.get(LINE)
        self._has_room = _always if self._line is None else self._line.has_room
        raw: Any = websocket
        self._receive: Receive = raw._receive
        self._trying = Trying(raw._send)
        self.caps: TransportCaps = _CAPS if self._line is None else _CAPS_THAT_ABORT

    async def receive(self) -> Data:
        """Return the next message."""
        websocket = self._websocket
        if websocket.client_state is not _CONNECTED:
            raise TransportClosed(_GONE)
        message: Message = await self._receive()
        text: str | None = message.get("text")
        if text is not None:
            return text
        if message["type"] == "websocket.receive":
            data: bytes = message["bytes"]
            return data
        websocket.client_state = WebSocketState.DISCONNECTED
        raise TransportClosed(_info_of(message.get("code"), message.get("reason")))

    @staticmethod
    def prepare(data: Data) -> Message:
        """Return the ASGI event."""
        if isinstance(data, str):
            return {"type": "websocket.send", "text": data}
        return {"type": "websocket.send", "bytes": data}

    def try_send(self, prepared: Message) -> bool:
        """Send a message if the server takes it at once."""
        return (
            self._websocket.application_state is _CONNECTED
            and self._has_room()
            and self._trying.try_send(prepared)
        )

    async def send(self, prepared: Message) -> None:
        """Send a message, and wait until the server takes another."""
        if self._websocket.application_state is _CONNECTED:
            try:
                await self._trying.send(prepared)
            except (OSError, RuntimeError, WebSocketDisconnect):
                pass
            else:
                return
        raise TransportClosed(_GONE)

    async def close(self, code: int, reason: str) -> bool:
        """Send a close frame, and wait until the server says that the peer has gone.

        uvicorn says so at once; behind the middleware the connection itself is waited for,
        unless it is closing by then, as hypercorn's is.
        """
        self._trying.stop()
        try:
            await self._websocket.close(code, reason)
            while self._websocket.client_state is WebSocketState.CONNECTED:
                await self._websocket.receive()
        except (OSError, RuntimeError, WebSocketDisconnect):
            return False
        if self._line is not None and not self._line.transport.is_closing():
            await self._line.receive()
        return not self.buffered()

    def abort(self) -> None:
        """Drop the connection, if the middleware has left the means to."""
        self._trying.stop()
        if self._line is not None:
            self._line.transport.abort()

    def buffered(self) -> int | None:
        """Return how many bytes wait to be written, if that is known."""
        if self._line is None:
            return None
        return self._line.transport.get_write_buffer_size()

    def ping(self) -> "asyncio.Future[float]":
        """Not to be called: the server does that."""
        raise NotImplementedError


def _always() -> bool:
    return True


def _info_of(code: int | None, reason: str | None) -> CloseInfo:
    # uvicorn gives 1005 for a close frame without a code, and for no close frame.
    if reason is None and code in (None, ABNORMAL, NO_STATUS):
        return _GONE
    return CloseInfo(code or NO_STATUS, reason or "", "remote", True, "peer")


_CAPS = TransportCaps(
    sync_send=True,
    native_ping=False,
    can_abort=False,
    detects_close_on_send=False,
    cancel_send="unknown",
)
_CAPS_THAT_ABORT = TransportCaps(
    sync_send=True,
    native_ping=False,
    can_abort=True,
    detects_close_on_send=False,
    cancel_send="unknown",
)
