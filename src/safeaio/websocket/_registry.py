"""The connections of a hub, its rooms, and what they may hold together."""

# Invariants; the tests name them.
#
# 1. `publish` never waits, and never fails for the sake of one peer.
# 2. A connection is in the rooms only while it is open, and a room has members.

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any, final

import attrs

from .._grace import Subscriber, catch_up, subscribe, unsubscribe
from ._codec import Codec
from ._connection import Connection
from ._limits import Limits
from ._outbox import Budget, Outcome, Slow
from ._sweeper import Sweeper
from ._transport import Data, size_of


@attrs.frozen
@final
class Delivery:
    """What became of a published message.

    Attributes:
        sent: How many peers it was given to the transport of.
        queued: How many were behind, so that it waits for them.
        dropped: How many messages, this one or older ones, somebody does not get.
        evicted: How many sessions it ended.
    """

    sent: int
    queued: int
    dropped: int
    evicted: int

    def __add__(self, other: "Delivery") -> "Delivery":
        return Delivery(
            self.sent + other.sent,
            self.queued + other.queued,
            self.dropped + other.dropped,
            self.evicted + other.evicted,
        )


_NOBODY = Delivery(0, 0, 0, 0)

_AT_ONCE = 256  # sessions between two turns of the loop


@final
class Room:
    """Who gets what is published in it."""

    __slots__ = ("dropped", "members")

    def __init__(self) -> None:
        self.members: dict[Connection, None] = {}
        self.dropped: int = 0


