"""One WebSocket, with limits: what its handler sends and receives."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, Protocol, Self, TypeVar, final

from .._stream import bounded_stream
from ..exceptions import CloseInfo, SessionClosed
from ._close import check_code, check_reason
from ._codec import WrongKind
from ._connection import Connection
from ._transport import Data, size_of

M = TypeVar("M")

_running_loop = asyncio._get_running_loop  # here, for it is called with every message


class Rooms(Protocol):
    """The hub, as its sessions see it."""

    loop: asyncio.AbstractEventLoop
    encode: Callable[[Any], Data]
    decode: Callable[[Data], Any]
    draining: bool
    on_undecodable: Callable[[Any, Data, Exception], object] | None

    @property
    def short(self) -> int:
        """How long a message may be that `check_size` need not see."""
        ...

    def check_size(self, data: Data) -> None:
        """Refuse what never fits into the queue of a session."""

    def check_loop(self) -> None:
        """Let nobody but the loop's own tasks and callbacks through."""

    def make_room(self, size: int) -> object:
        """End sessions until `size` more bytes may be queued."""

    def join(self, connection: Connection, room: Hashable, /) -> None:
        """Have a connection get what is published in a room."""

    def leave(self, connection: Connection, room: Hashable, /) -> None:
        """Take that back."""


