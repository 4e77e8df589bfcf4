"""A clock that only the work of a test advances."""

WORK = 5e-7  # seconds for each call and each return of a function, about what they take


class Clock:
    """A clock on which only this test's work takes time, not what else the machine does.

    The pool reads it for its budget. It advances with every call and every return, Python's
    and C's, and by `burn`.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def burn(self, seconds: float) -> None:
        self.now += seconds

    def profile(self, *_: object) -> None:
        self.now += WORK
