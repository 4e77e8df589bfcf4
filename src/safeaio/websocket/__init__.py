"""WebSocket sessions with limits: rooms, slow clients, and an end in order."""

from ..exceptions import CloseInfo, SessionClosed, SessionRefused
from ._asgi import HubMiddleware
from ._codec import (
    BINARY,
    EITHER,
    JSON,
    TEXT,
    Codec,
    WrongKind,
    msgspec_codec,
    pydantic_codec,
)
from ._drain import Drained
from ._hub import HubSnapshot, WebSocketHub
from ._memory import MemoryWebSocket, memory_pair
from ._registry import Delivery
from ._session import WebSocketSession
from ._transport import TransportCaps, TransportClosed, WebSocketTransport

__all__ = [
    "BINARY",
    "EITHER",
    "JSON",
    "TEXT",
    "CloseInfo",
    "Codec",
    "Delivery",
    "Drained",
    "HubMiddleware",
    "HubSnapshot",
    "MemoryWebSocket",
    "SessionClosed",
    "SessionRefused",
    "TransportCaps",
    "TransportClosed",
    "WebSocketHub",
    "WebSocketSession",
    "WebSocketTransport",
    "WrongKind",
    "memory_pair",
    "msgspec_codec",
    "pydantic_codec",
]
