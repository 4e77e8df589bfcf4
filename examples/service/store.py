"""Readings, and the one writer of their database."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TypeAlias

import attrs
from anyio.abc import TaskStatus

import safeaio

from .faults import Fault

STORED_WITHIN = 1.0  # seconds
LOCKED_FOR = 0.5  # seconds; longer is a failure
AT_ONCE = 1000  # readings

_SCHEMA = "CREATE TABLE IF NOT EXISTS readings (sensor TEXT, value REAL)"


class NotStored(Exception):
    """The database does not take readings just now."""


@attrs.frozen
class Reading:
    """What a sensor said."""

    sensor: str
    value: float


Queued: TypeAlias = tuple[Reading, asyncio.Future[None]]


class Store:
    """Takes readings in, writes them in batches, and counts them.

    Whoever `put` one knows, once that has returned, that it is on the disk.

    Args:
        path: Of the database.
        tell: Called with those that are on the disk now.
    """

    def __init__(
        self, path: str, tell: Callable[[list[Reading]], object] = lambda _: None
    ) -> None:
        self._path = path
        self._tell = tell
        self._queue: asyncio.Queue[Queued] = asyncio.Queue(AT_ONCE)
        self._batch: list[Queued] = []
        self._fault = Fault("store")

    async def put(self, reading: Reading) -> None:
        """Wait until a reading is stored.

        Raises:
            NotStored: If that takes too long. It may be stored nevertheless.

        Cancellation:
            It may be stored nevertheless.
        """
        stored = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(STORED_WITHIN):
                await self._queue.put((reading, stored))
                await stored
        except TimeoutError:
            raise NotStored(f"not stored within {STORED_WITHIN} s") from None

    async def count(self) -> int:
        """Return how many readings are stored."""
        return await asyncio.to_thread(self._count)

    async def write(self, *, task_status: TaskStatus[None]) -> None:
        """Store what was put, for ever; stopped, store what there is, and end.

        A life that fails leaves its batch to the next. If there is none, since the service
        is stopped meanwhile, whoever waits is told by `NotStored`.

        Raises:
            sqlite3.Error: If the database fails. Whoever supervises this tries again.
        """
        await asyncio.to_thread(self._create)
        await self._write_all()  # of the life before; if that fails, this is not ready
        task_status.started()
        try:
            while True:
                self._batch.append(await self._queue.get())
                await self._fault.step()
                await self._write_batch()
        except asyncio.CancelledError:
            await self._write_all()
            raise

    async def _write_all(self) -> None:
        while self._batch or not self._queue.empty():
            await self._write_batch()

    async def _write_batch(self) -> None:
        while len(self._batch) < AT_ONCE and not self._queue.empty():
            self._batch.append(self._queue.get_nowait())
        # A cancel in the middle would have it written again.
        await safeaio.shielded(self._write_down())

    async def _write_down(self) -> None:
        readings = [reading for reading, _ in self._batch]
        await asyncio.to_thread(self._insert, readings)
        for _, stored in self._batch:
            if not stored.done():
                stored.set_result(None)
        self._batch.clear()
        self._tell(readings)

    def _create(self) -> None:
        with closing(self._connect()) as database, database:
            database.execute(_SCHEMA)

    def _insert(self, readings: Iterable[Reading]) -> None:
        rows = [(reading.sensor, reading.value) for reading in readings]
        with closing(self._connect()) as database, database:
            database.executemany("INSERT INTO readings VALUES (?, ?)", rows)

    def _count(self) -> int:
        with closing(self._connect()) as database:
            [count] = database.execute("SELECT count(*) FROM readings").fetchone()
            return int(count)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=LOCKED_FOR)
