"""Faults on demand, by the environment: `FAULT_POLLER=crash:3`."""

import asyncio
import os
import sys


class Injected(Exception):
    """A fault that was asked for."""


class Fault:
    """What goes wrong in one part of the service, the store or the poller.

    `$FAULT_<PART>` is `crash:N`, which raises at every Nth step, or `hang:N`, which goes to
    sleep for good there; `crash:N:TIMES` does so that many times. Restarts do not count
    anew.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        fault = os.environ.get(f"FAULT_{part.upper()}", "none:1")
        self._kind, *numbers = fault.split(":")
        self._every, self._times = (*map(int, numbers), sys.maxsize)[:2]
        self._steps = 0

    async def step(self) -> None:
        """Let it happen, if its turn has come."""
        self._steps += 1
        if self._steps % self._every or self._steps > self._every * self._times:
            return
        if self._kind == "crash":
            raise Injected(f"{self._part}, step {self._steps}")
        if self._kind == "hang":
            await asyncio.Event().wait()
