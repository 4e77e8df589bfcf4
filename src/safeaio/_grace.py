"""Limits of cleanup that shrink when the run of its loop shuts down."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import Any, Protocol, final
from weakref import WeakKeyDictionary


class Subscriber(Protocol):
    """What winds up by itself when the run of its loop shuts down."""

    @property
    def subscribed(self) -> bool:
        """Whether it would do anything at the beginning."""
        ...

    @property
    def owned(self) -> Iterable[asyncio.Future[Any]]:
        """The tasks that it ends by itself, and in order, when its host is cancelled."""
        ...

    def shut_down(self, *, hurry: bool) -> None:
        """Wind up; hurry, if that was asked for."""


@final
class Grace:
    """What a loop's run leaves to cleanup.

    Args:
        left: Returns the seconds that one step may take from now on; infinity without a
            shutdown.

    Attributes:
        begun: Whether a shutdown has.
        hurried: Whether what winds up is to be over.
    """

    def __init__(self, left: Callable[[], float]) -> None:
        self.left = left
        self.begun = False
        self.hurried = False
        self.limits: set[Limit] = set()
        self.subscribers: set[Subscriber] = set()

    @property
    def subscribed(self) -> bool:
        """Whether anybody would do something about the beginning of a shutdown."""
        return any(subscriber.subscribed for subscriber in tuple(self.subscribers))

    def shut_down(self, *, hurry: bool) -> None:
        """Tell whoever has something to wind up."""
        self.begun, self.hurried = True, hurry
        for subscriber in tuple(self.subscribers):
            subscriber.shut_down(hurry=hurry)

    def shrink(self) -> None:
        """Have every limit look again: there is less left."""
        for limit in tuple(self.limits):
            limit.set()


_graces: WeakKeyDictionary[asyncio.AbstractEventLoop, Grace] = WeakKeyDictionary()


def subscribe(loop: asyncio.AbstractEventLoop, subscriber: Subscriber) -> None:
    """Have a shutdown of a loop's run told to `subscriber`."""
    grace = _graces.get(loop)
    if grace is not None:
        grace.subscribers.add(subscriber)


def unsubscribe(loop: asyncio.AbstractEventLoop, subscriber: Subscriber) -> None:
    """Take back `subscribe`."""
    grace = _graces.get(loop)
    if grace is not None:
        grace.subscribers.discard(subscriber)


def catch_up(loop: asyncio.AbstractEventLoop, subscriber: Subscriber) -> None:
    """Tell a subscriber, which was none before, of a shutdown that has begun."""
    grace = _graces.get(loop)
    if grace is not None and grace.begun:
        subscriber.shut_down(hurry=grace.hurried)


def owned(loop: asyncio.AbstractEventLoop) -> set[asyncio.Future[Any]]:
    """Return the tasks that somebody else ends."""
    grace = _graces.get(loop)
    subscribers = () if grace is None else tuple(grace.subscribers)
    return {task for subscriber in subscribers for task in subscriber.owned}


def give(loop: asyncio.AbstractEventLoop, grace: Grace) -> None:
    """Have every limit in a loop follow `grace`, which must not lead to the loop."""
    _graces[loop] = grace


def take_back(loop: asyncio.AbstractEventLoop) -> None:
    """Have limits follow nothing; those that nobody cancelled hold the loop."""
    _graces.pop(loop, None)


@final
class Limit:
    """Calls back after some seconds, or earlier if a shutdown leaves less.

    Args:
        loop: The running loop.
        seconds: How long, without a shutdown; None for no limit.
        callback: Called once, in the loop.
    """

    __slots__ = (
        "_began",
        "_callback",
        "_ends",
        "_grace",
        "_loop",
        "_seconds",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float | None,
        callback: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._callback = callback
        self._began = loop.time()
        self._ends = inf if seconds is None else self._began + seconds
        self._timer: asyncio.TimerHandle | None = None
        self._grace = _graces.get(loop) if _graces else None
        if self._grace is not None:
            self._grace.limits.add(self)
        self.set()

    @property
    def age(self) -> float:
        """The seconds since it was set; where it has ended of itself, those it had."""
        age = self._loop.time() - self._began
        if self._seconds is None or age < self._seconds - 0.01:  # timers may be early
            return age
        return self._seconds

    def set(self) -> None:
        """Set the timer to what is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._grace is not None:
            self._ends = min(self._ends, self._loop.time() + self._grace.left())
        if self._ends < inf:
            self._timer = self._loop.call_at(self._ends, self._call, context=Context())

    def cancel(self) -> None:
        """Do not call back."""
        if self._timer is not None:
            self._timer.cancel()
        if self._grace is not None:
            self._grace.limits.discard(self)
        with suppress(AttributeError):  # done
            del self._callback  # it may hold whoever holds this

    def _call(self) -> None:
        callback = self._callback
        self.cancel()
        callback()
