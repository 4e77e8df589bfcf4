"""Other ways to send a message to everyone: litestar's channels, python-socketio, Django's.

Run as a script, with a core and a name. Each takes the command `publish`, as `Room` does.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, final

from .frames import message
from .process import pin
from .servers import ROOM, ROOM_NAME, asgi, run

Tell: TypeAlias = Callable[[str], Awaitable[object]]


@final
class Peer:
    """What everyone is told by."""

    tell: Tell

    async def publish(self, way: str, n: int, size: int) -> None:
        """Tell everyone, `n` times, by turns of the loop."""
        text = message(size).decode()
        for _ in range(n):
            await self.tell(text)
            await asyncio.sleep(0)


@asynccontextmanager
async def _litestar(peer: Peer) -> AsyncIterator[int]:
    from litestar import Litestar
    from litestar.channels import ChannelsPlugin
    from litestar.channels.backends.memory import MemoryChannelsBackend

    channels = ChannelsPlugin(
        MemoryChannelsBackend(),
        channels=[ROOM_NAME],
        create_ws_route_handlers=True,
        ws_handler_base_path="/",
    )

    async def tell(text: str) -> None:
        channels.publish(text, [ROOM_NAME])

    peer.tell = tell
    async with asgi(Litestar(plugins=[channels])) as port:
        yield port


@asynccontextmanager
async def _socketio(peer: Peer) -> AsyncIterator[int]:
    import socketio

    server = socketio.AsyncServer(async_mode="asgi", ping_interval=600)

    async def tell(text: str) -> None:
        await server.emit("message", text)

    peer.tell = tell
    async with asgi(socketio.ASGIApp(server)) as port:
        yield port


@asynccontextmanager
async def _channels(peer: Peer) -> AsyncIterator[int]:
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.layers import get_channel_layer
    from django.conf import settings

    layer = "channels.layers.InMemoryChannelLayer"
    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": layer}})

    class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add(ROOM_NAME, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(ROOM_NAME, self.channel_name)

        async def chat(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    async def tell(text: str) -> None:
        message = {"type": "chat", "text": text}
        await get_channel_layer().group_send(ROOM_NAME, message)

    peer.tell = tell
    async with asgi(Consumer.as_asgi(), lifespan="off") as port:
        yield port


PEERS = {
    "litestar channels": (_litestar, "/" + ROOM_NAME, ""),
    "python-socketio": (_socketio, "/socket.io/?EIO=4&transport=websocket", "40"),
    "channels, in memory": (_channels, ROOM, ""),
}
"""By name: how it is served, where its clients connect, and what they say then."""


def main() -> None:
    core, name = sys.argv[1:]
    logging.disable()  # of clients that go without a word
    pin(int(core))
    peer = Peer()
    asyncio.run(run(PEERS[name][0](peer), peer))


if __name__ == "__main__":
    main()
