"""The limits of a hub's sessions."""

from typing import Literal, TypeAlias, final

import attrs

from .._rate import Bucket, RateLimiter, bucket_like, check_count
from .._seconds import check_seconds

OverRate: TypeAlias = Literal["close", "delay", "drop"]

_OVER_RATE = ("close", "delay", "drop")


@attrs.frozen(kw_only=True)
@final
class Limits:
    """What a hub was asked for; see `WebSocketHub`.

    Raises:
        TypeError: For the wrong type.
        ValueError: For what is out of its bounds.
    """

    max_sessions: int
    max_queue_bytes: int
    max_queue_messages: int
    max_message_bytes: int
    memory_budget: int | None
    receive_rate: RateLimiter | None
    over_rate: OverRate
    idle_timeout: float | None
    first_message_timeout: float | None
    heartbeat: float | None
    lag_timeout: float | None
    stall_timeout: float
    close_timeout: float

    def __attrs_post_init__(self) -> None:
        for name in (
            "max_sessions",
            "max_queue_bytes",
            "max_queue_messages",
            "max_message_bytes",
        ):
            check_count(f"WebSocketHub: {name}", getattr(self, name))
        if self.memory_budget is not None:
            check_count("WebSocketHub: memory_budget", self.memory_budget)
        for name in ("stall_timeout", "close_timeout"):
            _check_timeout(name, getattr(self, name))
        for name in (
            "idle_timeout",
            "first_message_timeout",
            "heartbeat",
            "lag_timeout",
        ):
            if getattr(self, name) is not None:
                _check_timeout(name, getattr(self, name))
        if self.receive_rate is not None:
            _check_rate(self.receive_rate)
        if self.over_rate not in _OVER_RATE:
            raise ValueError(
                'WebSocketHub: over_rate must be "close", "delay" or "drop", got '
                f"{self.over_rate!r}"
            )

    def bucket(self) -> Bucket | None:
        """Return what limits the messages of one session, if anything does."""
        return None if self.receive_rate is None else bucket_like(self.receive_rate)


def _check_rate(value: object) -> None:
    if not isinstance(value, RateLimiter):
        raise TypeError(
            "WebSocketHub: receive_rate must be a RateLimiter, such as "
            f"RateLimiter(20, burst=40), got {value!r}"
        )


def _check_timeout(name: str, value: object) -> None:
    check_seconds(f"WebSocketHub: {name}", value, optional=False)
    if value == 0:
        raise ValueError(f"WebSocketHub: {name} must be more than 0 seconds, got 0")
