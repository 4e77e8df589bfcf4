"""Which of several failures leaves the call: pure, it neither awaits nor looks at a clock."""

import asyncio
import reprlib
from contextlib import suppress
from typing import final

import attrs

from ._record import Record
from .exceptions import ChildCancelled

_MOST_NOTES = 10
_shown = reprlib.Repr()
_shown.maxother = 200


@attrs.frozen(eq=False, repr=False)
@final
class Failure(Record):
    """What one child raised."""

    child: str
    error: BaseException

    @property
    def is_interrupt(self) -> bool:
        """Whether it asks the whole program to end."""
        return isinstance(self.error, (KeyboardInterrupt, SystemExit))

    def __str__(self) -> str:
        return f"{self.child}: {_shown.repr_instance(self.error, 1)}"


@attrs.define(eq=False, repr=False)
@final
class Failures:
    """What the children of one call raised, in the order in which it happened."""

    _by_error: dict[int, Failure] = attrs.field(factory=lambda: {}, init=False)

    def __bool__(self) -> bool:
        return bool(self._by_error)

    def add(self, failure: Failure) -> None:
        """Remember a failure, once for each exception object."""
        self._by_error.setdefault(id(failure.error), failure)

    def add_first(self, failure: Failure) -> None:
        """Remember a failure as if it had come before all others."""
        self._by_error = {id(failure.error): failure, **self._by_error}

    def clear(self) -> None:
        """Forget them, since they have been raised."""
        self._by_error.clear()

    def verdict(
        self, cancel: asyncio.CancelledError | None, *, caller_cancelled: bool
    ) -> tuple[BaseException | None, list[Failure]]:
        """Decide what leaves the call.

        An interrupt goes before the caller's cancel, and that before the first failure.

        Args:
            cancel: The caller's own cancel, if it has arrived.
            caller_cancelled: Whether the caller has been cancelled since the call began.

        Returns:
            The exception to raise, the others as notes on it, and those others: whoever
            raises must report them, since notes keep no traceback.
        """
        failures = list(self._by_error.values())
        chosen = next((f for f in failures if f.is_interrupt), None)
        if chosen is None and cancel is None and failures:
            chosen = failures[0]
        # A cancelled child beside another failure is a casualty, not news.
        others = [
            f
            for f in failures
            if f is not chosen and not isinstance(f.error, asyncio.CancelledError)
        ]
        if chosen is not None:
            error: BaseException | None = _raisable(
                chosen, caller_cancelled=caller_cancelled
            )
        else:
            error = cancel
        if error is not None:
            _annotate(error, others)
        return error, others


def _raisable(failure: Failure, *, caller_cancelled: bool) -> BaseException:
    """Turn a stray cancel into an error that cannot pass for the caller's own."""
    if caller_cancelled or not isinstance(failure.error, asyncio.CancelledError):
        return failure.error
    stray = ChildCancelled(failure.child)
    stray.__cause__ = failure.error
    return stray


def _annotate(error: BaseException, others: list[Failure]) -> None:
    notes = [f"also raised by {other}" for other in others[:_MOST_NOTES]]
    if len(others) > _MOST_NOTES:
        notes.append(f"and {len(others) - _MOST_NOTES} more")
    with suppress(Exception):  # a frozen one takes no notes; the others are reported
        for note in notes:
            error.add_note(note)
