"""What leaves a `cleanup_scope`, decided without a loop."""

import asyncio
from itertools import product

import pytest

from safeaio import ChildCancelled, CleanupError
from safeaio._outcome import Outcome

INTERRUPT = KeyboardInterrupt()
CANCEL = asyncio.CancelledError("outside")
OWN = asyncio.CancelledError("ours")
ERROR = ValueError()
LATE = TimeoutError("late")


@pytest.mark.parametrize(
    ("interrupt", "cancel", "failures", "error", "own"),
    list(product([None, INTERRUPT], [None, CANCEL], range(3), [None, ERROR], [0, 1])),
)
def test_precedence(
    interrupt: BaseException | None,
    cancel: asyncio.CancelledError | None,
    failures: int,
    error: Exception | None,
    own: int,
) -> None:
    """Interrupt, cancel from outside, CleanupError, body's error, TimeoutError, nothing."""
    failed = [OSError(str(n)) for n in range(failures)]
    outcome = Outcome(interrupt, cancel, OWN if own else None, error, list(failed))
    raised, hidden = outcome.verdict(LATE)
    group: BaseException | None
    if interrupt is not None or cancel is not None:
        assert raised is (cancel if interrupt is None else interrupt)
        group = hidden
    else:
        assert hidden is None
        group = raised if failed else None
        if not failed:
            assert raised is (error or (LATE if own else None))
    if failed:
        assert isinstance(group, CleanupError)
        assert list(group.exceptions) == ([error] if error else []) + failed
    else:
        assert group is None


def test_own_cancel_without_a_deadline_is_silent() -> None:
    """`scope.cancel()` leaves nothing to raise."""
    assert Outcome(own=OWN).verdict(None) == (None, None)


@pytest.mark.parametrize(
    ("raised", "field"),
    [
        (ValueError(), "error"),
        (CANCEL, "cancel"),
        (INTERRUPT, "interrupt"),
        (SystemExit(), "interrupt"),
        (GeneratorExit(), "interrupt"),
    ],
)
def test_what_left_the_body_is_sorted(raised: BaseException, field: str) -> None:
    """An error, a cancel and an interrupt each have their own place."""
    outcome = Outcome()
    outcome.left_by(raised)
    assert getattr(outcome, field) is raised
    assert outcome.seen() is raised


def test_an_exception_that_is_false_is_one() -> None:
    """An exception with a length of 0 is not taken for none."""

    class Empty(Exception):
        def __len__(self) -> int:
            return 0

    empty = Empty()
    assert Outcome(error=empty).verdict(None) == (empty, None)
    assert Outcome(error=empty).seen() is empty


def test_the_first_interrupt_stays() -> None:
    """That of the body goes before that of the cleanup."""
    outcome = Outcome()
    outcome.left_by(INTERRUPT)
    outcome.failed("close()", SystemExit())
    assert outcome.verdict(None) == (INTERRUPT, None)
    outcome = Outcome()
    outcome.failed("close()", INTERRUPT)
    outcome.failed("close()", SystemExit())
    assert outcome.verdict(None) == (INTERRUPT, None)


def test_a_stray_cancel_of_a_step_is_a_failure() -> None:
    """A deferred call that ends cancelled by itself does not look like a cancel of ours."""
    outcome = Outcome()
    outcome.failed("close()", CANCEL)
    (stray,) = outcome.failures
    assert isinstance(stray, ChildCancelled)
    assert stray.child == "close()"
    assert stray.__cause__ is CANCEL


def test_a_native_cancel_goes_before_that_of_a_scope() -> None:
    """Of two cancels from outside the first stays, but a native one goes first."""
    by_scope = asyncio.CancelledError("Cancelled via cancel scope 1")
    outcome = Outcome()
    outcome.cancelled(by_scope)
    outcome.cancelled(CANCEL)
    outcome.cancelled(asyncio.CancelledError("again"))
    assert outcome.cancel is CANCEL


@pytest.mark.parametrize("hides", [{"cancel": CANCEL}, {"interrupt": INTERRUPT}])
def test_suppressing_a_cancel_keeps_the_failures_it_hid(
    hides: dict[str, object],
) -> None:
    """What a context manager has not seen is not forgotten with what it has."""
    failed = OSError()
    outcome = Outcome(failures=[failed], **hides)  # type: ignore[arg-type]
    outcome.suppressed()
    raised, hidden = outcome.verdict(None)
    assert isinstance(raised, CleanupError)
    assert raised.exceptions == (failed,)
    assert hidden is None


def test_suppressing_failures_forgets_them() -> None:
    """A context manager that suppresses a CleanupError has seen all of it."""
    outcome = Outcome(own=OWN, error=ValueError(), failures=[OSError()])
    assert isinstance(outcome.seen(), CleanupError)
    outcome.suppressed()
    assert outcome.verdict(LATE) == (None, None)


def test_an_error_replaces_what_was_seen() -> None:
    """A context manager may raise something else in its place."""
    new = KeyError()
    outcome = Outcome(own=OWN, error=ValueError(), failures=[OSError()])
    outcome.replaced("cm", new, cancelled=False)
    assert outcome.verdict(LATE) == (new, None)


def test_an_error_in_place_of_a_cancel_that_is_taken_back() -> None:
    """As `asyncio.timeout` does: the failures that the cancel hid come out with it."""
    new, failed = TimeoutError(), OSError()
    outcome = Outcome(cancel=CANCEL, failures=[failed])
    outcome.replaced("cm", new, cancelled=False)
    raised, _ = outcome.verdict(None)
    assert isinstance(raised, CleanupError)
    assert raised.exceptions == (new, failed)


@pytest.mark.parametrize(
    "outcome", [Outcome(cancel=CANCEL), Outcome(interrupt=INTERRUPT)], ids=str
)
def test_no_error_goes_before_a_cancel_that_stands(outcome: Outcome) -> None:
    """Nor before an interrupt: it is one more failure."""
    new, first = KeyError(), outcome.seen()
    outcome.replaced("cm", new, cancelled=True)
    raised, hidden = outcome.verdict(None)
    assert raised is first
    assert hidden is not None
    assert hidden.exceptions == (new,)


def test_an_interrupt_replaces_all() -> None:
    """A context manager that raises KeyboardInterrupt is obeyed."""
    outcome = Outcome(error=ValueError())
    outcome.replaced("cm", INTERRUPT, cancelled=False)
    assert outcome.verdict(None) == (INTERRUPT, None)


def test_a_cancel_in_place_of_another() -> None:
    """It is the same cancel in other words; in place of an error it is a failure."""
    outcome = Outcome(cancel=CANCEL)
    outcome.replaced("cm", asyncio.CancelledError(), cancelled=True)
    assert outcome.verdict(None) == (CANCEL, None)
    outcome = Outcome(error=ValueError())
    outcome.replaced("cm", CANCEL, cancelled=False)
    raised, _ = outcome.verdict(None)
    assert isinstance(raised, CleanupError)
    assert [type(leaf) for leaf in raised.exceptions] == [ValueError, ChildCancelled]
