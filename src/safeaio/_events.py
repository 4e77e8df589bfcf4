"""What happens to the children of a supervisor, for hooks and logs."""

import logging
from typing import ClassVar, TypeAlias, final

import attrs

from ._record import Record


def text_of(error: BaseException) -> str:
    """Return the text of an error, whatever its class does."""
    try:
        return repr(error)
    except Exception as exc:  # noqa: BLE001 - of a class of the user's
        return f"{type(error).__name__} (its repr raised {type(exc).__name__})"


@attrs.frozen(eq=False, repr=False)
@final
class ChildStarting(Record):
    """A life of a child begins.

    Attributes:
        path: Where the child is, such as `"app/workers/poller"`.
        life: Which one it is, from 1.
    """

    path: str
    life: int
    level: ClassVar[int] = logging.DEBUG

    def __str__(self) -> str:
        return f"{self.path}: starting" + (f", life {self.life}" * (self.life > 1))


@attrs.frozen(eq=False, repr=False)
@final
class ChildReady(Record):
    """A child is ready.

    Attributes:
        path: Where the child is.
    """

    path: str
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"{self.path}: ready"


@attrs.frozen(eq=False, repr=False)
@final
class ChildFailed(Record):
    """A life of a child failed, or returned and is followed by another.

    Attributes:
        path: Where the child is.
        error: What it raised; None if it returned.
        attempt: The restart in a row that follows, from 1; 0 if none follows.
        delay: The seconds before it; None if none follows.
    """

    path: str
    error: BaseException | None
    attempt: int
    delay: float | None

    @property
    def level(self) -> int:
        """How bad that is, for `logging`."""
        return logging.ERROR if self.delay is None else logging.WARNING

    def __str__(self) -> str:
        how = "returned" if self.error is None else f"failed: {text_of(self.error)}"
        if self.delay is None:
            return f"{self.path}: {how}; not restarted"
        return f"{self.path}: {how}; restart {self.attempt} in {self.delay:.1f} s"


@attrs.frozen(eq=False, repr=False)
@final
class ChildFinished(Record):
    """A child returned, and is not started again.

    Attributes:
        path: Where the child is.
    """

    path: str
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"{self.path}: finished"


@attrs.frozen(eq=False, repr=False)
@final
class ChildStopping(Record):
    """A child was cancelled.

    Attributes:
        path: Where the child is.
    """

    path: str
    level: ClassVar[int] = logging.DEBUG

    def __str__(self) -> str:
        return f"{self.path}: stopping"


@attrs.frozen(eq=False, repr=False)
@final
class ChildStopped(Record):
    """A cancelled child ended.

    Attributes:
        path: Where the child is.
        error: What it raised instead of its cancel, if anything.
    """

    path: str
    error: BaseException | None = None

    @property
    def level(self) -> int:
        """How bad that is, for `logging`."""
        return logging.INFO if self.error is None else logging.ERROR

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.path}: stopped"
        return f"{self.path}: stopped, and raised {text_of(self.error)}"


@attrs.frozen(eq=False, repr=False)
@final
class ChildStuck(Record):
    """A cancelled child does not end.

    Nothing can kill a coroutine: the supervisor cancels it again and goes on waiting.

    Attributes:
        path: Where the child is.
        age: The seconds since it was cancelled.
        stack: Where it stands.
    """

    path: str
    age: float
    stack: str
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return (
            f"{self.path}: still running {self.age:.1f} s after it was cancelled; it must "
            f"let CancelledError through. It stands at:\n{self.stack}"
        )


@attrs.frozen(eq=False, repr=False)
@final
class GroupRestart(Record):
    """Several children are stopped and started again, since one of them failed.

    Attributes:
        path: Where the supervisor is.
        children: Their names, in the order in which they are started.
        delay: The seconds before they are.
    """

    path: str
    children: tuple[str, ...]
    delay: float
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return (
            f"{self.path}: restarting {', '.join(self.children)} in {self.delay:.1f} s"
        )


@attrs.frozen(eq=False, repr=False)
@final
class SupervisorGaveUp(Record):
    """A supervisor stops everything, and raises.

    Attributes:
        path: Where the supervisor is.
        reason: Why, in words.
    """

    path: str
    reason: str
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return f"{self.path}: giving up: {self.reason}"


Event: TypeAlias = (
    ChildStarting
    | ChildReady
    | ChildFailed
    | ChildFinished
    | ChildStopping
    | ChildStopped
    | ChildStuck
    | GroupRestart
    | SupervisorGaveUp
)
