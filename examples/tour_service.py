"""A service that is stopped one way, and what it leaves behind, as a line of JSON."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import safeaio
from safeaio import cancel_and_wait, cleanup_scope


class Service:
    """Holds a temporary file, a connection and a subprocess, and can let go of each."""

    file: Path
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter

    def __init__(self, port: int) -> None:
        self._port = port
        self.working = asyncio.Event()
        self.cleaning = asyncio.Event()
        self.done: list[str] = []

    async def start(self) -> None:
        self.file = await asyncio.to_thread(new_file)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )
        _, self.writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def work(self) -> None:
        self.working.set()
        await asyncio.Event().wait()

    async def say_goodbye(self) -> None:
        self.cleaning.set()
        await asyncio.sleep(0.05)  # what is still to be sent
        self.writer.write(b"bye\n")
        await self.writer.drain()
        self.writer.close()
        await self.writer.wait_closed()
        self.done.append("goodbye")

    async def stop_process(self) -> None:
        self.process.terminate()
        await self.process.wait()
        self.done.append("process")

    async def remove_file(self) -> None:
        await asyncio.to_thread(self.file.unlink)
        self.done.append("file")

    async def clean_up(self) -> None:
        await self.say_goodbye()
        await self.stop_process()
        await self.remove_file()


def new_file() -> Path:
    handle, name = tempfile.mkstemp()
    os.close(handle)
    return Path(name)


async def with_finally(service: Service) -> None:
    await service.start()
    try:
        await service.work()
    finally:
        await service.clean_up()


async def with_shield(service: Service) -> None:
    await service.start()
    try:
        await service.work()
    finally:
        await asyncio.shield(service.clean_up())


async def with_exit_stack(service: Service) -> None:
    async with AsyncExitStack() as stack:
        await service.start()
        stack.push_async_callback(service.remove_file)
        stack.push_async_callback(service.stop_process)
        stack.push_async_callback(service.say_goodbye)
        await service.work()


async def with_cleanup_scope(service: Service) -> None:
    async with cleanup_scope() as scope:
        await service.start()
        scope.defer(service.remove_file)
        scope.defer(service.stop_process)
        scope.defer(service.say_goodbye)
        await service.work()


WAYS: dict[str, Callable[[Service], Awaitable[None]]] = {
    "try/finally": with_finally,
    "asyncio.shield": with_shield,
    "AsyncExitStack": with_exit_stack,
    "cleanup_scope": with_cleanup_scope,
}


class Peer:
    """The other end of the connection."""

    def __init__(self) -> None:
        self.heard = b""
        self.hung_up = asyncio.Event()

    async def connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):
            self.heard = await reader.read()
        writer.close()
        self.hung_up.set()


async def main(way: str) -> None:
    peer = Peer()
    server = await asyncio.start_server(peer.connected, "127.0.0.1", 0)
    service = Service(server.sockets[0].getsockname()[1])
    task = asyncio.ensure_future(WAYS[way](service))
    await service.working.wait()
    others = asyncio.all_tasks() - {task}
    task.cancel()
    await service.cleaning.wait()
    task.cancel()
    await asyncio.wait([task])
    left = asyncio.all_tasks() - others
    debris = {
        "steps done": len(service.done),
        "files left": int(service.file.exists()),
        "processes left": int(service.process.returncode is None),
        "tasks left": len(left),
    }
    await cancel_and_wait(*left)
    await sweep_up(service)
    await peer.hung_up.wait()
    debris["connections cut"] = int(peer.heard != b"bye\n")
    print(json.dumps(debris), flush=True)
    server.close()


async def sweep_up(service: Service) -> None:
    with suppress(ProcessLookupError):
        service.process.kill()
    await service.process.wait()
    service.file.unlink(missing_ok=True)
    service.writer.close()


if __name__ == "__main__":
    safeaio.run(main, sys.argv[1])
