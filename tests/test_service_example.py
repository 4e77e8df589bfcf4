"""examples/service: its dependencies die, it recovers, and it loses nothing it has taken."""

import asyncio
import http.client
import itertools
import json
import os
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import safeaio
from safeaio import (
    Backoff,
    ChildFailed,
    ChildReady,
    ChildStopping,
    Event,
    Service,
    supervise,
)
from safeaio.testing import VirtualClockLoop

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))

from service import store as store_module
from service.feed import STALL_TIMEOUT
from service.poller import Poller
from service.store import Reading, Store

PATIENCE = 30.0  # seconds; on a busy machine


class Sensor(socketserver.ThreadingTCPServer):
    """Says the same to whoever connects, until its block is left."""

    allow_reuse_address = True
    daemon_threads = True

    class Answer(socketserver.BaseRequestHandler):
        server: "Sensor"

        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(self.server.says)

    def __init__(self, port: int = 0, says: bytes = b"21.5\n") -> None:
        super().__init__(("127.0.0.1", port), self.Answer)
        self.says = says
        self.port = int(self.server_address[1])
        self.name = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class Running:
    """The service as a process, and one who talks to it."""

    def __init__(self, folder: Path, sensors: Iterable[int], faults: dict[str, str]):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.database = folder / "readings.db"
        self._log = folder / "log"
        with self._log.open("a") as log:  # a pipe that nobody reads would fill up
            self.process = subprocess.Popen(
                command(self.database, self.port, *sensors),
                cwd=EXAMPLES,
                env={**os.environ, **faults},
                stderr=log,
            )

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """Return status and text, or 0 if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection):
            try:
                connection.request(method, path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def health(self, question: str) -> int:
        return self.ask("GET", f"/health/{question}")[0]

    @property
    def status(self) -> str:
        return self.ask("GET", "/status")[1]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def put(self, sensor: str) -> int:
        return self.ask("POST", f"/readings?sensor={sensor}&value=1")[0]

    def rows(self, sensor: str) -> int:
        return stored(self.database)[sensor]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def command(database: Path, *ports: int) -> list[str]:
    return [sys.executable, "-m", "service", str(database), *map(str, ports)]


def stored(path: Path) -> Counter[str]:
    """Count the readings of each sensor in a database."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        return Counter(row[0] for row in database.execute("SELECT * FROM readings"))


def until(holds: Callable[[], Any]) -> None:
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, "it did not come about"
        sleep(0.02)


