"""The chat: one hub, a room of the hub for each room, and messages as JSON."""

import asyncio
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse

from safeaio import RateLimiter
from safeaio.websocket import JSON, WebSocketHub, WebSocketSession

_PAGE = Path(__file__).with_name("page.html")


def chat(**limits: Any) -> tuple[FastAPI, WebSocketHub[Any]]:
    """Make the application, and its hub.

    Args:
        **limits: Of the hub, in place of the chat's own.
    """
    options: dict[str, Any] = {
        "max_message_bytes": 4096,
        "max_queue_bytes": 1 << 18,
        "receive_rate": RateLimiter(10, burst=20),
        "first_message_timeout": 10.0,
        "stall_timeout": 5.0,
    }
    hub = WebSocketHub(codec=JSON, **(options | limits))
    present: dict[str, Counter[str]] = {}
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text())

    @app.websocket("/chat")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.session(websocket) as session:
            hello = await session.receive()
            room, name = str(hello["room"])[:40], str(hello["name"])[:40]
            names = present.setdefault(room, Counter())
            names[name] += 1
            session.join(room)
            tell_who_is_here(room)
            try:
                await talk(session, room, name)
            finally:
                names[name] -= 1
                tell_who_is_here(room)

    async def talk(session: WebSocketSession[Any], room: str, name: str) -> None:
        async for message in session:
            if "flood" in message:  # of the button: what a busy room would send
                for number in range(int(message["flood"])):
                    # Which cannot be compressed, so that it is a flood.
                    noise = secrets.token_urlsafe(750)
                    hub.publish(room, {"noise": number, "text": noise})
                    if number % 50 == 49:
                        # No faster than whoever asked for it reads.
                        await session.flush()
                        await asyncio.sleep(0.01)
            else:
                hub.publish(room, {"from": name, "text": str(message["text"])})

    def tell_who_is_here(room: str) -> None:
        here = sorted(+present[room])
        if not here:
            del present[room]
        # Whoever is behind needs but the latest list.
        hub.publish(room, {"here": here}, slow="conflate", key="here")

    return app, hub
