"""The primitive under every room: cancel once, wait for all, lose no cancel."""

# Invariants; the code names them where it keeps them.
#
# 1. A child gets one cancel from us, however often its host is cancelled: its cleanup may
#    await. Only one that is stuck gets another, once per interval.
# 2. `wait` ends only when no child is left. Nothing can kill a coroutine, so there is no
#    timeout here: the stuck are reported, by a timer, until they end or the owner
#    abandons them.
# 3. A CancelledError that reaches the host meanwhile is kept, and raised at the end, the
#    same object: the first native one, else the first of an anyio scope. (The scope would
#    swallow its own, and with it a native cancel that came beside it.)
# 4. After the first one the host waits inside a shielded scope. A cancelled anyio scope
#    delivers again in every tick, and would keep the loop spinning.
# 5. The host's `cancelling()` is never touched, and is compared with its value on entry:
#    the host may have been cancelled before, and be in its cleanup now.
# 6. On GeneratorExit the children are cancelled, not awaited: Python allows no more.
# 7. Nothing awaits inside an `except` block: a CancelledError raised there would get the
#    earlier one as `__context__`, by which anyio takes a native cancel for its own.

import asyncio
import warnings
from collections.abc import Callable
from contextvars import Context
from typing import Any, Generic, TypeVar, final
from weakref import ref

import anyio
import attrs

from ._foremost import foremost, from_scope
from ._stack import Trace, suspended_at, trace_of
from ._swallowed import has_swallowed, warn_of
from .exceptions import TaskStuckWarning

K = TypeVar("K")

STUCK_AFTER = 10.0


