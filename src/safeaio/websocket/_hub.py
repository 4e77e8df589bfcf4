"""`WebSocketHub`: WebSocket sessions with limits, rooms, and an end in order."""

from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar, final, overload

import attrs

from .._rate import RateLimiter
from ._adapters import door_of
from ._admission import Admission
from ._codec import EITHER, Codec
from ._drain import Drained
from ._drainage import Drainage, Plan
from ._limits import Limits, OverRate
from ._outbox import Slow
from ._registry import Delivery, Registry
from ._session import WebSocketSession
from ._transport import Data

M = TypeVar("M")

_POLICIES = ("disconnect", "drop_oldest", "drop_newest", "conflate")


@attrs.frozen
@final
class HubSnapshot:
    """What a hub holds right now, and what it has counted so far.

    Attributes:
        sessions: How many are open, or about to end.
        rooms: How many have members.
        queued_bytes: What waits in all sessions, in both directions.
        draining: Whether nobody is admitted any more.
        refused: How many were not admitted.
        evicted: How many sessions were ended, since they were too slow.
        dropped: How many published messages somebody did not get.
        drops: The part of these in each room that still has members, if there is any.
        ignored: How many messages of peers were over the rate, and dropped.
    """

    sessions: int
    rooms: int
    queued_bytes: int
    draining: bool
    refused: int
    evicted: int
    dropped: int
    drops: dict[Hashable, int]
    ignored: int


