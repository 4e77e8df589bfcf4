"""Tells what happens to the children of a supervisor: a hook, and the log."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, final

from ._events import Event

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
        try:
            logger.log(
                event.level,
                "%s",
                event,
                exc_info=getattr(event, "error", None),
                extra={"event": type(event).__name__, "path": event.path},
            )
        except Exception as exc:  # noqa: BLE001 - of a filter or handler of the user's
            message = f"{self._path}: could not log {event}"
            self._loop.call_exception_handler({"message": message, "exception": exc})

    def _call(self, hook: Callable[[Event], None], event: Event) -> None:
        try:
            hook(event)
        except Exception:
            self._hook = None
            logger.exception("%s: on_event raised, and is not called again", self._path)
