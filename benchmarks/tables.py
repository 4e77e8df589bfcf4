"""A report on the terminal."""

from statistics import mode

from rich.console import Console
from rich.table import Table

from .report import Cell, Verdict

_SAFEAIO = "bounded_"


def print_cells(console: Console, cells: list[Cell]) -> None:
    """Print the cells of one loop and one kind of item."""
    sizes = sorted({cell.n for cell in cells})
    table = Table(
        title=f"{cells[0].loop}, each item {cells[0].item}: times as fast as "
        "asyncio.gather, peak memory as a share of its",
        caption=_repeats(cells),
    )
    table.add_column("")
    for n in sizes:
        table.add_column(f"{n:,}", justify="right")
        table.add_column("memory", justify="right", style="dim")
    for way in dict.fromkeys(cell.way for cell in cells):
        row = {cell.n: cell for cell in cells if cell.way == way}
        table.add_row(
            way,
            *[text for n in sizes for text in (speed(row[n]), memory(row[n]))],
            style="bold" if way.startswith(_SAFEAIO) else "",
        )
    console.print(table)


def print_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    """Print what must be reached, and whether it is."""
    if not verdicts:
        console.print("no goals are stated for this version of CPython")
        return
    at_scale = all(verdict.judged for verdict in verdicts)
    table = Table(
        title="goals"
        if at_scale
        else "goals, measured at a tenth of their size, for orientation"
    )
    table.add_column("goal")
    table.add_column("bound", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for verdict in verdicts:
        table.add_row(
            verdict.goal,
            bound(verdict),
            value(verdict),
            outcome(verdict),
            style="red" if verdict.missed else "",
        )
    console.print(table)


def speed(cell: Cell) -> str:
    return f"{cell.speed:.2f}" if cell.speed < 10 else f"{cell.speed:.1f}"


def memory(cell: Cell) -> str:
    share = 100 * cell.memory
    return f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def bound(verdict: Verdict) -> str:
    least = f"≥ {verdict.at_least:g} " if verdict.at_least is not None else ""
    most = f"≤ {verdict.at_most:g} " if verdict.at_most is not None else ""
    return f"{least}{most}{verdict.unit}"


def value(verdict: Verdict) -> str:
    return f"{verdict.value:.3g} {verdict.unit}"


def outcome(verdict: Verdict) -> str:
    if not verdict.judged:
        return "not judged"
    return "met" if verdict.met else "MISSED"


def _repeats(cells: list[Cell]) -> str:
    """Say of how many repeats the medians are: what is slow has fewer."""
    texts = []
    for n in sorted({cell.n for cell in cells}):
        repeats = {cell.way: cell.repeats for cell in cells if cell.n == n}
        usual = mode(repeats.values())
        others = [f"{way} {r}" for way, r in repeats.items() if r != usual]
        texts.append(f"{n:,}: {usual}" + (f" ({', '.join(others)})" if others else ""))
    return f"repeats at {'; '.join(texts)}"
