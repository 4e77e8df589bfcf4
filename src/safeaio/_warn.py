"""Warns of a task, also where a filter turns warnings into errors."""

import asyncio
import warnings


def warn(
    loop: asyncio.AbstractEventLoop,
    owner: str,
    task: asyncio.Task[object],
    warning: Warning,
) -> None:
    """Warn; what that raises goes to the loop's exception handler."""
    try:
        warnings.warn(warning, stacklevel=3)
    except Warning as exc:  # by a filter; whoever warns has more to do
        loop.call_exception_handler(
            {
                "message": f"{owner}: a warning was turned into an error",
                "exception": exc,
                "future": task,
            }
        )
