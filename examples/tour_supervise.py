"""A chapter: three services with a fault each, as bare tasks and under `supervise`."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs
from tour_stage import Report, Stage

import safeaio
from safeaio import ChildFailed, Event, Service, supervise
from safeaio.testing import VirtualClockLoop

MINUTES = 20
SECONDS = 60 * MINUTES
ROOM = 100  # what the leaking one may hold


@attrs.define
class Day:
    """What three services get done, and how they end."""

    done: Counter[str] = attrs.field(factory=Counter)
    told: int = 0
    closed: list[str] = attrs.field(factory=lambda: [])

    async def crashing(self) -> None:
        """Poll once a second, until a connection is reset."""
        for _ in range(45):
            await asyncio.sleep(1)
            self.done["crashing"] += 1
        raise ConnectionResetError

    async def leaking(self) -> None:
        """Keep everything that it has seen, until there is no room for more."""
        seen: list[int] = []
        while True:
            await asyncio.sleep(1)
            seen.append(len(seen))
            if len(seen) > ROOM:
                raise MemoryError
            self.done["leaking"] += 1

    async def hanging(self) -> None:
        """Wait for an answer that never comes, after two minutes."""
        try:
            for _ in range(120):
                await asyncio.sleep(1)
                self.done["hanging"] += 1
                safeaio.beat()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)  # a last word to the database
            self.closed.append("hanging")

    async def database(self) -> None:
        """What the others use, and so the last to close."""
        try:
            await asyncio.Event().wait()
        finally:
            self.closed.append("database")


async def bare_tasks(day: Day) -> None:
    # Held until the end, as they must be. asyncio tells of a failed task when the last
    # reference to it goes, unless somebody has cancelled it before, be it dead or not.
    tasks = [
        asyncio.create_task(service())
        for service in (day.database, day.crashing, day.leaking, day.hanging)
    ]
    await asyncio.sleep(SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def supervised(day: Day) -> None:
    def note(event: Event) -> None:
        day.told += isinstance(event, ChildFailed)

    async with supervise(
        day.database,
        day.crashing,
        day.leaking,
        Service(day.hanging, watchdog=10),
        on_event=note,
    ):
        await asyncio.sleep(SECONDS)


WAYS: dict[str, Callable[[Day], Awaitable[None]]] = {
    "create_task": bare_tasks,
    "supervise": supervised,
}


def twenty_minutes(stage: Stage) -> Report:
    rows = []
    with stage.step(f"{MINUTES} virtual minutes", len(WAYS)) as advance:
        for name in WAYS:
            rows.append(_spend(name))
            advance(len(rows))
    lost, kept = (row["seconds of work lost"] for row in rows)
    return Report(
        f"Three services for {MINUTES} virtual minutes: one crashes every 45 s, one leaks, "
        "one hangs",
        rows,
        f"Of {3 * SECONDS:,} seconds of work {lost:,} were lost with bare tasks, "
        f"{kept:,} under supervise.",
    )


def _spend(name: str) -> dict[str, str | int | float]:
    day = Day()
    logging.getLogger("safeaio.supervise").setLevel(logging.CRITICAL)

    def hear(*_: object) -> None:
        day.told += 1

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(hear)
        await WAYS[name](day)
        gc.collect()

    safeaio.run(main, loop_factory=VirtualClockLoop)
    return {
        "way": name,
        **{part: day.done[part] for part in ("crashing", "leaking", "hanging")},
        "seconds of work lost": 3 * SECONDS - day.done.total(),
        "failures told": day.told,
        "database closed": "last" if day.closed[-1] == "database" else "too early",
    }
