"""How a life ended: pure."""

import asyncio
from typing import Any

import pytest

from safeaio import ChildCancelled, Service, SupervisionError, supervise
from safeaio._ending import How, ending

CANCEL = asyncio.CancelledError()
ERROR = OSError("broken")


def test_ends_of_itself() -> None:
    """It returned, or it failed with what it raised."""
    assert ending("db", None, stopped=False) == (How.RETURNED, None)
    assert ending("db", ERROR, stopped=False) == (How.FAILED, ERROR)


def test_ends_when_it_was_stopped() -> None:
    """Cancelled, in order, or raising something in its cleanup."""
    assert ending("db", CANCEL, stopped=True) == (How.STOPPED, None)
    assert ending("db", None, stopped=True) == (How.STOPPED, None)
    assert ending("db", ERROR, stopped=True) == (How.STOPPED, ERROR)


def test_a_stray_cancel_is_a_failure() -> None:
    """Nobody who may do so has stopped it; without this it would end silently."""
    how, error = ending("db", CANCEL, stopped=False)
    assert how is How.FAILED
    assert isinstance(error, ChildCancelled)
    assert error.child == "'db'"
    assert error.__cause__ is CANCEL


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("fatal", [KeyboardInterrupt(), SystemExit(3), BaseException()])
def test_what_is_for_the_whole_program(fatal: BaseException, stopped: bool) -> None:
    """Even from one that was stopped."""
    assert ending("db", fatal, stopped=stopped) == (How.FATAL, fatal)


def test_group_of_cancels_is_a_cancel() -> None:
    """As of a task group whose tasks were all cancelled."""
    group = BaseExceptionGroup("", [CANCEL, BaseExceptionGroup("", [CANCEL])])
    assert ending("db", group, stopped=True) == (How.STOPPED, None)
    how, error = ending("db", group, stopped=False)
    assert how is How.FAILED
    assert isinstance(error, ChildCancelled)


def test_group_with_more_than_cancels_is_a_failure() -> None:
    """The cancels are left out: what is left can be raised in a group of errors."""
    group = BaseExceptionGroup("several", [CANCEL, ERROR])
    how, error = ending("db", group, stopped=False)
    assert how is How.FAILED
    assert isinstance(error, ExceptionGroup)
    assert error.exceptions == (ERROR,)
    assert error.message == "several"


def test_group_with_something_fatal() -> None:
    """Is fatal as it is."""
    group = BaseExceptionGroup("", [SystemExit(3), ERROR])
    assert ending("db", group, stopped=False) == (How.FATAL, group)


class Picky(ExceptionGroup[Exception]):
    """A group that cannot be divided."""

    def derive(self, excs: Any, /) -> Any:
        raise TypeError("not divisible")


def test_group_that_cannot_be_divided() -> None:
    """Is an error like any other, as it is."""
    group = Picky("several", [ERROR, ERROR])
    assert ending("db", group, stopped=False) == (How.FAILED, group)
    assert ending("db", group, stopped=True) == (How.STOPPED, group)


@pytest.mark.virtual_time
async def test_group_that_cannot_be_divided_ends_a_service() -> None:
    """That very error is what the supervisor raises."""
    group = Picky("several", [ERROR, ERROR])

    async def fail() -> None:
        raise group

    with pytest.raises(SupervisionError) as info:
        await supervise(Service(fail, max_restarts=0))
    assert info.value.exceptions == (group,)
