"""`HubMiddleware`: what an ASGI server can be made to do for WebSockets."""

# An ASGI application has no means to drop a connection: a close waits behind everything
# that the peer does not read, and the socket is held for as long as the kernel likes. But
# `send` is a method of the server's, before any middleware wraps it, and leads to the
# transport. Tests pin this.

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, cast, final

from ..exceptions import SessionRefused
from ._tcp import NOT_SENT, set_options, tcp_options

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LINE = "safeaio.line"  # in the scope

RETRY_AFTER = 5.0  # seconds that a refused peer is told to wait

_FULL = 1 << 16  # bytes that asyncio's transport holds before it wants no more

_STEPS = 3  # uvicorn's protocol has it; hypercorn's stream, by way of two others


@final
class Line:
    """What `HubMiddleware` knows of a connection that an application does not.

    Attributes:
        transport: Of the server.
        receive: As the server gave it. Once the application has had its disconnect, it
            returns again when the connection is lost.
        has_room: Tells whether a message would be taken at once.
    """

    __slots__ = ("has_room", "receive", "transport")

    def __init__(self, transport: asyncio.Transport, receive: Receive) -> None:
        self.transport: asyncio.Transport = transport
        self.receive: Receive = receive
        # To ask the transport takes longer than all else that a session does to send.
        writable = getattr(transport.get_protocol(), "writable", None)
        self.has_room: Callable[[], bool] = (
            writable.is_set
            if isinstance(writable, asyncio.Event)
            else partial(_has_room, transport)
        )


class Admits(Protocol):
    """A hub."""

    @property
    def admits(self) -> bool:
        """Whether it has a place for another session."""
        ...

    def count_refusal(self) -> None:
        """Count somebody who was refused."""


@final
class HubMiddleware:
    """The outermost ASGI middleware of an application with a hub.

    With it a hub can drop connections on uvicorn, with any of its `ws`, and on hypercorn
    over HTTP/1.1. A WebSocket for which there is no place gets a 503 with `Retry-After`
    before the application sees it, and a `SessionRefused` that leaves the application is
    no error.

    Elsewhere a session ends in time, too, but the server keeps the connection of a peer
    that does not read for as long as the kernel likes. hypercorn does not tell how a peer
    has closed: there, all that do look as if they had vanished, with 1006.

    >>> from safeaio.websocket import HubMiddleware, WebSocketHub
    >>> async def app(scope, receive, send): ...
    >>> hub = WebSocketHub()
    >>> app = HubMiddleware(app, hub)

    Args:
        app: The ASGI application, with all its other middleware.
        hub: The hub.
        user_timeout: Seconds after which the kernel drops a connection whose peer
            acknowledges nothing (`TCP_USER_TIMEOUT`, on Linux). None to leave that.
        not_sent: Bytes of a connection that the kernel holds before they are sent
            (`TCP_NOTSENT_LOWAT`): what is beyond waits where a hub can see it.
            None to leave that.
    """

    def __init__(
        self,
        app: App,
        hub: Admits,
        *,
        user_timeout: float | None = 30.0,
        not_sent: int | None = NOT_SENT,
    ) -> None:
        self._app = app
        self._hub = hub
        self._options = tcp_options(user_timeout, not_sent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        if not self._hub.admits:
            self._hub.count_refusal()
            for message in refusal(scope, RETRY_AFTER):
                await send(message)
            # uvicorn logs an error if this returns before it has closed the connection.
            await asyncio.sleep(0)
            return
        transport = transport_of(send)
        if scope.get("http_version", "1.1") != "1.1":
            transport = None  # it has other streams, too
        if transport is not None:
            set_options(transport, self._options)
            scope = {**scope, LINE: Line(transport, receive)}
        with suppress(SessionRefused):
            await self._app(scope, receive, send)


def _has_room(transport: asyncio.Transport) -> bool:
    return transport.get_write_buffer_size() < _FULL


def transport_of(send: object) -> asyncio.Transport | None:
    """Return the transport behind the `send` of an ASGI server, if it can be had."""
    for _ in range(_STEPS):
        owner: Any = getattr(send, "__self__", None)
        transport = getattr(getattr(owner, "writer", owner), "transport", None)
        if hasattr(transport, "get_write_buffer_size"):
            return cast("asyncio.Transport", transport)
        send = getattr(owner, "send", None)
    return None


def refusal(scope: Any, retry_after: float) -> list[Message]:
    """Return what to send to refuse a WebSocket before it is accepted."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        return [{"type": "websocket.close", "code": 1013, "reason": ""}]
    return [
        {
            "type": "websocket.http.response.start",
            "status": 503,
            "headers": [
                (b"retry-after", str(round(retry_after)).encode()),
                (b"content-type", b"text/plain; charset=utf-8"),
            ],
        },
        {"type": "websocket.http.response.body", "body": b"try again later\n"},
    ]
