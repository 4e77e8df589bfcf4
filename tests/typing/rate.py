"""`RateLimiter`: numbers in, nothing but whether it went through out."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from safeaio import RateLimiter


async def use(limiter: RateLimiter) -> None:
    """Waiting gives nothing, trying says whether."""
    assert_type(limiter.try_acquire(), bool)
    assert_type(limiter.try_acquire(2), bool)
    await limiter.acquire()
    await limiter.acquire(tokens=2)
    async with limiter as entered:
        assert_type(entered, None)


async def misuse(limiter: RateLimiter) -> None:
    """Tokens are counted, and the block is an async one."""
    await limiter.acquire(0.5)  # type: ignore[arg-type]
    limiter.try_acquire("1")  # type: ignore[arg-type]
    with limiter:  # type: ignore[attr-defined]
        pass


RateLimiter(10)
RateLimiter(0.5, 60)
RateLimiter(10, per=60.0, burst=5)
RateLimiter()  # type: ignore[call-arg]
RateLimiter(10, 1.0, 5)  # type: ignore[call-arg]
RateLimiter(10, burst=0.5)  # type: ignore[arg-type]
RateLimiter("10")  # type: ignore[arg-type]
