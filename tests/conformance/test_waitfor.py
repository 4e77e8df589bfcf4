"""CPython's own tests of `asyncio.wait_for`, and the races of others, on what we offer instead."""

import asyncio
import sys
import unittest
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from safeaio import (
    CancellationSwallowedWarning,
    ChildCancelled,
    cancel_and_wait,
    shielded,
)

T = TypeVar("T")

# Some builds of Python come without their tests.
test_waitfor: Any = pytest.importorskip(
    "test.test_asyncio.test_waitfor", exc_type=ImportError
)


async def by_shielded(aw: Awaitable[T], timeout: float | None) -> T:
    """Let the work end, or cancel it when time is up."""
    return await shielded(aw, timeout=None if timeout is None else max(timeout, 0))


async def by_cancel_and_wait(aw: Awaitable[T], timeout: float | None) -> T:
    """End the work with its caller, or when time is up."""
    work = asyncio.ensure_future(_value_of(aw))
    try:
        async with asyncio.timeout(timeout):
            try:
                await asyncio.wait([work])
            finally:
                await cancel_and_wait(work)
    except TimeoutError:
        if work.cancelled():
            raise
    return work.result()


async def _value_of(aw: Awaitable[T]) -> T:
    return await aw


Adapter = Callable[[Awaitable[Any], float | None], Coroutine[Any, Any, Any]]

# `by_shielded` would wait for ever, or for a minute; what it does instead is tested below.
_UNHURT = "the work outlasts its caller, so a cancel of that never reaches it"
DROPPED = {
    "AsyncioWaitForTest.test_cancel_blocking_wait_for": _UNHURT,
    "AsyncioWaitForTest.test_cancel_wait_for": _UNHURT,
}

_TOO_LATE = "what ends after the timeout is too late; its outcome is at most the cause"
_STARTS = "a timeout of 0 cancels the work, which has taken its first step by then"

_CAUSE = (
    "the cancel of the work is the __cause__ of the TimeoutError, not its __context__"
)
_NOT_STARTED = (
    "AsyncioWaitForTest.test_wait_for_timeout_less_then_0_or_0_coroutine_do_not_started"
)

# Each must fail, for this reason.
EXPECTED: dict[Adapter, dict[str, str]] = {
    by_shielded: {
        "AsyncioWaitForTest.test_wait_for_cancel_suppressed": _TOO_LATE,
        "AsyncioWaitForTest.test_wait_for_cancellation_race_condition": _TOO_LATE,
        "AsyncioWaitForTest.test_wait_for_reraises_exception_during_cancellation": _TOO_LATE,
        "AsyncioWaitForTest.test_wait_for_waits_for_task_cancellation": _CAUSE,
        "AsyncioWaitForTest.test_wait_for_waits_for_task_cancellation_w_timeout_0": _CAUSE,
        _NOT_STARTED: _STARTS,
    },
    by_cancel_and_wait: {_NOT_STARTED: _STARTS},
}


def _tests() -> dict[str, tuple[type[unittest.TestCase], str]]:
    cases = ("AsyncioWaitForTest", "WaitForShieldTests")
    return {
        f"{case}.{name}": (getattr(test_waitfor, case), name)
        for case in cases
        if hasattr(test_waitfor, case)  # one is not in 3.11
        for name in unittest.TestLoader().getTestCaseNames(getattr(test_waitfor, case))
    }


TESTS = _tests()


def test_deviations_exist() -> None:
    """No deviation is listed for a test that CPython does not have."""
    listed = set(DROPPED).union(*EXPECTED.values())
    of_312 = {"AsyncioWaitForTest.test_wait_for_cancel_suppressed"}
    assert listed - set(TESTS) <= (of_312 if sys.version_info < (3, 12) else set())


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        pytest.param(adapter, name, id=f"{adapter.__name__}-{name}")
        for adapter in (by_shielded, by_cancel_and_wait)
        for name in TESTS
        if adapter is by_cancel_and_wait or name not in DROPPED
    ],
)
def test_cpython(adapter: Adapter, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes CPython's test of `wait_for`, or fails it where we mean to differ."""
    monkeypatch.setattr(asyncio, "wait_for", adapter)
    problems = _problems(*TESTS[name])
    reason = EXPECTED[adapter].get(name)
    if reason is None:
        assert not problems, "\n".join(problems)
    else:
        assert problems, f"{name} passes, though it should not: {reason}"


def _problems(case: type[unittest.TestCase], method: str) -> list[str]:
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CancellationSwallowedWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        case(method).run(result)
    assert result.testsRun == 1
    assert not result.skipped
    return [text for _, text in result.failures + result.errors]


# The scenarios of those races, with the answers that are ours


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_the_work_outlasts_its_caller(timeout: float | None) -> None:
    """Python issue 23219: a cancel of the caller waits for the work, and leaves it alone."""
    work = asyncio.create_task(asyncio.sleep(30, "done"))
    caller = asyncio.create_task(shielded(work, timeout=timeout))
    await turns(2)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert work.result() == "done"


@pytest.mark.virtual_time
async def test_what_is_swallowed_at_the_timeout_is_still_too_late() -> None:
    """Cancellation race: work that refuses its cancel and returns is too late, and named."""

    async def inner() -> int:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(1)
        return 1

    with pytest.warns(CancellationSwallowedWarning, match="inner"):  # noqa: SIM117
        with pytest.raises(TimeoutError):
            await shielded(inner(), timeout=0.01)


@pytest.mark.parametrize("when", range(6))
async def test_issue86296(when: int) -> None:
    """The caller's cancel is not lost in the very turn in which the work ends."""
    reached_end = False

    async def inner() -> str:
        return "done"

    async def call() -> None:
        nonlocal reached_end
        await shielded(work, timeout=100)
        await turns(10)
        reached_end = True

    work = asyncio.create_task(inner())
    caller = asyncio.create_task(call())
    await turns(when)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert await work == "done"
    assert not reached_end


@pytest.mark.parametrize("when", range(1, 9))
async def test_caller_cancelled_in_the_tick_the_target_ends(when: int) -> None:
    """A bug of aiotools: its caller went on, with its cancel still counted."""

    async def call() -> None:
        await cancel_and_wait(target)
        await turns(10)

    async def main() -> None:
        try:
            await turns(10)
        finally:
            await turns(3)

    target = asyncio.create_task(main())
    await turns(2)
    caller = asyncio.create_task(call())
    await turns(when)
    caller.cancel()
    await asyncio.wait([caller, target])
    assert caller.cancelled()
    assert target.cancelled()


@pytest.mark.parametrize("when", range(8))
async def test_third_party_cancels_the_target_too(when: int) -> None:
    """A bug of aiotools: its caller took the other cancel of the target for its own."""

    async def main() -> None:
        try:
            await turns(10)
        finally:
            await turns(3)

    target = asyncio.create_task(main())
    await turns(2)
    caller = asyncio.create_task(cancel_and_wait(target))
    await turns(when)
    target.cancel()
    await asyncio.wait([caller])
    assert caller.exception() is None
    assert target.cancelled()


@pytest.mark.parametrize("when", range(8))
async def test_third_party_cancels_the_shielded_work(when: int) -> None:
    """The same of `shielded`: the work's end is an error there, never a cancel."""
    work = asyncio.create_task(turns(4))
    caller = asyncio.create_task(shielded(work))
    await turns(when)
    cancelled = work.cancel()
    await asyncio.wait([caller])
    assert not caller.cancelled()
    assert isinstance(caller.exception(), ChildCancelled) == cancelled
