"""CPython's own tests of `asyncio.timeout`, imported where installed and run on `cleanup_scope`."""

import asyncio
import unittest
import warnings
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType
from typing import Any, Self

import attrs
import pytest

from safeaio import CleanupScope, cleanup_scope

# Some builds of Python come without their tests.
test_timeouts: Any = pytest.importorskip(
    "test.test_asyncio.test_timeouts", exc_type=ImportError
)

_REPR = ("<safeaio._scope.CleanupScope object at", "a scope has the default repr")
_ENTERED = ("cleanup_scope() can be entered once", "entering again is refused")
_LEFT = ("the cleanup_scope() has been left", "it need not say how")
_CANCELLED = ("the cleanup_scope() is cancelled", "cancel() gets it there as well")

# Each must fail, by these words of ours and for this reason.
EXPECTED = {
    "test_repr_active": _REPR,
    "test_repr_disabled": _REPR,
    "test_repr_expired": _REPR,
    "test_repr_finished": _REPR,
    "test_timeout_already_entered": _ENTERED,
    "test_timeout_double_enter": _ENTERED,
    "test_timeout_expired": _LEFT,
    "test_timeout_expiring": _CANCELLED,
    "test_timeout_finished": _LEFT,
}

TIMEOUT_TESTS = unittest.TestLoader().getTestCaseNames(test_timeouts.TimeoutTests)


@attrs.define(repr=False)
class Timeout:
    """A `cleanup_scope` with the methods of `asyncio.Timeout`."""

    manager: AbstractAsyncContextManager[CleanupScope]
    at: float | None = None

    @property
    def scope(self) -> CleanupScope:
        assert isinstance(self.manager, CleanupScope)
        return self.manager

    async def __aenter__(self) -> Self:
        scope = await self.manager.__aenter__()
        if self.at is not None:
            scope.deadline = self.at
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self.manager.__aexit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        return repr(self.scope)

    def when(self) -> float | None:
        return None if self.scope.deadline == inf else self.scope.deadline

    def reschedule(self, when: float | None) -> None:
        self.scope.deadline = inf if when is None else when

    def expired(self) -> bool:
        return self.scope.timed_out


def timeout(delay: float | None) -> Timeout:
    if delay is None or delay > 0:
        return Timeout(cleanup_scope(timeout=delay))
    return timeout_at(asyncio.get_running_loop().time() + delay)


def timeout_at(when: float | None) -> Timeout:
    return Timeout(cleanup_scope(), when)


def test_expected_failures_exist() -> None:
    """No expected failure is listed for a test that CPython does not have."""
    assert set(EXPECTED) <= set(TIMEOUT_TESTS)


@pytest.mark.parametrize("name", TIMEOUT_TESTS)
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes CPython's test of `timeout`, or fails it where we mean to differ."""
    monkeypatch.setattr(asyncio, "timeout", timeout)
    monkeypatch.setattr(asyncio, "timeout_at", timeout_at)
    problems = _problems(name)
    if name not in EXPECTED:
        assert not problems, "\n".join(problems)
        return
    words, reason = EXPECTED[name]
    assert problems, f"{name} passes, though it should not: {reason}"
    assert words in problems[0]


def _problems(name: str) -> list[str]:
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        test_timeouts.TimeoutTests(name).run(result)
    assert result.testsRun == 1
    assert not result.skipped
    return [text for _, text in result.failures + result.errors]
