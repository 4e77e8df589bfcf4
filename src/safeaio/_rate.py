"""A rate limit that is exact over any window, and the line of those who wait for it."""

import asyncio
from collections import OrderedDict
from functools import partial
from types import TracebackType
from typing import final
from weakref import ref

import attrs

_MILLISECOND = 1e-3
_NANOSECOND = 1e-9


@attrs.define(eq=False, repr=False)
@final
class Bucket:
    """The arithmetic: pure, it takes the time as a number.

    The generic cell rate algorithm: all follows from the time at which the bucket will be
    full again. It admits at most `burst + rate * window / per` tokens in any window,
    wherever that begins. That time is kept as what was taken since the bucket was full:
    a sum of intervals would be rounded with each, and a burst lack its last token.
    """

    interval: float  # seconds that one token takes to come back
    burst: int
    _since: float = attrs.field(default=float("-inf"), init=False)
    _taken: int = attrs.field(default=0, init=False)

    def free_at(self, tokens: int, now: float) -> float:
        """Tell when `tokens` are there to be taken: by `now`, if they already are."""
        if self._is_full(now):
            return now + (tokens - self.burst) * self.interval
        return self._since + (self._taken + tokens - self.burst) * self.interval

    def take(self, tokens: int, now: float) -> None:
        """Take `tokens` that are there."""
        if self._is_full(now):
            self._since, self._taken = now, 0
        self._taken += tokens

    def rebase(self, old: float, new: float) -> None:
        """Go on by another clock, which shows `new` where the first one showed `old`."""
        self._since += new - old

    def _is_full(self, now: float) -> bool:
        return self._since + self._taken * self.interval <= now


@final
class RateLimiter:
    """Lets at most `burst + rate * window / per` tokens through in any window of time.

    First come, first served: a large request is not overtaken by small ones. It may be
    shared between calls, and used by one loop after another.

    >>> import asyncio
    >>> async def main() -> list[bool]:
    ...     limiter = RateLimiter(10, per=60, burst=2)
    ...     async with limiter:
    ...         pass
    ...     return [limiter.try_acquire(), limiter.try_acquire()]
    >>> asyncio.run(main())
    [True, False]

    Args:
        rate: How many tokens come back in `per` seconds.
        per: The unit of time, in seconds.
        burst: How many tokens may be taken at once, after a pause. Timers of a loop
            are about a millisecond coarse: above 1000 tokens a second, a burst of 1
            lets fewer through than `rate`.

    Raises:
        TypeError: If `rate` or `per` is no number, or `burst` no `int`.
        ValueError: If `rate` or `per` is not positive and finite, or `burst` below 1.

    Cancellation:
        `async with` waits as `acquire` does; leaving the block gives nothing back.
    """

    def __init__(self, rate: float, per: float = 1.0, *, burst: int = 1) -> None:
        _check_positive("rate", rate)
        _check_positive("per", per)
        check_count("RateLimiter: burst", burst)
        self._bucket = Bucket(_interval(rate, per), burst)
        self._waiters: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._passing = 0  # tokens of waiters that may pass, but have not gone on yet
        self._timer: asyncio.TimerHandle | None = None
        self._loop: ref[asyncio.AbstractEventLoop] | None = None
        self._now = 0.0

    async def acquire(self, tokens: int = 1) -> None:
        """Wait until `tokens` may pass.

        Args:
            tokens: How many at once, `1 <= tokens <= burst`.

        Raises:
            TypeError: If `tokens` is no `int`.
            ValueError: If it is below 1, or above `burst`: it could never pass.
            RuntimeError: If tasks of another loop wait.

        Cancellation:
            Tokens not used are handed back, and whoever is next in line gets them.
            Does not checkpoint if the tokens are there.
        """
        if self.try_acquire(tokens):
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = tokens
        self._serve(loop)
        try:
            if waiter.done():  # to await it would overtake those let through before
                await asyncio.sleep(0)
            await waiter
        except BaseException:
            self._leave(waiter, tokens)
            raise
        # Only now: the loop may have been busy since it was let through.
        self._now = loop.time()
        self._passing -= tokens
        self._bucket.take(tokens, self._now)

    def try_acquire(self, tokens: int = 1) -> bool:
        """Take `tokens` if they may pass at once, and nobody waits.

        Args:
            tokens: How many at once, `1 <= tokens <= burst`.

        Returns:
            Whether they were taken.

        Raises:
            TypeError: If `tokens` is no `int`.
            ValueError: If it is below 1, or above `burst`.
            RuntimeError: If no loop runs here, or tasks of another loop wait.
        """
        check_count("tokens", tokens)
        if tokens > self._bucket.burst:
            raise ValueError(
                f"tokens must be at most burst={self._bucket.burst}, got {tokens}: "
                "they could never pass; make the burst larger"
            )
        now = self._clock()
        if self._waiters or self._passing or self._bucket.free_at(tokens, now) > now:
            return False
        self._bucket.take(tokens, now)
        return True

    def _clock(self) -> float:
        """Return the time, by the loop that runs here."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._is_of(loop):
            self._leave_loop()
            # Nobody can say how long ago the other loop ran: what is owed stays owed.
            self._bucket.rebase(self._now, now)
            self._loop = ref(loop)
        self._now = now
        return now

    def _is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is not None and self._loop() is loop

    def _leave_loop(self) -> None:
        loop = None if self._loop is None else self._loop()
        if (
            loop is not None
            and not loop.is_closed()
            and (self._waiters or self._passing)
        ):
            raise RuntimeError(
                "this RateLimiter has tasks of another loop waiting; "
                "give each loop that runs at the same time a limiter of its own"
            )
        self._waiters.clear()
        self._passing = 0
        self._timer = None

    def _serve(self, loop: asyncio.AbstractEventLoop, *, woken: bool = False) -> None:
        """Let pass who may, and set the timer for the first who may not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter, tokens = next(iter(self._waiters.items()))
            now = self._now = loop.time()
            due = self._bucket.free_at(self._passing + tokens, now)
            if due > now:
                # uvloop's clock ticks in milliseconds, and its timers round to the
                # nearest: without this, half of them would spin until the next tick.
                early = woken and due - now > _NANOSECOND
                when = max(due, now + _MILLISECOND) if early else due
                self._timer = loop.call_at(when, partial(self._serve, loop, woken=True))
                return
            del self._waiters[waiter]
            if not waiter.cancelled():
                self._passing += tokens
                waiter.set_result(None)

    def _leave(self, waiter: asyncio.Future[None], tokens: int) -> None:
        """Give up a place in the line."""
        loop = waiter.get_loop()
        if loop.is_closed():
            return  # and the line is gone
        if waiter.done() and not waiter.cancelled():
            self._passing -= tokens
        else:
            self._waiters.pop(waiter, None)
        self._serve(loop)

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def bucket_like(limiter: RateLimiter) -> Bucket:
    """Return a full bucket with the rate and the burst of a limiter."""
    bucket = limiter._bucket  # pyright: ignore[reportPrivateUsage]  # of this module
    return Bucket(bucket.interval, bucket.burst)


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"RateLimiter: {name} must be a number, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(
            f"RateLimiter: {name} must be positive and finite, got {value!r}"
        )


def _interval(rate: float, per: float) -> float:
    try:
        interval = per / rate
    except OverflowError:
        interval = 0.0
    if not 0 < interval < float("inf"):
        raise ValueError(
            f"RateLimiter: rate / per must be a number that a float can hold, got {rate!r} / {per!r}"
        )
    return interval


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is not an `int` of at least `least`.

    Raises:
        TypeError: If it is no `int`.
        ValueError: If it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
