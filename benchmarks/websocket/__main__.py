"""Measure WebSockets, judge the goals: `python -m benchmarks.websocket [--quick]`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import final

import attrs
from rich.console import Console
from rich.table import Table

from ..readme import README, goal_rows, row
from ..report import Context, Verdict, load_average
from ..tables import print_verdicts
from . import goals
from .figures import BROADCAST, HUB, LOADS, WRITE, Cost
from .goals import CROWDS, FULL, GOALS, QUICK, SIZES, SPEED_OVER, Scale
from .servers import BARE, SERVERS, SESSION

_PACKAGES = (
    "websockets",
    "aiohttp",
    "fastapi",
    "uvicorn",
    "litestar",
    "python-socketio",
    "channels",
)
_BEGIN = "<!-- figures: written by `python -m benchmarks.websocket --write` -->"
_END = "<!-- end of figures of WebSockets -->"


@attrs.frozen
@final
class Line:
    """What one message to one peer costs, by one way, in microseconds."""

    case: str
    way: str
    time: float
    cpu: float


@attrs.frozen
@final
class Measured:
    """All of one run."""

    context: Context
    lines: list[Line]
    verdicts: list[Verdict]


def main() -> None:
    args = _arguments()
    if args.write:
        _write(_read(args.write))
        return
    console = Console()
    context = Context.here(quick=args.quick, packages=_PACKAGES)
    console.print(str(context))
    scale = QUICK if args.quick else FULL
    verdicts = [goal.judge(scale) for goal in GOALS]
    context.load.append(load_average())
    measured = Measured(context, [*_lines(scale)], verdicts)
    _print_lines(console, measured.lines)
    print_verdicts(console, verdicts)
    if args.json:
        args.json.write_text(json.dumps(attrs.asdict(measured), indent=1) + "\n")
    sys.exit(any(verdict.missed for verdict in verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.websocket", description=__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of everything; judges nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="measure nothing: put the figures of such a file into benchmarks/README.md",
    )
    return parser.parse_args()


def _lines(scale: Scale) -> Iterator[Line]:
    """Give the costs behind the goals, all of which have been measured by now."""
    for name in SERVERS:
        for load in LOADS:
            costs = goals.echo(name, load, scale)
            for way, title in ((BARE, "bare loop"), (SESSION, "session")):
                yield _line(f"echo, {load}", f"{name}, {title}", costs[way])
    for n in CROWDS:
        for size in SIZES:
            costs = goals.fan_out(n, size, scale)
            case = f"{n:,} clients, {size} B"
            yield _line(case, "hub.publish", costs[HUB])
            yield _line(case, "websockets.broadcast", costs[BROADCAST])
            yield _line(case, "os.write, and nothing else", costs[WRITE])
            if n == CROWDS[0]:
                for peer in SPEED_OVER:
                    costs_of_peer = goals.fan_out_of_peer(peer, size, scale)
                    yield _line(case, peer, costs_of_peer[peer])


def _line(case: str, way: str, cost: Cost) -> Line:
    return Line(case, way, cost.time, cost.cpu)


def _print_lines(console: Console, lines: list[Line]) -> None:
    table = Table(title="one message to one peer")
    for title in ("case", "way"):
        table.add_column(title)
    for title in ("us", "us of the server's CPU"):
        table.add_column(title, justify="right")
    for line in lines:
        table.add_row(line.case, line.way, f"{line.time:.1f}", f"{line.cpu:.1f}")
    console.print(table)


def _read(path: Path) -> Measured:
    data = json.loads(path.read_text())
    measured = Measured(
        Context(**data["context"]),
        [Line(**line) for line in data["lines"]],
        [Verdict(**verdict) for verdict in data["verdicts"]],
    )
    if measured.context.quick:
        sys.exit(f"{path} is of a run with --quick; measure everything")
    return measured


def _write(measured: Measured) -> None:
    text = README.read_text()
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    lines = [
        "",
        f"- {measured.context}",
        "",
        row(["", "", "µs", "µs of the server's CPU"]),
        row(["---", "---", "--:", "--:"]),
        *[
            row([line.case, line.way, f"{line.time:.1f}", f"{line.cpu:.1f}"])
            for line in measured.lines
        ],
        "",
        *goal_rows(f"on {measured.context.python}", measured.verdicts),
        "",
    ]
    README.write_text(before + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + after)


if __name__ == "__main__":
    main()
