"""A chapter: a service is cancelled, and again in the middle of its cleanup."""

from tour_service import WAYS
from tour_stage import Report, Stage, child


def second_cancel(stage: Stage) -> Report:
    rows = []
    for way in WAYS:
        with (
            stage.step(way, 1) as advance,
            child("tour_service.py", way) as service,
        ):
            rows += [{"way": way, **debris} for debris in service]
            advance(1)
    return Report(
        "Stop a service that has a file, a connection and a subprocess; "
        "cancel it again while it cleans up",
        rows,
        "The moment the service has ended: "
        + ", ".join(f"{row['steps done']} of 3 steps with {row['way']}" for row in rows)
        + ".",
    )
