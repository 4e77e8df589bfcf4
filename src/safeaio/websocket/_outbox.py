"""Messages that wait to be sent: bounded in bytes and in number, with a policy for each: pure."""

# Invariants; the tests name them.
#
# 1. There are never more bytes, or messages, than the limits, and never more bytes in all
#    outboxes of a budget together than that has.
# 2. What was put is sent, in order, unless the session ends. Only what was offered may be
#    dropped or replaced, and only by what was offered the same way.
# 3. What is being sent still counts, and is neither dropped nor replaced.

from collections import deque
from collections.abc import Hashable
from enum import Enum, auto
from typing import Any, Literal, TypeAlias, final

Slow: TypeAlias = Literal["disconnect", "drop_oldest", "drop_newest", "conflate"]


class Outcome(Enum):
    """What became of an offer."""

    QUEUED = auto()
    REPLACED = auto()  # an older one of the same key
    DROPPED = auto()
    FULL = auto()  # nothing changed: the session is to be disconnected


@final
class Budget:
    """The bytes that the outboxes of a hub may hold together.

    Attributes:
        limit: How many.
        used: Of these.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: float) -> None:
        self.limit: float = limit
        self.used: int = 0


@final
class Item:
    """One message."""

    __slots__ = ("key", "payload", "size", "slow")

    def __init__(
        self, payload: Any, size: int, slow: Slow | None, key: Hashable
    ) -> None:
        self.payload: Any = payload
        self.size: int = size
        self.slow: Slow | None = slow
        self.key: Hashable = key


@final
class Outbox:
    """What waits to be sent to one peer.

    Args:
        budget: Shared with the other sessions.
        max_bytes: Of all messages, the one being sent included.
        max_messages: Likewise.

    Attributes:
        bytes: Of all messages.
        dropped: How many offers were dropped or replaced so far.
    """

    __slots__ = (
        "_budget",
        "_droppable",
        "_droppable_bytes",
        "_items",
        "_latest",
        "_max_bytes",
        "_max_messages",
        "_sending",
        "bytes",
        "dropped",
    )

    def __init__(self, budget: Budget, max_bytes: int, max_messages: int) -> None:
        self._budget = budget
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._items: deque[Item] = deque()
        self._latest: dict[Hashable, Item] = {}
        self._droppable = self._droppable_bytes = 0
        self._sending: Item | None = None
        self.bytes: int = 0
        self.dropped: int = 0

    def __len__(self) -> int:
        return len(self._items) + (self._sending is not None)

    def has_room(self, size: int, instead_of: int = 0, messages: int = 1) -> bool:
        """Whether the limits of its own let one more message in.

        Args:
            size: Its bytes.
            instead_of: Bytes that go for that.
            messages: How many more there would be.
        """
        return (
            len(self) + messages <= self._max_messages
            and self.bytes + size - instead_of <= self._max_bytes
        )

    def fits(self, size: int, instead_of: int = 0, messages: int = 1) -> bool:
        """Whether the budget lets it in, too."""
        more = size - instead_of
        return (
            self.has_room(size, instead_of, messages)
            and self._budget.used + more <= self._budget.limit
        )

    def put(self, payload: Any, size: int) -> None:
        """Append a message, which fits, and is not to be dropped."""
        self._append(Item(payload, size, None, None))

    def offer(self, payload: Any, size: int, slow: Slow, key: Hashable) -> Outcome:
        """Append a message, or do what its policy says.

        Args:
            payload: The message.
            size: Its bytes.
            slow: What to do if it does not fit. `"conflate"` also replaces an older one
                of the same key if it fits.
            key: Of a message to conflate.
        """
        if slow == "conflate" and key in self._latest:
            return self._replace(self._latest[key], payload, size)
        if not self.fits(size):
            if slow == "drop_newest":
                self.dropped += 1
                return Outcome.DROPPED
            if slow != "drop_oldest":
                return Outcome.FULL
            if not self.fits(size, self._droppable_bytes, 1 - self._droppable):
                self.dropped += 1
                return Outcome.DROPPED
            while not self.fits(size):
                self._drop_oldest()
        item = Item(payload, size, slow, key)
        self._append(item)
        if slow == "conflate":
            self._latest[key] = item
        elif slow == "drop_oldest":
            self._droppable += 1
            self._droppable_bytes += size
        return Outcome.QUEUED

    def take(self) -> Any:
        """Return the next message, which counts until `sent` is called."""
        item = self._sending = self._items.popleft()
        self._forget(item)
        return item.payload

    def sent(self) -> None:
        """Take note that the one that was taken is gone."""
        assert self._sending is not None
        self._count(-self._sending.size)
        self._sending = None

    def clear(self) -> None:
        """Let go of everything."""
        self._count(-self.bytes)
        self._items.clear()
        self._latest.clear()
        self._droppable = self._droppable_bytes = 0
        self._sending = None

    def _append(self, item: Item) -> None:
        self._items.append(item)
        self._count(item.size)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._budget.used += size

    def _replace(self, item: Item, payload: Any, size: int) -> Outcome:
        if not self.fits(size, item.size, 0):
            return Outcome.FULL
        self._count(size - item.size)
        item.payload, item.size = payload, size
        self.dropped += 1
        return Outcome.REPLACED

    def _drop_oldest(self) -> None:
        index, item = next(
            (index, item)
            for index, item in enumerate(self._items)
            if item.slow == "drop_oldest"
        )
        del self._items[index]
        self._forget(item)
        self._count(-item.size)
        self.dropped += 1

    def _forget(self, item: Item) -> None:
        if item.slow == "conflate":
            del self._latest[item.key]
        elif item.slow == "drop_oldest":
            self._droppable -= 1
            self._droppable_bytes -= item.size
