"""What mypy and pyright know of sessions; checked by `make test`, never run."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any, assert_type

import pydantic

from safeaio.websocket import (
    BINARY,
    JSON,
    TEXT,
    Delivery,
    WebSocketHub,
    WebSocketSession,
    memory_pair,
    pydantic_codec,
)


class Message(pydantic.BaseModel):
    text: str


async def handle(message: Message) -> Message | None:
    return message


async def either(websocket: Any) -> None:
    hub = WebSocketHub(max_sessions=10)
    assert_type(hub, WebSocketHub[str | bytes])
    async with hub.session(websocket) as session:
        assert_type(session, WebSocketSession[str | bytes])
        async for message in session:
            assert_type(message, str | bytes)
            await session.send(f"Message text was: {message!r}")
        await session.send(1)  # type: ignore[arg-type]


async def typed(websocket: Any) -> None:
    hub = WebSocketHub(codec=pydantic_codec(Message), max_queue_bytes=1000)
    async with hub.session(websocket) as session:
        assert_type(session, WebSocketSession[Message])
        assert_type(await session.receive(), Message)
        await session.serve(handle, concurrency=8)
    assert_type(hub.publish("room", Message(text="x"), slow="conflate"), Delivery)
    hub.publish("room", "x")  # type: ignore[arg-type]
    hub.publish("room", Message(text="x"), slow="never")  # type: ignore[arg-type]


async def builtin() -> None:
    assert_type(WebSocketHub(codec=TEXT), WebSocketHub[str])
    assert_type(WebSocketHub(codec=BINARY), WebSocketHub[bytes])
    assert_type(WebSocketHub(codec=JSON), WebSocketHub[Any])
    server, client = memory_pair(window=1000)
    async with WebSocketHub(codec=TEXT).session(server) as session:
        assert_type(session, WebSocketSession[str])
    await client.close()
