"""Who was cancelled, and returned a result all the same."""

import asyncio
from os.path import dirname
from typing import Any

from ._stack import Trace, codes_of, shown
from ._warn import warn
from .exceptions import CancellationSwallowedWarning

_OURS = dirname(__file__)  # pathlib takes a tenth of what our import may cost


def has_swallowed(child: asyncio.Task[Any]) -> bool:
    """Tell whether a cancelled task ended with a result, and never took the cancel back."""
    return (
        child.done()
        and not child.cancelled()
        and child.cancelling() > 0
        # `exception()` would mark an error as seen: it would never be reported.
        and child._exception is None
    )


def warn_of(
    loop: asyncio.AbstractEventLoop, owner: str, child: asyncio.Task[Any], trace: Trace
) -> None:
    """Name a task that has swallowed its cancel, and where it stood then."""
    # The coroutine of the task itself may be one of ours, around many calls.
    names = (
        code.co_qualname
        for code in codes_of(trace)
        if not code.co_filename.startswith(_OURS)
    )
    coro = child.get_coro()
    name = next(names, getattr(coro, "__qualname__", repr(coro)))
    warn(
        loop,
        owner,
        child,
        CancellationSwallowedWarning(
            f"{owner} cancelled task {child.get_name()!r}, but it returned a result: let "
            "CancelledError through, or take it back with "
            f"asyncio.current_task().uncancel(). It stood in {name}() at:\n{shown(trace)}"
        ),
    )
