"""The figures in README.md, from reports."""

from pathlib import Path

from .report import Cell, Report, Verdict
from .tables import bound, memory, outcome, speed, value

README = Path(__file__).with_name("README.md")
_BEGIN = "<!-- figures: written by `python -m benchmarks --write` -->"
_END = "<!-- end of figures -->"


def write_figures(reports: list[Report]) -> None:
    """Replace the block between the marks."""
    text = README.read_text()
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    README.write_text("\n".join([before + _BEGIN, "", *_lines(reports), _END + after]))


def _lines(reports: list[Report]) -> list[str]:
    lines = [f"- {report.context}" for report in reports] + [""]
    cells = [cell for report in reports for cell in report.cells]
    n = max(cell.n for cell in cells)
    for item in dict.fromkeys(cell.item for cell in cells):
        lines += [
            f"### {n:,} items, each {item}",
            "",
            "Times as fast as `asyncio.gather`; its peak memory is 100 %.",
            "",
            *_race(reports, item, n),
            "",
        ]
    lines += ["### Goals", ""]
    for report in reports:
        lines += [*goal_rows(f"on {report.context.python}", report.verdicts), ""]
    return lines


def goal_rows(title: str, verdicts: list[Verdict]) -> list[str]:
    """Return a table of what must be reached."""
    return [
        row([title, "bound", "measured", ""]),
        row(["---", "--:", "--:", "---"]),
        *[row([v.goal, bound(v), value(v), outcome(v)]) for v in verdicts],
    ]


def _race(reports: list[Report], item: str, n: int) -> list[str]:
    by_column: dict[str, dict[str, Cell]] = {}
    for report in reports:
        for cell in report.cells:
            if (cell.item, cell.n) == (item, n):
                column = f"{report.context.python.split()[1]} {cell.loop}"
                by_column.setdefault(column, {})[cell.way] = cell
    titles = [title for column in by_column for title in (column, "memory")]
    ways = next(iter(by_column.values()))
    return [
        row(["", *titles]),
        row(["---", *["--:"] * len(titles)]),
        *[
            row(
                [
                    f"`{way}`" if "." in way or "_" in way else way,
                    *[
                        text
                        for cells in by_column.values()
                        for text in (speed(cells[way]), memory(cells[way]))
                    ],
                ]
            )
            for way in ways
        ],
    ]


def row(texts: list[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(texts)} |"
