"""What a chapter is given, a `Stage`, and what it gives back, a `Report`."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table


@attrs.frozen
class Report:
    """A row of measurements per way; every row has the same keys."""

    title: str
    rows: list[dict[str, str | int | float]]
    reading: str


@attrs.frozen
class Child:
    """A Python process that prints JSON lines."""

    process: subprocess.Popen[str]

    def __iter__(self) -> Iterator[Any]:
        assert self.process.stdout
        yield from map(json.loads, self.process.stdout)
        if status := self.process.wait():
            raise subprocess.CalledProcessError(status, self.process.args)

    def ask(self) -> Any:
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        return next(iter(self))


@contextmanager
def child(script: str, *args: object, quiet: bool = False) -> Iterator[Child]:
    """Run a script of this folder in a process that does not outlive the block."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, args)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        start_new_session=True,  # Ctrl-C is for us alone; the child is killed below
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


class Stage:
    """The options and the screen that chapters share."""

    def __init__(self, *, pages: int, stderr: bool) -> None:
        self.pages = pages
        self._console = Console(stderr=stderr, highlight=False)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a live bar, or a line per second where nobody watches.

        What this yields is to be called with how much is done so far.
        """
        live = self._console.file.isatty()
        start = shown = time.perf_counter()

        def advance(done: int) -> None:
            nonlocal shown
            progress.update(bar, completed=done)
            if not live and time.perf_counter() - shown >= 1:
                shown = time.perf_counter()
                self._console.print(f"{name}: {done} of {total}")

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=not live,
        ) as progress:
            bar = progress.add_task(name, total=total)
            yield advance
        if not live:
            self._console.print(f"{name}: {time.perf_counter() - start:.1f} s")

    def show(self, report: Report) -> None:
        table = Table(box=box.SIMPLE_HEAD, title=report.title, title_justify="left")
        for heading, value in report.rows[0].items():
            text = isinstance(value, str)
            table.add_column(heading, justify="left" if text else "right", no_wrap=text)
        for row in report.rows:
            table.add_row(*map(_cell, row.values()))
        self._console.print(table, report.reading, "", sep="\n")


def _cell(value: str | float) -> str:
    match value:
        case float():
            return f"{value:,.1f}"
        case int():
            return f"{value:,}"
        case _:
            return value
