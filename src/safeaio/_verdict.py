"""What a run raises in the end."""

import asyncio
from contextlib import suppress
from signal import SIGINT
from typing import Any, TypeGuard, cast

from .exceptions import Terminated

Fatal = KeyboardInterrupt | SystemExit


def is_fatal(error: object) -> TypeGuard[Fatal]:
    """Tell whether asyncio throws an error out of the loop."""
    return isinstance(error, KeyboardInterrupt | SystemExit)


def verdict(
    error: BaseException | None,
    escaped: BaseException | None,
    interrupt: Fatal | None,
) -> tuple[BaseException | None, BaseException | None]:
    """Decide what a run raises.

    Args:
        error: What main raised, its cancel included.
        escaped: What was thrown out of the loop, beside main.
        interrupt: What stands for the shutdown that had main cancelled, if one had.

    Returns:
        The error to raise, if any, and the one that it hides, if any.
    """
    fatal, hidden = _split(error)
    if escaped is not None and escaped is not fatal:  # it was first
        fatal = escaped
        hidden = None if isinstance(error, asyncio.CancelledError) else error
        hidden = _without(hidden, escaped)
    if fatal is not None:
        if hidden is not None:
            _add_context(fatal, hidden)
        return fatal, hidden
    if interrupt is not None and isinstance(error, asyncio.CancelledError):
        interrupt.__context__ = error
        return interrupt, None
    if interrupt is not None and error is not None:
        _note(error, interrupt)
    return error, None


def interrupt_of(signum: int | None, reason: str | None) -> Fatal:
    """Make what a shutdown raises when main was cancelled for it."""
    if signum == SIGINT:
        return KeyboardInterrupt()
    return Terminated(signum, reason)


def _split(
    error: BaseException | None,
) -> tuple[BaseException | None, BaseException | None]:
    """Return the first KeyboardInterrupt or SystemExit in `error`, and what else there is."""
    if is_fatal(error):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        leaf, rest = cast("Any", error).split(is_fatal)
        while isinstance(leaf, BaseExceptionGroup):
            leaf = cast("Any", leaf).exceptions[0]
        if leaf is not None:
            return leaf, rest
    return None, None


def _without(error: BaseException | None, leaf: BaseException) -> BaseException | None:
    def is_leaf(part: object) -> bool:
        return part is leaf

    if isinstance(error, BaseExceptionGroup):
        _, error = cast("Any", error).split(is_leaf)
    return error


def _note(error: BaseException, interrupt: Fatal) -> None:
    """Show with `error` that it came while `interrupt` was on its way."""
    interrupt.__context__ = error.__context__
    with suppress(AttributeError):  # an exception may be frozen
        error.__context__ = interrupt
        error.add_note(f"raised while main was cancelled: {interrupt!r}")


def _add_context(error: BaseException, hidden: BaseException) -> None:
    """Show `hidden` as what `error` came from, unless it is in there already."""
    last = error
    seen = {id(error)}
    while last.__context__ is not None:
        last = last.__context__
        if last is hidden or id(last) in seen:
            return
        seen.add(id(last))
    if not _leads_to(hidden, seen):
        with suppress(AttributeError):
            last.__context__ = hidden


def _leads_to(error: BaseException | None, ids: set[int]) -> bool:
    while error is not None:
        if id(error) in ids:
            return True
        error = error.__context__
    return False
