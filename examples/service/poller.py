"""Asks every sensor for its value, again and again."""

import asyncio
import logging
from typing import TypeAlias

import safeaio

from .faults import Fault
from .store import NotStored, Reading, Store

AT_ONCE = 4  # sensors
ANSWER_WITHIN = 0.5  # seconds

Address: TypeAlias = tuple[str, int]

_logger = logging.getLogger(__name__)


class Poller:
    """Stores what the sensors say.

    That one does not answer is expected, and no reason to stop asking the others: it is
    noted. What nobody has expected is left to the supervisor.

    Attributes:
        troubles: Why there is no reading of a sensor, for those that have none just now.
    """

    def __init__(self, sensors: list[Address], store: Store) -> None:
        self.troubles: dict[str, str] = {}
        self._sensors = sensors
        self._store = store
        self._fault = Fault("poller")

    async def poll(self, interval: float) -> None:
        """Ask all sensors, rest for `interval` seconds, and so for ever."""
        while True:
            await self._fault.step()
            await safeaio.bounded_map(self._take, self._sensors, limit=AT_ONCE)
            safeaio.beat()
            await asyncio.sleep(interval)

    async def _take(self, sensor: Address) -> None:
        name = "{}:{}".format(*sensor)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                value = await _ask(*sensor)
            await self._store.put(Reading(name, value))
        except (OSError, ValueError, NotStored) as exc:  # a timeout is an OSError
            if name not in self.troubles:
                _logger.warning("no reading of sensor %s: %r", name, exc)
            self.troubles[name] = repr(exc)
        else:
            if self.troubles.pop(name, None):
                _logger.info("sensor %s is read again", name)
        safeaio.beat()  # with many silent ones a round takes long


async def _ask(host: str, port: int) -> float:
    async with safeaio.cleanup_scope() as scope:
        reader, writer = await asyncio.open_connection(host, port)
        scope.defer(writer.wait_closed)
        scope.defer(writer.close)
        return float(await reader.readline())
