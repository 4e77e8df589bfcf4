"""What is behind a session: its ways in and out, and its one end."""

# Invariants; the tests name them.
#
# 1. The first cause of an end wins; whatever is called afterwards raises it.
# 2. Every end is over within its deadline, by `abort` if it must: the closer sees to it,
#    whoever is cancelled meanwhile.

import asyncio
from collections.abc import Hashable
from contextvars import Context
from typing import Protocol, final

import attrs

from .._grace import Limit
from .._wait import Children
from ..exceptions import CloseInfo
from ._close import ABNORMAL, Cause, close_of
from ._incoming import Incoming
from ._limits import Limits
from ._outbox import Budget
from ._outgoing import Outgoing
from ._transport import TransportClosed, WebSocketTransport, broken

_SLOW = 0.5  # seconds to close a connection that takes nothing

_UNHEARD: tuple[Cause, ...] = ("slow", "budget", "heartbeat")
_FLUSHED: tuple[Cause, ...] = ("returned", "closed", "drain")


class Host(Protocol):
    """The hub."""

    loop: asyncio.AbstractEventLoop
    limits: Limits
    budget: Budget
    evicted: int
    ignored: int

    def retire(self, connection: "Connection") -> None:
        """Publish nothing more to a connection."""


@final
class _Ended:
    """Owns what is left of a session: how it has ended."""

    __slots__ = ("info",)

    def __init__(self, info: CloseInfo) -> None:
        self.info: CloseInfo | None = info

    def end(self, cause: Cause) -> None:
        """It has ended."""

    def lost(self, info: CloseInfo) -> None:
        """It has ended."""

    def ignore(self) -> None:
        """It has ended."""


