"""Tells what happens to the children of a supervisor: a hook, and the log."""

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, final

from ._events import Event
from ._turn import turn_of

logger = logging.getLogger("safeaio.supervise")


@final
class Herald:
    """Makes events, if anybody listens; nobody who listens can disturb a supervisor.

    Args:
        path: Where the supervisor is.
        hook: Gets every event, until it raises.
        loop: Whose exception handler gets what the logging raises.
    """

    def __init__(
        self,
        path: str,
        hook: Callable[[Event], None] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._path = path
        self._hook = hook
        self._loop = loop
        self._turn = turn_of(loop)

    def tell(self, event: Callable[..., Event], of: Any, *args: Any) -> None:
        """Tell of an event.

        Args:
            event: Its class.
            of: What it happened to, which has a path.
            *args: Its further attributes.
        """
        if self._hook is None and not logger.isEnabledFor(logging.ERROR):
            return
        told = event(of.path, *args)
        self._log(told)
        if self._hook is not None:
            self._call(self._hook, told)

    def close(self) -> None:
        """Let go of the hook."""
        self._hook = None

    def _log(self, event: Event) -> None:
        if not logger.isEnabledFor(event.level):
            return
        extra = {"event": type(event).__name__, "path": event.path}
        error = getattr(event, "error", None)
        with self._undisturbed(f"could not log {event}"):
            logger.log(event.level, "%s", event, exc_info=error, extra=extra)

    def _call(self, hook: Callable[[Event], None], event: Event) -> None:
        message = "on_event raised, and is not called again"
        with self._undisturbed(message):
            # What it starts eagerly must find that it is on a stack of ours.
            nested, self._turn.starting = self._turn.starting, True
            try:
                hook(event)
            except (Exception, asyncio.CancelledError):
                self._hook = None
                logger.exception("%s: %s", self._path, message)
            finally:
                self._turn.starting = nested

    @contextmanager
    def _undisturbed(self, message: str) -> Generator[None]:
        """Let nothing out: whoever tells is amid a change of its state."""
        try:
            yield
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - of the user's
            message = f"{self._path}: {message}"
            self._loop.call_exception_handler({"message": message, "exception": exc})
        except BaseException as exc:  # noqa: BLE001 - the loop raises it
            self._hook = None
            self._loop.call_soon(_raise, exc, context=Context())


def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error  # its traceback holds this frame
