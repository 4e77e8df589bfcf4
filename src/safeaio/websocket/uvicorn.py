"""Runs uvicorn under `safeaio.run`, and drains a hub before it stops."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from socket import socket
from typing import Any, final

import uvicorn
from anyio.abc import TaskStatus

from .._cancel import cancel_and_wait
from .._runner import wait_for_shutdown
from .._scope import cleanup_scope
from ._asgi import App, HubMiddleware
from ._hub import WebSocketHub


@final
class _Server(uvicorn.Server):
    """Leaves the signals alone, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens: asyncio.Event = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            raise RuntimeError("uvicorn did not start; its log says why") from None
        self.listens.set()


async def serve(
    app: App,
    hub: WebSocketHub[Any],
    *,
    sockets: Sequence[socket] | None = None,
    task_status: TaskStatus[None] | None = None,
    **options: Any,
) -> None:
    """Serve an ASGI application until `safeaio.run` shuts down, or the caller is cancelled.

    Then the hub drains, while HTTP is still answered; then uvicorn stops. uvicorn by
    itself closes every WebSocket first, with no time for a last message, and
    its lifespan ends later still. A hub that has drained before admits again.

    Args:
        app: The application; it is wrapped in a `HubMiddleware`.
        hub: What its WebSockets are sessions of.
        sockets: Where to listen, if not at `host` and `port`.
        task_status: Told once it listens, as `supervise` wants it.
        **options: Of `uvicorn.Config`. By default `timeout_graceful_shutdown` is 5 s, a
            message may have as many bytes as in the hub, and `ws_per_message_deflate` is
            off: what it keeps for each connection, no budget counts.

    Raises:
        RuntimeError: If uvicorn did not start, or the hub drains.

    Cancellation:
        Stops in the same order, and waits for that.
    """
    hub.reopen()  # a supervisor may restart this
    options.setdefault("timeout_graceful_shutdown", 5)
    options.setdefault("ws_max_size", hub.max_message_bytes)
    options.setdefault("ws_per_message_deflate", False)
    config = uvicorn.Config(HubMiddleware(app, hub), **options)
    server = _Server(config)
    async with cleanup_scope(cleanup_timeout=None) as scope:
        serving = asyncio.create_task(
            server.serve(None if sockets is None else list(sockets))
        )
        listens = asyncio.create_task(server.listens.wait())
        shutdown = asyncio.create_task(_shutdown())

        async def stop() -> None:
            await cancel_and_wait(listens, shutdown)
            if not serving.done():
                try:
                    await hub.drain()
                finally:
                    server.should_exit = True
                await serving

        scope.defer(stop)
        await asyncio.wait([serving, listens], return_when=asyncio.FIRST_COMPLETED)
        if task_status is not None and listens.done():
            task_status.started()
        await asyncio.wait([serving, shutdown], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        else:  # here, and not in the cleanup: a step of that has less time
            await hub.drain()


async def _shutdown() -> None:
    try:
        await wait_for_shutdown()
    except RuntimeError:  # somebody else runs the loop, and will cancel us
        await asyncio.Event().wait()
