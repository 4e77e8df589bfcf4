"""Limits, and the tokens of those that are shared."""

import asyncio
from contextvars import copy_context
from typing import Any

import anyio
import pytest

from safeaio._limit import (
    Token,
    check_limit,
    held_tokens,
    is_stuck,
    refuse_nested,
    token_chain,
)


@pytest.mark.parametrize("limit", [1, 2, 10**9])
@pytest.mark.parametrize("unbounded", [False, True])
def test_accepts_counts(limit: int, unbounded: bool) -> None:
    """A limit is a count of at least 1."""
    check_limit("f()", limit, unbounded=unbounded)


def test_accepts_limiters() -> None:
    """A limiter is a limit, inside a loop and outside."""
    check_limit("f()", anyio.CapacityLimiter(1), unbounded=False)

    async def main() -> None:
        check_limit("f()", anyio.CapacityLimiter(1), unbounded=False)

    asyncio.run(main())


def test_none() -> None:
    """None is no limit, where that is allowed."""
    check_limit("f()", None, unbounded=True)
    with pytest.raises(TypeError, match=r"f\(\): limit must be .*, got None$"):
        check_limit("f()", None, unbounded=False)


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (1.5, TypeError),
        (float("inf"), TypeError),
        (True, TypeError),
        (False, TypeError),
        ("3", TypeError),
        (asyncio.Semaphore, TypeError),
    ],
)
def test_refuses_others(limit: Any, error: type[Exception], unbounded: bool) -> None:
    """The message says what was given, and what to write for no limit where that exists."""
    with pytest.raises(error, match=r"f\(\): limit must be") as caught:
        check_limit("f()", limit, unbounded=unbounded)
    assert f"got {limit!r}" in str(caught.value)
    assert ("limit=None" in str(caught.value)) is unbounded


async def test_refuses_a_nested_call_as_long_as_the_child_runs() -> None:
    """Whoever runs under a token is refused; a task that outlives the child is not."""
    limiter, other = anyio.CapacityLimiter(2), anyio.CapacityLimiter(1)
    token = Token(limiter)
    await token.acquire()
    context = token.mark(copy_context(), token_chain())
    refuse_nested("f()", limiter)
    context.run(refuse_nested, "f()", other)
    context.run(refuse_nested, "f()", 3)
    with pytest.raises(RuntimeError, match=r"f\(\): the caller already holds a token"):
        context.run(refuse_nested, "f()", limiter)
    assert context.run(held_tokens) == [token]
    token.release_after(None)
    context.run(refuse_nested, "f()", limiter)
    assert context.run(held_tokens) == []
    assert limiter.borrowed_tokens == 0


async def test_token_comes_back_when_the_child_has_ended() -> None:
    """Whether by a result, an error or a cancel."""
    limiter = anyio.CapacityLimiter(3)
    loop = asyncio.get_running_loop()
    children: list[asyncio.Future[None]] = [loop.create_future() for _ in range(3)]
    for child in children:
        token = Token(limiter)
        token.acquire_nowait()
        token.release_after(child)
    children[0].set_result(None)
    children[1].set_exception(ValueError())
    children[2].cancel()
    assert limiter.borrowed_tokens == 3
    await asyncio.wait(children)
    assert isinstance(children[1].exception(), ValueError)
    assert limiter.borrowed_tokens == 0


async def test_cancelled_wait_holds_nothing() -> None:
    """A wait for a token that is cancelled leaves it to others."""
    limiter = anyio.CapacityLimiter(1)
    limiter.acquire_on_behalf_of_nowait("somebody")
    token = Token(limiter)
    with pytest.raises(anyio.WouldBlock):
        token.acquire_nowait()
    task = asyncio.create_task(token.acquire())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    limiter.release_on_behalf_of("somebody")
    assert limiter.borrowed_tokens == 0
    assert not token.is_held


async def test_stuck() -> None:
    """A limiter is stuck if whoever holds its tokens waits, in the end, for one of them."""

    def hold(limiter: anyio.CapacityLimiter, *waits_for: anyio.CapacityLimiter) -> None:
        token = Token(limiter)
        token.acquire_nowait()
        token.waits_for.extend(waits_for)

    ring = [anyio.CapacityLimiter(2) for _ in range(4)]
    free = anyio.CapacityLimiter(1)
    assert not is_stuck(free)
    for limiter, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        assert not is_stuck(ring[0])
        hold(limiter, free, following)
    assert all(map(is_stuck, ring))
    hold(ring[2])
    assert not any(map(is_stuck, ring))
    foreign = anyio.CapacityLimiter(1)
    foreign.acquire_on_behalf_of_nowait("somebody")
    assert not is_stuck(foreign)
