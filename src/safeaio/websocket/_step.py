"""Coroutines that are begun by hand, for those that mostly do not wait."""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeAlias

Rest: TypeAlias = tuple[Coroutine[Any, Any, Any], Any]
"""A coroutine that was begun, and what it waits for."""


@coroutine
def finish(rest: Rest) -> Generator[Any, Any, Any]:
    """Run the rest of a coroutine."""
    coro, awaited = rest
    resume: Callable[[Any], Any]
    while True:
        try:
            value = yield awaited
            resume = coro.send
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as exc:  # noqa: BLE001 - a cancel is the coroutine's
            value = exc
            resume = coro.throw
        try:
            awaited = resume(value)
        except StopIteration as stop:
            return stop.value
