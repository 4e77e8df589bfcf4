"""What is measured of WebSockets: each figure by turns with what it is compared with."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from statistics import median
from time import sleep
from typing import final

import attrs

from .peers import PEERS
from .process import CLIENTS, SERVER, Process, process
from .servers import BARE, ROOM, SESSION

HUB, BROADCAST, WRITE = "hub", "broadcast", "write"

LOADS = {"1 connection": (1, 1), "50 x 8 in flight": (50, 8)}
"""How many connections, and how many messages on each of them at a time."""

STALL_TIMEOUT = 2.0
MEMORY_BUDGET = 16 << 20
DEADLINE = 10.0  # seconds for the drain of 5 000

_PAUSE = 0.2  # seconds for another server to finish what it does after its turn
_MICRO = 1_000_000


@attrs.frozen
@final
class Cost:
    """The medians of one way: microseconds for one message to one peer.

    Attributes:
        time: By the clock of the clients.
        cpu: Of the server.
    """

    time: float
    cpu: float


@attrs.frozen
@final
class Crowd:
    """What 1 000 clients saw, some of whom never read.

    Attributes:
        p99: Seconds that a message took to one that reads.
        memory: Bytes that the server took meanwhile.
        late: Seconds from the end of the stall timeout to the last eviction.
        evicted: How many were.
    """

    p99: float
    memory: int
    late: float
    evicted: int


@contextmanager
def _pair(script: str, name: str) -> Iterator[tuple[Process, Process]]:
    with (
        process(script, SERVER, name) as server,
        process("clients", CLIENTS) as clients,
    ):
        yield server, clients


def _by_turns(
    ways: tuple[str, ...], rounds: int, measure: Callable[[str], Cost]
) -> dict[str, Cost]:
    found: dict[str, list[Cost]] = {way: [] for way in ways}
    for way in ways:
        measure(way)  # to warm up
    for _ in range(rounds):
        for way in random.sample(ways, len(ways)):
            found[way].append(measure(way))
    return {
        way: Cost(median(c.time for c in costs), median(c.cpu for c in costs))
        for way, costs in found.items()
    }


@cache
def echo(name: str, load: str, n: int, rounds: int) -> dict[str, Cost]:
    """Have a server echo, through a session and bare."""
    connections, in_flight = LOADS[load]
    with _pair("servers", name) as (server, clients):
        port = server("port")

        def measure(way: str) -> Cost:
            clients("connect", port=port, path=way, n=connections)
            clients("echo", n=n // 10, size=128, in_flight=in_flight)
            before = server("cpu")
            seconds = clients("echo", n=n, size=128, in_flight=in_flight)
            cpu = server("cpu") - before
            clients("hang_up")
            return Cost(seconds / n * _MICRO, cpu / n * _MICRO)

        return _by_turns((BARE, SESSION), rounds, measure)


@cache
def fan_out(n: int, size: int, times: int, rounds: int) -> dict[str, Cost]:
    """Tell `n` clients of websockets: by a hub, by `websockets.broadcast`, by `os.write`."""
    with _pair("servers", "websockets") as (server, clients):
        clients("connect", port=server("port"), path=ROOM, n=n)
        return _by_turns(
            (HUB, BROADCAST, WRITE),
            rounds,
            lambda way: _tell(server, clients, way, n, size, times),
        )


@cache
def fan_out_of_peer(
    name: str, n: int, size: int, times: int, rounds: int
) -> dict[str, Cost]:
    """Tell `n` clients, by a hub and by other means."""
    _, path, hello = PEERS[name]
    with _pair("servers", "websockets") as ours, _pair("peers", name) as theirs:
        pairs = {HUB: ours, name: theirs}
        for (server, clients), (at, first) in zip(
            pairs.values(), ((ROOM, ""), (path, hello)), strict=True
        ):
            clients("connect", port=server("port"), path=at, n=n, hello=first)

        def measure(way: str) -> Cost:
            sleep(_PAUSE)
            return _tell(*pairs[way], way, n, size, times)

        return _by_turns(tuple(pairs), rounds, measure)


def _tell(
    server: Process, clients: Process, way: str, n: int, size: int, times: int
) -> Cost:
    def tell(times: int) -> float:
        clients.begin("collect", n=n * times)
        server("publish", way=way, n=times, size=size)
        seconds: float = clients.end()
        return seconds

    tell(times)  # to warm up, after somebody else's turn
    before = server("cpu")
    each = _MICRO / (n * times)
    return Cost(tell(times) * each, (server("cpu") - before) * each)


@cache
def crowd(n: int, deaf: int, times: int) -> Crowd:
    """Tell `n` clients, some of whom never read, 30 times a second."""
    with _pair("servers", "websockets") as (server, clients):
        server("configure", stall_timeout=STALL_TIMEOUT, memory_budget=MEMORY_BUDGET)
        port = server("port")
        clients("connect", port=port, path=ROOM, n=n - deaf)
        clients("connect", port=port, path=ROOM, n=deaf, deaf=True)
        before = server("resident")
        clients.begin("latencies", n=(n - deaf) * times)
        told = server("pulse", n=times, size=1024, interval=1 / 30)
        seen = clients.end()
        return Crowd(
            p99=seen["p99"],
            memory=told["resident"] - before,
            late=(told["eviction"] or 0.0) - STALL_TIMEOUT,
            evicted=told["evicted"],
        )


@cache
def idle(n: int) -> float:
    """Return the KiB of memory that a session takes beyond its connection."""
    return _memory_of(SESSION, n) - _memory_of(BARE, n)


def _memory_of(path: str, n: int) -> float:
    with _pair("servers", "websockets") as (server, clients):
        port = server("port")
        clients("connect", port=port, path=path, n=n // 10)  # what is made once
        before = server("trace")
        clients("connect", port=port, path=path, n=n)
        taken: float = server("trace") - before
        return taken / n / 1024


@cache
def growth(n: int) -> float:
    """Return the KiB of memory that `n` sessions leave behind, after as many for warmth."""
    with _pair("servers", "websockets") as (server, clients):
        port = server("port")
        clients("come_and_go", port=port, path=SESSION, n=n // 5)
        server("emptied")
        before = server("resident")
        clients("come_and_go", port=port, path=SESSION, n=n)
        server("emptied")
        left: float = server("resident") - before
        return left / 1024


@cache
def drain(n: int) -> dict[str, float]:
    """Drain a hub of `n` sessions; return the seconds, and what became of them."""
    with _pair("servers", "websockets") as (server, clients):
        clients("connect", port=server("port"), path=ROOM, n=n)
        clients.begin("closes")
        drained: dict[str, float] = server("drain", deadline=DEADLINE)
        clients.end()
        return drained