@final
class Registry:
    """What a hub knows.

    Attributes:
        loop: The one in which it is used.
        connections: Everyone who is in the block of a session.
        rooms: Those that somebody is in.
        short: How long a message may be that `check_size` need not see.
        encode: What makes data of messages.
        decode: What makes messages of data.
        draining: Whether nobody is admitted any more.
        on_shutdown: Told of the shutdown of the loop's run while there are connections.
        opening: How many more are being accepted.
        refused: How many were not admitted.
        evicted: How many were ended, since they were too slow.
        dropped: How many published messages somebody did not get.
        ignored: How many received ones were over the rate, and dropped.
    """

    on_shutdown: Subscriber

    def __init__(
        self,
        limits: Limits,
        codec: Codec[Any],
        on_undecodable: Callable[[Any, Data, Exception], object] | None,
    ) -> None:
        budget = limits.memory_budget
        self.loop: asyncio.AbstractEventLoop | Any = None
        self.ignored: int = 0
        self.limits: Limits = limits
        self.encode: Callable[[Any], Data] = codec.encode
        self.decode: Callable[[Data], Any] = codec.decode
        self.on_undecodable: Callable[[Any, Data, Exception], object] | None = (
            on_undecodable
        )
        self.draining: bool = False
        self.budget: Budget = Budget(float("inf") if budget is None else budget)
        most = limits.max_queue_bytes
        self._max_message = most if budget is None else min(most, budget)
        self.short: int = self._max_message // 4
        self.connections: dict[Connection, None] = {}
        self.rooms: dict[Hashable, Room] = {}
        self.opening: int = 0
        self.refused: int = 0
        self.evicted: int = 0
        self.dropped: int = 0
        self._sweeper = Sweeper(limits, self.connections)
        self._woken = asyncio.Event()

    def drops(self) -> dict[Hashable, int]:
        """Return how many messages were dropped, for each room where any was."""
        return {name: room.dropped for name, room in self.rooms.items() if room.dropped}

    @property
    def full(self) -> bool:
        """Whether nobody else may come in."""
        return len(self.connections) + self.opening >= self.limits.max_sessions

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on in a loop.

        Raises:
            RuntimeError: If there are sessions in another one.
        """
        if self.loop is loop:
            return
        if self.connections or self.opening:
            raise RuntimeError(
                "this WebSocketHub has sessions in another loop; give each loop a hub "
                "of its own"
            )
        self.loop = loop
        self._sweeper.stop()

    def check_size(self, data: Data) -> None:
        """Refuse what never fits into the queue of a session.

        Raises:
            ValueError: If it takes too many bytes.
        """
        size = size_of(data)
        if size > self._max_message:
            raise ValueError(
                f"a message of {size} bytes never fits into the queue of a session: "
                f"max_queue_bytes and memory_budget let {self._max_message} wait"
            )

    def check_loop(self) -> None:
        """Let nobody but the loop's own tasks and callbacks through.

        Raises:
            RuntimeError: In another loop, or in a thread.
        """
        if asyncio._get_running_loop() is not self.loop:
            raise RuntimeError(
                "this WebSocketHub has its sessions in another loop or thread, and does "
                "not lock; hand the call over to that loop, as in "
                "loop.call_soon_threadsafe(hub.publish, room, message)"
            )

    def add(self, connection: Connection) -> None:
        """Look after a connection."""
        self.connections[connection] = None
        self._sweeper.start(self.loop)
        subscribe(self.loop, self.on_shutdown)
        catch_up(self.loop, self.on_shutdown)
        if self.draining:  # since it was accepted
            connection.end("drain")

    def remove(self, connection: Connection) -> None:
        """Do so no more."""
        del self.connections[connection]
        if not self.connections:
            self._sweeper.stop()
            unsubscribe(self.loop, self.on_shutdown)
            self.wake()

    def wake(self) -> None:
        """Have whoever waits until it is empty wait no more."""
        self._woken.set()

    async def empty(self, *, within: float) -> None:
        """Wait until there is no connection; or some seconds, or until `wake`."""
        if not self.connections or within <= 0:
            return
        self._woken.clear()
        timer = self.loop.call_later(within, self.wake)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    def join(self, connection: Connection, name: Hashable) -> None:
        """Have a connection get what is published in a room."""
        if connection.rooms is None:
            connection.rooms = {}
        connection.rooms[name] = None
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room()
        room.members[connection] = None

    def leave(self, connection: Connection, name: Hashable) -> None:
        """Take that back."""
        if not connection.rooms or name not in connection.rooms:
            return
        del connection.rooms[name]
        room = self.rooms[name]
        del room.members[connection]
        if not room.members:
            del self.rooms[name]  # 2

    def retire(self, connection: Connection) -> None:
        """Publish nothing more to a connection."""
        for name in tuple(connection.rooms or ()):
            self.leave(connection, name)

    def publish(
        self, name: Hashable, data: Data, slow: Slow, key: Hashable
    ) -> Delivery:
        """Send data to everyone in a room."""
        room = self._room(name)
        if room is None:
            return _NOBODY
        return self._deliver(room, tuple(room.members), data, slow, (name, key))

    async def publish_slowly(
        self, name: Hashable, data: Data, slow: Slow, key: Hashable
    ) -> Delivery:
        """Send data to everyone in a room, some in each turn of the loop."""
        room = self._room(name)
        if room is None:
            return _NOBODY
        members = tuple(room.members)
        total = _NOBODY
        for first in range(0, len(members), _AT_ONCE):
            if first:
                await asyncio.sleep(0)
            part = [c for c in members[first : first + _AT_ONCE] if c in room.members]
            total += self._deliver(room, part, data, slow, (name, key))
        return total

    def _room(self, name: Hashable) -> Room | None:
        if self.connections:
            self.check_loop()
        return self.rooms.get(name)

    def _deliver(
        self,
        room: Room,
        members: Sequence[Connection],
        data: Data,
        slow: Slow,
        key: Hashable,
    ) -> Delivery:
        sent = 0
        behind: list[tuple[Connection, Any]] = []
        kind: type | None = None
        prepared: Any = None
        for connection in members:
            transport = connection.transport
            if type(transport) is not kind:
                kind, prepared = type(transport), transport.prepare(data)
            if not connection.outgoing.busy and transport.try_send(prepared):
                sent += 1
            else:
                behind.append((connection, prepared))
        if not behind:
            return Delivery(sent, 0, 0, 0)
        return self._queue(room, behind, size_of(data), sent, slow, key)

    def _queue(
        self,
        room: Room,
        behind: list[tuple[Connection, Any]],
        size: int,
        sent: int,
        slow: Slow,
        key: Hashable,
    ) -> Delivery:
        queued = dropped = evicted = 0
        for connection, prepared in behind:
            if connection.info is not None:
                continue
            outgoing = connection.outgoing
            before = outgoing.dropped
            outcome = outgoing.offer(prepared, size, slow, key)
            if outcome is Outcome.FULL and self.budget.used + size > self.budget.limit:
                evicted += self.make_room(size)
                if connection.info is None:
                    outcome = outgoing.offer(prepared, size, slow, key)
            if outcome is Outcome.FULL:
                if connection.info is None:
                    connection.evict()
                    evicted += 1
                continue
            dropped += outgoing.dropped - before
            queued += outcome is not Outcome.DROPPED
        room.dropped += dropped
        self.dropped += dropped
        return Delivery(sent, queued, dropped, evicted)

    def make_room(self, size: int) -> int:
        """End those with the most in their queues, until `size` bytes fit in the budget.

        Those that end already let go of what they have yet to send.

        Returns:
            How many were ended.
        """
        ended = 0
        while self.budget.used + size > self.budget.limit:
            largest = max(self.connections, key=_held)
            assert _held(largest)
            ended += largest.info is None
            largest.give_up()
        self.evicted += ended
        return ended


def _held(connection: Connection) -> int:
    return connection.outgoing.bytes + connection.incoming.bytes
