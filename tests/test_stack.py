"""Where a suspended task stands."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import coroutine
from typing import Any

import pytest

from safeaio import bounded_gather, bounded_map
from safeaio._stack import codes_of, shown, suspended_at, trace_of


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


async def test_of_a_task_whose_coroutine_was_closed() -> None:
    """A coroutine that somebody has closed has no frame left to show."""
    task = asyncio.get_running_loop().create_task(innermost())
    await asyncio.sleep(0)
    task.get_coro().close()  # type: ignore[union-attr]
    assert trace_of(task) == ()
    assert shown(()) == suspended_at(task) == ""
    task.cancel()
    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        await task


async def test_of_a_task_that_its_first_step_has_ended() -> None:
    """It stands nowhere; some versions of Python crash if they are asked."""

    async def at_once() -> None:
        pass

    task = asyncio.create_task(at_once())
    await asyncio.sleep(0)
    assert trace_of(task) == ()


async def test_trace_tells_what_frames_tell() -> None:
    """Formatted later, it shows the lines at which the task stood."""
    task = asyncio.create_task(through_coroutine())
    await asyncio.sleep(0)
    trace, text = trace_of(task), suspended_at(task)
    (frame,) = task.get_stack()
    assert codes_of(trace)[0] is frame.f_code
    assert f'"{__file__}", line {frame.f_lineno}, in through_coroutine' in text
    del frame
    task.cancel()
    await asyncio.wait([task])
    assert shown(trace) == text


def test_offset_without_a_line() -> None:
    """Code that Python made up has no line; that of the function stands for it."""
    code = innermost.__code__.replace(co_linetable=b"")
    for start in (0, 2):
        text = shown((code, start))
        assert f"line {code.co_firstlineno}, in innermost" in text
