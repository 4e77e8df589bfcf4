"""Cancel a coroutine before its first step."""

from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any


@coroutine
def throw_first(
    coro: Coroutine[Any, Any, object], exc: BaseException
) -> Generator[Any, Any, object]:
    """Await `coro`, but throw `exc` into it before it has started.

    This is what asyncio does when a task is cancelled before its first step. Here the
    task is under way already, in the code around the coroutine.
    """
    step = partial(coro.throw, exc)
    while True:
        try:
            future = step()
        except StopIteration as stop:
            return stop.value
        try:
            value = yield future
        except BaseException as later:  # noqa: BLE001  # the coroutine's to raise
            step = partial(coro.throw, later)
        else:
            step = partial(coro.send, value)
