"""Durations, as they are given to us."""

from decimal import Decimal
from fractions import Fraction
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeaio._seconds import check_seconds


@given(st.floats(min_value=0) | st.integers(0, 2**64))
def test_takes_what_is_no_less_than_nothing(value: float) -> None:
    """Every number of seconds from 0 to infinity is a duration."""
    check_seconds("call(): timeout", value)
    check_seconds("call(): timeout", value, optional=False)


def test_takes_none_where_there_may_be_no_limit() -> None:
    """None stands for no limit."""
    check_seconds("call(): timeout", None)


@given(st.floats(max_value=0, exclude_max=True) | st.integers(max_value=-1))
def test_refuses_less_than_nothing(value: float) -> None:
    """A negative number is out of domain, down to infinity."""
    with pytest.raises(ValueError, match="at least 0 seconds") as caught:
        check_seconds("call(): timeout", value)
    assert str(caught.value) == (
        f"call(): timeout must be at least 0 seconds, got {value!r}; "
        "write None for no limit"
    )


@pytest.mark.parametrize("value", [nan, -inf])
def test_refuses_what_cannot_be_compared(value: float) -> None:
    """NaN is no duration, nor is minus infinity."""
    with pytest.raises(ValueError, match=f"at least 0 seconds, got {value}"):
        check_seconds("call(): timeout", value)


def test_minus_zero_is_zero() -> None:
    """Minus zero is not negative."""
    check_seconds("call(): timeout", -0.0)


@pytest.mark.parametrize(
    "value", [True, False, "3", b"4", Decimal(1), Fraction(1, 2), 1j, [1], object]
)
def test_refuses_what_is_no_number(value: object) -> None:
    """Only int and float count seconds; a bool is a mistake."""
    with pytest.raises(TypeError) as caught:
        check_seconds("call(): timeout", value)
    assert str(caught.value) == (
        f"call(): timeout must be a number of seconds, got {value!r}; "
        "write None for no limit"
    )


def test_refuses_none_where_there_must_be_a_limit() -> None:
    """Where None is not allowed, the message does not propose it."""
    with pytest.raises(TypeError) as caught:
        check_seconds("call(): pause", None, optional=False)
    assert str(caught.value) == "call(): pause must be a number of seconds, got None"


def test_does_not_propose_none_where_there_must_be_a_limit() -> None:
    """The same for a number out of domain."""
    with pytest.raises(ValueError, match="at least 0") as caught:
        check_seconds("call(): pause", -1, optional=False)
    assert str(caught.value) == "call(): pause must be at least 0 seconds, got -1"
