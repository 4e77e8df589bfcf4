"""What waits for a slow peer, against a list that does the same the slow way."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from safeaio.websocket._outbox import Budget, Outbox, Outcome, Slow

SLOW: tuple[Slow, ...] = ("disconnect", "drop_oldest", "drop_newest", "conflate")


@attrs.define
class Message:
    name: Any
    size: int
    slow: Slow | None = None
    key: Any = None


class Outboxes(RuleBasedStateMachine):
    """Two outboxes that share a budget."""

    boxes = Bundle("boxes")

    @initialize(limit=st.integers(5, 40))
    def begin(self, limit: int) -> None:
        self.budget = Budget(limit)
        self.names: Iterator[int] = count()
        self.models: dict[int, list[Message]] = {}
        self.sending: dict[int, Message | None] = {}
        self.all: dict[int, Outbox] = {}
        self.dropped: dict[int, int] = {}
        self.limits: dict[int, tuple[int, int]] = {}

    @precondition(lambda self: len(self.all) < 2)
    @rule(target=boxes, most=st.integers(1, 20), messages=st.integers(1, 5))
    def open(self, most: int, messages: int) -> int:
        number = len(self.all)
        self.all[number] = Outbox(self.budget, most, messages)
        self.models[number] = []
        self.sending[number] = None
        self.dropped[number] = 0
        self.limits[number] = most, messages
        return number

    def held(self, number: int) -> list[Message]:
        sending = self.sending[number]
        return [*self.models[number], *([] if sending is None else [sending])]

    def used(self) -> int:
        return sum(m.size for number in self.all for m in self.held(number))

    def fits(self, number: int, size: int, without: list[Message]) -> bool:
        held = [m for m in self.held(number) if not any(m is w for w in without)]
        most, messages = self.limits[number]
        gone = sum(m.size for m in without)
        return (
            len(held) < messages
            and sum(m.size for m in held) + size <= most
            and self.used() - gone + size <= self.budget.limit
        )

    @rule(number=boxes, size=st.integers(0, 12))
    def put(self, number: int, size: int) -> None:
        box = self.all[number]
        assert box.fits(size) == self.fits(number, size, [])
        if box.fits(size):
            message = Message(next(self.names), size)
            box.put(message.name, size)
            self.models[number].append(message)

    @rule(
        number=boxes,
        size=st.integers(0, 12),
        slow=st.sampled_from(SLOW),
        key=st.sampled_from("ab"),
    )
    def offer(self, number: int, size: int, slow: Slow, key: str) -> None:
        message = Message(next(self.names), size, slow, key)
        expected = self.expected(number, message)
        outcome = self.all[number].offer(message.name, size, slow, key)
        assert outcome is expected

    def expected(self, number: int, new: Message) -> Outcome:
        waiting = self.models[number]
        same = [
            m for m in waiting if m.slow == new.slow == "conflate" and m.key == new.key
        ]
        if same:
            if not self.fits(number, new.size, same):
                return Outcome.FULL
            waiting[waiting.index(same[0])] = new
            self.dropped[number] += 1
            return Outcome.REPLACED
        if not self.fits(number, new.size, []):
            if new.slow in ("disconnect", "conflate"):
                return Outcome.FULL
            older = [m for m in waiting if m.slow == "drop_oldest"]
            if new.slow == "drop_newest" or not self.fits(number, new.size, older):
                self.dropped[number] += 1
                return Outcome.DROPPED
            while not self.fits(number, new.size, []):
                waiting.remove(older.pop(0))
                self.dropped[number] += 1
        waiting.append(new)
        return Outcome.QUEUED

    @rule(number=boxes)
    def take(self, number: int) -> None:
        if self.models[number] and self.sending[number] is None:
            message = self.models[number].pop(0)
            assert self.all[number].take() == message.name
            self.sending[number] = message

    @rule(number=boxes)
    def sent(self, number: int) -> None:
        if self.sending[number] is not None:
            self.all[number].sent()
            self.sending[number] = None

    @rule(number=boxes)
    def clear(self, number: int) -> None:
        self.all[number].clear()
        self.models[number].clear()
        self.sending[number] = None

    @invariant()
    def agrees(self) -> None:
        for number, box in self.all.items():
            held = self.held(number)
            assert len(box) == len(held)
            assert box.bytes == sum(m.size for m in held)
            assert box.dropped == self.dropped[number]
            most, messages = self.limits[number]
            assert box.bytes <= most
            assert len(box) <= messages
        if self.all:
            assert self.budget.used == self.used() <= self.budget.limit

    def teardown(self) -> None:
        for number, box in getattr(self, "all", {}).items():
            if self.sending[number] is not None:
                box.sent()
            rest = [box.take() for _ in self.models[number] if self.take_one(box)]
            assert rest == [m.name for m in self.models[number]]

    def take_one(self, box: Outbox) -> bool:
        if box._sending is not None:
            box.sent()
        return True


TestOutboxes = Outboxes.TestCase
TestOutboxes.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)
