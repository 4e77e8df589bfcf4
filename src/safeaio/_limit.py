"""How many children may run at once: a number, or tokens of a shared `anyio.CapacityLimiter`."""

import asyncio
from contextlib import suppress
from contextvars import Context, ContextVar
from math import isnan
from typing import Any, TypeAlias, final

import anyio
import attrs

# In quotes: naming the class makes anyio import it, a tenth of what `import safeaio` may cost.
Limit: TypeAlias = "int | anyio.CapacityLimiter"
LimitOrNone: TypeAlias = "int | anyio.CapacityLimiter | None"


def check_limit(owner: str, limit: object, *, unbounded: bool) -> None:
    """Refuse a `limit` that is none.

    Raises:
        TypeError: If it is neither an `int` nor a limiter, nor None where that is allowed.
        ValueError: If it is below 1, or NaN.
    """
    if isinstance(limit, anyio.CapacityLimiter) or (unbounded and limit is None):
        return
    no_limit = "; write limit=None for no limit" if unbounded else ""
    if isinstance(limit, float) and isnan(limit):
        raise ValueError(
            f"{owner}: limit must be a number of children, got nan{no_limit}"
        )
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(
            f"{owner}: limit must be an int or an anyio.CapacityLimiter, got {limit!r}{no_limit}"
        )
    if limit < 1:
        raise ValueError(f"{owner}: limit must be at least 1, got {limit!r}{no_limit}")


@attrs.define(eq=False, repr=False)
@final
class Token:
    """One token of a limiter, borrowed for one child.

    Attributes:
        waits_for: The limiters of which this child, or one that it waits for, wants
            another token before it goes on.
    """

    limiter: "anyio.CapacityLimiter"
    waits_for: "list[anyio.CapacityLimiter]" = attrs.field(
        factory=lambda: [], init=False
    )
    _held: bool = attrs.field(default=False, init=False)

    async def acquire(self) -> None:
        """Wait for the token, in line with everybody who shares the limiter.

        Cancellation:
            Nothing is held then. Does not checkpoint if the token is free.
        """
        with suppress(anyio.WouldBlock):
            self.acquire_nowait()
            return
        await self.limiter.acquire_on_behalf_of(self)
        self._held = True

    def acquire_nowait(self) -> None:
        """Take the token if it is free.

        Raises:
            anyio.WouldBlock: If it is not, or others wait.
        """
        self.limiter.acquire_on_behalf_of_nowait(self)
        self._held = True

    def release_after(self, child: asyncio.Future[Any] | None) -> None:
        """Hand the token back when `child` has ended, or now if none was started."""
        if child is None:
            self._release()
        else:
            child.add_done_callback(self._release, context=Context())

    def _release(self, _child: object = None) -> None:
        self._held = False
        self.limiter.release_on_behalf_of(self)

    def mark(self, context: Context, chain: "TokenChain") -> Context:
        """Copy `context` for the child that holds this token, so that its calls know.

        Args:
            context: What the child shall see.
            chain: The tokens under which runs whoever waits for the child.
        """
        marked = context.copy()
        marked.run(_tokens.set, (*chain, self))
        return marked

    @property
    def is_held(self) -> bool:
        """Whether the child that it was borrowed for still runs."""
        return self._held


TokenChain: TypeAlias = tuple[Token, ...]
_tokens: ContextVar[TokenChain] = ContextVar("safeaio_tokens", default=())


def token_chain() -> TokenChain:
    """Return the tokens that the caller and those who wait for it were given."""
    return _tokens.get()


def held_tokens() -> list[Token]:
    """Return the tokens that come free only after the caller has gone on."""
    return [token for token in _tokens.get() if token.is_held]


def is_stuck(
    limiter: "anyio.CapacityLimiter", waiting: "tuple[anyio.CapacityLimiter, ...]" = ()
) -> bool:
    """Tell whether every token of `limiter` is held by a child that waits for ever.

    Args:
        limiter: The limiter that is asked about.
        waiting: Those for which the answer waits: if theirs is yes, so is this one.
    """
    borrowers = limiter.statistics().borrowers
    chain = (*waiting, limiter)
    return bool(borrowers) and all(
        isinstance(borrower, Token)
        and any(
            wanted in chain or is_stuck(wanted, chain) for wanted in borrower.waits_for
        )
        for borrower in borrowers
    )


def refuse_nested(owner: str, limiter: object) -> None:
    """Refuse a call whose children would wait for the very token their caller holds.

    Raises:
        RuntimeError: If the caller runs as a child under a token of `limiter`.
    """
    if any(token.limiter is limiter for token in held_tokens()):
        raise RuntimeError(
            f"{owner}: the caller already holds a token of {limiter!r}, and would wait for "
            "itself once all are taken; give the nested call a limiter of its own"
        )
