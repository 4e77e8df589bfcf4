"""What systemd is told, through a real datagram socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.abc import TaskStatus

import safeaio
from safeaio import Service, supervise


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager that wants to hear something."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield sock


def heard(manager: socket.socket) -> list[str]:
    said: list[str] = []
    while True:
        try:
            said.append(manager.recv(100).decode())
        except BlockingIOError:
            return said


async def waiting() -> None:
    await asyncio.get_running_loop().create_future()


async def test_ready_and_stopping(manager: socket.socket) -> None:
    """Ready when all are, and stopping once the first is to stop; each is told once."""
    go = asyncio.Event()

    async def slow(*, task_status: TaskStatus[None]) -> None:
        await go.wait()
        task_status.started()
        try:
            await waiting()
        finally:
            assert heard(manager) == ["STOPPING=1"]

    asyncio.get_running_loop().call_later(0.01, go.set)
    inner = Service(supervise, waiting, name="inner")
    async with supervise(waiting, slow, inner):
        assert heard(manager) == ["READY=1"]
    assert heard(manager) == []


@pytest.mark.virtual_time
async def test_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alive at half the interval, as long as the loop turns."""
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with supervise(waiting):
        await asyncio.sleep(11)
    assert heard(manager) == ["READY=1", *["WATCHDOG=1"] * 3, "STOPPING=1"]
    await asyncio.sleep(60)
    assert heard(manager) == []


@pytest.mark.parametrize(
    ("micros", "pid"), [("10000000", "1"), ("", ""), ("0", ""), ("soon", "")]
)
@pytest.mark.virtual_time
async def test_watchdog_for_somebody_else(
    micros: str, pid: str, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or for nobody: nothing is told."""
    monkeypatch.setenv("WATCHDOG_USEC", micros)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    async with supervise(waiting):
        await asyncio.sleep(60)
    assert heard(manager) == ["READY=1", "STOPPING=1"]


async def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name begins with an @ in the environment."""
    name = f"safeaio-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        await supervise(_job)
        assert heard(manager) == ["READY=1", "STOPPING=1"]


async def _job() -> None:
    await asyncio.sleep(0)


async def test_manager_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    await supervise(_job)


def test_under_run(manager: socket.socket) -> None:
    """A shutdown is told when it begins."""

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, safeaio.request_shutdown)
        await supervise(waiting)

    safeaio.run(main)
    assert heard(manager) == ["READY=1", "STOPPING=1"]


async def test_pools_tell_nothing(manager: socket.socket) -> None:
    """Nor does a second supervisor: to the manager the process is one service."""
    async with supervise() as pool:
        await pool.start(_job)
    assert heard(manager) == []
    async with supervise(waiting):
        assert heard(manager) == ["READY=1"]
        await supervise(_job)
        async with supervise() as pool:
            await pool.start(_job)
        assert heard(manager) == []
    assert heard(manager) == ["STOPPING=1"]


def fill(manager: socket.socket) -> None:
    """Leave no room in the queue of the manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.sendto(b"filler", manager.getsockname())


@pytest.mark.virtual_time
async def test_manager_that_does_not_read(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What matters is told once it reads again; signs of life are not kept for it."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    fill(manager)
    async with supervise(waiting):
        await asyncio.sleep(3.5)
        assert set(heard(manager)) == {"filler"}
        await asyncio.sleep(0.2)
        assert heard(manager) == ["READY=1"]
        await asyncio.sleep(1)
        assert heard(manager) == ["WATCHDOG=1"]


@pytest.mark.virtual_time
async def test_end_that_a_manager_does_not_read(manager: socket.socket) -> None:
    """It is told later, while the services stop; readiness that nobody read is not."""

    async def slow() -> None:
        try:
            await waiting()
        finally:
            await asyncio.sleep(1)
            assert set(heard(manager)) == {"filler"}
            await asyncio.sleep(1)

    fill(manager)
    async with supervise(slow):
        await asyncio.sleep(0)
    assert heard(manager) == ["STOPPING=1"]


@pytest.mark.parametrize("digits", [400, 5000])
async def test_watchdog_of_a_lifetime(
    digits: int, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number breaks anything."""
    monkeypatch.setenv("WATCHDOG_USEC", "9" * digits)
    async with supervise(waiting):
        assert heard(manager) == ["READY=1", "WATCHDOG=1"]
