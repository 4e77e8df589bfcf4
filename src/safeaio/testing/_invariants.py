"""What every scenario must keep to, whenever and however it is cancelled."""

import asyncio
from collections.abc import Callable

from ._run import Route, Run


def ended(run: Run) -> None:
    """It ends."""
    if run.hung is not None:
        raise AssertionError(run.hung)


def left_nothing_running(run: Run) -> None:
    """It leaves no task behind."""
    if run.left_running:
        raise AssertionError("still running: " + "; ".join(run.left_running))


def awaited_every_coroutine(run: Run) -> None:
    """It leaves no coroutine that was never awaited."""
    for warning in run.warnings:
        # In debug mode the place where it was created follows.
        if "was never awaited" in str(warning.message):
            raise AssertionError(str(warning.message))


def kept_cancel_count(run: Run) -> None:
    """It takes back its own cancels, and nobody else's."""
    if run.cancelling != run.native_cancels:
        raise AssertionError(
            f"cancelling() is {run.cancelling}, but the task was cancelled "
            f"{run.native_cancels} times from outside"
        )


def raises_its_cancel(
    may_raise: type[BaseException] | tuple[type[BaseException], ...],
) -> Callable[[Run], None]:
    """Return the invariant that a cancel comes out as a cancel, and nothing else does.

    A scope takes back its own cancel, and a timeout turns its into a TimeoutError.
    Both leave alone a scenario that ended all the same.
    """

    def raised_its_cancel(run: Run) -> None:
        # A scope of anyio before 4.16 takes a native cancel of the same tick for its own.
        exc = run.exception or (run.raised if run.native_cancels else None)
        if isinstance(exc, may_raise):
            return
        if run.native_cancels:
            expected = "CancelledError"
            right = isinstance(exc, asyncio.CancelledError)
        elif run.route is Route.TIMEOUT and run.cancel_delivered:
            expected = "TimeoutError or a normal end"
            right = exc is None or isinstance(exc, TimeoutError)
        else:
            expected = "a normal end"
            right = exc is None
        if not right:
            came = f"returned {run.value!r}" if exc is None else f"raised {exc!r}"
            raise AssertionError(f"{came} instead of {expected}") from exc

    return raised_its_cancel
