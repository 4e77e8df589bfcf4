"""Runs a coroutine up to where it first waits: for sends that mostly do not."""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeAlias

Rest: TypeAlias = tuple[Coroutine[Any, Any, Any], Any]
"""A coroutine that waits, and what it waits for."""


def step(coro: Coroutine[Any, Any, Any]) -> Rest | None:
    """Run a coroutine until it waits; return the rest, for `finish`, if it does.

    It runs inside the current task, if any; the rest may run in another one.

    Raises:
        BaseException: What it raises.
    """
    try:
        return coro, coro.send(None)
    except StopIteration:
        return None


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
