"""Everything behind `make`: makes environments below .venv/, and runs the checks in them.

Needs Python 3.11+ with venv and pip, and nothing else.
"""

import argparse
import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TESTED = ("test", "demo")
LOWEST = ROOT / "tests" / "lowest.txt"

# Other people's servers, which take long: on the oldest and on a recent CPython.
SERVERS = (
    "test_examples.py",
    "test_service_example.py",
    "websocket/test_adapters.py",
    "websocket/test_hostile.py",
    "websocket/test_invariants.py",
    "websocket/test_slow_clients.py",
    "websocket/test_uvicorn_serve.py",
)

# Of these nothing depends on the versions of the dependencies, and each takes long.
NOT_ON_LOWEST = (
    *SERVERS,
    "conformance",
    "test_run_attacks.py",
    "test_run_signals.py",
    "test_supervisor_mutations.py",
    "test_uvicorn.py",
)

# Of code that only the oldest CPython runs: measured there, all else on the stable one.
OLD_CODE = ("test_leaks.py",)

# Of these the coverage needs nothing, and some take three times as long where it is measured.
UNMEASURED = (
    "conformance/test_otp_supervisor.py",
    "test_examples.py",
    "test_pool_memory.py",
    "test_supervisor_attacks.py",
)

# Of these next to nothing depends on the version of Python: other people's clients, crowds
# of our own, in processes of their own, and hundreds of thousands of items.
ONCE = (
    "test_pool_turns.py",
    "websocket/test_browser.py",
    "websocket/test_npm_ws.py",
    "websocket/test_scale.py",
)


def interpreters() -> dict[str, str]:
    """Find one CPython of each version that we support."""
    found: dict[str, str] = {}
    for candidate in _candidates():
        version = _version(candidate)
        if version in VERSIONS:
            found.setdefault(version, candidate)
    return dict(sorted(found.items(), key=lambda item: VERSIONS.index(item[0])))


def _candidates() -> Iterator[str]:
    yield sys.executable
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        if on_path is not None:
            yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(map(str, pyenv.glob("versions/3.*/bin/python")))


def _version(python: str) -> str | None:
    code = (
        "import sys; print(sys.implementation.name + ' %d.%d' % sys.version_info[:2])"
    )
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False
    )
    match = re.fullmatch(r"cpython (\S+)\n", done.stdout)
    return match[1] if match else None


def environment(
    python: str, name: str, groups: tuple[str, ...], constraints: Path | None = None
) -> str:
    """Return the interpreter of an environment that has the project and `groups`."""
    venv = VENVS / name
    inside = str(venv / "bin" / "python")
    wanted = _wanted(groups, constraints)
    stamp = venv / "wanted"
    if stamp.exists() and stamp.read_text() == wanted:
        return inside
    shutil.rmtree(venv, ignore_errors=True)
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([python, "-m", "venv", str(venv)])
    _run([*pip, "--upgrade", "pip>=25.1"])  # the first that reads dependency groups
    pins = ["--constraint", str(constraints)] if constraints else []
    wants = [argument for group in groups for argument in ("--group", group)]
    _run([*pip, *pins, "--editable", ".[uvloop]", *wants])
    stamp.write_text(wanted)
    return inside


def _wanted(groups: tuple[str, ...], constraints: Path | None) -> str:
    pins = constraints.read_text() if constraints else ""
    text = (ROOT / "pyproject.toml").read_text() + pins + " ".join(groups) + str(ROOT)
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")


def test() -> int:
    """Run every check; return an exit status."""
    pythons = interpreters()
    versions = [*pythons]
    oldest = versions[0]
    stable = "3.13" if "3.13" in versions else versions[-1]
    python = pythons[stable]
    for data in ROOT.glob(".coverage.*"):
        data.unlink()
    checks: dict[str, Callable[[], str]] = {
        f"tests on {version}": partial(
            _suite,
            pythons[version],
            version,
            servers=version in (oldest, stable),
            measured=version == stable,
        )
        for version in reversed(versions)  # the longest first
    }
    checks[f"tests on {stable} without coverage"] = partial(_unmeasured, python)
    checks["types"] = partial(_types, python)
    checks["tests on the lowest dependencies"] = partial(_lowest, pythons[oldest])
    checks["docs"] = partial(_docs, python)
    checks["lint"] = partial(_lint, python)
    checks["package"] = partial(_package, python)
    failed = _run_all(checks)
    coverage = partial(_coverage, python, pythons[oldest], oldest)
    failed += _run_all({"coverage": coverage})
    missing = [version for version in VERSIONS[:3] if version not in pythons]
    if missing:
        print(f"not found, so not tested: CPython {', '.join(missing)}")
    print("FAILED: " + ", ".join(failed) if failed else "All checks passed.")
    return bool(failed)


def _run_all(checks: dict[str, Callable[[], str]]) -> list[str]:
    """Run checks side by side, print what each says, and return the names of those that failed."""
    failed: list[str] = []
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as threads:
        futures = {threads.submit(check): name for name, check in checks.items()}
        for future in concurrent.futures.as_completed(futures):
            error = future.exception()
            said = future.result() if error is None else str(error)
            state = "ok" if error is None else "FAILED"
            print(f"== {futures[future]}: {state} ({time.monotonic() - started:.0f} s)")
            print(said.strip(), flush=True)
            if error is not None:
                failed.append(futures[future])
    return failed


