"""Which of two cancels of one task goes first: pure."""

import asyncio


def foremost(
    first: asyncio.CancelledError, again: asyncio.CancelledError | None
) -> asyncio.CancelledError:
    """Return which of two cancels of one task it has to raise."""
    if again is None or not from_scope(first) or from_scope(again):
        return first
    return again  # 3


def from_scope(cancel: asyncio.CancelledError) -> bool:
    """Tell whether an anyio scope has cancelled, and not `asyncio.Task.cancel`."""
    # anyio marks its own cancels by this text alone.
    return bool(cancel.args) and str(cancel.args[0]).startswith(
        "Cancelled via cancel scope "
    )
