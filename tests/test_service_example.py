"""examples/service as a process: its dependencies die, it recovers, and it loses nothing."""

import http.client
import os
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 30.0  # seconds; on a busy machine


class Sensor(socketserver.ThreadingTCPServer):
    """Says the same number to whoever connects."""

    allow_reuse_address = True
    daemon_threads = True

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(b"21.5\n")

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), self.Answer)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def die(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class Running:
    """The service, and one who talks to it."""

    def __init__(self, process: subprocess.Popen[str], port: int, path: Path) -> None:
        self.process = process
        self.port = port
        self.path = path

    def ask(self, method: str, path: str) -> tuple[int, str]:
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        ) as c:
            c.request(method, path)
            answer = c.getresponse()
            return answer.status, answer.read().decode()

    def status_of(self, path: str) -> int:
        try:
            return self.ask("GET", path)[0]
        except OSError:
            return 0

    def put(self, sensor: str) -> bool:
        """Tell whether a reading was taken."""
        try:
            return self.ask("POST", f"/readings?sensor={sensor}&value=1")[0] == 201
        except (OSError, http.client.HTTPException):
            return False

    def stored(self) -> set[str]:
        with closing(sqlite3.connect(self.path)) as database:
            return {row[0] for row in database.execute("SELECT sensor FROM readings")}

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log


def until(holds: Callable[[], Any]) -> None:
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, "it did not come about"
        sleep(0.02)


@contextmanager
def service(folder: Path, *sensors: int, **faults: str) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = folder / "readings.db"
    command = [sys.executable, "-m", "service", str(path), str(port)]
    process = subprocess.Popen(
        [*command, *map(str, sensors)],
        cwd=EXAMPLES,
        env={**os.environ, **faults},
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process, port, path)
    try:
        until(lambda: running.status_of("/health/live") == 200)
        yield running
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def sensor() -> Iterator[Sensor]:
    sensor = Sensor()
    yield sensor
    sensor.die()


def test_it_recovers_when_its_dependencies_do(tmp_path: Path) -> None:
    """A dead sensor costs the readiness, not the life; all that was taken is kept."""
    sensor = Sensor()
    name = f"127.0.0.1:{sensor.port}"
    with service(tmp_path, sensor.port) as running:
        until(lambda: running.status_of("/health/ready") == 200)
        until(lambda: name in running.stored())
        sensor.die()
        until(lambda: running.status_of("/health/ready") == 503)
        assert running.status_of("/health/live") == 200
        assert "poller: " in running.ask("GET", "/status")[1]
        assert running.put("meanwhile")
        sensor = Sensor(sensor.port)
        until(lambda: running.status_of("/health/ready") == 200)
        assert "restarts" in running.ask("GET", "/status")[1]
        code, log = running.end()
        assert code == 0, log
        assert "meanwhile" in running.stored()
    sensor.die()


def test_nothing_that_was_taken_is_lost(tmp_path: Path, sensor: Sensor) -> None:
    """Though the writer crashes again and again, and a signal comes in the middle."""
    taken: set[str] = set()
    with service(tmp_path, sensor.port, FAULT_STORE="crash:3:4") as running:

        def put_many(who: int) -> None:
            for number in range(10_000):
                if not running.put(f"{who}-{number}"):
                    return
                taken.add(f"{who}-{number}")

        threads = [threading.Thread(target=put_many, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(taken) > 100)
        code, log = running.end()
        for thread in threads:
            thread.join()
        assert code == 0, log
        assert "store, step" in log
        assert taken <= running.stored()


def test_a_part_that_crashes_is_restarted(tmp_path: Path, sensor: Sensor) -> None:
    """And the log says with what."""
    with service(tmp_path, sensor.port, FAULT_POLLER="crash:4") as running:
        until(lambda: "restarts" in running.ask("GET", "/status")[1])
        code, log = running.end()
        assert code == 0, log
        assert "poller, step 4" in log
