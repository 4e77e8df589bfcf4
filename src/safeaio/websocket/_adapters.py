"""Finds the adapter for a WebSocket of somebody else's."""

import sys
from typing import Any, Protocol

from ._transport import TransportCaps, WebSocketTransport

_SUPPORTED = (
    "a Starlette or FastAPI WebSocket, a connection of websockets' asyncio server or "
    "client, an aiohttp WebSocketResponse or ClientWebSocketResponse, an end of a "
    "memory_pair(), or another WebSocketTransport"
)


class Door(Protocol):
    """A WebSocket that has yet to be let in."""

    async def open(self) -> WebSocketTransport:
        """Accept it.

        Raises:
            TransportClosed: If the peer has gone.
        """
        ...

    async def refuse(self, code: int, reason: str, retry_after: float) -> None:
        """Tell it that there is no place, before it is accepted where that can be done."""


def door_of(websocket: Any) -> Door:
    """Return the door through which a WebSocket comes in.

    Raises:
        TypeError: If it is of no known kind.
    """
    if isinstance(getattr(websocket, "caps", None), TransportCaps):
        from ._open import OpenDoor

        return OpenDoor(websocket)
    # Whoever has such an object has imported its module.
    starlette = sys.modules.get("starlette.websockets")
    if starlette is not None and isinstance(websocket, starlette.WebSocket):
        from ._starlette import StarletteDoor

        return StarletteDoor(websocket)
    websockets = sys.modules.get("websockets.asyncio.connection")
    if websockets is not None and isinstance(websocket, websockets.Connection):
        from ._open import OpenDoor
        from ._websockets import WebsocketsTransport

        return OpenDoor(WebsocketsTransport(websocket))
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is not None and isinstance(
        websocket, aiohttp.web.WebSocketResponse | aiohttp.ClientWebSocketResponse
    ):
        from ._aiohttp import AiohttpTransport
        from ._open import OpenDoor

        return OpenDoor(AiohttpTransport(websocket))
    raise TypeError(f"hub.session() takes {_SUPPORTED}, got {websocket!r}")
