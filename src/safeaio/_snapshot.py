"""What a supervisor's tree looks like at one moment."""

from collections.abc import Iterator
from typing import Any, Self, final

import attrs

from ._record import Record


@attrs.frozen(eq=False, repr=False)
@final
class Snapshot(Record):
    """A supervisor or one of its children, at one moment. `str()` draws the tree.

    Attributes:
        name: Its name.
        path: Where it is, such as `"app/workers/poller"`.
        state: `"waiting"` for its turn, `"starting"`, `"ready"`, `"backoff"`,
            `"stopping"`, `"stopped"`, `"finished"` or `"failed"`.
        restarts: How often it was restarted.
        streak: How often in a row.
        since: For how many seconds it has been in this state.
        next_restart_in: The seconds to its next life, in `"backoff"`.
        last_error: What it failed with last, as text.
        children: Those of a supervisor, in the order in which they start.
    """

    name: str
    path: str
    state: str
    restarts: int = 0
    streak: int = 0
    since: float = 0.0
    next_restart_in: float | None = None
    last_error: str | None = None
    children: tuple[Self, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self, "", ""))

    def __rich__(self) -> Any:
        from rich.text import Text  # whoever calls this has it
        from rich.tree import Tree

        tree = Tree(Text(_line(self)))  # an error's text is no markup
        for child in self.children:
            tree.add(child.__rich__())
        return tree


def _lines(node: Snapshot, first: str, rest: str) -> Iterator[str]:
    yield first + _line(node)
    last = len(node.children) - 1
    for index, child in enumerate(node.children):
        ends = index == last
        yield from _lines(
            child,
            rest + ("└── " if ends else "├── "),
            rest + ("    " if ends else "│   "),
        )


def _line(node: Snapshot) -> str:
    parts = [f"{node.name}: {node.state} for {node.since:.1f} s"]
    if node.next_restart_in is not None:
        parts.append(f"restart in {node.next_restart_in:.1f} s")
    if node.restarts:
        parts.append(f"{node.restarts} restarts, {node.streak} in a row")
    if node.last_error is not None:
        parts.append(node.last_error)
    return " ".join(", ".join(parts).splitlines())


@attrs.frozen(eq=False, repr=False)
@final
class Health(Record):
    """What a health endpoint has to know.

    Attributes:
        live: Whether the supervisor is at work, or stopping in order: a child that is
            restarted is no reason to restart the process.
        ready: Whether every child is ready, and nothing is about to stop.
    """

    live: bool
    ready: bool
