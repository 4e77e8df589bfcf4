"""The HTTP side: readings in, counts out, and how the service is."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from anyio.abc import TaskStatus
from fastapi import FastAPI, Response

import safeaio
from safeaio import Supervisor

from .faults import Fault
from .store import Reading, Store


def application(store: Store, supervisor: Callable[[], Supervisor]) -> FastAPI:
    """Make the FastAPI application."""
    app = FastAPI()
    fault = Fault("api")

    @app.post("/readings", status_code=201)
    async def take(sensor: str, value: float) -> None:
        await store.put(Reading(sensor, value))

    @app.get("/readings")
    async def count() -> dict[str, int]:
        return {"stored": await store.count()}

    @app.get("/health/live")
    async def live(response: Response) -> dict[str, str]:
        await fault.step()
        return _answer(response, supervisor().health().live)

    @app.get("/health/ready")
    async def ready(response: Response) -> dict[str, str]:
        return _answer(response, supervisor().health().ready)

    @app.get("/status")
    async def status() -> Response:
        return Response(f"{supervisor().snapshot()}\n", media_type="text/plain")

    return app


def _answer(response: Response, good: bool) -> dict[str, str]:
    response.status_code = 200 if good else 503
    return {"status": "ok" if good else "not now"}


class _Server(uvicorn.Server):
    """One that leaves signals to `safeaio.run`, and says when it listens."""

    task_status: TaskStatus[int]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.task_status.started(self.servers[0].sockets[0].getsockname()[1])


async def serve(app: FastAPI, port: int, *, task_status: TaskStatus[int]) -> None:
    """Serve until this is cancelled; then let requests under way finish."""
    config = uvicorn.Config(
        app, port=port, log_level="warning", timeout_graceful_shutdown=3
    )
    server = _Server(config)
    server.task_status = task_status
    async with safeaio.cleanup_scope() as scope:
        serving = asyncio.ensure_future(server.serve())

        async def stop() -> None:
            server.should_exit = True
            await serving

        scope.defer(stop)
        await asyncio.wait([serving])
