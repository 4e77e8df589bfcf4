"""How a life of a supervised service ended: pure."""

import asyncio
from enum import Enum, auto
from typing import Any, cast

from .exceptions import ChildCancelled


class How(Enum):
    """How a life ended."""

    STOPPED = auto()  # by its supervisor
    RETURNED = auto()
    FAILED = auto()
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
    return (How.STOPPED if stopped else How.FAILED), error


def _without_cancels(error: BaseException) -> BaseException:
    """Return what else a group has, or one cancel if it has nothing else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    cancels, rest = cast("Any", error).split(asyncio.CancelledError)
    if rest is None:
        cancel = asyncio.CancelledError()
        cancel.__cause__ = cancels
        return cancel
    return cast("BaseException", error if cancels is None else rest)
