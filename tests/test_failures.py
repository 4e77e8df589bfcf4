"""Which of several failures leaves the call."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeaio._failures import Failure, Failures
from safeaio.exceptions import ChildCancelled

KINDS = [ValueError, KeyError, KeyboardInterrupt, SystemExit, asyncio.CancelledError]

raised = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(KINDS)).map(
        lambda pair: (pair[0], pair[1]())
    ),
    max_size=30,
)
cancels = st.none() | st.builds(asyncio.CancelledError, st.just("outside"))


def failures_of(errors: list[tuple[int, BaseException]]) -> Failures:
    failures = Failures()
    for child, error in errors:
        failures.add(Failure(f"argument {child}", error))
    return failures


@given(raised, cancels, st.booleans())
def test_verdict(
    errors: list[tuple[int, BaseException]],
    cancel: asyncio.CancelledError | None,
    caller_cancelled: bool,
) -> None:
    """An interrupt goes first, then the caller's cancel, then the first failure."""
    error, others = failures_of(errors).verdict(
        cancel, caller_cancelled=caller_cancelled
    )
    interrupts = [e for _, e in errors if isinstance(e, KeyboardInterrupt | SystemExit)]
    if interrupts:
        chosen: BaseException | None = interrupts[0]
        assert error is chosen
    elif cancel is not None:
        chosen = None
        assert error is cancel
    elif not errors:
        chosen = None
        assert error is None
    else:
        chosen = errors[0][1]
        if isinstance(chosen, asyncio.CancelledError) and not caller_cancelled:
            assert isinstance(error, ChildCancelled)
            assert error.__cause__ is chosen
        else:
            assert error is chosen
    rest = [
        e
        for _, e in errors
        if e is not chosen and not isinstance(e, asyncio.CancelledError)
    ]
    assert [other.error for other in others] == rest
    notes: list[str] = getattr(error, "__notes__", [])
    assert notes[:10] == [f"also raised by {other}" for other in others[:10]]
    assert notes[10:] == ([f"and {len(rest) - 10} more"] if len(rest) > 10 else [])


@given(raised)
def test_same_object_once(errors: list[tuple[int, BaseException]]) -> None:
    """An error that several children raise is one error, of the first of them."""
    twice = [*errors, *reversed(errors)]
    once, others = failures_of(errors).verdict(None, caller_cancelled=True)
    again, same = failures_of(twice).verdict(None, caller_cancelled=True)
    assert again is once
    assert others == same


def test_add_first() -> None:
    """What is added first goes first, and is not counted twice."""
    early, late = ValueError("early"), ValueError("late")
    failures = failures_of([(0, late)])
    failures.add_first(Failure("the body", early))
    failures.add_first(Failure("the body", early))
    error, others = failures.verdict(None, caller_cancelled=False)
    assert error is early
    assert others == [Failure("argument 0", late)]


def test_clear() -> None:
    """Errors that have been raised are forgotten."""
    failures = failures_of([(0, ValueError())])
    assert failures
    failures.clear()
    assert not failures
    assert failures.verdict(None, caller_cancelled=False) == (None, [])


class Broken(Exception):
    def __repr__(self) -> str:
        raise self


class NoText(Exception):
    def __repr__(self) -> str:
        return None  # type: ignore[return-value]


class Huge(Exception):
    def __repr__(self) -> str:
        return "x" * 1_000_000


class dict(Exception):
    pass


@pytest.mark.parametrize("hostile", [Broken, NoText, Huge, dict])
def test_hostile_repr(hostile: type[Exception]) -> None:
    """An error that cannot show itself spoils neither the note nor the verdict."""
    first = ValueError("first")
    error, _ = failures_of([(0, first), (1, hostile())]).verdict(
        None, caller_cancelled=False
    )
    assert error is first
    (note,) = first.__notes__
    assert note.startswith("also raised by argument 1: ")
    assert len(note) < 300


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


def test_error_that_takes_no_notes() -> None:
    """It is raised all the same, without them."""
    frozen = Frozen(3)
    later = ValueError()
    error, others = failures_of([(0, frozen), (1, later)]).verdict(
        None, caller_cancelled=False
    )
    assert error is frozen
    assert [other.error for other in others] == [later]
