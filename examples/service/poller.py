"""Asks every sensor for its value, again and again."""

import asyncio
from functools import partial

import safeaio

from .faults import Fault
from .store import Reading, Store

AT_ONCE = 4  # sensors


async def poll(sensors: list[tuple[str, int]], store: Store, interval: float) -> None:
    """Store what every sensor says, once in `interval` seconds.

    Raises:
        OSError: If one cannot be reached. Whoever supervises this tries again.
    """
    fault = Fault("poller")
    while True:
        await fault.step()
        async with asyncio.timeout(5):
            await safeaio.bounded_map(partial(_ask, store), sensors, limit=AT_ONCE)
        safeaio.beat()
        await asyncio.sleep(interval)


async def _ask(store: Store, sensor: tuple[str, int]) -> None:
    host, port = sensor
    async with safeaio.cleanup_scope() as scope:
        reader, writer = await asyncio.open_connection(host, port)
        scope.defer(writer.wait_closed)
        scope.defer(writer.close)
        line = await reader.readline()
    await store.put(Reading(f"{host}:{port}", float(line)))
