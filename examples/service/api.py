"""The HTTP side: readings in, counts out, and how the service is."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from anyio.abc import TaskStatus
from fastapi import FastAPI, HTTPException, Response

import safeaio
from safeaio import Supervisor

from .poller import Poller
from .store import NotStored, Reading, Store


def application(
    store: Store, poller: Poller, supervisor: Callable[[], Supervisor]
) -> FastAPI:
    """Make the FastAPI application."""
    app = FastAPI()

    @app.post("/readings", status_code=201)
    async def take(sensor: str, value: float) -> None:
        try:
            await store.put(Reading(sensor, value))
        except NotStored as exc:
            raise HTTPException(503, str(exc)) from None

    @app.get("/readings")
    async def count() -> dict[str, int]:
        return {"stored": await store.count()}

    @app.get("/health/live")
    async def live(response: Response) -> dict[str, str]:
        return _answer(response, supervisor().health().live)

    @app.get("/health/ready")
    async def ready(response: Response) -> dict[str, str]:
        # A dead sensor is in /status: no other instance of this service could read it.
        return _answer(response, supervisor().health().ready)

    @app.get("/status")
    async def status() -> Response:
        lines = [str(supervisor().snapshot())]
        lines += [f"{sensor}: {why}" for sensor, why in poller.troubles.items()]
        return Response("\n".join([*lines, ""]), media_type="text/plain")

    return app


def _answer(response: Response, good: bool) -> dict[str, str]:
    response.status_code = 200 if good else 503
    return {"status": "ok" if good else "not now"}


class _Server(uvicorn.Server):
    """One that leaves signals to `safeaio.run`, and says when it listens."""

    task_status: TaskStatus[None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.task_status.started()


async def serve(app: FastAPI, port: int, *, task_status: TaskStatus[None]) -> None:
    """Serve until this is cancelled; then let requests under way finish.

    Raises:
        OSError: If the port is in use.
    """
    # No request takes longer than a `put`, whatever the writer does: 3 s are enough.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    server = _Server(config)
    server.task_status = task_status
    async with safeaio.cleanup_scope() as scope:
        # uvicorn ends the process if it finds the port in use; this is a failed start.
        listening = socket.create_server(("127.0.0.1", port))
        scope.defer(listening.close)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))

        async def stop() -> None:
            server.should_exit = True
            await serving

        scope.defer(stop)
        await asyncio.wait([serving])