@contextmanager
def service(folder: Path, *sensors: int, **faults: str) -> Iterator[Running]:
    running = Running(folder, sensors, faults)
    try:
        until(lambda: running.health("ready") == 200)
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@contextmanager
def clients(running: Running) -> Iterator[set[str]]:
    """Four that put readings without a rest; yields which were taken."""
    names = (f"{running.process.pid}-{number}" for number in itertools.count())
    lock = threading.Lock()
    taken: set[str] = set()
    enough = threading.Event()

    def put_many() -> None:
        while not enough.is_set():
            with lock:
                name = next(names)
            if running.put(name) == 201:
                taken.add(name)
            else:
                enough.wait(0.01)

    threads = [threading.Thread(target=put_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield taken
    finally:
        enough.set()
        for thread in threads:
            thread.join()


class Watcher:
    """One who watches the feed.

    Attributes:
        heard: The sensors of all readings so far.
        values: The latest of each.
        code: With which the feed was closed, if it was.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.values: dict[str, float | None] = {}
        self.code: int | None = None

    def listen(self, client: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            for message in client:
                reading = json.loads(message)
                self.values[reading["sensor"]] = reading["value"]
                self.heard.append(reading["sensor"])
        self.code = client.close_code


@contextmanager
def watching(running: Running) -> Iterator[Watcher]:
    watcher = Watcher()
    with connect(f"ws://127.0.0.1:{running.port}/feed", proxy=None) as client:
        thread = threading.Thread(target=watcher.listen, args=(client,))
        thread.start()
        try:
            yield watcher
        finally:
            client.close()
            thread.join()


@contextmanager
def deaf(running: Running) -> Iterator[None]:
    """Watch the feed, and never read a byte of it."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running.port))
        client.sendall(
            b"GET /feed HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody else from reading and writing a database."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.rollback()


def test_a_dead_sensor_costs_its_own_readings_alone(tmp_path: Path) -> None:
    """One that is silent, and one that talks nonsense, too; /status tells of them all."""
    mortal = Sensor()
    deaf = socket.create_server(("127.0.0.1", 0))  # which accepts nobody
    silent = deaf.getsockname()[1]
    with Sensor() as good, Sensor(says=b"warm\n") as odd, deaf:
        ports = (odd.port, silent, mortal.port, good.port)
        with service(tmp_path, *ports) as running:
            with mortal:
                until(lambda: running.rows(mortal.name) > 0)
                until(lambda: f"{silent}: TimeoutError" in running.status)
                until(lambda: f"{odd.name}: ValueError" in running.status)
            until(lambda: f"{mortal.name}: ConnectionRefused" in running.status)
            before = stored(running.database)
            until(lambda: running.rows(good.name) > before[good.name] + 1)
            assert running.rows(mortal.name) == before[mortal.name]
            assert (running.health("live"), running.health("ready")) == (200, 200)
            with Sensor(mortal.port):
                until(lambda: running.rows(mortal.name) > before[mortal.name])
                until(lambda: mortal.name not in running.status)
            assert "restarts" not in running.status
            assert running.end() == 0, running.log


def test_a_part_that_crashes_or_hangs_is_restarted(tmp_path: Path) -> None:
    """The log says why, and then it works again."""
    faults = {"FAULT_STORE": "crash:3:2", "FAULT_POLLER": "hang:2:1"}
    with (
        Sensor() as sensor,
        service(tmp_path, sensor.port, **faults) as running,
        clients(running),
    ):
        until(lambda: "Injected('store, step 6')" in running.log)
        until(lambda: "'poller' has not called beat() for 2" in running.log)
        before = running.rows(sensor.name)
        until(lambda: running.rows(sensor.name) > before + 1)
        assert (running.health("live"), running.health("ready")) == (200, 200)
        assert running.end() == 0, running.log


def test_a_kill_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    """By SIGKILL, while requests are under way, and the writer waits for the database."""
    with service(tmp_path) as running, clients(running) as taken:
        until(lambda: len(taken) > 50)
        with locked(running.database):
            until(lambda: running.health("ready") == 503)
            running.process.kill()
            running.process.wait()
    assert taken <= set(stored(running.database))


def test_a_locked_database_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    """Nor stores it twice; meanwhile the service is not ready, but lives, and then it is."""
    with service(tmp_path) as running, clients(running) as taken:
        until(lambda: len(taken) > 20)
        with locked(running.database):
            until(lambda: running.health("ready") == 503)
            assert running.health("live") == 200
        until(lambda: running.health("ready") == 200)
        before = len(taken)
        until(lambda: len(taken) > before + 20)
        assert running.end() == 0, running.log
    assert "OperationalError('database is locked')" in running.log
    rows = stored(running.database)
    assert taken <= set(rows)
    assert set(rows.values()) == {1}


def test_a_request_under_way_at_the_end_is_answered(tmp_path: Path) -> None:
    """Also if the writer cannot write, and waits for its next try."""
    answers: list[int] = []
    with service(tmp_path) as running:
        client = threading.Thread(target=lambda: answers.append(running.put("late")))
        with locked(running.database):
            client.start()
            until(lambda: running.health("ready") == 503)
            code = running.end()
        client.join()
    assert answers == [503]
    assert code == 0, running.log


def test_who_watches_hears_all_and_is_told_of_the_end(tmp_path: Path) -> None:
    """What was stored before a SIGTERM comes before the 1012; nothing is told that is not."""
    with Sensor() as sensor, service(tmp_path, sensor.port) as running:
        with watching(running) as one, watching(running) as other:
            with clients(running) as taken:
                until(lambda: one.values.get(sensor.name) == 21.5)
                until(lambda: len(taken) > 20)
                assert "feed: 2 watching, 0 bytes behind, 0 evicted" in running.status
                due = set(taken)
                until(lambda: running.put("last") == 201)
                assert running.end() == 0, running.log
            until(lambda: one.code and other.code)
        rows = stored(running.database)
        assert taken <= set(rows)
        for watcher in (one, other):
            assert watcher.code == 1012
            assert due | {"last"} <= set(watcher.heard)
            assert Counter(watcher.heard) <= rows


def test_who_does_not_read_the_feed_holds_nobody_up(tmp_path: Path) -> None:
    """And is evicted; until then readings are taken, and the others hear them at once."""
    big = "x" * 4000
    with service(tmp_path) as running, watching(running) as watcher, deaf(running):
        told = [monotonic()]

        def status_after_one() -> str:
            heard = len(watcher.heard)
            if running.put(big) == 201:
                until(lambda: len(watcher.heard) > heard)
                told.append(monotonic())
            return running.status

        until(lambda: "feed: 2 watching" in running.status)
        until(lambda: ", 0 bytes behind" not in status_after_one())
        until(lambda: "1 watching, 0 bytes behind, 1 evicted" in status_after_one())
        told.append(monotonic())
        assert max(b - a for a, b in pairwise(told)) < STALL_TIMEOUT - 1
        assert running.end() == 0, running.log


def test_no_number_is_told_as_none(tmp_path: Path) -> None:
    """JSON has no NaN: a sensor that says so must not end the writer."""
    with Sensor(says=b"nan\n") as odd, service(tmp_path, odd.port) as running:
        with watching(running) as watcher:
            until(lambda: odd.name in watcher.values)
            assert watcher.values[odd.name] is None
        assert "restarts" not in running.status
        assert running.end() == 0, running.log


def test_a_port_in_use_is_a_failed_start(tmp_path: Path) -> None:
    """It ends the program, as any other error, with the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            command(tmp_path / "readings.db", taken.getsockname()[1]),
            cwd=EXAMPLES,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 1
    assert "service 'api'" in ended.stderr
    assert "address already in use" in ended.stderr
    assert "SystemExit" not in ended.stderr


def test_many_silent_sensors_are_no_hang() -> None:
    """Though it takes longer to ask them all than the watchdog waits."""
    failures: list[Event] = []

    def note(event: Event) -> None:
        if isinstance(event, ChildFailed):
            failures.append(event)

    async def main(address: tuple[str, int]) -> None:
        poller = Poller([address] * 20, Store("never written"))
        polling = Service(poller.poll, 0.2, watchdog=2)
        async with supervise(polling, on_event=note):
            await asyncio.sleep(20)
        assert poller.troubles

    with socket.create_server(("127.0.0.1", 0)) as silent:
        safeaio.run(main, silent.getsockname(), loop_factory=VirtualClockLoop)
    assert failures == []


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "STORED_WITHIN", PATIENCE)


class Slow(Store):
    """Waits in the middle of an insert."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.inserting = threading.Event()
        self.go_on = threading.Event()

    def _insert(self, readings: Iterable[Reading]) -> None:
        self.inserting.set()
        assert self.go_on.wait(PATIENCE)
        super()._insert(readings)


@pytest.mark.usefixtures("patient")
def test_the_writer_stops_in_the_middle_of_an_insert(tmp_path: Path) -> None:
    """It finishes that, stores what else there is, each once, and only then says so."""
    path = tmp_path / "readings.db"

    async def main() -> None:
        store = Slow(path)
        stopping = asyncio.Event()

        def note(event: Event) -> None:
            if isinstance(event, ChildStopping):
                stopping.set()

        writer = Service(store.write, name="store")
        async with supervise(writer, on_event=note) as sup:
            first = asyncio.create_task(store.put(Reading("first", 1)))
            await asyncio.to_thread(store.inserting.wait, PATIENCE)
            second = asyncio.create_task(store.put(Reading("second", 1)))
            stop = asyncio.create_task(sup.stop("store"))
            await stopping.wait()
            assert not first.done()
            store.go_on.set()
            await asyncio.gather(stop, first, second)

    asyncio.run(main())
    assert stored(path) == {"first": 1, "second": 1}


class Refusing(Store):
    """Fails twice."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.tries = 0

    def _insert(self, readings: Iterable[Reading]) -> None:
        self.tries += 1
        if self.tries < 3:
            raise sqlite3.OperationalError("disk is full")
        super()._insert(readings)


@pytest.mark.usefixtures("patient")
def test_a_batch_that_failed_is_for_the_next_life(tmp_path: Path) -> None:
    """Each life tries it once, and is not ready before it is stored."""
    path = tmp_path / "readings.db"
    seen: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, ChildReady):
            seen.append("ready")
        if isinstance(event, ChildFailed):
            seen.append(repr(event.error))

    async def main() -> None:
        store = Refusing(path)
        writer = Service(store.write, backoff=Backoff(base=0))
        async with supervise(writer, on_event=note):
            await store.put(Reading("only", 1))

    asyncio.run(main())
    assert stored(path) == {"only": 1}
    assert seen[:3] == ["ready", *["OperationalError('disk is full')"] * 2]
