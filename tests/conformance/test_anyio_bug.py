"""The known limit of `cleanup_scope` in nested anyio task groups, which is anyio's.

A child of an anyio group with a group of its own lets the first group take back one cancel
of its host too many. A cancel from outside is then lost, if a deadline passes while the
groups end: the block around them finds its own cancel alone. Seen on anyio 4.15.1 and 4.16.0.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from safeaio import cleanup_scope

MENDED = (
    "anyio has mended its nested groups: drop the known limit from the documentation "
    "and raise the lowest anyio"
)

Block = Callable[[float], AbstractAsyncContextManager[object]]
Group = Callable[[], Coroutine[Any, Any, None]]


def scope(seconds: float) -> AbstractAsyncContextManager[object]:
    return cleanup_scope(timeout=seconds)


async def child() -> None:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(asyncio.sleep, 60)
            await asyncio.sleep(60)
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(3)


async def anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(child)
        await asyncio.sleep(60)


async def native_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await asyncio.sleep(60)


async def cancel_inside(block: Block, group: Group) -> tuple[str, int]:
    """Cancel a task before the deadline of its block, whose cleanup lasts until after it."""

    async def work() -> str:
        try:
            async with block(2):
                await group()
        except TimeoutError:
            return "lost"
        return "ended"

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    try:
        return await task, task.cancelling()
    except asyncio.CancelledError:
        return "cancelled", task.cancelling()


@pytest.mark.virtual_time
@pytest.mark.parametrize("block", [asyncio.timeout, scope])
async def test_anyio_loses_a_cancel_in_nested_groups(block: Block) -> None:
    """The bug is still there; the day this fails, the known limit is history."""
    outcome = await cancel_inside(block, anyio_group)
    assert outcome == ("lost", 0), MENDED


@pytest.mark.virtual_time
async def test_anyio_takes_back_a_cancel_in_nested_groups() -> None:
    """Without a deadline the cancel comes out, but is no longer counted."""
    outcome = await cancel_inside(lambda _: cleanup_scope(), anyio_group)
    assert outcome == ("cancelled", 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("block", [asyncio.timeout, scope])
async def test_no_cancel_is_lost_in_a_native_group(block: Block) -> None:
    """In a native group the same cancel comes out, and is counted: the blocks are right."""
    assert await cancel_inside(block, native_group) == ("cancelled", 1)
