"""One run of a supervisor: the task that waits for its children, and what that is told."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from ._child import OWNER, Child, ancestors
from ._events import Event
from ._family import Family
from ._foremost import from_scope
from ._grace import catch_up, subscribe, unsubscribe
from ._herald import Herald
from ._notify import Notifier, notifier
from ._restart import Window
from ._service import Service, Strategy
from ._snapshot import Health, Snapshot
from ._state import State
from ._wait import Children, cancel_of_scope
from .exceptions import SupervisionError, SupervisorClosed


@final
class Supervision:
    """What runs between entering a supervisor and leaving it; made by its host.

    Attributes:
        family: The children, and what is decided about them.
        parent: The child in which it runs, if it is nested.
    """

    def __init__(
        self,
        strategy: Strategy,
        window: Window | None,
        total_stop_timeout: float,
        on_event: Callable[[Event], None] | None,
        name: str | None,
    ) -> None:
        self._tasks = tasks = Children[Child | None](OWNER, stuck_after=None)
        self._open = tasks.loop.create_future()
        tasks.running[self._open] = None
        within = [c for c in ancestors() if c.overseer.loop is tasks.loop]
        self.parent = within[-1] if within else None
        path = path_of(self.parent, name)
        herald = Herald(path, on_event, tasks.loop)
        self.family = Family(
            path,
            strategy,
            window,
            total_stop_timeout,
            herald,
            tasks,
            self._changed,
            tuple(within),
        )
        self._members: dict[str, Child] | None = None
        self._in_body = False
        self._body_cancelled = False
        self._awaited = False
        self._ready = False
        self._waiters: list[asyncio.Future[None]] = []
        self._listeners = 0
        self._notifier: Notifier | None = None
        self._state, self._since = "starting", tasks.loop.time()

    # Its host

    async def run(self, services: Sequence[tuple[Service, bool]]) -> None:
        """Keep services up until all have ended."""
        self._awaited = True
        cancel = None
        try:
            self._start(services)
            cancel = await self._held()
            self._conclude(cancel)
        finally:
            self._close()
            del cancel  # its traceback holds this frame

    async def enter(self, services: Sequence[tuple[Service, bool]]) -> None:
        """Start services, and wait until all are ready."""
        family = self.family
        cancel = None
        try:
            self._start(services)
            try:
                await self._until(lambda: not family.starting)
            except asyncio.CancelledError as exc:
                cancel = exc
            except GeneratorExit:  # nobody can wait for them
                self._tasks.cancel()
                family.stop()
                raise
            if cancel is not None or family.stopping:
                family.stop()
                cancel = await self._held(cancel)
                self._conclude(cancel)
                raise SupervisorClosed(family.path)  # by a shutdown
            self._in_body = True
        finally:
            if not self._in_body:
                self._close()
            del cancel  # its traceback holds this frame

    async def leave(self, exc: BaseException | None) -> bool:
        """Stop everything; return whether `exc`, with which the body ended, was ours."""
        family = self.family
        self._in_body = False
        cancel = None
        try:
            cancel = await self._cancel_from_outside(exc)
            gave_up = family.stopping
            family.stop()
            if not isinstance(exc, GeneratorExit):
                cancel = await self._held(cancel)
            self._conclude(cancel, leaving=exc, gave_up=gave_up)
            return isinstance(exc, asyncio.CancelledError) and cancel is None
        finally:
            self._close()
            del exc, cancel  # their tracebacks hold this frame

    def _start(self, services: Sequence[tuple[Service, bool]]) -> None:
        family = self.family
        subscribe(family.loop, self)
        if self.parent is not None and self.parent.nested is None:
            self.parent.nested = self
        elif self.parent is None and services:
            self._notifier = notifier(family.loop)
        named = (service.name for service, _ in services)
        family.names.reserved = frozenset(name for name in named if name is not None)
        for service, reports in services:
            family.add(service, service.args, static=True, reports=reports)
        family.start_all()
        self._catch_up()

    def _catch_up(self) -> None:
        """Notice a shutdown that began before anybody waited here."""
        if self.subscribed:
            catch_up(self.family.loop, self)

    def _close(self) -> None:
        unsubscribe(self.family.loop, self)
        if self.parent is not None and self.parent.nested is self:
            self.parent.nested = None
        # Lest all wait for the garbage collector. A handle leads to the family.
        self._members = self.family.let_go()
        if self._notifier is not None:
            self._notifier.close()

    async def _held(
        self, cancel: asyncio.CancelledError | None = None
    ) -> asyncio.CancelledError | None:
        """Wait until all have ended; cancelled, stop them in order, and wait on."""
        self._awaited = True
        self._catch_up()
        try:
            if cancel is None:
                cancel = await self._tasks.wait_or_cancel()
            if cancel is not None:
                self.family.stop()
                await self._tasks.wait(cancel, shielded=True)
        except asyncio.CancelledError as exc:
            return exc
        except GeneratorExit:
            self.family.stop()
            raise
        finally:
            del cancel  # its traceback holds this frame
        return None

    async def _cancel_from_outside(
        self, exc: BaseException | None
    ) -> asyncio.CancelledError | None:
        """Take back our cancel of the body, and return one that somebody else has sent."""
        cancel = exc if isinstance(exc, asyncio.CancelledError) else None
        host = self._tasks.host
        if host is None or not self._body_cancelled:
            return cancel
        host.uncancel()
        if cancel is None or from_scope(cancel):
            return cancel
        if not self._tasks.host_cancelled:
            return None
        return await cancel_of_scope() or cancel

    def _conclude(
        self,
        cancel: asyncio.CancelledError | None,
        leaving: BaseException | None = None,
        *,
        gave_up: bool = False,
    ) -> None:
        blame = self.family.blame
        fatal = blame.take_fatal()
        if gave_up and isinstance(leaving, Exception):
            blame.errors.append(leaving)
        error = blame.error()
        try:
            if fatal is None and not isinstance(
                leaving, Exception | asyncio.CancelledError
            ):
                fatal = leaving
            raised = leaving if isinstance(leaving, Exception) and not gave_up else None
            first = _first(fatal, cancel, raised, error)
            if error is not None and error is not first:
                self._report(error)
            if first is not None and first is not leaving:
                raise first
        finally:
            del fatal, error, leaving, cancel  # their tracebacks hold this frame
            first = None

    def _report(self, error: SupervisionError) -> None:
        self.family.loop.call_exception_handler(
            {"message": f"{OWNER}: raised beside another error", "exception": error}
        )

    # What the family tells

    def _changed(self) -> None:
        family = self.family
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if not self._ready and not family.starting and not family.stopping:
            self._ready = True
            self._tell_readiness()
        self._note_state()
        if family.over:
            self._tasks.running.pop(self._open, None)
            self._open.cancel()
            self._tasks.wake()
        elif family.stopping:
            if self._notifier is not None:
                self._notifier.stopping()
            self._cancel_body()
        elif self._awaited and not family.active and not family.starting:
            family.stop()

    def _note_state(self) -> None:
        family = self.family
        state = "ready" if self._ready else "starting"
        if family.stopping:
            state = "stopped" if family.over else "stopping"
        if state != self._state:
            self._state, self._since = state, family.loop.time()

    def _tell_readiness(self) -> None:
        parent = self.parent
        if self._notifier is not None:
            self._notifier.ready()
        if parent is not None and parent.nests:
            parent.started(parent.life)

    def _cancel_body(self) -> None:
        host = self._tasks.host
        if self._in_body and not self._body_cancelled and self.family.broken:
            self._body_cancelled = host is not None and host.cancel()

    # What a shutdown asks

    @property
    def subscribed(self) -> bool:
        """Whether it would do anything about the beginning of a shutdown."""
        return self.parent is None and (self._awaited or self._listeners > 0)

    @property
    def owned(self) -> Iterable[asyncio.Future[Any]]:
        """The tasks that it ends by itself, and in order, when its host is cancelled."""
        return () if self._tasks.host is None else tuple(self._tasks.running)

    def shut_down(self, *, hurry: bool) -> None:
        """Stop in order, or not even that."""
        if self.parent is None and (hurry or self.subscribed):
            self.family.stop()
        if hurry:
            self.family.hurry()

    # What others ask

    async def wait(self) -> None:
        """Wait until every child has ended; a shutdown stops them meanwhile."""
        family = self.family
        self._listeners += 1
        self._catch_up()
        try:
            await self._until(lambda: not family.active or family.over)
        finally:
            self._listeners -= 1

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            waiter = self.family.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def snapshot(self) -> Snapshot:
        """Return what everything is doing right now; also when it has ended."""
        family = self.family
        members = family.members if self._members is None else self._members
        return Snapshot(
            family.path.rpartition("/")[2],
            family.path,
            self._state,
            since=family.loop.time() - self._since,
            children=tuple(_snapshot_of(child) for child in members.values()),
        )

    def health(self) -> Health:
        """Return what a health endpoint has to know."""
        family = self.family
        return Health(
            live=not family.over and not family.broken,
            ready=self._ready
            and not family.stopping
            and all(_is_ready(child) for child in family.members.values()),
        )


def _first(*errors: BaseException | None) -> BaseException | None:
    # One may be false: an exception may have a length.
    for error in errors:
        if error is not None:
            return error
    return None


def path_of(parent: Child | None, name: str | None) -> str:
    """Return where a supervisor is."""
    if parent is None:
        return name or "supervisor"
    return parent.path + ("" if name is None else f"/{name}")


def _is_ready(child: Child) -> bool:
    if child.nested is not None:
        return child.state is State.READY and child.nested.health().ready
    return child.state in (State.READY, State.FINISHED)


def _snapshot_of(child: Child) -> Snapshot:
    now = child.overseer.loop.time()
    backoff = child.state is State.BACKOFF and child.due_at is not None
    return Snapshot(
        child.name,
        child.path,
        child.state.value,
        child.restarts.total,
        child.restarts.streak,
        now - child.since,
        child.due_at - now if backoff and child.due_at is not None else None,
        child.history[-1].error if child.history else None,
        () if child.nested is None else child.nested.snapshot().children,
    )
