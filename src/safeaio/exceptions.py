"""Every error and warning that safeaio raises.

```
Exception
├── ExceptionGroup
│   ├── CleanupError (also a SafeaioError)
│   └── SupervisionError (also a SafeaioError)
└── SafeaioError
    ├── ChildCancelled
    ├── CleanupError
    ├── LeakError
    ├── SessionClosed
    │   └── SessionRefused
    ├── SupervisionError
    ├── SupervisorClosed
    └── TaskStuckError
Warning
├── ResourceWarning
│   └── LeakWarning
└── RuntimeWarning
    ├── CancellationSwallowedWarning
    └── TaskStuckWarning
SystemExit
└── Terminated
```

Misuse is a plain `TypeError`, `ValueError` or `RuntimeError`.
"""

from collections.abc import Sequence
from signal import Signals
from typing import Literal, Self, final

import attrs

from ._record import Record


def signal_name(signum: int) -> str:
    """Return what a signal is called, such as `"SIGTERM"`."""
    try:
        return Signals(signum).name
    except ValueError:  # a real-time signal
        return f"signal {signum}"


class SafeaioError(Exception):
    """Base of everything that a program may want to catch."""


@final
class ChildCancelled(SafeaioError):
    """A child ended cancelled, though neither its caller nor safeaio had cancelled it.

    Without this class the child's own `asyncio.CancelledError` would look like a
    cancel of the caller, and end it silently. That error is the `__cause__`.

    Attributes:
        child: Which child it was, such as `"argument 3"` or `"item 7"`.
    """

    def __init__(self, child: str) -> None:
        super().__init__(child)
        self.child = child

    def __str__(self) -> str:
        return (
            f"{self.child} ended cancelled, though its caller was not: it was cancelled "
            "by somebody else, awaited a cancelled task, or raised CancelledError itself"
        )


@final
class CleanupError(SafeaioError, ExceptionGroup[Exception]):
    """Cleanup failed when a `cleanup_scope` was left.

    An exception group: what left the block, if anything did, then what the cleanup
    raised, in the order in which it ran. A call that took longer than the scope's
    `cleanup_timeout` is a `TimeoutError` that names it, and one that did not end when
    it was cut a `TaskStuckError`.
    """

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]
        """Keep the class when the group is split."""
        return type(self)(self.message, excs)


@final
class LeakError(SafeaioError):
    """`safeaio.run` was asked to raise, not to warn, when main leaves something behind.

    The text lists what that was.
    """


@final
@attrs.frozen(eq=False, repr=False)
class Failure(Record):
    """One failure of a service, in the history of a `SupervisionError`.

    Attributes:
        service: Its name.
        error: The text of what it raised, with the class.
        at: When, on the loop's clock.
    """

    service: str
    error: str
    at: float


@final
class SupervisionError(SafeaioError, ExceptionGroup[Exception]):
    """A supervisor gave up, or a service of its own failed for good.

    An exception group of what the services themselves raised: the last failure of the one
    that was given up, if one was, then the others', then what was raised while they
    stopped.

    Attributes:
        service: The name of the service that was given up; None if none was.
        history: Its last failures, the oldest first.
    """

    service: str | None = None
    history: tuple[Failure, ...] = ()

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]
        """Keep the class, and what it says, when the group is split."""
        part = type(self)(self.message, excs)
        part.service, part.history = self.service, self.history
        return part


@final
class SupervisorClosed(SafeaioError):
    """A service was to be started by a supervisor that is stopping, or has stopped.

    Attributes:
        supervisor: Its path.
    """

    def __init__(self, supervisor: str) -> None:
        super().__init__(supervisor)
        self.supervisor = supervisor

    def __str__(self) -> str:
        return f"supervisor {self.supervisor!r} is stopping, and starts nothing more"


@final
class TaskStuckError(SafeaioError):
    """Cancelled tasks did not end in time, and nobody waits for them any more.

    Attributes:
        reports: For each task its name, for how long it has been waited for since it
            was cancelled, and where it stands.
    """

    def __init__(self, reports: tuple[str, ...]) -> None:
        super().__init__(reports)
        self.reports = reports

    def __str__(self) -> str:
        return "\n".join(self.reports)


@final
@attrs.frozen(eq=False, repr=False)
class CloseInfo(Record):
    """How a WebSocket session ended.

    Attributes:
        code: The close code that was sent or received; 1006 if there was none, 1005 if
            the peer's close frame had none.
        reason: The text beside it.
        initiator: Who began: `"local"` or `"remote"`.
        clean: Whether both have sent a close frame.
        cause: Why, in one word, such as `"peer"`, `"slow"` or `"drain"`; the reference has
            all of them.
    """

    code: int
    reason: str
    initiator: Literal["local", "remote"]
    clean: bool
    cause: str

    def __str__(self) -> str:
        reason = f" {self.reason!r}" if self.reason else ""
        return f"{self.code}{reason}, {self.initiator}: {self.cause}"


class SessionClosed(SafeaioError):
    """A WebSocket session has ended, or is about to: nothing can be sent or received.

    Attributes:
        info: How it ended.
    """

    def __init__(self, info: CloseInfo) -> None:
        super().__init__(info)
        self.info = info

    def __str__(self) -> str:
        return f"the WebSocket session is closed ({self.info})"


@final
class SessionRefused(SessionClosed):
    """A hub did not admit a WebSocket; it has been told so.

    Attributes:
        info: What it was told.
    """

    def __str__(self) -> str:
        return f"the WebSocket was not admitted ({self.info})"


@final
class CancellationSwallowedWarning(RuntimeWarning):
    """A task that was told to stop returned a result instead.

    A coroutine that catches CancelledError has to raise it again: whoever cancelled
    the task cannot tell this end from an ordinary one. To refuse a cancel for good
    reason, take it back with `asyncio.Task.uncancel`.
    The text gives the task's name, and where it stood when it was cancelled.
    """


@final
class TaskStuckWarning(RuntimeWarning):
    """A cancelled task does not end.

    Nothing can kill a coroutine: safeaio cancels it again and goes on waiting.
    The text gives the task's name, where it hangs, and for how long.
    """


@final
class LeakWarning(ResourceWarning):
    """Main left something behind when it ended under `safeaio.run`.

    The text lists what that was. Python ignores every ResourceWarning unless it is told
    otherwise, so the loop's exception handler gets the text, too.
    """


@final
class Terminated(SystemExit):
    """A shutdown cancelled main: raised by `safeaio.run`, where Ctrl-C raises KeyboardInterrupt.

    Unless it is caught, the process exits with its `code`.

    Attributes:
        signum: The signal that began the shutdown, or None if `request_shutdown()` did.
        reason: What `request_shutdown()` was given.
        code: The exit status: 128 + `signum`, as of a process killed by that signal, or 0.
    """

    def __init__(self, signum: int | None = None, reason: str | None = None) -> None:
        super().__init__(signum, reason)
        self.signum = signum
        self.reason = reason
        self.code: str | int | None = 0 if signum is None else 128 + signum

    def __str__(self) -> str:
        if self.signum is not None:
            return f"shut down by {signal_name(self.signum)}"
        because = "" if self.reason is None else f": {self.reason}"
        return f"shut down by request_shutdown(){because}"
