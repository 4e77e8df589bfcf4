"""Signal handlers that are taken for a while, and given back."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, cast, final


def check_signals(signums: object) -> tuple[int, ...]:
    """Return the numbers of the signals to take.

    Raises:
        TypeError: If that is no iterable of signals.
        ValueError: If one is unknown here, or cannot be handled.
    """
    fix = "; write signals=(signal.SIGINT, signal.SIGTERM), or () for none"
    if not isinstance(signums, Iterable) or isinstance(signums, str | bytes):
        raise TypeError(f"run(): signals must be an iterable, got {signums!r}{fix}")
    numbers = dict.fromkeys(cast("Iterable[object]", signums))
    checked: list[int] = []
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"run(): a signal must be an int, got {number!r}{fix}")
        if not isinstance(number, signal.Signals) and (
            number not in signal.valid_signals()
        ):
            raise ValueError(f"run(): there is no signal {number!r} here{fix}")
        if number in _UNSTOPPABLE:
            raise ValueError(f"run(): no process can handle {number!r}{fix}")
        checked.append(int(number))
    return tuple(checked)


_UNSTOPPABLE = tuple(
    getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)
)


@final
class Signals:
    """The handlers of one run, and what has arrived.

    Attributes:
        pending: Signals that have arrived, and that nobody has seen yet.
        arrived: How many have arrived, ever.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.pending: deque[int] = deque()
        self.arrived = 0
        self._wake = wake
        self._previous: dict[int, Any] = {}
        self._over = False

    def take(self, signums: Iterable[int]) -> None:
        """Handle those that Python itself, or nobody, handles now; leave the others."""
        for signum in signums:
            previous = signal.getsignal(signum)
            if previous is not _default(signum):
                continue
            try:
                signal.signal(signum, self._arrive)
            except ValueError:  # this interpreter handles no signals
                return
            self._previous[signum] = previous

    def owns(self, signum: int) -> bool:
        """Tell whether a signal comes to us."""
        return signal.getsignal(signum) == self._arrive

    def takes(self, signum: int) -> bool:
        """Tell whether a signal was ours when the run began."""
        return signum in self._previous

    def give_back(self) -> None:
        """Restore every handler that is still ours."""
        for signum, previous in self._previous.items():
            if self.owns(signum):
                signal.signal(signum, previous)
        self._over = True
        vars(self).pop("_wake", None)  # it leads to whoever holds this

    def redeliver(self) -> None:
        """Send again what arrived too late for us."""
        while self.pending:
            signal.raise_signal(self.pending.popleft())

    def _arrive(self, signum: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock: it may be held below, in this very thread.
        if self._over:
            self._pass_on(signum, frame)
            return
        self.arrived += 1
        self.pending.append(signum)
        self._wake()

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        """Do what the handler before us does: whoever replaced ours still calls it."""
        previous = self._previous[signum]
        if callable(previous):
            previous(signum, frame)
        else:
            signal.signal(signum, previous)
            signal.raise_signal(signum)


def _default(signum: int) -> object:
    return signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL


def in_main_thread() -> bool:
    """Tell whether Python runs signal handlers in this thread."""
    return threading.current_thread() is threading.main_thread()
