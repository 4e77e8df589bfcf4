"""Processes on cores of their own, which take commands and answer, in lines of JSON."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any, TypeAlias, final

SERVER, CLIENTS = 0, 1  # whose core it is

_STATM = Path("/proc/self/statm")

Command: TypeAlias = Callable[..., Awaitable[Any]]


@final
class Process:
    """A script that runs, and does what it is told."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, command: str, /, **arguments: Any) -> Any:
        """Have it do something; return what it answers."""
        self.begin(command, **arguments)
        return self.end()

    def begin(self, command: str, /, **arguments: Any) -> None:
        """Have it begin to."""
        assert self._process.stdin is not None
        print(json.dumps([command, arguments]), file=self._process.stdin, flush=True)

    def end(self) -> Any:
        """Return what it answers."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended")
        return json.loads(line)


@contextmanager
def process(script: str, core: int, *arguments: str) -> Iterator[Process]:
    """Run a script of this package on a core, until the block is left."""
    command = [sys.executable, "-m", f"{__package__}.{script}", str(core), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Process(child)
        finally:
            child.kill()


def pin(core: int) -> None:
    """Stay on one of the cores that there are."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


async def obey(commands: dict[str, Command]) -> None:
    """Do what is asked for, until nobody can ask any more."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        name, arguments = json.loads(line)
        print(json.dumps(await commands[name](**arguments)), flush=True)


async def cpu() -> float:
    """Return the seconds that this process has computed."""
    return process_time()


async def trace() -> int:
    """Return the bytes in use that were allocated since this was first called."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: ASYNC240
