"""One timer for all children that are being stopped."""

import asyncio

import pytest

from safeaio._grace import Grace, give, take_back
from safeaio._guard import Guard


class Child:
    def __init__(self) -> None:
        self.told: list[float] = []

    def is_stuck(self) -> None:
        self.told.append(asyncio.get_running_loop().time())


@pytest.mark.virtual_time
async def test_each_is_told_when_its_time_is_over() -> None:
    """In whatever order they were watched, and once."""
    guard = Guard(asyncio.get_running_loop())
    children = [Child() for _ in range(4)]
    for child, seconds in zip(children, (5, 2, 9, None), strict=True):
        guard.watch(child, seconds)
    await asyncio.sleep(3)
    guard.watch(children[1], 2)
    await asyncio.sleep(100)
    guard.close()
    assert [child.told for child in children] == [
        pytest.approx([5]),
        pytest.approx([2, 5]),
        pytest.approx([9]),
        [],
    ]


@pytest.mark.virtual_time
async def test_who_is_told_may_have_another_one_watched() -> None:
    """As the first that is stuck has all that are left cancelled; none is forgotten."""
    guard = Guard(asyncio.get_running_loop())
    later, last = Child(), Child()

    class First(Child):
        def is_stuck(self) -> None:
            super().is_stuck()
            guard.watch(last, 5)

    first = First()
    guard.watch(later, 3)
    guard.watch(first, 1)
    await asyncio.sleep(100)
    guard.close()
    assert [child.told for child in (first, later, last)] == [
        pytest.approx([1]),
        pytest.approx([3]),
        pytest.approx([6]),
    ]


@pytest.mark.virtual_time
async def test_who_has_ended_is_not_told() -> None:
    """Nor is anybody after it was closed."""
    guard = Guard(asyncio.get_running_loop())
    ended, closed = Child(), Child()
    guard.watch(ended, 1)
    guard.watch(closed, 5)
    guard.forget(ended)
    await asyncio.sleep(3)
    guard.close()
    guard.close()
    await asyncio.sleep(10)
    assert ended.told == closed.told == []


@pytest.mark.virtual_time
async def test_a_shutdown_leaves_less() -> None:
    """All are told then, whatever their own time; those who come later have theirs."""
    loop = asyncio.get_running_loop()
    left = 100.0
    grace = Grace(lambda: left)
    give(loop, grace)
    guard = Guard(loop)
    children = [Child() for _ in range(3)]
    guard.watch(children[0], None)
    guard.watch(children[1], 50)
    await asyncio.sleep(1)
    left = 4.0
    grace.shrink()
    await asyncio.sleep(10)
    guard.watch(children[2], 3)
    await asyncio.sleep(10)
    guard.close()
    take_back(loop)
    assert [child.told for child in children] == [
        pytest.approx([5]),
        pytest.approx([5]),
        pytest.approx([14]),
    ]


@pytest.mark.virtual_time
async def test_each_has_a_moment_though_a_shutdown_leaves_none() -> None:
    """Who was cancelled just now is not stuck yet; a pending timer makes nobody spin."""
    loop = asyncio.get_running_loop()
    grace = Grace(lambda: 0.0)
    give(loop, grace)
    guard = Guard(loop)
    children = [Child() for _ in range(3)]
    guard.watch(children[0], 5)
    await asyncio.sleep(0.05)
    guard.watch(children[1], 3)
    guard.watch(children[2], None)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [child.told for child in children] == [[], [], []]
    await asyncio.sleep(1)
    guard.close()
    take_back(loop)
    assert [len(child.told) for child in children] == [1, 1, 1]
    assert 0.09 <= children[0].told[0] <= 0.16
    assert 0.14 <= children[1].told[0] <= 0.26
