"""What a session needs of a WebSocket, whoever implements it."""

import asyncio
from typing import Any, Literal, Protocol, TypeAlias, final

import attrs

from ..exceptions import CloseInfo

Data: TypeAlias = str | bytes


def size_of(data: Data) -> int:
    """Return how many bytes a message takes in a frame."""
    if not isinstance(data, str) or data.isascii():
        return len(data)
    return len(data.encode())


@attrs.frozen
@final
class TransportCaps:
    """What a transport can do.

    Attributes:
        sync_send: `try_send` may send without suspension.
        native_ping: Heartbeats may be ours.
        can_abort: `abort` frees the socket, whatever waits to be written.
        detects_close_on_send: `send` raises once the peer is gone.
        cancel_send: What has become of a message whose `send` was cancelled.
    """

    sync_send: bool
    native_ping: bool
    can_abort: bool
    detects_close_on_send: bool
    cancel_send: Literal["not_sent", "sent", "corrupts", "unknown"]


class TransportClosed(Exception):
    """The connection has ended.

    Attributes:
        info: How.
    """

    def __init__(self, info: CloseInfo) -> None:
        super().__init__(info)
        self.info = info


def broken(loop: asyncio.AbstractEventLoop, error: Exception) -> CloseInfo:
    """Report what a transport should not have raised; return how its session ended."""
    loop.call_exception_handler(
        {"message": "WebSocketHub: a transport failed", "exception": error}
    )
    return CloseInfo(1006, "", "local", False, "protocol")


class WebSocketTransport(Protocol):
    """A connection that has been accepted.

    `receive` has one caller at a time, and the sending methods have one.
    """

    caps: TransportCaps

    async def receive(self) -> Data:
        """Return the next message.

        Raises:
            TransportClosed: If there will be none.
        """
        ...

    @staticmethod
    def prepare(data: Data) -> Any:
        """Return what `send` and `try_send` take, for any connection of this kind."""
        ...

    def try_send(self, prepared: Any) -> bool:
        """Send a message if that does not take waiting; return whether it was sent."""
        ...

    async def send(self, prepared: Any) -> None:
        """Send a message, and wait until there is room for another.

        Raises:
            TransportClosed: If nothing can be sent any more.
        """

    async def close(self, code: int, reason: str) -> bool:
        """Send a close frame, and wait until the connection has ended.

        Returns:
            Whether the peer has sent one, too.
        """
        ...

    def abort(self) -> None:
        """End the connection at once, if that can be done; may be called again."""

    def buffered(self) -> int | None:
        """Return how many bytes wait to be written, if that is known."""
        ...

    def ping(self) -> "asyncio.Future[float]":
        """Send a ping; return what is told the seconds until the pong."""
        ...
