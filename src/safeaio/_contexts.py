"""What an exception that leaves a `cleanup_scope` shows as its context: pure."""

import asyncio
from typing import cast

from .exceptions import CleanupError


def late(cancel: asyncio.CancelledError) -> TimeoutError:
    """Return the error of a body that its deadline has cancelled."""
    error = TimeoutError("cleanup_scope(): the deadline came before the body had ended")
    error.__cause__ = error.__context__ = cancel
    return error


def show_lateness(error: BaseException) -> None:
    """Show what was raised after the deadline as raised in a TimeoutError.

    As `asyncio.timeout` does since Python 3.13, and in groups one level deep.
    """
    links: list[BaseException] = [error]
    if isinstance(error, BaseExceptionGroup):
        links += cast("BaseExceptionGroup[BaseException]", error).exceptions
    for link in links:
        found: BaseException | None = link
        while found is not None:
            context = found.__context__
            if isinstance(context, asyncio.CancelledError):
                found.__context__ = late(context)
                break
            found = context


def unlink(failure: CleanupError, leaving: BaseException) -> None:
    """Cut the contexts that lead to `leaving`, of which `failure` will be the context."""
    links: list[BaseException | None] = [*failure.exceptions]
    seen: set[int] = {id(leaving)}
    while links:
        error = links.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if error.__context__ is leaving:
            error.__context__ = None
        links += [error.__cause__, error.__context__]


def chain(
    raised: BaseException, seen: BaseException | None, exc: BaseException | None
) -> None:
    """Show what a context manager had seen as the context of what it raised.

    By itself Python puts there what the interpreter is handling, which is what left the
    body. As in `contextlib.AsyncExitStack`.
    """
    while raised.__context__ is not None and raised.__context__ is not exc:
        raised = raised.__context__
    if not _leads_to(seen, raised):
        raised.__context__ = seen


def _leads_to(exc: BaseException | None, sought: BaseException) -> bool:
    while exc is not None and exc is not sought:
        if isinstance(exc, CleanupError) and any(
            _leads_to(leaf, sought) for leaf in exc.exceptions
        ):
            return True
        exc = exc.__context__
    return exc is not None
