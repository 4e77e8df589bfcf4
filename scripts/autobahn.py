"""Runs the Autobahn test suite against sessions, and against the same servers without any.

`python -m scripts.autobahn [CASES ...]` makes its environments below .venv/, and prints a
table of whatever has been run so far. CASES are patterns such as "12.1.*"; by default all
but those of compression, 12.* and 13.*, which take long. The suite needs Python 2.7, so
this is no part of `make test`.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from scripts.check import ROOT, TESTED, VENVS, environment, interpreters

PINS = ROOT / "scripts" / "autobahn.txt"
HOME = VENVS / "autobahn"
REPORTS = HOME / "reports"
MAKER = "virtualenv==20.15.1"  # the last that makes environments of Python 2.7
USUAL = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10)]

# From good to bad. An informational case has no right answer, and whether one is OK or
# non-strict can depend on which of two comes first; all others have failed.
PASSED = ["OK", "INFORMATIONAL", "NON-STRICT"]

Results: TypeAlias = dict[str, dict[str, str]]  # of each server, by case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=USUAL)
    cases: list[str] = parser.parse_args().cases
    wstest = suite()
    found = interpreters()
    version = "3.13" if "3.13" in found else next(iter(found))
    python = environment(found[version], version, TESTED)
    with echoes(python) as servers:
        for pattern in cases:
            print(f"running {pattern}", flush=True)
            run(wstest, servers, pattern)
    results = read()
    print(f"\nCPython {version}, {versions(python)}\n\n{table(results)}")
    return bool(worse(results))


def suite() -> Path:
    """Return the program of the suite, once it is installed."""
    inside = HOME / "bin"
    stamp = HOME / "wanted"
    if not stamp.exists() or stamp.read_text() != PINS.read_text():
        python = python2()
        shutil.rmtree(HOME, ignore_errors=True)
        maker = VENVS / "virtualenv"
        command(sys.executable, "-m", "venv", "--clear", maker)
        command(maker / "bin" / "pip", "install", "--quiet", MAKER)
        command(maker / "bin" / "virtualenv", "--quiet", "--python", python, HOME)
        command(inside / "pip", "install", "--quiet", "--no-deps", "-r", PINS)
        stamp.write_text(PINS.read_text())
    return inside / "wstest"


def python2() -> str:
    on_path = filter(None, map(shutil.which, ("python2.7", "python2")))
    of_pyenv = map(str, Path.home().glob(".pyenv/versions/2.7.*/bin/python"))
    test = "import sys; sys.exit(sys.version_info[:2] != (2, 7))"
    for python in chain(on_path, of_pyenv):
        # That on the PATH may be a stub of pyenv.
        done = subprocess.run(
            [python, "-c", test], stderr=subprocess.DEVNULL, check=False
        )
        if not done.returncode:
            return python
    raise SystemExit(
        "Autobahn's test suite needs Python 2.7, and none was found on the PATH or below "
        "~/.pyenv; install one, such as by `pyenv install 2.7.18`"
    )


def command(*parts: str | Path) -> None:
    done = subprocess.run(
        parts, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, parts))} failed:\n{done.stdout}")


@contextmanager
def echoes(python: str) -> Iterator[dict[str, str]]:
    """Run the servers, and give where each listens."""
    process = subprocess.Popen(
        [python, "-m", "scripts.echo"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # which closes their standard input, so that they end
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())


def run(wstest: Path, servers: dict[str, str], pattern: str) -> None:
    folder = REPORTS / pattern.replace("*", "x")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = {
        "outdir": str(folder),
        "servers": [{"agent": name, "url": url} for name, url in servers.items()],
        "cases": [pattern],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec = folder / "plan.json"
    spec.write_text(json.dumps(plan))
    command(wstest, "--mode", "fuzzingclient", "--spec", spec)


def read() -> Results:
    """Return what all runs so far came to; the latest of a case counts."""
    results: Results = {}
    indices = REPORTS.glob("*/index.json")
    for index in sorted(indices, key=lambda path: path.stat().st_mtime):
        for name, cases in json.loads(index.read_text()).items():
            results.setdefault(name, {}).update(
                (case, verdict(report)) for case, report in cases.items()
            )
    return results


def verdict(report: dict[str, Any]) -> str:
    """Return the worse of what a case says of the messages, and of the close."""
    said: tuple[str, str] = report["behavior"], report["behaviorClose"]
    return max(said, key=rank)


def rank(verdict: str) -> int:
    return PASSED.index(verdict) if verdict in PASSED else len(PASSED)


def worse(results: Results) -> dict[str, list[str]]:
    """Return the cases in which a session fails, and its server without one does not."""
    found = {
        name: [
            case
            for case, said in cases.items()
            if said not in PASSED and results[bare_of(name)][case] in PASSED
        ]
        for name, cases in results.items()
    }
    return {name: cases for name, cases in found.items() if cases}


def bare_of(name: str) -> str:
    return name.replace("session", "bare")


def table(results: Results) -> str:
    names = sorted(results)
    counts = {name: Counter(cases.values()) for name, cases in results.items()}
    seen = sorted({*chain(*counts.values())}, key=rank)
    rows = [[said, *(str(counts[name][said]) for name in names)] for said in seen]
    ran = ["all", *(str(len(results[name])) for name in names)]
    cases = [
        [case, *(results[name].get(case, "") for name in names)]
        for case in not_ok(results)
    ]
    return "\n\n".join(
        [
            markdown(["", *names], [*rows, ran]),
            markdown(["case", *names], cases),
            *(f"{name} is worse: {which}" for name, which in worse(results).items()),
        ]
    )


def not_ok(results: Results) -> list[str]:
    found = {
        case
        for cases in results.values()
        for case, said in cases.items()
        if said != "OK"
    }
    return sorted(found, key=lambda case: [int(part) for part in case.split(".")])


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(python: str) -> str:
    """Return what the servers are made of."""
    site = Path(python).parent.parent
    wanted = ("websockets", "uvicorn", "starlette", "fastapi")
    found = {
        each.metadata["Name"].lower(): each.version
        for each in distributions(path=[str(path) for path in site.glob("lib/*/*")])
    }
    return ", ".join(f"{name} {found[name]}" for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
