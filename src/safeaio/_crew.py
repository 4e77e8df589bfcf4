"""The children of one call, where the first failure stops the rest."""

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine
from typing import Any, Generic, TypeVar, final

import attrs

from ._failures import Failure, Failures
from ._wait import Children

K = TypeVar("K")
T = TypeVar("T")


@attrs.define(eq=False, repr=False)
@final
class Crew(Generic[K]):
    """Children, and what they raised."""

    owner: str
    children: Children[K] = attrs.field(init=False)
    failures: Failures = attrs.field(factory=Failures, init=False)
    _left: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.children = Children(self.owner)

    def fail(self, child: str, error: BaseException) -> None:
        """Take note that a child raised `error`, and stop the others."""
        if self.children.cancelled and isinstance(error, asyncio.CancelledError):
            return  # our own doing
        failure = Failure(child, error)
        if self._left:
            self.report([failure])
            return
        self.failures.add(failure)
        self.children.cancel()

    async def join(self, cancel: asyncio.CancelledError | None = None) -> None:
        """Wait for every child, then raise what the call has to raise, if anything.

        Args:
            cancel: A cancel of the caller that has arrived already.

        Raises:
            BaseException: The verdict of `Failures`.
        """
        self.conclude(await self.wait(cancel))

    async def wait(
        self, cancel: asyncio.CancelledError | None = None
    ) -> asyncio.CancelledError | None:
        """Wait for every child; return the cancel of the caller that goes first, if any."""
        try:
            await self.children.wait(cancel)
        except asyncio.CancelledError as exc:
            return exc
        except GeneratorExit:
            self._left = True  # children that raise from now on have no one to raise to
            raise
        finally:
            del cancel  # its traceback holds this frame
        return None

    def conclude(
        self,
        cancel: asyncio.CancelledError | None = None,
        leaving: BaseException | None = None,
    ) -> None:
        """Raise what the call has to raise, and report whatever that hides.

        Args:
            cancel: The caller's own cancel, if it has arrived.
            leaving: What leaves the block by itself, and need not be raised.

        Raises:
            BaseException: The verdict of `Failures`.
        """
        error, hidden = self.failures.verdict(
            cancel, caller_cancelled=self.children.host_cancelled
        )
        self.failures.clear()  # an error holds its frames, and they hold this
        self._left = isinstance(leaving, GeneratorExit)
        self.report(hidden)
        if error is not None and error is not leaving:
            try:
                raise error
            finally:
                del error, cancel, leaving, hidden  # their tracebacks hold this frame

    def report(self, failures: list[Failure]) -> None:
        """Hand errors that nobody will see raised to the loop's exception handler."""
        for failure in failures:
            self.children.loop.call_exception_handler(
                {
                    "message": f"{self.owner}: {failure.child} raised beside another error",
                    "exception": failure.error,
                }
            )


@final
class Carried(BaseException):
    """A KeyboardInterrupt or SystemExit on its way from a child to its caller.

    Bare, the child's task would throw it out of the loop, and nobody would wait for
    the others.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def carry(work: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """Wrap `work` for a task of its own, under its own name.

    A task that is cancelled before its first step never takes `work`: if it ends
    cancelled, close that.
    """
    coro: Any = _carry(work)
    coro.__qualname__ = getattr(work, "__qualname__", "awaitable")
    return coro  # type: ignore[no-any-return]


def let_go(children: Children[Awaitable[Any]], child: asyncio.Future[Any]) -> None:
    """Take out a carried child, and close what it never took; a done callback."""
    work = children.running.get(child)
    if child.cancelled() and inspect.iscoroutine(work):
        work.close()
    children.ended(child)


async def _carry(work: Awaitable[T]) -> T:
    try:
        return await work
    except (KeyboardInterrupt, SystemExit) as exc:
        raise Carried(exc) from None


def error_of(task: asyncio.Future[Any]) -> BaseException | None:
    """Return what a finished child raised, its cancel included."""
    try:
        error = task.exception()
    except asyncio.CancelledError as exc:
        return exc
    return None if error is None else uncarried(error)


def uncarried(error: BaseException) -> BaseException:
    """Return what a child itself raised."""
    return error.error if isinstance(error, Carried) else error
