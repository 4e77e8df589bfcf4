"""Measure, print ratios, judge the goals: `python -m benchmarks [--quick]`."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console

from .echo import echo_client, echo_server
from .goals import GOALS, Figures
from .race import NEVER, ONCE, ROUND_TRIP, never, once, race
from .readme import write_figures
from .report import Cell, Context, Report, load_average
from .tables import print_cells, print_verdicts
from .timing import Plan

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
SIZES = (1_000, 10_000, 100_000)
FULL = Plan(repeats=9, seconds=2, least=2)
FULL_ROUND_TRIP = Plan(repeats=5, seconds=2, least=1, warm_up=10_000)
FULL_GOALS = Plan(repeats=15, seconds=10, least=3)
QUICK = Plan(repeats=3, seconds=0.5, least=1)


def main() -> None:
    args = _arguments()
    if args.write:
        write_figures([_finished(path) for path in args.write])
        return
    console = Console()
    report = Report(Context.here(quick=args.quick))
    console.print(str(report.context))
    # First, on a heap that nobody has used.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(_judge(report, args.quick))
    if not args.goals:
        with echo_server() as port:
            for name, factory in LOOPS.items():
                with asyncio.Runner(loop_factory=factory) as runner:
                    report.cells.extend(
                        runner.run(_race(name, port, args.quick, console))
                    )
    print_verdicts(console, report.verdicts)
    report.context.load.append(load_average())
    if args.json:
        report.write(args.json)
    sys.exit(any(verdict.missed for verdict in report.verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, under a minute, judges nothing",
    )
    parser.add_argument("--goals", action="store_true", help="measure the goals only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: put the figures of such files into benchmarks/README.md",
    )
    return parser.parse_args()


def _finished(path: Path) -> Report:
    report = Report.read(path)
    if report.context.quick or not report.cells:
        sys.exit(f"{path} is of a run with --quick or --goals; measure everything")
    return report


async def _race(loop: str, port: int, quick: bool, console: Console) -> list[Cell]:
    found = []
    async with echo_client(port) as round_trip:
        funcs = {NEVER: never, ONCE: once, ROUND_TRIP: round_trip}
        for item, func in funcs.items():
            plan = FULL_ROUND_TRIP if item == ROUND_TRIP else FULL
            cells = [
                cell
                for n in (SIZES[:1] if quick else SIZES)
                for cell in await race(loop, item, func, n, QUICK if quick else plan)
            ]
            print_cells(console, cells)
            found += cells
    return found


async def _judge(report: Report, quick: bool) -> None:
    figures = (
        Figures(QUICK, scale=10, samples=1)
        if quick
        else Figures(FULL_GOALS, scale=1, samples=3)
    )
    for goal in GOALS:
        if goal.python == sys.version_info[:2]:
            report.verdicts.append(await goal.judge(figures))


if __name__ == "__main__":
    main()
