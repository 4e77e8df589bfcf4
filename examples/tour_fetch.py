"""Two chapters: fetch every page of a site, and stop at the first failing page."""

import json
from typing import Any

from tour_server import fails
from tour_stage import Report, Stage, child
from tour_ways import LIMIT, WAYS

SERVER_LIMIT = 64


def everything(stage: Stage) -> Report:
    rows = []
    for way in WAYS:
        client, server = _measure(stage, way, keep_going=True)
        rows.append(
            {
                "way": way,
                "pages": client["pages"],
                "seconds": client["seconds"],
                "peak connections": server["peak"],
                "refused": server["refused"],
                "MB above start": client["memory"],
            }
        )
    failing = sum(map(fails, range(stage.pages)))
    return Report(
        f"Fetch {stage.pages:,} pages ({failing} fail); "
        f"server takes {SERVER_LIMIT} connections, limit is {LIMIT}",
        rows,
        "Pages that arrived, of the "
        f"{stage.pages - failing:,} that can: {_each(rows, 'pages')}.",
    )


def first_failure(stage: Stage) -> Report:
    rows = []
    for way in WAYS:
        client, _ = _measure(stage, way, keep_going=False)
        rows.append(
            {
                "way": way,
                "seconds to the error": client["seconds"],
                "orphaned tasks": client["orphans"],
                "requests in the next second": client["late"],
                "warnings": client["warnings"],
            }
        )
    return Report(
        f"Fetch {stage.pages:,} pages, stop at the first that fails",
        rows,
        f"Tasks still running after the error: {_each(rows, 'orphaned tasks')}. "
        f"Warnings, of all four together: {sum(row['warnings'] for row in rows):,}.",
    )


def _each(rows: list[dict[str, Any]], key: str) -> str:
    return ", ".join(f"{row[key]:,} with {row['way']}" for row in rows)


def _measure(stage: Stage, way: str, *, keep_going: bool) -> tuple[Any, Any]:
    """Run one way in a process of its own; return what it and its server counted."""
    with (
        stage.step(way, stage.pages) as advance,
        child("tour_server.py", SERVER_LIMIT) as server,
    ):
        job = [way, next(iter(server))["port"], stage.pages, keep_going]
        with child("tour_ways.py", json.dumps(job)) as client:
            for message in client:
                advance(message["done"])
        return message, server.ask()
