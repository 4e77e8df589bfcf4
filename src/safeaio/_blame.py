"""Why a supervisor ended, and what it raises for that."""

from typing import final

from ._child import Child
from .exceptions import SupervisionError


@final
class Blame:
    """What a supervisor has to raise in the end.

    Attributes:
        culprit: The child that could not be kept up, if it gave up.
        why: What that did.
        fatal: The first KeyboardInterrupt or SystemExit, which goes before anything else.
        errors: What else was raised, and would be lost.
    """

    def __init__(self) -> None:
        self.culprit: Child | None = None
        self.why: str = "services failed"
        self.fatal: BaseException | None = None
        self.errors: list[Exception] = []

    def lay_on(self, culprit: Child, why: str) -> None:
        """Name the child that is to blame."""
        self.culprit, self.why = culprit, why

    def take_fatal(self) -> BaseException | None:
        """Return the fatal error, and keep it no longer."""
        fatal, self.fatal = self.fatal, None
        return fatal

    def error(self) -> SupervisionError | None:
        """Make the error that is to be raised, if any is."""
        culprit, errors = self.culprit, self.errors
        if culprit is not None and isinstance(culprit.error, Exception):
            errors = [culprit.error, *(e for e in errors if e is not culprit.error)]
        if not errors:
            return None
        error = SupervisionError(self.why, errors)
        if culprit is not None:
            error.service = culprit.name
            error.history = tuple(culprit.history or ())
        return error


def reason_of(culprit: Child, failures: int) -> str:
    """Tell how often a child failed."""
    text = f"service {culprit.name!r} failed"
    if failures < 2:
        return text
    seconds = culprit.overseer.loop.time() - culprit.failing_since
    return f"{text} {failures} times in {seconds:.1f} s"
