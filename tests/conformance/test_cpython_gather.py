"""CPython's own tests of `asyncio.gather`, imported where installed and run on `bounded_gather`."""

import asyncio
import gc
import importlib
import sys
import unittest
import warnings
from typing import Any

import pytest

from safeaio import bounded_gather

# Some builds of Python come without their tests.
test_tasks: Any = pytest.importorskip(
    "test.test_asyncio.test_tasks", exc_type=ImportError
)

LIMITS = (None, 1, 2, 5)

# Sets an environment variable and starts interpreters: it never gets to `gather`.
_DROPPED = "test_env_var_debug"

_FAIL_FAST = "siblings are cancelled at the first failure; gather lets them go on"
_STRAY = "a child's own cancel is an error here; gather passes it off as the caller's"
_NOT_STARTED = "at limit 1, and at 2 without eager start, there are none to be seen yet"
_COUNTED = "the adapter's task is counted, one more for each call"
_ENDS_LATE = "the adapter's task ends a tick after its last child, so it lets itself be cancelled"
_WAITS_LATE = (
    "the adapter's task ends a tick after its last child; the test looks at once"
)

_EAGER = sys.version_info >= (3, 12)

# Each must fail, at these limits and for this reason.
EXPECTED: dict[str, tuple[tuple[int | None, ...], str]] = {
    "FutureGatherTests.test_one_exception": (LIMITS, _FAIL_FAST),
    "FutureGatherTests.test_one_cancellation": (LIMITS, f"{_FAIL_FAST}; {_STRAY}"),
    "CoroutineGatherTests.test_one_exception": (
        (None, 2, 5) if _EAGER else (None, 5),
        f"{_FAIL_FAST}; {_NOT_STARTED}",
    ),
    "CoroutineGatherTests.test_exception_marking": (
        (None, 2, 5),
        f"{_FAIL_FAST}; {_NOT_STARTED}",
    ),
    "CTask_CFuture_Tests.test_cancel_gather_1": (LIMITS, _ENDS_LATE),
    "CTask_CFuture_Tests.test_gather_shield": (LIMITS, _WAITS_LATE),
    "NonEagerTests.test_recursive_gather": (LIMITS, _COUNTED),
}


def _gather_tests() -> dict[str, tuple[type[unittest.TestCase], str]]:
    names = unittest.TestLoader().getTestCaseNames
    wanted: list[tuple[type[unittest.TestCase], str]] = [
        (case, name)
        for case in (test_tasks.FutureGatherTests, test_tasks.CoroutineGatherTests)
        for name in names(case)
        if name != _DROPPED
    ]
    wanted += [
        (test_tasks.CTask_CFuture_Tests, name)
        for name in (
            "test_cancel_gather_1",
            "test_cancel_gather_2",
            "test_shield_gather",
            "test_gather_shield",
        )
    ]
    if _EAGER:
        eager: Any = importlib.import_module(
            "test.test_asyncio.test_eager_task_factory"
        )
        wanted += [
            (case, "test_recursive_gather")
            for case in (eager.NonEagerTests, eager.EagerTests)
        ]
    return {f"{case.__name__}.{name}": (case, name) for case, name in wanted}


GATHER_TESTS = _gather_tests()


def test_expected_failures_exist() -> None:
    """No expected failure is listed for a test that CPython does not have."""
    of_312 = set() if _EAGER else {"NonEagerTests.test_recursive_gather"}
    assert set(EXPECTED) - set(GATHER_TESTS) == of_312


@pytest.mark.parametrize("name", GATHER_TESTS)
@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"limit={limit}")
def test_cpython(name: str, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes CPython's test of `gather`, or fails it where we mean to differ."""

    def gather(*aws: Any, return_exceptions: bool = False) -> asyncio.Future[Any]:
        loop = next((aw.get_loop() for aw in aws if asyncio.isfuture(aw)), None)
        call: Any = bounded_gather(
            *aws, limit=limit, return_exceptions=return_exceptions
        )
        future: asyncio.Future[Any] = asyncio.ensure_future(call, loop=loop)
        return future

    monkeypatch.setattr(asyncio, "gather", gather)
    case, method = GATHER_TESTS[name]
    problems = _run(case(method), monkeypatch)
    limits, reason = EXPECTED.get(name, ((), ""))
    if limit in limits:
        assert problems, f"{name} passes, though it should not: {reason}"
    else:
        assert not problems, "\n".join(problems)


def _run(case: unittest.TestCase, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    result = unittest.TestResult()
    # They drop pending tasks and coroutines on purpose, and collect no garbage.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.run(result)
        problems = [text for _, text in result.failures + result.errors]
        result.failures.clear()
        result.errors.clear()
        gc.collect()
    assert result.testsRun == 1
    assert not result.skipped
    return problems