@final
class Connection:
    """A WebSocket that a hub has admitted.

    Attributes:
        transport: What carries it.
        incoming: What it receives.
        outgoing: What it sends.
        info: How it ends, once it does.
        final: How it has ended, once it has.
        rooms: Those it has joined.
        task: The one that is in the session's block.
        interrupted: Whether that was cancelled, since it stayed there after the end.
        seen: How many messages had been received when the sweeper last looked.
        heard_at: When it last saw more of them, or nothing was read, by our choice; before
            that, when it was admitted.
        ended_at: When its end began, on the loop's clock.
        pong: What tells of the pong to the last ping.
        pinged_at: When that was sent.
        latency: Seconds that the last pong took.
    """

    __slots__ = (
        "_closer",
        "_given_up",
        "_hub",
        "ended_at",
        "final",
        "heard_at",
        "incoming",
        "info",
        "interrupted",
        "latency",
        "outgoing",
        "pinged_at",
        "pong",
        "rooms",
        "seen",
        "task",
        "transport",
    )

    def __init__(self, hub: Host, transport: WebSocketTransport) -> None:
        loop, limits, budget = hub.loop, hub.limits, hub.budget
        self._hub = hub
        self.transport: WebSocketTransport = transport
        self.info: CloseInfo | None = None
        self.final: CloseInfo | None = None
        self.incoming: Incoming = Incoming(self, loop, transport, limits, budget)
        self.outgoing: Outgoing = Outgoing(loop, transport, limits, budget, self.lost)
        self.rooms: dict[Hashable, None] | None = None
        self.task: asyncio.Task[object] | None = None
        self.ended_at: float = 0.0
        self.interrupted: bool = False
        self.seen: int = 0
        self.heard_at: float = loop.time()
        self.pong: asyncio.Future[float] | None = None
        self.pinged_at: float = self.heard_at
        self.latency: float | None = None
        self._closer: asyncio.Task[None] | None = None
        self._given_up = False

    def end(
        self, cause: Cause, code: int | None = None, reason: str | None = None
    ) -> None:
        """Begin the end, unless it has begun; `settle` waits for it.

        Args:
            cause: Why.
            code: The close code, if it is not that of the cause.
            reason: The text beside it.
        """
        if self.info is not None:
            return  # 1
        if code is None or reason is None:
            code, reason = close_of(cause)
        told = ABNORMAL if cause == "heartbeat" else code  # nobody will answer
        self._begin(CloseInfo(told, reason, "local", False, cause))
        self.incoming.end()
        writer = None if cause in _FLUSHED else self.outgoing.stop()
        cut = writer is not None and not writer.done()
        self._closer = self._hub.loop.create_task(
            self._close(code, reason, cause, cut=cut), context=Context()
        )

    def evict(self) -> None:
        """Give it up, since its peer is too slow."""
        self._hub.evicted += 1
        self.end("slow")

    def ignore(self) -> None:
        """Count a message that it does not get, since there are too many."""
        self._hub.ignored += 1

    def interrupt(self) -> None:
        """Cancel whoever is in the session's block still, once."""
        if self.task is not None and not self.interrupted:
            self.interrupted = self.task.cancel()

    def lost(self, info: CloseInfo) -> None:
        """Take note that the transport has closed."""
        if self.info is None:
            self._begin(info)
        if self.final is None:
            assert self.info is not None
            self.final = attrs.evolve(self.info, clean=info.clean)
        self.outgoing.stop()
        if not info.clean:
            self.transport.abort()

    def give_up(self) -> None:
        """Let go of what it holds: the hub has no memory left."""
        if self.info is None:
            self.end("budget")
        else:  # it has yet to send its last messages, or its handler to ask for them
            self.abort()
            self.incoming.clear()

    def abort(self) -> None:
        """Wait for nothing more."""
        self._given_up = True
        self.outgoing.stop()  # the closer may not have begun, and never will
        self.transport.abort()
        if self._closer is not None:
            self._closer.cancel()

    async def over(self) -> None:
        """Wait until it has been closed."""
        if self._closer is not None and not self._closer.done():
            await asyncio.wait([self._closer])

    async def settle(self) -> None:
        """Wait until nothing of it is left; a cancel is kept until then, and raised."""
        tasks = (self._closer, self.incoming.stop(), self._stopped_writer())
        children = Children[None]("WebSocketSession")
        context = Context()
        for task in tasks:
            if task is not None and not task.done():
                children.add(task, None, children.ended, context)
        try:
            if children.running:
                await children.wait(shielded=True)
        finally:
            self.incoming.clear()
            self._let_go()

    def _let_go(self) -> None:
        # What holds this, and is held by it, would be left to the garbage collector.
        assert self.info is not None
        ended = _Ended(self.info)
        self.incoming.let_go(ended)
        self.outgoing.let_go(ended.lost)
        self._closer = None

    def _stopped_writer(self) -> asyncio.Task[None] | None:
        if self._closer is not None and not self._closer.done():
            return None  # it has yet to flush, and waits for it
        return self.outgoing.stop()

    def _begin(self, info: CloseInfo) -> None:
        self.info = info
        self.ended_at = self._hub.loop.time()
        self._hub.retire(self)

    async def _close(self, code: int, reason: str, cause: Cause, *, cut: bool) -> None:
        transport = self.transport
        seconds = self._hub.limits.close_timeout
        if cause in _UNHEARD:
            seconds = min(seconds, _SLOW)
        limit = Limit(self._hub.loop, seconds, self.abort)  # 2
        clean = False
        try:
            if cause in _FLUSHED:
                await self.outgoing.flush()
            if not (cut and transport.caps.cancel_send == "corrupts"):
                clean = await transport.close(code, reason)
        except TransportClosed as exc:
            clean = exc.info.clean
        except Exception as exc:  # noqa: BLE001 - of a transport that breaks its promise
            broken(self._hub.loop, exc)
        except asyncio.CancelledError:
            if not self._given_up:
                raise
        finally:
            limit.cancel()
            if self.final is None:
                assert self.info is not None
                self.final = attrs.evolve(self.info, clean=clean)
            if not clean:
                transport.abort()
            writer = self.outgoing.stop()
            if writer is not None and not writer.done():
                await asyncio.wait([writer])
