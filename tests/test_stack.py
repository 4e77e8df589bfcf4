"""Where a suspended task stands."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import coroutine
from typing import Any

import pytest

from safeaio import bounded_gather, bounded_map
from safeaio._stack import suspended_at


async def innermost() -> None:
    await asyncio.Event().wait()


async def through_coroutine() -> None:
    await innermost()


async def generate() -> AsyncIterator[int]:
    await innermost()
    yield 1


async def through_async_for() -> None:
    async for _ in generate():
        pass


async def through_anext() -> None:
    await anext(generate())


async def through_anext_with_default() -> None:
    await anext(generate(), None)


async def cleans_up() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await innermost()


async def through_aclose() -> None:
    generator = cleans_up()
    await anext(generator)
    await generator.aclose()  # type: ignore[attr-defined]


class Custom:
    def __await__(self) -> Generator[Any, None, None]:
        yield from innermost().__await__()


async def through_custom_awaitable() -> None:
    await Custom()


@coroutine
def old_style() -> Generator[Any, None, None]:
    yield from innermost().__await__()


async def through_generator() -> None:
    await old_style()


async def through_gather() -> None:
    # By the limiter the call waits, and not its child, which is a task of its own.
    await bounded_gather(bounded_map(lambda _: innermost(), [1]))


@pytest.mark.parametrize(
    "func",
    [
        through_coroutine,
        through_async_for,
        through_anext,
        through_anext_with_default,
        through_aclose,
        through_custom_awaitable,
        through_generator,
    ],
)
async def test_shows_everything_that_is_awaited(
    func: Callable[[], Awaitable[None]],
) -> None:
    """The frames from the task's own function down to where it waits, in that order."""
    task = asyncio.ensure_future(func())
    await asyncio.sleep(0)
    text = suspended_at(task)
    task.cancel()
    await asyncio.wait([task])
    assert (
        text.index(func.__name__)
        < text.index("innermost")
        < text.index("Event().wait()")
    )


async def test_shows_our_own_calls() -> None:
    """Inside a task the object of `bounded_gather` is no wall."""
    task = asyncio.create_task(through_gather())
    await asyncio.sleep(0)
    text = suspended_at(task)
    task.cancel()
    await asyncio.wait([task])
    assert text.index("through_gather") < text.index("in run") < text.index("in wait")


async def test_before_and_after() -> None:
    """A task that has not started stands at its definition; one that ended, nowhere."""
    task = asyncio.get_running_loop().create_task(innermost())
    assert "innermost" in suspended_at(task)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert suspended_at(task) == ""
