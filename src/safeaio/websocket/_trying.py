"""Sends without waiting, through a `send` that is a coroutine."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar, final

from ._step import Rest, finish

P = TypeVar("P")

_DONE = object()


@final
class Trying(Generic[P]):
    """Runs each send up to where it waits; most do not, as long as the peer keeps up.

    One that does has been begun, and has to be ended: in a task, while which nothing
    else is sent.

    Args:
        send: The coroutine function. What it raises is raised by the next `send`.
    """

    __slots__ = ("_rest", "_send")

    def __init__(self, send: Callable[[P], Coroutine[Any, Any, object]]) -> None:
        self._send = send
        self._rest: asyncio.Task[None] | None = None

    def try_send(self, prepared: P) -> bool:
        """Send a message if that takes no waiting, or begin to; tell whether it did."""
        if self._rest is not None:
            return False
        coro = self._send(prepared)
        try:
            awaited = next(coro.__await__(), _DONE)  # which makes no StopIteration
        except Exception:  # noqa: BLE001 - `send` will raise it, too
            return False
        if awaited is _DONE:
            return True
        loop = asyncio.get_running_loop()
        self._rest = loop.create_task(self._finish((coro, awaited)), context=Context())
        return True

    async def send(self, prepared: P) -> None:
        """Send a message after the one that was begun."""
        if self._rest is not None:
            await asyncio.wait([self._rest])
        await self._send(prepared)

    def stop(self) -> None:
        """Give up the one that was begun."""
        if self._rest is not None:
            self._rest.cancel()

    async def _finish(self, rest: Rest) -> None:
        try:
            await finish(rest)
        except Exception:  # noqa: BLE001, S110 - the next `send` will raise it, too
            pass
        finally:
            self._rest = None
