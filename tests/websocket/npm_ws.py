"""Clients that are not of Python: npm's `ws`, a process each; see client.mjs."""

import asyncio
import json
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .installed import installed

VERSION = "8.23.0"

_HERE = Path(__file__).parent
_FOLDER = _HERE.parents[1] / ".venv" / "npm"


class NpmClient:
    """One client."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands, self._events = process.stdin, process.stdout

    def do(self, command: str, **options: Any) -> None:
        """Give it a command."""
        text = json.dumps({"command": command, **options})
        self._commands.write(text.encode() + b"\n")

    async def told(self, *wanted: str) -> Any:
        """Return the next event of these kinds, unless it is closed before."""
        while line := await self._events.readline():
            event = json.loads(line)
            if event["event"] in wanted:
                return event
            assert event["event"] != "close", event
        raise AssertionError(f"node ended, and told of no {' or '.join(wanted)}")


def install() -> str:
    """Return where Node.js is, once npm has put `ws` below .venv/."""
    node = installed("node", "nodejs")
    package = _FOLDER / "node_modules" / "ws" / "package.json"
    if package.exists() and json.loads(package.read_text())["version"] == VERSION:
        return node
    npm = installed("npm", "npm")
    options = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund")
    command = [npm, "install", *options, "--prefix", str(_FOLDER), f"ws@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"
    return node


@asynccontextmanager
async def npm_client(port: int) -> AsyncIterator[NpmClient]:
    """Run a client; it vanishes at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        install(),
        str(_HERE / "client.mjs"),
        str(_FOLDER),
        f"ws://127.0.0.1:{port}/",
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        yield NpmClient(process)
    finally:
        process.kill()
        await process.wait()