class CheckFailed(Exception):
    """A check failed; the text is what it printed."""


def _check(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CheckFailed(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _suite(python: str, version: str, *, servers: bool, measured: bool) -> str:
    inside = environment(python, version, TESTED)
    coverage = ("-m", "coverage", "run") if measured else ()
    ignored = _ignore(
        *ONCE, *(() if servers else SERVERS), *(UNMEASURED if measured else ())
    )
    return _last_line(_check(inside, *coverage, "-m", "pytest", "-q", *ignored))


def _lowest(python: str) -> str:
    inside = environment(python, "lowest", TESTED, LOWEST)
    ignored = _ignore(*NOT_ON_LOWEST, *ONCE)
    return _last_line(_check(inside, "-m", "pytest", "-q", "tests", *ignored))


def _ignore(*names: str) -> list[str]:
    return [f"--ignore=tests/{name}" for name in names]


def _unmeasured(python: str) -> str:
    """Run what is run without coverage; npm's `ws` and Chromium are installed if need be."""
    inside = environment(python, "unmeasured", TESTED)
    files = [f"tests/{name}" for name in (*ONCE, *UNMEASURED)]
    return _last_line(_check(inside, "-m", "pytest", "-q", *files))


def _types(python: str) -> str:
    inside = environment(python, "types", ("type", *TESTED, "bench"))
    # With --verifytypes, pyright looks at the PATH, and not at --pythonpath.
    path = {"PATH": os.pathsep.join([str(Path(inside).parent), os.environ["PATH"]])}
    pyright = partial(_check, inside, "-m", "pyright", env=path)
    completeness = pyright("--verifytypes", "safeaio", "--ignoreexternal")
    score = re.search("Type completeness score: .*", completeness)
    return "\n".join(
        [_check(inside, "-m", "mypy"), pyright(), score[0] if score else ""]
    )


def _lint(python: str) -> str:
    inside = environment(python, "lint", ("lint",))
    return _check(inside, "-m", "ruff", "check") + _check(
        inside, "-m", "ruff", "format", "--check"
    )


def _docs(python: str) -> str:
    inside = environment(python, "docs", ("docs",))
    return _last_line(_check(inside, "-m", "sphinx", "-nWq", "docs", VENVS / "html"))


def _package(python: str) -> str:
    """Build the wheel, and import it where nothing else of ours is."""
    dist, venv = VENVS / "dist", VENVS / "package"
    for folder in (dist, venv):
        shutil.rmtree(folder, ignore_errors=True)
    _check(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", dist, ROOT)
    _check(python, "-m", "venv", venv)
    inside = venv / "bin" / "python"
    wheel = next(dist.glob("*.whl"))
    _check(inside, "-m", "pip", "install", "-q", wheel)
    code = "import safeaio, safeaio.testing, sys; assert 'uvloop' not in sys.modules"
    return wheel.name + _check(inside, "-c", code, cwd=VENVS)


def _coverage(python: str, oldest: str, version: str) -> str:
    old = [f"tests/{name}" for name in OLD_CODE]
    inside = environment(oldest, version, TESTED)
    _check(inside, "-m", "coverage", "run", "-m", "pytest", "-q", *old)
    inside = environment(python, "coverage", ("coverage",))
    _check(inside, "-m", "coverage", "combine", "-q")
    return _check(inside, "-m", "coverage", "report")


def demo() -> int:
    """Run the tour."""
    inside = environment(sys.executable, "demo", ("demo",))
    return subprocess.run(
        [inside, "examples/tour.py"], cwd=ROOT, check=False
    ).returncode


def bench() -> int:
    """Run the benchmarks on the oldest and on a recent CPython."""
    pythons = interpreters()
    chosen: list[str] = [
        version for version in ("3.11", "3.13") if version in pythons
    ] or list(pythons)
    status = 0
    for version in chosen:
        inside = environment(pythons[version], f"bench-{version}", ("bench",))
        figures = VENVS / f"bench-{version}.json"
        status |= subprocess.run(
            [inside, "-m", "benchmarks", "--json", figures], cwd=ROOT, check=False
        ).returncode
        print(f"every figure is in {figures.relative_to(ROOT)}")
    figures = VENVS / "bench-websocket.json"
    status |= subprocess.run(
        [inside, "-m", "benchmarks.websocket", "--json", figures], cwd=ROOT, check=False
    ).returncode
    print(f"those of WebSockets are in {figures.relative_to(ROOT)}")
    return status


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        print(
            f"needs Python 3.11 or newer, and this is {sys.version.split()[0]}; "
            "write `make PYTHON=python3.11 ...`"
        )
        return 2
    commands = {"test": test, "demo": demo, "bench": bench}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=commands)
    return commands[parser.parse_args().command]()


if __name__ == "__main__":
    sys.exit(main())
