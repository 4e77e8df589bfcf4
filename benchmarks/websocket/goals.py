"""What WebSockets must reach, as data, for CPython 3.13 on asyncio."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import final

import attrs

from ..report import Verdict
from . import figures
from .figures import BROADCAST, DEADLINE, HUB, LOADS, MEMORY_BUDGET, Cost
from .servers import BARE, SERVERS, SESSION

SIZES = (128, 1024)
CROWDS = (1_000, 5_000, 10_000)
DEAF = {"1 %": 10, "10 %": 100}
SPEED_OVER = {"litestar channels": 2.5, "python-socketio": 7, "channels, in memory": 30}


@attrs.frozen
@final
class Scale:
    """How much is measured.

    Attributes:
        down: What every number is divided by.
        rounds: How often each way has its turn.
    """

    down: int
    rounds: int


FULL, QUICK = Scale(1, 5), Scale(10, 3)


@attrs.frozen
@final
class Goal:
    """A figure, and its bound."""

    name: str
    measure: Callable[[Scale], float]
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, scale: Scale) -> Verdict:
        """Measure. The bound holds at full scale only."""
        return Verdict(
            self.name,
            self.measure(scale),
            self.unit,
            at_least=self.at_least,
            at_most=self.at_most,
            judged=scale.down == 1,
        )


def echo(name: str, load: str, scale: Scale) -> dict[str, Cost]:
    """Return what an echo costs, bare and through a session."""
    n = (2_000 if LOADS[load] == (1, 1) else 10_000) // scale.down
    return figures.echo(name, load, n, 3 * scale.rounds)


def fan_out(n: int, size: int, scale: Scale) -> dict[str, Cost]:
    """Return what it costs to tell many."""
    return figures.fan_out(n // scale.down, size, 10, scale.rounds)


def fan_out_of_peer(name: str, size: int, scale: Scale) -> dict[str, Cost]:
    """Return what it costs others, and the hub by turns with them, at 1 000 clients."""
    return figures.fan_out_of_peer(name, 1_000 // scale.down, size, 10, scale.rounds)


def _ratio(
    costs: Callable[[Scale], dict[str, Cost]],
    ours: str,
    theirs: str,
    what: str,
    scale: Scale,
) -> float:
    found = costs(scale)
    ratio: float = getattr(found[ours], what) / getattr(found[theirs], what)
    return ratio


def _speed_over(name: str, size: int, scale: Scale) -> float:
    costs = fan_out_of_peer(name, size, scale)
    return costs[name].time / costs[HUB].time


def _crowd(deaf: int, scale: Scale) -> figures.Crowd:
    return figures.crowd(1_000 // scale.down, deaf // scale.down, 400 // scale.down)


def _p99(deaf: int, scale: Scale) -> float:
    return _crowd(deaf, scale).p99 / _crowd(0, scale).p99


def _memory(deaf: int, scale: Scale) -> float:
    return _crowd(deaf, scale).memory / (1 << 20)


def _late(deaf: int, scale: Scale) -> float:
    found = _crowd(deaf, scale)
    if scale.down == 1 and found.evicted != deaf:
        raise RuntimeError(f"{found.evicted} of {deaf} deaf clients were evicted")
    return found.late


def _idle(scale: Scale) -> float:
    return figures.idle(3_000 // scale.down)


def _growth(scale: Scale) -> float:
    return figures.growth(100_000 // scale.down)


def _drained(what: str, scale: Scale) -> float:
    return figures.drain(5_000 // scale.down)[what]


def _goals() -> Iterator[Goal]:
    for name in SERVERS:
        for load in LOADS:
            costs = partial(echo, name, load)
            for what, of in (("time", "time"), ("CPU of the server", "cpu")):
                yield Goal(
                    f"session: {what} of an echo over the bare loop's ({name}, {load})",
                    partial(_ratio, costs, SESSION, BARE, of),
                    "x",
                    at_most=1.1,
                )
    for n in CROWDS:
        for size in SIZES:
            costs = partial(fan_out, n, size)
            for what, of in (("time", "time"), ("CPU of the server", "cpu")):
                yield Goal(
                    f"hub.publish: {what} over websockets.broadcast's ({n:,} clients, {size} B)",
                    partial(_ratio, costs, HUB, BROADCAST, of),
                    "x",
                    at_most=1.1,
                )
    for name, bound in SPEED_OVER.items():
        for size in SIZES:
            yield Goal(
                f"hub.publish: speed over {name} (1,000 clients, {size} B)",
                partial(_speed_over, name, size),
                "x",
                at_least=bound,
            )
    for share, deaf in DEAF.items():
        case = f"1,000 clients, {share} deaf"
        yield Goal(
            f"hub.publish: p99 of those that read, over the one with none deaf ({case})",
            partial(_p99, deaf),
            "x",
            at_most=1.5,
        )
        yield Goal(
            f"hub.publish: memory that the server takes meanwhile ({case})",
            partial(_memory, deaf),
            "MiB",
            at_most=MEMORY_BUDGET >> 20,
        )
        yield Goal(
            f"hub.publish: the last eviction, after the stall timeout ({case})",
            partial(_late, deaf),
            "s",
            at_most=1,
        )
    yield Goal("session, idle: memory beyond the connection's", _idle, "KiB", at_most=3)
    yield Goal(
        "session: memory that 100,000 leave behind", _growth, "KiB", at_most=1024
    )
    yield Goal(
        "hub.drain: seconds for 5,000 sessions",
        partial(_drained, "seconds"),
        "s",
        at_most=DEADLINE,
    )
    for what in ("aborted", "left"):
        yield Goal(
            f"hub.drain: how many of 5,000 are {what}",
            partial(_drained, what),
            "",
            at_most=0,
        )


GOALS = tuple(_goals())
