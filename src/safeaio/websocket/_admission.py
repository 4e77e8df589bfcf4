"""The block of a session: lets a WebSocket in, and sees it out."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, final

from .._foremost import from_scope
from .._wait import cancel_of_scope, current_task
from ..exceptions import CloseInfo, SessionClosed, SessionRefused
from ._adapters import Door
from ._asgi import RETRY_AFTER
from ._close import Cause, close_of
from ._connection import Connection
from ._registry import Registry
from ._session import WebSocketSession
from ._transport import TransportClosed

M = TypeVar("M")


@final
class Admission(Generic[M]):
    """What `WebSocketHub.session` returns."""

    def __init__(self, registry: Registry, door: Door) -> None:
        self._registry = registry
        self._door = door
        self._connection: Connection | None = None
        self._cancelling = 0

    async def __aenter__(self) -> WebSocketSession[M]:
        registry = self._registry
        if self._connection is not None:
            raise RuntimeError("a session is entered once; call hub.session() again")
        registry.bind(asyncio.get_running_loop())
        if registry.full or registry.draining:
            await self._refuse()
        registry.opening += 1
        try:
            transport = await self._door.open()
        except TransportClosed as exc:
            raise SessionClosed(exc.info) from None
        finally:
            registry.opening -= 1
        connection = self._connection = Connection(registry, transport)
        connection.task = task = current_task()
        self._cancelling = task.cancelling()
        registry.add(connection)
        return WebSocketSession(registry, connection)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        connection = self._connection
        assert connection is not None
        connection.task = None  # it is as good as out
        try:
            ours = self._is_ours(exc)
            connection.end(_cause_of(None if ours else exc))
            cancel = await self._cancel_from_outside(exc)
            if isinstance(exc, GeneratorExit):
                connection.abort()
                return None
            await connection.settle()
            return ours or (isinstance(exc, asyncio.CancelledError) and cancel is None)
        finally:
            self._registry.remove(connection)
            del exc, traceback  # it holds this frame

    async def _refuse(self) -> None:
        self._registry.refused += 1
        code, reason = close_of("refused")
        with suppress(TransportClosed):
            await self._door.refuse(code, reason, RETRY_AFTER)
        raise SessionRefused(CloseInfo(code, reason, "local", False, "refused"))

    def _is_ours(self, exc: BaseException | None) -> bool:
        """Tell whether the block was left just because the session has ended."""
        connection = self._connection
        assert connection is not None

        def is_ours(error: BaseException) -> bool:
            return (
                isinstance(error, SessionClosed)
                and connection.info is not None
                and error.info is connection.info
            )

        if isinstance(exc, BaseExceptionGroup):
            return cast("Any", exc).split(is_ours)[1] is None
        return exc is not None and is_ours(exc)

    async def _cancel_from_outside(
        self, exc: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Take back our cancel of the block, and return one that somebody else has sent."""
        connection = self._connection
        assert connection is not None
        cancel = exc if isinstance(exc, asyncio.CancelledError) else None
        if not connection.interrupted:
            return cancel
        task = current_task()
        task.uncancel()
        if cancel is None or from_scope(cancel):
            return cancel
        if task.cancelling() <= self._cancelling:
            return None
        return await cancel_of_scope() or cancel


def _cause_of(exc: BaseException | None) -> Cause:
    if exc is None:
        return "returned"
    return "cancelled" if isinstance(exc, asyncio.CancelledError) else "failed"
