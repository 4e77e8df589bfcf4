"""The HTTP side: readings in, counts and a feed out, and how the service is."""

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Response

from safeaio import Supervisor

from .feed import Feed
from .poller import Poller
from .store import NotStored, Reading, Store


def application(
    store: Store, poller: Poller, feed: Feed, supervisor: Callable[[], Supervisor]
) -> FastAPI:
    """Make the FastAPI application."""
    app = FastAPI()
    app.add_api_websocket_route("/feed", feed.watch)

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
        lines = [str(supervisor().snapshot()), str(feed)]
        lines += [f"{sensor}: {why}" for sensor, why in poller.troubles.items()]
        return Response("\n".join([*lines, ""]), media_type="text/plain")

    return app


def _answer(response: Response, good: bool) -> dict[str, str]:
    response.status_code = 200 if good else 503
    return {"status": "ok" if good else "not now"}
