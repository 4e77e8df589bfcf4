"""examples/chat as a process."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def chat(port: int = 0) -> AsyncIterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run it, and give the process and its port once its page is served."""
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "chat", str(port)]
    process = subprocess.Popen(command, cwd=EXAMPLES)  # noqa: ASYNC220
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                with suppress(httpx.HTTPError):
                    page = await http.get(f"http://127.0.0.1:{port}/")
                    assert "be a slow client" in page.text
                    break
                assert process.poll() is None
                await asyncio.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()
