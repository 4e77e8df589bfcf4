"""Readings as they come, for whoever watches."""

import math
from collections.abc import Iterable
from typing import Any

from fastapi import WebSocket

from safeaio.websocket import JSON, WebSocketHub

from .store import Reading

STALL_TIMEOUT = 5.0  # seconds


class Feed:
    """Tells those who watch what was stored.

    Attributes:
        hub: Admits them, and ends the sessions of those who take nothing.
    """

    def __init__(self) -> None:
        self.hub: WebSocketHub[Any] = WebSocketHub(
            codec=JSON,
            max_sessions=1000,
            max_message_bytes=1024,
            max_queue_bytes=1 << 18,
            stall_timeout=STALL_TIMEOUT,
            close_timeout=2.0,
        )

    def __str__(self) -> str:
        now = self.hub.snapshot()
        return (
            f"feed: {now.sessions} watching, {now.queued_bytes} bytes behind, "
            f"{now.evicted} evicted, {now.refused} refused"
        )

    def tell(self, readings: Iterable[Reading]) -> None:
        """Publish the latest reading of each sensor; it waits for nobody."""
        for sensor, value in {one.sensor: one.value for one in readings}.items():
            known = value if math.isfinite(value) else None  # JSON has no other numbers
            # Whoever is behind needs but the latest of each sensor.
            self.hub.publish(
                "readings",
                {"sensor": sensor, "value": known},
                slow="conflate",
                key=sensor,
            )

    async def watch(self, websocket: WebSocket) -> None:
        """Let a WebSocket watch until it goes, or the service ends."""
        async with self.hub.session(websocket) as session:
            session.join("readings")
            async for _ in session:  # there is nothing to say
                pass
