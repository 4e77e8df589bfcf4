"""A service that holds a file and a connection: `tour_program.py RUNNER MAIN`.

Prints, as JSON, its port and the name of its file, then works until it is stopped;
ends with its stdin, too, so it cannot outlive whoever started it.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

from tour_service import new_file

import safeaio

GRACE = 3.0

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Connections:
    """Whoever has connected; it is told when there is nothing more to come."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def accept(
        self, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"hello\n")
        self._writers.append(writer)

    async def say_goodbye(self) -> None:
        await asyncio.sleep(0.6)  # what is still to be sent
        for writer in self._writers:
            writer.write(b"bye\n")
            await writer.drain()
            writer.close()


async def willing() -> None:
    connections = Connections()
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    file = await asyncio.to_thread(new_file)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "file": str(file)}), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await connections.say_goodbye()
        await asyncio.to_thread(file.unlink)
        server.close()


async def stubborn() -> None:
    never_ends = asyncio.create_task(_refuse_to_die())
    await willing()
    await never_ends


async def _refuse_to_die() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def _run_raw(main: Main) -> None:
    asyncio.run(main())


def _run_safe(main: Main) -> None:
    safeaio.run(main, grace=GRACE)


RUNNERS = {"asyncio.run": _run_raw, "safeaio.run": _run_safe}
MAINS: dict[str, Main] = {"willing": willing, "stubborn": stubborn}


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    # A shell has its background jobs, and so maybe the tour, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    RUNNERS[sys.argv[1]](MAINS[sys.argv[2]])