@final
class WebSocketSession(Generic[M]):
    """One WebSocket that a hub has admitted; see `WebSocketHub.session`.

    Iterated over, it gives the messages until there are no more: the peer has gone, or the
    session is ended by something else. One task receives, any number may send. All its
    methods belong to its loop.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_decode",
        "_encode",
        "_hub",
        "_incoming",
        "_loop",
    )

    def __init__(self, hub: Rooms, connection: Connection) -> None:
        self._hub = hub
        self._loop = hub.loop
        self._encode: Callable[[M], Data] = hub.encode
        self._decode: Callable[[Data], M] = hub.decode
        self._connection = connection
        self._incoming = connection.incoming

    # What goes out

    async def send(self, message: M) -> None:
        """Send a message, or queue it if the peer is behind.

        Args:
            message: What the hub's codec encodes; a str or bytes by default.

        Raises:
            TypeError: If the codec has no use for it.
            ValueError: If it takes more bytes than may ever be queued.
            SessionClosed: If the session has ended, or ends meanwhile.
            RuntimeError: In a loop, or thread, that is not the session's own: of the
                methods that follow, too.

        Cancellation:
            Waits only if the queue is full. Cancelled, it has not queued the message; once
            it returns, the message is sent unless the session ends. Otherwise it does not
            checkpoint.
        """
        connection = self._connection
        if connection.info is not None:
            raise SessionClosed(connection.info)
        if _running_loop() is not self._loop:
            self._hub.check_loop()
        data = self._encode(message)
        if len(data) > self._hub.short:
            self._hub.check_size(data)
        prepared = connection.transport.prepare(data)
        outgoing = connection.outgoing
        if not outgoing.busy and connection.transport.try_send(prepared):
            return
        size = size_of(data)
        while connection.info is None:
            if await outgoing.put(prepared, size):
                return
            if connection.info is None:
                self._hub.make_room(size)
        raise SessionClosed(connection.info)

    async def flush(self) -> None:
        """Wait until the queue is empty: all has been given to the transport.

        Raises:
            SessionClosed: If the session has ended, or ends meanwhile.

        Cancellation:
            Ends the wait alone.
        """
        self._hub.check_loop()
        connection = self._connection
        await connection.outgoing.flush()
        if connection.info is not None:
            raise SessionClosed(connection.info)

    # What comes in

    async def receive(self) -> M:
        """Return the next message.

        Raises:
            SessionClosed: If there will be none.
            RuntimeError: If another task receives, or this is another loop.

        Cancellation:
            Loses no message.
        """
        while True:
            data = await self._incoming.next()
            try:
                return self._decode(data)
            except Exception as exc:  # noqa: BLE001 - of whoever wrote the codec
                self._undecodable(data, exc)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        # As `receive`, which would be one more coroutine for every message.
        while True:
            try:
                data = await self._incoming.next()
            except SessionClosed:
                break
            try:
                return self._decode(data)
            except Exception as exc:  # noqa: BLE001 - of whoever wrote the codec
                self._undecodable(data, exc)
        raise StopAsyncIteration

    def _undecodable(self, data: Data, error: Exception) -> None:
        connection, hook = self._connection, self._hub.on_undecodable
        if hook is not None:
            hook(self, data, error)
        else:
            wrong_kind = isinstance(error, WrongKind)
            connection.end("wrong-kind" if wrong_kind else "undecodable")

    async def serve(
        self,
        handler: Callable[[M], Awaitable[M | None]],
        *,
        concurrency: int = 8,
        ordered: bool = True,
    ) -> None:
        """Call an async function with every message, and send what it returns.

        Args:
            handler: Takes a message, and returns the reply; None for no reply.
            concurrency: How many calls may run at once. While all do, no more is taken
                from the peer than the hub's limits allow.
            ordered: Whether replies are sent in the order of the messages, or as each
                is ready.

        Raises:
            TypeError: If `concurrency` is no int.
            ValueError: If it is less than 1.
            SessionClosed: If a reply cannot be sent any more.
            Exception: What a call raises, the same object; the others are cancelled.

        Cancellation:
            Cancels the calls, and waits for them.
        """
        async with bounded_stream(
            handler, self, limit=concurrency, ordered=ordered
        ) as replies:
            async for _, reply in replies:
                if reply is not None:
                    await self.send(reply)

    # Rooms

    def join(self, room: Hashable) -> None:
        """Get what is published in a room; joining twice is joining once.

        Raises:
            SessionClosed: If the session has ended.
        """
        if self._connection.info is not None:
            raise SessionClosed(self._connection.info)
        self._hub.check_loop()
        self._hub.join(self._connection, room)

    def leave(self, room: Hashable) -> None:
        """Take back `join`; a session leaves all its rooms when it ends."""
        self._hub.check_loop()
        self._hub.leave(self._connection, room)

    @property
    def rooms(self) -> frozenset[Hashable]:
        """Those it has joined."""
        return frozenset(self._connection.rooms or ())

    # How it is

    @property
    def closed(self) -> CloseInfo | None:
        """How it ended, or is about to; None while it is open."""
        return self._connection.final or self._connection.info

    @property
    def draining(self) -> bool:
        """Whether the hub wants it to end soon."""
        return self._hub.draining

    @property
    def latency(self) -> float | None:
        """Seconds that the last heartbeat took; None if there was none."""
        return self._connection.latency

    @property
    def queued_bytes(self) -> int:
        """What waits to be sent, and what was received and not yet asked for."""
        connection = self._connection
        return connection.outgoing.bytes + connection.incoming.bytes

    @property
    def dropped(self) -> int:
        """How many published messages this peer did not get, since it was behind."""
        return self._connection.outgoing.dropped

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is queued, then a close frame, and wait until all is over.

        Closing what is closed does nothing more.

        Args:
            code: 1000, one of RFC 6455 that may be sent, or one of your own from 4000 on.
            reason: At most 123 bytes of UTF-8.

        Raises:
            TypeError: If the code is no int, or the reason no str.
            ValueError: If the code may not be sent, or the reason is too long.

        Cancellation:
            Ends the wait alone. It is bounded by the hub's `close_timeout`, after which
            the connection is aborted.
        """
        check_code(code)
        check_reason(reason)
        self._hub.check_loop()
        self._connection.end("closed", code, reason)
        await self._connection.over()

    def __repr__(self) -> str:
        state = self.closed or "open"
        return f"<WebSocketSession {state}>"
