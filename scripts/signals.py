"""Runs tests/test_run_signals.py again and again, with every core busy with something else.

`python -m scripts.signals [TIMES]` does it 20 times on every CPython found, and prints which
rows failed, and how late processes were killed at most.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from scripts.check import ROOT, TESTED, environment, interpreters

MATRIX = ROOT / "tests" / "test_run_signals.py"
# Ends with its parent, whatever way that goes.
BURN = (
    "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**5))"
)


class Pass(NamedTuple):
    """One pass over the matrix."""

    rows: int
    failures: dict[str, str]
    skipped: dict[str, str]
    late: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", type=int, nargs="?", default=20)
    times: int = parser.parse_args().times
    pythons = {
        version: environment(python, version, TESTED)
        for version, python in interpreters().items()
    }
    failed = 0
    with burners():
        for index in range(times):
            for version, python in pythons.items():
                failed += not passes(python, version, index)
    return bool(failed)


@contextmanager
def burners() -> Iterator[None]:
    """Keep every core busy."""
    processes = [
        subprocess.Popen([sys.executable, "-c", BURN])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def passes(python: str, version: str, index: int) -> bool:
    """Run the matrix once, and print what came of it."""
    started = time.monotonic()
    done = run_matrix(python)
    print(
        f"{version} #{index + 1}: {len(done.failures)} of {done.rows} rows failed, "
        f"{len(done.skipped)} skipped; killed {done.late:.3f} s late at most; "
        f"{time.monotonic() - started:.0f} s"
    )
    for row, why in (done.failures | done.skipped).items():
        print(f"  {row}:\n    {why}")
    sys.stdout.flush()
    return bool(done.rows) and not done.failures


def run_matrix(python: str) -> Pass:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(MATRIX)]
        done = subprocess.run(
            [*command, f"--junitxml={report}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not report.exists():
            raise SystemExit(done.stdout)
        return read(ElementTree.parse(report).getroot())


def read(report: ElementTree.Element) -> Pass:
    cases = list(report.iter("testcase"))
    late = [
        float(found.get("value", 0))
        for found in report.iter("property")
        if found.get("name") == "late"
    ]
    return Pass(
        len(cases),
        messages(cases, "failure") | messages(cases, "error"),
        messages(cases, "skipped"),
        max(late, default=0.0),
    )


def messages(cases: list[ElementTree.Element], what: str) -> dict[str, str]:
    return {
        case.get("name", ""): f"{found.get('message')}\n{found.text or ''}"[-3000:]
        for case in cases
        if (found := case.find(what)) is not None
    }


if __name__ == "__main__":
    sys.exit(main())
