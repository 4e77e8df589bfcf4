"""A chapter: tell a thousand WebSocket clients something, ten of whom never read."""

from typing import Any

from tour_crowd import CLIENTS, COUNT, DEAF, INTERVAL, SECONDS, SIZE
from tour_feed import WAYS
from tour_stage import Report, Stage, child


def deaf_clients(stage: Stage) -> Report:
    rows = []
    for way in WAYS:
        server, crowd = _measure(stage, way)
        within = server["within"]
        rows.append(
            {
                "way": way,
                "told %": crowd["told"],
                "p99 ms": crowd["p99"],
                "MB above start": server["memory"],
                "deaf evicted": server["evicted"],
                "after": "-" if within is None else f"{within:.1f} s",
            }
        )
    told = ", ".join(f"{row['told %']:.0f} % with {row['way']}" for row in rows)
    return Report(
        f"Tell {CLIENTS:,} WebSocket clients {SIZE >> 10} KiB every {INTERVAL:g} s for "
        f"{SECONDS:g} s; {DEAF} of them never read",
        rows,
        f"Messages that reached the other {CLIENTS - DEAF}: {told}. "
        "What did not counts in the p99 with the time that it is late. "
        "The kernel has 64 KiB to send per client here; by default it hides more.",
    )


def _measure(stage: Stage, way: str) -> tuple[Any, Any]:
    """Run the server and its clients in processes of their own; return what they counted."""
    with stage.step(way, COUNT) as advance, child("tour_feed.py", way) as server:
        port = next(iter(server))["port"]
        with child("tour_crowd.py", port) as crowd:
            next(iter(crowd))  # all are connected
            message = server.ask()
            while "done" in message:
                advance(message["done"])
                message = next(iter(server))
            return message, crowd.ask()
