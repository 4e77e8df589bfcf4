"""How a hub empties: whom it tells to go, and when: pure."""

from collections.abc import Callable, Iterator
from typing import final

import attrs


@attrs.frozen
@final
class Drained:
    """What `WebSocketHub.drain` did.

    Attributes:
        finished: How many sessions ended by themselves meanwhile.
        closed: How many were told to go, and did.
        aborted: How many were cut off.
    """

    finished: int
    closed: int
    aborted: int


def batches(
    sessions: int,
    size: int,
    interval: float,
    jitter: float,
    chance: Callable[[], float],
) -> Iterator[tuple[float, int]]:
    """Give for each batch the seconds to wait before it, and how many are in it.

    Args:
        sessions: How many there are.
        size: How many may be told at once: as many come back to another server.
        interval: Seconds from one batch to the next, at most.
        jitter: The part of it, between 0 and 1, by which a batch may be early.
        chance: Returns numbers between 0 and 1.
    """
    wait = 0.0
    while sessions > 0:
        yield wait, min(size, sessions)
        sessions -= size
        wait = interval * (1.0 - jitter * chance())
