"""How a tree is drawn."""

import pytest

from safeaio import Snapshot

TREE = Snapshot(
    "app",
    "app",
    "ready",
    children=(
        Snapshot(
            "workers",
            "app/workers",
            "ready",
            since=61.25,
            children=(
                Snapshot("one", "app/workers/one", "starting"),
                Snapshot("two", "app/workers/two", "finished", since=3),
            ),
        ),
        Snapshot(
            "db",
            "app/db",
            "backoff",
            restarts=7,
            streak=3,
            since=0.5,
            next_restart_in=0.3,
            last_error="OSError('gone')",
        ),
    ),
)


def test_tree_as_text() -> None:
    """A line for each, below its supervisor."""
    assert str(TREE).splitlines() == [
        "app: ready for 0.0 s",
        "├── workers: ready for 61.2 s",
        "│   ├── one: starting for 0.0 s",
        "│   └── two: finished for 3.0 s",
        "└── db: backoff for 0.5 s, restart in 0.3 s, 7 restarts, 3 in a row, OSError('gone')",
    ]


def test_tree_in_rich() -> None:
    """Where rich is installed it prints a snapshot as a tree, too."""
    console = pytest.importorskip("rich.console").Console(width=100, no_color=True)
    with console.capture() as captured:
        console.print(TREE)
    assert [line.rstrip() for line in captured.get().splitlines()] == str(
        TREE
    ).splitlines()


def test_text_that_looks_like_markup() -> None:
    """An error may say anything, and is shown as it is; a line stays a line."""
    error = "ValueError('unexpected [/td]\n in [eu, us]')"
    child = Snapshot("worker[a]", "app/worker[a]", "failed", last_error=error)
    tree = Snapshot("app", "app", "ready", children=(child,))
    line = "worker[a]: failed for 0.0 s, ValueError('unexpected [/td]  in [eu, us]')"
    assert str(tree).splitlines()[1:] == [f"└── {line}"]
    console = pytest.importorskip("rich.console").Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(tree)
    assert line in captured.get()
