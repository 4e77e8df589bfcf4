"""The door of a WebSocket whose handshake is over."""

import asyncio
from typing import final

from ._transport import WebSocketTransport

_PATIENCE = 1.0  # seconds for a peer that is not let in to answer our close


@final
class OpenDoor:
    """Lets a connection in that was accepted before the hub has seen it."""

    def __init__(self, transport: WebSocketTransport) -> None:
        self._transport = transport

    async def open(self) -> WebSocketTransport:
        """Return it."""
        return self._transport

    async def refuse(self, code: int, reason: str, retry_after: float) -> None:
        """Close it."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._transport.close(code, reason)
        except TimeoutError:
            self._transport.abort()
