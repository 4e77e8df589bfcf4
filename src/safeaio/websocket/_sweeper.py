"""Looks after all sessions of a hub, now and then: one timer, however many there are."""

import asyncio
from contextvars import Context
from typing import final

from ._connection import Connection
from ._limits import Limits
from ._transport import broken

_OFTEN, _SELDOM = 0.02, 0.25  # seconds from one look to the next
_LOOKS = 8  # within the shortest timeout

_OWN = 1 << 17  # bytes that a transport holds before it wants no more, twice


@final
class Sweeper:
    """Ends sessions that are idle, stalled, silent or left behind.

    Args:
        limits: When that is so.
        connections: Those to look after; it looks again while there are any.
    """

    def __init__(self, limits: Limits, connections: dict[Connection, None]) -> None:
        self._limits = limits
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._waited = False
        self._most = limits.max_queue_bytes + _OWN
        timeouts = (
            limits.stall_timeout,
            limits.close_timeout,
            limits.idle_timeout,
            limits.first_message_timeout,
            limits.heartbeat,
            limits.lag_timeout,
        )
        shortest = min(seconds for seconds in timeouts if seconds is not None)
        self._period = min(max(shortest / _LOOKS, _OFTEN), _SELDOM)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again and again, from now on."""
        if self._timer is None:
            self._due = loop.time() + self._period
            self._timer = loop.call_at(self._due, self._sweep, loop, context=Context())

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        # If the loop was held, what came meanwhile has yet to be read: not theirs to pay.
        self._waited = not self._waited and now - self._due > self._period
        if not self._waited:
            self._look_at_all(now)
        self.start(loop)

    def _look_at_all(self, now: float) -> None:
        for connection in tuple(self._connections):
            if connection.info is None:
                try:
                    self._look(connection, now)
                except Exception as exc:  # noqa: BLE001 - one transport's, of many
                    connection.lost(broken(asyncio.get_running_loop(), exc))
            elif now - connection.ended_at > 2 * self._limits.close_timeout:
                connection.interrupt()

    def _look(self, connection: Connection, now: float) -> None:
        incoming, outgoing = connection.incoming, connection.outgoing
        messages = incoming.messages
        if messages != connection.seen or incoming.has_some:
            connection.seen, connection.heard_at = messages, now
        else:
            if not incoming.waits:
                incoming.read_on()
            if incoming.paused:  # by us: the peer may well have sent something
                connection.heard_at = now
        if (connection.transport.buffered() or 0) > self._most:
            connection.evict()
            connection.abort()  # it makes pongs, as a rule, and would while we close
        elif outgoing.messages:
            outgoing.has_moved(now)
            self._judge_writes(connection, now)
        if connection.info is None:
            self._judge_silence(connection, now)
        if connection.info is None and self._limits.heartbeat is not None:
            self._beat(connection, self._limits.heartbeat, now)

    def _judge_writes(self, connection: Connection, now: float) -> None:
        limits, outgoing = self._limits, connection.outgoing
        lags_since = outgoing.lags_since
        if now - outgoing.moved_at > limits.stall_timeout or (
            limits.lag_timeout is not None
            and lags_since is not None
            and now - lags_since > limits.lag_timeout
        ):
            connection.evict()

    def _judge_silence(self, connection: Connection, now: float) -> None:
        limits = self._limits
        first, idle = limits.first_message_timeout, limits.idle_timeout
        if (
            first is not None
            and not connection.seen
            and now - connection.heard_at > first
        ):
            connection.end("first-message")
        elif idle is not None and now - connection.heard_at > idle:
            connection.end("idle")

    def _beat(self, connection: Connection, interval: float, now: float) -> None:
        if not connection.transport.caps.native_ping:
            return
        pong = connection.pong
        if pong is not None and pong.done():
            came = not pong.cancelled() and pong.exception() is None
            connection.latency = pong.result() if came else None
            connection.pong = pong = None
        if now - connection.pinged_at < interval:
            return
        if pong is None:
            connection.pinged_at = now
            connection.pong = connection.transport.ping()
        elif connection.incoming.paused:  # by us: it may well have come
            connection.pinged_at = now
        else:
            connection.end("heartbeat")
