"""CPython's own tests of `asyncio.run` and `asyncio.Runner`, run on `safeaio.run`."""

import asyncio
import unittest
import warnings
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Self

import pytest

import safeaio

# Some builds of Python come without their tests.
test_runners: Any = pytest.importorskip(
    "test.test_asyncio.test_runners", exc_type=ImportError
)

run = partial(safeaio.run, on_leak="ignore")  # of leaks CPython does not speak

_KIND = (
    "run() takes an async function",
    "what is no coroutine is a TypeError; a function is called",
)

# Each must fail, by these words of ours and for this reason.
EXPECTED = {
    "RunTests.test_asyncio_run_only_coro": _KIND,
    "RunTests.test_asyncio_run_reports_hanging_tasks_errors": (
        "unhandled exception during safeaio.run() shutdown",
        "the report names who shut down",
    ),
    "RunTests.test_asyncio_run_without_uncancel": (
        "KeyboardInterrupt",
        "a main that was cancelled for Ctrl-C is one, whatever its task is",
    ),
    "RunnerTests.test_recursive_run": (
        "safeaio.run() cannot be called from a running event loop",
        "the coroutine is closed, so nothing warns that it was never awaited",
    ),
    "RunnerTests.test_run_future": _KIND,
    "RunnerTests.test_run_non_coro": _KIND,
    "RunnerTests.test_set_event_loop_called_once": (
        "1 != 0",
        "a loop of one's own is not set: `get_event_loop` is for code outside of a loop",
    ),
}

# They ask for a loop that lives before and after what runs in it.
DROPPED = {
    "RunnerTests.test_custom_factory",
    "RunnerTests.test_debug",
    "RunnerTests.test_double_close",
    "RunnerTests.test_explicit_close",
    "RunnerTests.test_non_debug",
    "RunnerTests.test_second_with_block_raises",
}


class Runner:
    """As much of `asyncio.Runner` as can be had of one call after another."""

    def __init__(self) -> None:
        self.context = copy_context()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.left = True
        if self.loop is not None:
            self.loop.close()  # one that never ran

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the last call, or else that of the next one."""
        if self.left:
            raise RuntimeError("Runner is closed")
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        if self.loop is not None and self.loop.is_closed():
            self.loop = None
        return run(coro, loop_factory=self.get_loop, context=self.context)


def _tests() -> dict[str, tuple[type[unittest.TestCase], str]]:
    names = unittest.TestLoader().getTestCaseNames
    return {
        f"{case.__name__}.{name}": (case, name)
        for case in (test_runners.RunTests, test_runners.RunnerTests)
        for name in names(case)
    }


TESTS = _tests()


def test_deviations_exist() -> None:
    """No deviation is listed for a test that CPython does not have."""
    assert DROPPED.union(EXPECTED) <= set(TESTS)


@pytest.mark.parametrize("name", [name for name in TESTS if name not in DROPPED])
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes CPython's test of `run`, or fails it where we mean to differ."""
    monkeypatch.setattr(asyncio, "run", run)
    monkeypatch.setattr(asyncio, "Runner", Runner)
    problems = _problems(*TESTS[name])
    if name not in EXPECTED:
        assert not problems, "\n".join(problems)
        return
    words, reason = EXPECTED[name]
    assert problems, f"{name} passes, though it should not: {reason}"
    assert all(words in problem for problem in problems), "\n".join(problems)


def _problems(case: type[unittest.TestCase], method: str) -> list[str]:
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of policies
        try:
            case(method).run(result)
        except KeyboardInterrupt as exc:  # unittest lets it through
            return [repr(exc)]
    assert result.testsRun == 1
    assert not result.skipped
    return [text for _, text in result.failures + result.errors]
