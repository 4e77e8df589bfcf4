"""Real servers under `safeaio.run` end on SIGTERM, with a stream and a WebSocket open.

Run as a program, this file is such a server: `test_uvicorn.py wiring loop`.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import uvicorn
import uvloop
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from websockets.sync.client import connect

import safeaio

GRACE = 4.0
PATIENCE = 60.0
TERMINATED = 128 + signal.SIGTERM
CLEANED_UP = {"stream cleaned up", "websocket cleaned up", "lifespan cleaned up"}

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("wiring", "statuses"),
    [
        # The stream holds it until it is cancelled.
        ("plain", {TERMINATED}),
        ("wired", {0}),
        # From 3.12 on, it waits for connections without a limit, but not on uvloop.
        ("hypercorn", {0, TERMINATED}),
    ],
)
def test_server_ends_within_grace(wiring: str, loop: str, statuses: set[int]) -> None:
    """The application cleans up, whatever is open, and the process is not killed."""
    with serving(wiring, loop) as (server, port), open_connections(port):
        sent = time.monotonic()
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - sent
    assert set(out.splitlines()) >= CLEANED_UP, err
    assert server.returncode in statuses, err
    assert "not over" not in err
    assert seconds < GRACE + 0.5


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("wiring", ["plain", "wired", "hypercorn"])
def test_idle_server_ends_at_once(wiring: str, loop: str) -> None:
    """With nothing open it winds up by itself, and that is a success."""
    with serving(wiring, loop) as (server, port):
        assert b" 200 " in get("/started", port)
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=PATIENCE)
    assert out == "lifespan cleaned up\nmain went on\n", err
    assert server.returncode == 0, err
    assert "left behind" not in err


@pytest.mark.parametrize("loop", LOOPS)
def test_plain_server_raises_its_signal_again(loop: str) -> None:
    """That counts as the next one: what main awaits after its server is cancelled."""
    with serving("again", loop) as (server, port), open_connections(port):
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=PATIENCE)
    assert {"served", *CLEANED_UP} == set(out.splitlines()), err
    assert server.returncode == TERMINATED, err


@contextmanager
def serving(wiring: str, loop: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a server, and wait until it listens."""
    with subprocess.Popen(
        [sys.executable, __file__, wiring, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout
            yield server, int(server.stdout.readline())
        finally:
            server.kill()


@contextmanager
def open_connections(port: int) -> Iterator[None]:
    """Hold a stream that has begun, and a WebSocket that is being waited for."""
    with (
        closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as stream,
        connect(f"ws://127.0.0.1:{port}/websocket") as websocket,
    ):
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n")
        while b"begin" not in stream.recv(4096):
            pass
        assert websocket.recv(PATIENCE) == "begin"
        yield


def get(path: str, port: int) -> bytes:
    """Return the answer, when the server has closed the connection."""
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as client:
        client.sendall(
            b"GET %s HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
            % path.encode()
        )
        return b"".join(iter(partial(client.recv, 4096), b""))


# The server


def say(line: str) -> None:
    print(line, flush=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0.01)
        say("lifespan cleaned up")


app = FastAPI(lifespan=lifespan)


@app.get("/started")
async def started() -> None:
    pass


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(endless())


async def endless() -> AsyncIterator[str]:
    try:
        yield "begin"
        while True:
            await asyncio.sleep(0.01)
            yield "more"
    finally:
        say("stream cleaned up")


@app.websocket("/websocket")
async def websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        await websocket.send_text("begin")
        with suppress(WebSocketDisconnect):
            await websocket.receive_text()
    finally:
        say("websocket cleaned up")


class OwnServer(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def plain(sock: socket.socket) -> None:
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([sock])


async def again(sock: socket.socket) -> None:
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve([sock])
    say("served")
    await asyncio.Event().wait()


async def wired(sock: socket.socket) -> None:
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = OwnServer(config)

    async def stop() -> None:
        await safeaio.wait_for_shutdown()
        server.should_exit = True

    safeaio.background(stop())
    await server.serve([sock])


async def with_hypercorn(sock: socket.socket) -> None:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{os.dup(sock.fileno())}"]  # it closes it
    config.graceful_timeout = 1
    serve: Any = hypercorn.asyncio.serve  # its types ask for more than FastAPI says
    await serve(app, config, shutdown_trigger=safeaio.wait_for_shutdown)


WIRINGS = {
    "plain": plain,
    "again": again,
    "wired": wired,
    "hypercorn": with_hypercorn,
}


async def main(wiring: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        say(str(sock.getsockname()[1]))  # it listens already
        await WIRINGS[wiring](sock)
    say("main went on")


if __name__ == "__main__":
    safeaio.run(main, sys.argv[1], grace=GRACE, loop_factory=LOOPS[sys.argv[2]])
