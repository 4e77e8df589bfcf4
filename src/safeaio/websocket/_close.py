"""Why sessions end, and the close codes that tell of it: pure."""

from typing import Literal, TypeAlias

Cause: TypeAlias = Literal[
    "returned",  # the handler did
    "closed",  # by `session.close()`
    "failed",  # the handler raised
    "cancelled",  # the handler was
    "drain",
    "refused",
    "slow",
    "budget",
    "rate",
    "idle",
    "first-message",
    "too-big",
    "undecodable",
    "wrong-kind",
    "heartbeat",
    "protocol",  # the peer broke it, so that the transport closed by itself
    "peer",  # it closed
    "vanished",  # it is gone without a close
]

# What we send. Nothing may be sent for what is missing here.
_CODES: dict[Cause, tuple[int, str]] = {
    "returned": (1000, ""),
    "failed": (1011, "internal error"),
    "cancelled": (1001, "going away"),
    "drain": (1012, "service restart"),
    "refused": (1013, "try again later"),
    "slow": (1013, "slow consumer"),
    "budget": (1013, "slow consumer"),
    "rate": (1008, "too many messages"),
    "idle": (3008, "idle timeout"),
    "first-message": (3008, "no first message"),
    "too-big": (1009, "message too big"),
    "undecodable": (1007, "undecodable message"),
    "wrong-kind": (1003, "wrong kind of message"),
    "heartbeat": (1011, "heartbeat lost"),
}

_BY_TRANSPORT: dict[int, Cause] = {1007: "undecodable", 1009: "too-big"}

ABNORMAL = 1006  # never sent: what we report where no close frame came

NO_STATUS = 1005  # never sent: the close frame had no code
_REASON_BYTES = 123
_OF_THE_PROTOCOL = (1000, 1001, 1002, 1003, *range(1007, 1015))
_OF_APPLICATIONS = range(3000, 5000)


def close_of(cause: Cause) -> tuple[int, str]:
    """Return the close code and the reason to send."""
    return _CODES[cause]


def cause_of(code: int) -> Cause:
    """Return why a transport closed by itself."""
    return _BY_TRANSPORT.get(code, "protocol")


def check_code(code: object) -> None:
    """Refuse what may not be sent.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is no code that a close frame may carry.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code must be an int, got {code!r}")
    if code not in _OF_THE_PROTOCOL and code not in _OF_APPLICATIONS:
        raise ValueError(
            f"close code {code} may not be sent; use 1000, one of RFC 6455 up to 1014 "
            "(not 1004, 1005 or 1006), or one of your own from 4000 to 4999"
        )


def check_reason(reason: object) -> None:
    """Refuse what does not fit in a close frame.

    Raises:
        TypeError: If it is no str.
        ValueError: If it takes more than 123 bytes.
    """
    if not isinstance(reason, str):
        raise TypeError(f"a close reason must be a str, got {reason!r}")
    size = len(reason.encode())
    if size > _REASON_BYTES:
        raise ValueError(
            f"a close reason takes at most {_REASON_BYTES} bytes of UTF-8, got {size}: "
            f"{reason!r}"
        )
