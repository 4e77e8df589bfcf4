"""Readings, and the one writer of their database."""

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import TypeAlias

import attrs
from anyio.abc import TaskStatus

import safeaio

from .faults import Fault

_SCHEMA = "CREATE TABLE IF NOT EXISTS readings (sensor TEXT, value REAL)"


@attrs.frozen
class Reading:
    """What a sensor said."""

    sensor: str
    value: float


Queued: TypeAlias = tuple[Reading, asyncio.Future[None]]


class Store:
    """Takes readings in, writes them in batches, and counts them.

    Whoever `put` one knows, once that has returned, that it is on the disk.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._queue: asyncio.Queue[Queued] = asyncio.Queue(1000)
        self._batch: list[Queued] = []
        self._fault = Fault("store")

    async def put(self, reading: Reading) -> None:
        """Wait until a reading is stored.

        Cancellation:
            It may be stored nevertheless.
        """
        stored = asyncio.get_running_loop().create_future()
        await self._queue.put((reading, stored))
        await stored

    async def count(self) -> int:
        """Return how many readings are stored."""
        return await asyncio.to_thread(self._count)

    async def write(self, *, task_status: TaskStatus[None]) -> None:
        """Store what was put, for ever; stopped, store what there is, and end."""
        await asyncio.to_thread(self._create)
        task_status.started()
        async with safeaio.cleanup_scope() as scope:
            scope.defer(self._write_all)
            while True:
                if not self._batch:  # else a life before this one has failed with it
                    self._batch.append(await self._queue.get())
                await self._fault.step()
                await self._write_all()

    async def _write_all(self) -> None:
        while not self._queue.empty():
            self._batch.append(self._queue.get_nowait())
        if self._batch:  # a cancel in the middle would have it written again
            await safeaio.shielded(self._write_batch())

    async def _write_batch(self) -> None:
        await asyncio.to_thread(self._insert, [reading for reading, _ in self._batch])
        for _, stored in self._batch:
            if not stored.done():
                stored.set_result(None)
        self._batch.clear()

    def _create(self) -> None:
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute(_SCHEMA)

    def _insert(self, readings: Iterable[Reading]) -> None:
        rows = [(reading.sensor, reading.value) for reading in readings]
        with closing(sqlite3.connect(self._path)) as database, database:
            database.executemany("INSERT INTO readings VALUES (?, ?)", rows)

    def _count(self) -> int:
        with closing(sqlite3.connect(self._path)) as database:
            [count] = database.execute("SELECT count(*) FROM readings").fetchone()
            return int(count)
