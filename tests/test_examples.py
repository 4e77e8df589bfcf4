import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TOUR = [sys.executable, str(EXAMPLES / "tour.py"), "--json", "--pages"]
LIMIT = 50
SERVER_LIMIT = 64
GOOD_PAGES = 299  # page 100 fails
STOPS_WITHIN = 3.5  # its grace, and a bit
PATIENCE = 180.0

BOUNDED = ("bounded_map", "bounded_stream")
UNSAFE = ("asyncio.gather", "semaphore + gather")

Rows = dict[str, list[dict[str, Any]]]
Numbers = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def chapters() -> Rows:
    tour = subprocess.run(
        [*TOUR, "300"], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
    )
    rows: Rows = json.loads(tour.stdout)
    return rows


@pytest.fixture(scope="module")
def numbers(chapters: Rows) -> Numbers:
    return {
        chapter: {row["way"]: row for row in rows} for chapter, rows in chapters.items()
    }


@pytest.mark.parametrize("way", BOUNDED)
def test_bounded_way_spares_the_server(numbers: Numbers, way: str) -> None:
    """It opens at most `limit` connections, so none is refused and no page is lost."""
    row = numbers["everything"][way]
    assert row["peak connections"] <= LIMIT
    assert row["refused"] == 0
    assert row["pages"] == GOOD_PAGES


def test_gather_overloads_the_server(numbers: Numbers) -> None:
    """It opens more connections than the server takes, and pages are lost."""
    row = numbers["everything"]["asyncio.gather"]
    assert row["peak connections"] > SERVER_LIMIT
    assert row["refused"] > 0
    assert row["pages"] < GOOD_PAGES


@pytest.mark.parametrize("way", BOUNDED)
def test_bounded_way_ends_with_its_first_error(numbers: Numbers, way: str) -> None:
    """Once it has raised, nothing runs, nothing is requested and nothing warns."""
    row = numbers["first_failure"][way]
    assert row["orphaned tasks"] == 0
    assert row["requests in the next second"] == 0
    assert row["warnings"] == 0


@pytest.mark.parametrize("way", UNSAFE)
def test_gather_outlives_its_first_error(numbers: Numbers, way: str) -> None:
    """It leaves tasks behind that go on sending requests, with a semaphore too."""
    row = numbers["first_failure"][way]
    assert row["orphaned tasks"] > 0
    assert row["requests in the next second"] > 0


def test_cleanup_scope_leaves_no_debris(numbers: Numbers) -> None:
    """Cancelled twice, it still says goodbye, stops its process and removes its file."""
    row = numbers["second_cancel"]["cleanup_scope"]
    assert row.pop("way") == "cleanup_scope"
    assert row.pop("steps done") == 3
    assert set(row.values()) == {0}


@pytest.mark.parametrize("way", ["try/finally", "asyncio.shield"])
def test_raw_cleanup_leaves_debris(numbers: Numbers, way: str) -> None:
    """The second cancel cuts it, or lets the service end before it."""
    row = numbers["second_cancel"][way]
    assert row["steps done"] < 3
    assert row["files left"] == row["processes left"] == 1


def test_safeaio_run_cleans_up_in_time(chapters: Rows) -> None:
    """Whichever signals come, once or twice, and whatever will not die."""
    rows = [row for row in chapters["real_signals"] if row["way"] == "safeaio.run"]
    assert [row["cleaned up"] for row in rows] == [2] * 5
    assert max(row["seconds"] for row in rows) < STOPS_WITHIN
    assert [row["status"] for row in rows] == [
        "by SIGINT" if row["stopped by"].startswith("Ctrl-C") else "143" for row in rows
    ]


def test_asyncio_run_does_not(chapters: Rows) -> None:
    """SIGTERM and a second Ctrl-C end it where it stands; a stuck task makes it hang."""
    rows = [row for row in chapters["real_signals"] if row["way"] == "asyncio.run"]
    assert [(row["cleaned up"], row["status"]) for row in rows] == [
        (0, "by SIGTERM"),
        (0, "by SIGTERM"),
        (0, "by SIGINT"),
        (0, "by SIGTERM"),
        (2, "hangs"),
    ]


def test_supervise_keeps_the_work_going(numbers: Numbers) -> None:
    """Of 3,600 seconds of work nearly all is done, every failure told, the order kept."""
    row = numbers["twenty_minutes"]["supervise"]
    assert row["seconds of work lost"] < 150
    assert row["failures told"] > 40
    assert row["database closed"] == "last"


def test_bare_tasks_die_unheard(numbers: Numbers) -> None:
    """Each works until its first fault; then nobody does."""
    row = numbers["twenty_minutes"]["create_task"]
    assert [row[name] for name in ("crashing", "leaking", "hanging")] == [45, 100, 120]
    assert row["failures told"] == 0
    assert row["database closed"] == "too early"


def test_hub_spares_those_who_read(numbers: Numbers) -> None:
    """Ten who do not are evicted, and cost neither messages, nor time, nor memory."""
    row = numbers["deaf_clients"]["WebSocketHub"]
    assert row["told %"] > 90  # the last ones may still be under way
    assert row["p99 ms"] < numbers["deaf_clients"]["ConnectionManager"]["p99 ms"] / 2
    assert row["deaf evicted"] == 10
    assert row["MB above start"] < 5


def test_deaf_clients_harm_the_others(numbers: Numbers) -> None:
    """A loop of sends stops at the first of them; what never waits keeps all in memory."""
    loop = numbers["deaf_clients"]["ConnectionManager"]
    assert loop["told %"] < 50
    assert loop["deaf evicted"] == 0
    broadcast = numbers["deaf_clients"]["websockets.broadcast"]
    assert broadcast["MB above start"] > 5
    assert broadcast["deaf evicted"] == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_tour_leaves_no_process(number: signal.Signals, status: int) -> None:
    """Interrupted or killed half-way, it takes its server and its client with it."""
    with subprocess.Popen(
        [*TOUR, "20000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tour:
        assert tour.stderr
        assert " of 20000" in tour.stderr.readline()
        tour.send_signal(number)
        # Its children write to the same stderr: it ends with the last of them.
        _, rest = tour.communicate(timeout=PATIENCE)
    assert tour.returncode == status
    if number == signal.SIGINT:
        assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("script", "argument"),
    [
        ("tour_server.py", str(SERVER_LIMIT)),
        ("tour_feed.py", "ConnectionManager"),
        ("tour_feed.py", "websockets.broadcast"),
        ("tour_feed.py", "WebSocketHub"),
    ],
)
def test_server_ends_with_its_stdin(script: str, argument: str) -> None:
    """A server whose starter is gone, whatever way it went, ends by itself."""
    command = [sys.executable, str(EXAMPLES / script), argument]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        try:
            assert json.loads(server.stdout.readline())["port"] > 0
            server.stdin.close()
            assert server.wait(timeout=PATIENCE) == 0
        finally:
            server.kill()
