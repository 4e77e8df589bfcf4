"""What a child of a supervisor needs to know of everybody else, and they of it."""

import asyncio
from contextvars import Context
from typing import Any, Protocol, TypeVar

from ._guard import Guard
from ._herald import Herald
from ._snapshot import Health, Snapshot

C_contra = TypeVar("C_contra", contravariant=True)  # a child


class Nested(Protocol):
    """A supervisor that runs inside a child."""

    def snapshot(self) -> Snapshot:
        """Return what everything in it is doing."""
        ...

    def health(self) -> Health:
        """Return how it is."""
        ...


class Order(Protocol[C_contra]):
    """An ordered stop or start that a child is part of."""

    def advance(self) -> None:
        """Take whatever step is due."""

    def hurry(self) -> None:
        """Give up the order."""

    def drop(self, child: C_contra) -> None:
        """Leave a child out."""

    def cancel(self) -> object:
        """Take no more steps."""

    def starts_again(self, child: C_contra) -> bool:
        """Whether a child that it stops is to be started after that."""
        ...


class Overseer(Protocol[C_contra]):
    """Who has children, and is told how they are."""

    loop: asyncio.AbstractEventLoop
    path: str
    ancestors: tuple[Any, ...]
    active: int
    stopping: bool
    herald: Herald
    guard: Guard

    @property
    def abandoned(self) -> bool:
        """Whether everything was cancelled at once, since nobody can wait for it."""
        ...

    def create_task(
        self, child: C_contra, context: Context | None
    ) -> asyncio.Task[Any]:
        """Start a life."""
        ...

    def watch(self, child: C_contra, task: asyncio.Task[Any]) -> None:
        """Have the end of a life told."""

    def note_end(self, child: C_contra) -> None:
        """A life is in its last step."""

    def ended(self, child: C_contra) -> None:
        """The task of a life has ended."""

    def became_ready(self, child: C_contra) -> None:
        """A child that had to report it did so."""

    def stuck(self, child: C_contra) -> None:
        """A child has not ended in time."""
