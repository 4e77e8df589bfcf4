"""How a life of a supervised service ended: pure."""

import asyncio
from enum import IntEnum, auto
from typing import Any, cast

from .exceptions import ChildCancelled, SupervisionError


class How(IntEnum):
    """How a life ended."""

    STOPPED = auto()  # by its supervisor
    RETURNED = auto()
    FAILED = auto()
    REFUSED = auto()  # it gave up restarting: the whole would be tried n times n times
    FATAL = auto()  # a KeyboardInterrupt, a SystemExit: for the whole program


def ending(
    child: str, error: BaseException | None, *, stopped: bool
) -> tuple[How, BaseException | None]:
    """Tell how a life ended: pure.

    Args:
        child: Its name.
        error: What its task raised, its cancel included.
        stopped: Whether its supervisor had cancelled it.

    Returns:
        That, and what it raised that matters.
    """
    if error is None:
        return (How.STOPPED if stopped else How.RETURNED), None
    error = _without_cancels(error)
    if isinstance(error, asyncio.CancelledError):
        if stopped:
            return How.STOPPED, None
        stray = ChildCancelled(repr(child))
        stray.__cause__ = error
        return How.FAILED, stray
    if not isinstance(error, Exception):
        return How.FATAL, error
    if stopped:
        return How.STOPPED, error
    refused = isinstance(error, SupervisionError)
    return (How.REFUSED if refused else How.FAILED), error


def _without_cancels(error: BaseException) -> BaseException:
    """Return what else a group has, or one cancel if it has nothing else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    try:
        cancels, rest = cast("Any", error).split(asyncio.CancelledError)
    except Exception:  # noqa: BLE001 - of the `derive` of a class of the user's
        return cast("BaseException", error)
    if rest is None:
        cancel = asyncio.CancelledError()
        cancel.__cause__ = cancels
        return cancel
    return cast("BaseException", error if cancels is None else rest)
