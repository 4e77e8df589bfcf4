"""Durations and times, as they are given to us."""

from math import isnan

_NUMBERS = (int, float)  # `int | float` would be made anew at each call


def check_seconds(name: str, value: object, *, optional: bool = True) -> None:
    """Refuse what is no duration in seconds.

    Raises:
        TypeError: If it is no number, nor None where that is allowed.
        ValueError: If it is negative, or NaN.
    """
    if optional and value is None:
        return
    if isinstance(value, _NUMBERS) and value >= 0 and not isinstance(value, bool):
        return
    no_limit = "; write None for no limit" if optional else ""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}{no_limit}")
    raise ValueError(f"{name} must be at least 0 seconds, got {value!r}{no_limit}")


def check_time(name: str, value: object) -> None:
    """Refuse what is no time of a loop's clock.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is NaN.
    """
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(f"{name} must be a number, got {value!r}; write inf for none")
    if isnan(value):
        raise ValueError(f"{name} must not be NaN; write inf for none")