def current_task() -> asyncio.Task[Any]:
    """Return the running task.

    Raises:
        RuntimeError: If none runs here.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("safeaio runs inside an asyncio task; none is running here")
    return task


async def cancel_of_scope() -> asyncio.CancelledError | None:
    """Return the cancel that an anyio scope around here is about to send again, if any.

    For a cancel of ours that came in one turn with another: of two asyncio makes one,
    and a scope would not know ours.
    """
    from anyio.lowlevel import checkpoint_if_cancelled  # rare, and dear to import

    try:
        await checkpoint_if_cancelled()
    except asyncio.CancelledError as exc:
        return exc
    return None


@attrs.define(eq=False, repr=False)
@final
class Children(Generic[K]):
    """The tasks and futures that a host started, and will not outlive.

    The done callback of a child takes it out of `running`, and calls `wake` if that
    leaves none; `ended` does just that.

    Attributes:
        owner: Who waits for them, for reports, such as `"bounded_gather()"`.
        stuck_after: Seconds from the cancel of a child to its report, and from one
            report to the next; None if the owner sees to that.
        running: Every child that has not ended, with a key of the owner's.
        cancelled: Whether they have been told to stop: nothing more may start.
    """

    owner: str
    stuck_after: float | None = STUCK_AFTER
    _host: ref[asyncio.Task[Any]] = attrs.field(init=False)
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)
    running: dict[asyncio.Future[Any], K] = attrs.field(factory=lambda: {}, init=False)
    cancelled: bool = attrs.field(default=False, init=False)
    _entry: int = attrs.field(init=False)
    _cancelled_at: list[tuple[asyncio.Task[Any], Trace]] = attrs.field(
        factory=lambda: [], init=False
    )
    _waiter: asyncio.Future[None] | None = attrs.field(default=None, init=False)
    _alarm: asyncio.TimerHandle | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        host = current_task()
        self._host = ref(host)  # its error will hold frames that hold this
        self._entry = host.cancelling()

    @property
    def host(self) -> asyncio.Task[Any] | None:
        """The task that made this object; None if it has given up on the coroutine."""
        return self._host()

    @property
    def host_cancelled(self) -> bool:
        """Whether the host has been cancelled since it made this object."""
        host = self.host
        return host is not None and host.cancelling() != self._entry  # 5

    def add(
        self,
        child: asyncio.Future[Any],
        key: K,
        ended: Callable[[asyncio.Future[Any]], object],
        context: Context,
    ) -> None:
        """Wait for one more child."""
        self.hold(child, key)
        child.add_done_callback(ended, context=context)

    def hold(self, child: asyncio.Future[Any], key: K) -> None:
        """Wait for one more child, whose end somebody tells in another way."""
        self.running[child] = key
        if self.cancelled:  # while it was started: an eager first step may do anything
            self._cancel(child)
            self._watch()

    def ended(self, child: asyncio.Future[Any]) -> None:
        """Take out a child, unless it was abandoned before."""
        self.running.pop(child, None)
        if not self.running:
            self.wake()

    def cancel(self, msg: object = None) -> None:
        """Cancel every child, the first time only."""
        if self.cancelled:
            return  # 1
        self.cancelled = True
        for child in tuple(self.running):
            self._cancel(child, msg)
        self._watch()

    def _cancel(self, child: asyncio.Future[Any], msg: object = None) -> None:
        if isinstance(child, asyncio.Task) and not child.done():
            self._cancelled_at.append((child, trace_of(child)))
        child.cancel(msg)

    def abandon(self, age: float) -> tuple[str, ...]:
        """Wait for none of them any more; return where each one stands.

        Args:
            age: The seconds since they were cancelled.
        """
        reports = tuple(
            _stuck(self.owner, child, age) for child in self.running if not child.done()
        )
        self.running.clear()
        self.wake()
        return reports

    def wake(self) -> None:
        """Let the host go on, since the last child ended."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        cancelled_at, self._cancelled_at = self._cancelled_at, []
        for child, trace in cancelled_at:
            if has_swallowed(child):
                warn_of(self.loop, self.owner, child, trace)

    async def wait(
        self, cancel: asyncio.CancelledError | None = None, *, shielded: bool = False
    ) -> None:
        """Wait until no child is left; cancelled meanwhile, cancel them and wait on.

        Args:
            cancel: A cancel of the host that has arrived already.
            shielded: Do not cancel them.

        Raises:
            asyncio.CancelledError: The host's own cancel, after the last child ended.
        """
        if cancel is None:
            cancel = await self.wait_or_cancel()
        if cancel is None:
            return
        if not shielded:
            self.cancel(_message(cancel))
        with anyio.CancelScope(shield=True):  # 4
            while self.running:  # 2
                cancel = foremost(cancel, await self.wait_or_cancel())
        try:
            raise cancel
        finally:
            del cancel  # its traceback holds this frame

    async def wait_or_cancel(self) -> asyncio.CancelledError | None:
        """Wait until no child is left; return the host's cancel that came first, if any."""
        try:
            while self.running:
                self._waiter = self.loop.create_future()
                await self._waiter
        except asyncio.CancelledError as exc:
            return exc  # 7
        except BaseException:
            self.cancel()  # 6
            raise
        return None

    def _watch(self, turns: int = 4) -> None:
        """Set the alarm, unless the last child ends within a few turns: most do."""
        if not self.running or self._alarm is not None or self.stuck_after is None:
            return
        if turns:
            self.loop.call_soon(self._watch, turns - 1, context=Context())
        else:
            self._set_alarm(self.loop.time(), self.stuck_after)

    def _set_alarm(self, since: float, delay: float) -> None:
        self._alarm = self.loop.call_later(
            delay, self._report_stuck, since, delay, context=Context()
        )

    def _report_stuck(self, since: float, delay: float) -> None:
        self._set_alarm(since, delay)
        age = self.loop.time() - since
        reports: list[str] = []
        for child in tuple(self.running):
            if child.done():  # in this very turn
                continue
            child.cancel()
            reports.append(_stuck(self.owner, child, age))
            self.loop.call_exception_handler({"message": reports[-1], "future": child})
        for report in reports:
            warnings.warn(TaskStuckWarning(report), stacklevel=2)


def _message(cancel: asyncio.CancelledError) -> object:
    # A child that read the scope's mark would take our native cancel for the scope's.
    return cancel.args[0] if cancel.args and not from_scope(cancel) else None


def _stuck(owner: str, child: asyncio.Future[Any], age: float) -> str:
    if not isinstance(child, asyncio.Task):
        return f"{owner} waits for {child!r}, {age:.1f} s after it was cancelled"
    return (
        f"{owner} waits for task {child.get_name()!r}, still running {age:.1f} s after it "
        f"was cancelled; it must let CancelledError through. It stands at:\n"
        f"{suspended_at(child)}"
    )
