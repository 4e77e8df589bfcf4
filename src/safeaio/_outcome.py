"""What leaves a `cleanup_scope`: pure, it neither awaits nor looks at a clock."""

import asyncio
from typing import final

import attrs

from ._foremost import foremost
from .exceptions import ChildCancelled, CleanupError


@attrs.define(eq=False, repr=False)
@final
class Outcome:
    """What the body has raised, and the cleanup so far.

    Attributes:
        interrupt: What ends the program, such as KeyboardInterrupt.
        cancel: The cancel that came from outside.
        own: The scope's own cancel of its body, if that is what left the body.
        error: What else left the body, or a context manager raised in its place.
        failures: What deferred calls raised, and cuts, in the order in which they ran.
    """

    interrupt: BaseException | None = None
    cancel: asyncio.CancelledError | None = None
    own: asyncio.CancelledError | None = None
    error: Exception | None = None
    failures: list[Exception] = attrs.field(factory=lambda: [])

    def left_by(self, raised: BaseException) -> None:
        """Note what left the body, unless it is the scope's own cancel."""
        if isinstance(raised, asyncio.CancelledError):
            self.cancel = raised
        elif isinstance(raised, Exception):
            self.error = raised
        else:
            self.interrupt = raised

    def cancelled(self, cancel: asyncio.CancelledError) -> None:
        """Note a cancel from outside that came during the cleanup."""
        self.cancel = cancel if self.cancel is None else foremost(self.cancel, cancel)

    def failed(self, step: str, raised: BaseException) -> None:
        """Note what a step of the cleanup has raised."""
        if isinstance(raised, asyncio.CancelledError):  # of its own making
            stray = ChildCancelled(step)
            stray.__cause__ = raised
            self.failures.append(stray)
        elif isinstance(raised, Exception):
            self.failures.append(raised)
        elif self.interrupt is None:
            self.interrupt = raised

    def suppressed(self) -> None:
        """Forget what a context manager has seen, and dealt with."""
        if self.interrupt is None and self.cancel is None:  # they hide the failures
            self.failures = []
        self.interrupt = self.cancel = self.own = self.error = None

    def replaced(self, step: str, raised: BaseException, *, cancelled: bool) -> None:
        """Note what a context manager raised in place of what it had seen.

        Args:
            step: The context manager.
            raised: Not what it had seen.
            cancelled: Whether a cancel from outside still stands: no error goes before
                that, or before an interrupt.
        """
        if isinstance(raised, asyncio.CancelledError):
            if not isinstance(self.seen(), asyncio.CancelledError):
                self.failed(step, raised)
        elif not isinstance(raised, Exception):
            self.failed(step, raised)
        elif self.interrupt is not None or (self.cancel is not None and cancelled):
            self.failures.append(raised)
        else:
            self.suppressed()
            self.error = raised

    def seen(self) -> BaseException | None:
        """Return what a context manager gets to see."""
        return _first(
            self.interrupt, self.cancel, self._cleanup_error(), self.own, self.error
        )

    def verdict(
        self, late: TimeoutError | None
    ) -> tuple[BaseException | None, CleanupError | None]:
        """Decide what leaves the block.

        Args:
            late: What to raise if the body was ended by its deadline.

        Returns:
            The exception to raise, if any, and the failures that it hides.
        """
        failure = self._cleanup_error()
        if self.interrupt is not None:
            return self.interrupt, failure
        if self.cancel is not None:
            return self.cancel, failure
        if failure is not None:
            return failure, None
        if self.error is not None:
            return self.error, None
        return (None if self.own is None else late), None

    def hides_failures(self) -> bool:
        """Tell whether something goes before the failures, and leaves them behind."""
        return bool(self.failures) and (
            self.interrupt is not None or self.cancel is not None
        )

    def _cleanup_error(self) -> CleanupError | None:
        if not self.failures:
            return None
        leaves = self.failures if self.error is None else [self.error, *self.failures]
        return CleanupError("cleanup failed", leaves)


def _first(*candidates: BaseException | None) -> BaseException | None:
    # Not by `or`: an exception may well be false.
    return next((found for found in candidates if found is not None), None)
