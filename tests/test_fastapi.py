"""Cleanup in request handlers of a real server, whose clients go away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import uvicorn
import uvloop
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from safeaio import cleanup_scope, shielded


class Handlers:
    """Two handlers, and how far their cleanup has come."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.get("/watching")(self.watching)
        self.app.get("/streaming")(self.streaming)
        self.running = asyncio.Event()
        self.ended = asyncio.Event()
        self.steps: list[str] = []

    async def watching(self, request: Request) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._cancel_when_gone, request, group.cancel_scope)
            await self.work()

    async def streaming(self) -> StreamingResponse:
        return StreamingResponse(self._stream())

    async def work(self) -> None:
        try:
            async with cleanup_scope() as scope:
                scope.defer(self.clean_up, "first")
                scope.defer(self.clean_up, "second")
                self.running.set()
                await asyncio.Event().wait()
        finally:
            try:
                await shielded(self.clean_up("third"))
            finally:
                self.ended.set()

    async def clean_up(self, step: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.steps.append(step)

    async def _stream(self) -> AsyncIterator[bytes]:
        yield b"begin"
        await self.work()

    async def _cancel_when_gone(
        self, request: Request, scope: anyio.CancelScope
    ) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it offers no event
        await asyncio.sleep(0.001)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("path", ["watching", "streaming"])
@pytest.mark.parametrize(
    "make_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)
def test_client_goes_away(
    path: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The scope of the request is cancelled, and the cleanup in it runs to its end."""

    async def main() -> None:
        handlers = Handlers()
        async with asyncio.timeout(60), serving(handlers.app) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n" % path.encode())
            await handlers.running.wait()
            writer.close()
            await writer.wait_closed()
            await handlers.ended.wait()
        assert handlers.steps == ["second", "first", "third"]

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())