@final
class WebSocketHub(Generic[M]):
    """Admits WebSockets, limits what each may hold, and sends to rooms of them.

    >>> import asyncio
    >>> from safeaio.websocket import WebSocketHub, memory_pair
    >>> async def main() -> None:
    ...     hub = WebSocketHub()
    ...     server, client = memory_pair()
    ...     async def endpoint() -> None:
    ...         async with hub.session(server) as session:
    ...             async for message in session:
    ...                 await session.send(f"Message text was: {message}")
    ...     serving = asyncio.create_task(endpoint())
    ...     await client.send("hello")
    ...     print(await client.receive())
    ...     await client.close()
    ...     await serving
    >>> asyncio.run(main())
    Message text was: hello

    It is used by one loop at a time. Under `safeaio.run` it drains by itself when a
    shutdown begins.

    Args:
        codec: What makes data of messages, and messages of data. By default a message is
            a str for a text frame, or bytes for a binary one.
        max_sessions: How many may be open; more are refused.
        max_queue_bytes: What may wait in one session, in each direction. What is sent
            waits only once the transport's own buffers are full.
        max_queue_messages: Likewise, in messages.
        memory_budget: What may wait in all sessions together, in bytes. If it is used up,
            those that hold the most are ended. None for no limit.
        max_message_bytes: A longer one ends its session, with 1009. The server should have
            the same limit: it holds a message before the session gets it.
        receive_rate: How many messages a session may receive: each gets a limiter of its
            own, with this rate and burst. None for no limit.
        over_rate: What follows if there are more: `"close"` with 1008, `"delay"` them, so
            that the peer's sending stalls, or `"drop"` them.
        idle_timeout: Seconds without a message from the peer after which a session is
            ended, with 3008.
        first_message_timeout: Likewise, from its beginning to the first message.
        heartbeat: Seconds from one ping to the next, which has to be answered by then.
            Only where the transport leaves this to us: ASGI servers and aiohttp have
            settings of their own.
        stall_timeout: Seconds in which nothing gets through to a peer that is behind,
            after which it is evicted: 1013.
        lag_timeout: Seconds for which more than half of what may wait does, after which it
            is evicted, too, though something gets through.
        close_timeout: Seconds to send what is queued and a close frame, and to wait for
            the peer's; then the connection is aborted. As much later, a handler that is
            still in its block is cancelled.
        on_undecodable: Called with the session, the data and the error when the codec
            raises one, in place of closing with 1007; the data is dropped.

    Raises:
        TypeError: For the wrong type of an option.
        ValueError: For an option out of its bounds.
    """

    @overload
    def __init__(
        self: "WebSocketHub[Data]",
        *,
        max_sessions: int = ...,
        max_queue_bytes: int = ...,
        max_queue_messages: int = ...,
        memory_budget: int | None = ...,
        max_message_bytes: int = ...,
        receive_rate: RateLimiter | None = ...,
        over_rate: OverRate = ...,
        idle_timeout: float | None = ...,
        first_message_timeout: float | None = ...,
        heartbeat: float | None = ...,
        stall_timeout: float = ...,
        lag_timeout: float | None = ...,
        close_timeout: float = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        codec: Codec[M],
        max_sessions: int = ...,
        max_queue_bytes: int = ...,
        max_queue_messages: int = ...,
        memory_budget: int | None = ...,
        max_message_bytes: int = ...,
        receive_rate: RateLimiter | None = ...,
        over_rate: OverRate = ...,
        idle_timeout: float | None = ...,
        first_message_timeout: float | None = ...,
        heartbeat: float | None = ...,
        stall_timeout: float = ...,
        lag_timeout: float | None = ...,
        close_timeout: float = ...,
        on_undecodable: (
            Callable[[WebSocketSession[M], Data, Exception], object] | None
        ) = ...,
    ) -> None: ...
    def __init__(
        self,
        *,
        codec: Codec[Any] = EITHER,
        max_sessions: int = 10_000,
        max_queue_bytes: int = 1 << 20,
        max_queue_messages: int = 1024,
        memory_budget: int | None = None,
        max_message_bytes: int = 1 << 20,
        receive_rate: RateLimiter | None = None,
        over_rate: OverRate = "close",
        idle_timeout: float | None = None,
        first_message_timeout: float | None = None,
        heartbeat: float | None = 20.0,
        stall_timeout: float = 10.0,
        lag_timeout: float | None = None,
        close_timeout: float = 5.0,
        on_undecodable: Callable[[Any, Data, Exception], object] | None = None,
    ) -> None:
        limits = Limits(
            max_sessions=max_sessions,
            max_queue_bytes=max_queue_bytes,
            max_queue_messages=max_queue_messages,
            memory_budget=memory_budget,
            max_message_bytes=max_message_bytes,
            receive_rate=receive_rate,
            over_rate=over_rate,
            idle_timeout=idle_timeout,
            first_message_timeout=first_message_timeout,
            heartbeat=heartbeat,
            stall_timeout=stall_timeout,
            lag_timeout=lag_timeout,
            close_timeout=close_timeout,
        )
        self._registry = Registry(limits, codec, on_undecodable)
        self._codec: Codec[M] = codec
        self._drainage = Drainage(self._registry)
        self._registry.on_shutdown = self._drainage

    def session(
        self, websocket: Any
    ) -> AbstractAsyncContextManager[WebSocketSession[M], bool | None]:
        """Admit a WebSocket, and see it out: `async with hub.session(ws) as session:`.

        The block may be left at any time: what is queued is sent, the peer gets a close
        frame, and nothing is left. A `SessionClosed` of this session that leaves the block
        goes no further: the peer is gone, and that is no error.

        Args:
            websocket: A Starlette or FastAPI `WebSocket` that has not been accepted; a
                connection of websockets' asyncio server or client; a prepared
                `WebSocketResponse` of aiohttp, or a `ClientWebSocketResponse`; or an end of
                a `memory_pair()`.

        Returns:
            What is to be entered; it gives the session.

        Raises:
            TypeError: For any other object.
            SessionRefused: On entering, if there are too many, or the hub drains. The peer
                has been told so.
            SessionClosed: On entering, if the peer has gone.
            RuntimeError: On entering, if the hub has sessions in another loop.
            BaseException: What leaves the block, the same object; the peer gets 1011.

        Cancellation:
            A cancel that leaves the block sends 1001. The close is waited for, for
            at most `close_timeout`, whatever cancels meanwhile. A handler that is
            still in the block that long after the session has ended is cancelled, and
            that cancel is taken back here.
        """
        return Admission[M](self._registry, door_of(websocket))

    @property
    def max_message_bytes(self) -> int:
        """How long a message from a peer may be."""
        return self._registry.limits.max_message_bytes

    @property
    def admits(self) -> bool:
        """Whether it has a place for another session."""
        return not (self._registry.full or self._registry.draining)

    def count_refusal(self) -> None:
        """Count a WebSocket that was refused before it came here: see `admits`."""
        self._registry.refused += 1

    def publish(
        self,
        room: Hashable,
        message: M,
        *,
        slow: Slow = "disconnect",
        key: Hashable = None,
    ) -> Delivery:
        """Send a message to everyone in a room; it is encoded once.

        Never waits. It costs some microseconds for each session, in which the loop does
        nothing else: for big rooms there is `publish_async`.

        Args:
            room: Its name.
            message: What the codec encodes.
            slow: What to do for a peer whose queue is full: `"disconnect"` it, for events,
                none of which may be missing; `"drop_oldest"` of those published this way,
                or `"drop_newest"`, that is this one; or `"conflate"`, for state: it
                replaces the one of the same key that still waits, if any, and
                disconnects if none does.
            key: What a message to conflate is about; None for the whole room.

        Returns:
            How many it was sent to, queued for, and so on.

        Raises:
            TypeError: If the codec has no use for the message.
            ValueError: For an unknown policy, or a message of more bytes than may ever be
                queued.
            RuntimeError: In a thread, or a loop that is not the one of its sessions.
        """
        data = self._checked(message, slow)
        return self._registry.publish(room, data, slow, key)

    async def publish_async(
        self,
        room: Hashable,
        message: M,
        *,
        slow: Slow = "disconnect",
        key: Hashable = None,
    ) -> Delivery:
        """Send a message to everyone in a room, some hundreds in each turn of the loop.

        As `publish`, for whoever is in the room now and still is when it is their turn.
        Two at a time may reach one peer in either order.

        Cancellation:
            Those whose turn has not come do not get it. Does not checkpoint in a small room.
        """
        data = self._checked(message, slow)
        return await self._registry.publish_slowly(room, data, slow, key)

    def _checked(self, message: M, slow: Slow) -> Data:
        if slow not in _POLICIES:
            raise ValueError(
                f"slow must be one of {', '.join(map(repr, _POLICIES))}, got {slow!r}"
            )
        data = self._codec.encode(message)
        if len(data) > self._registry.short:
            self._registry.check_size(data)
        return data

    async def drain(
        self,
        *,
        code: int = 1012,
        grace: float = 0.0,
        batch: int = 500,
        interval: float = 0.1,
        jitter: float = 0.5,
        deadline: float = 30.0,
    ) -> Drained:
        """Admit nobody any more, and end every session in order.

        At first handlers may finish by themselves: `session.draining` tells them. Then
        sessions are told to go, some at a time, lest all come back elsewhere at once; what
        is queued for them is sent. A second call waits for the first.

        Args:
            code: 1012 for a restart, 1001 for good.
            grace: Seconds before the first session is told.
            batch: How many are told at once.
            interval: Seconds from one batch to the next.
            jitter: The part of that, between 0 and 1, by which a batch may be early.
            deadline: Seconds for everything; then what is left is aborted. While
                `safeaio.run` shuts down, no more than its `grace` leaves.

        Returns:
            How many finished, were closed, and were aborted.

        Raises:
            TypeError: For the wrong type of an option.
            ValueError: For an option out of its bounds.
            RuntimeError: If a handler of this hub calls it, which would wait for itself;
                or in a loop that is not the one of its sessions.

        Cancellation:
            Ends the wait alone: the drain goes on.
        """
        plan = Plan(
            code=code,
            grace=grace,
            batch=batch,
            interval=interval,
            jitter=jitter,
            deadline=deadline,
        )
        return await self._drainage.drain(plan)

    def reopen(self) -> None:
        """Admit again, after a drain: for a server that is started anew.

        Raises:
            RuntimeError: While the drain is under way.
        """
        self._drainage.take_back()

    def snapshot(self) -> HubSnapshot:
        """Return what it holds right now."""
        registry = self._registry
        return HubSnapshot(
            sessions=len(registry.connections),
            rooms=len(registry.rooms),
            queued_bytes=registry.budget.used,
            draining=registry.draining,
            refused=registry.refused,
            evicted=registry.evicted,
            dropped=registry.dropped,
            drops=registry.drops(),
            ignored=registry.ignored,
        )

    def __repr__(self) -> str:
        state = "draining" if self._registry.draining else "open"
        return f"<WebSocketHub {state}, {len(self._registry.connections)} sessions>"
