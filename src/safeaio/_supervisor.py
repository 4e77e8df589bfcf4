"""`supervise`: services that stay up, stop in order, and give up loudly."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import (
    Any,
    Self,
    TypeVar,
    TypeVarTuple,
    Unpack,
    final,
    overload,
)

from ._child import OWNER, Child, State, ancestors
from ._events import Event
from ._family import Family
from ._foremost import from_scope
from ._grace import subscribe, unsubscribe
from ._handle import Handle, Options, Reporting, Reporting1, Reporting2
from ._herald import Herald
from ._notify import Notifier
from ._restart import Window, can_exceed
from ._seconds import check_seconds
from ._service import (
    Intensity,
    Service,
    Strategy,
    check_function,
    check_type,
    innermost,
)
from ._snapshot import Health, Snapshot
from ._wait import Children, cancel_of_scope
from .exceptions import SupervisionError, SupervisorClosed

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
Ts = TypeVarTuple("Ts")

_ON_ITS_WAY = (State.STARTING, State.STOPPING)
_STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


@final
class Supervisor:
    """Keeps services up; made by `supervise`.

    All its methods belong to its loop; from other threads use
    `loop.call_soon_threadsafe`.
    """

    def __init__(
        self,
        services: tuple[Service, ...],
        strategy: Strategy,
        window: Window | None,
        total_stop_timeout: float,
        on_event: Callable[[Event], None] | None,
        name: str | None,
    ) -> None:
        self._services = services
        self._strategy: Strategy = strategy
        self._window = window
        self._total_stop_timeout = total_stop_timeout
        self._on_event = on_event
        self._name = name
        self._family: Family | None = None
        self._tasks: Children[Child | None]
        self._parent: Child | None = None
        self._open: asyncio.Future[None]
        self._in_body = False
        self._body_cancelled = False
        self._awaited = False
        self._ready = False
        self._waiters: list[asyncio.Future[None]] = []
        self._members: dict[str, Child] = {}
        self._listeners = 0
        self._notifier: Notifier | None = None
        self._last: tuple[Any, Any, Service, bool] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self._path()!r}>"

    # Running it

    def __await__(self) -> Generator[Any, None, None]:
        return self._run().__await__()

    async def _run(self) -> None:
        if not self._services:
            raise ValueError(
                f"{OWNER}: nothing to supervise; name a service, or write "
                "`async with supervise() as sup:` and start some there"
            )
        family = self._enter()
        self._awaited = True
        cancel = None
        try:
            family.start_all()
            cancel = await self._held()
            self._conclude(cancel)
        finally:
            self._leave()
            del cancel  # its traceback holds this frame

    async def __aenter__(self) -> Self:
        family = self._enter()
        cancel = None
        entered = False
        try:
            family.start_all()
            try:
                await self._until(lambda: not family.starting)
            except asyncio.CancelledError as exc:
                cancel = exc
            if cancel is not None or family.stopping:
                family.stop()
                cancel = await self._held(cancel)
                self._conclude(cancel)
                raise SupervisorClosed(family.path)  # by a shutdown
            entered = True
        finally:
            if not entered:
                self._leave()
            del cancel  # its traceback holds this frame
        self._in_body = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        family = self._family
        assert family is not None
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
            self._leave()
            del exc, cancel  # their tracebacks hold this frame

    def _enter(self) -> Family:
        if self._family is not None:
            raise RuntimeError(
                f"{OWNER} runs once; call supervise(...) again for another"
            )
        self._tasks = Children(OWNER, stuck_after=None)
        self._open = self._tasks.loop.create_future()
        self._tasks.running[self._open] = None
        self._parent = next(iter(ancestors()[-1:]), None)
        family = Family(
            self._path(),
            self._strategy,
            self._window,
            self._total_stop_timeout,
            Herald(self._path(), self._on_event, self._tasks.loop),
            self._tasks,
            self._changed,
        )
        self._family = family
        named = (service.name for service in self._services)
        family.reserved = frozenset(name for name in named if name is not None)
        for service in self._services:
            family.add(service, service.args, static=True, reports=_reports(service))
        if self._parent is None:
            self._notifier = Notifier(family.loop)
        else:
            self._parent.nested = self
        subscribe(family.loop, self)
        return family

    def _leave(self) -> None:
        family = self._family
        assert family is not None
        unsubscribe(family.loop, self)
        # Lest all wait for the garbage collector. A handle leads to the family.
        self._members = family.let_go()
        if self._notifier is not None:
            self._notifier.close()

    def _path(self) -> str:
        if self._parent is None:
            return self._name or "supervisor"
        return self._parent.path + ("" if self._name is None else f"/{self._name}")

    async def _held(
        self, cancel: asyncio.CancelledError | None = None
    ) -> asyncio.CancelledError | None:
        """Wait until all have ended; cancelled, stop them in order, and wait on."""
        family = self._family
        assert family is not None
        self._awaited = True
        try:
            if cancel is None:
                cancel = await self._tasks.wait_or_cancel()
            if cancel is not None:
                family.stop()
                await self._tasks.wait(cancel, shielded=True)
        except asyncio.CancelledError as exc:
            return exc
        except GeneratorExit:
            family.stop()
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
        family = self._family
        assert family is not None
        fatal, family.fatal = family.fatal, None
        if gave_up and isinstance(leaving, Exception):
            family.errors.append(leaving)
        error = family.error()
        try:
            if fatal is None and not isinstance(
                leaving, Exception | asyncio.CancelledError
            ):
                fatal = leaving
            raised = leaving if isinstance(leaving, Exception) and not gave_up else None
            first = fatal or cancel or raised or error
            if error is not None and error is not first:
                self._report(error)
            if first is not None and first is not leaving:
                raise first
        finally:
            del fatal, error, leaving, cancel  # their tracebacks hold this frame
            first = None

    def _report(self, error: SupervisionError) -> None:
        self._tasks.loop.call_exception_handler(
            {"message": f"{OWNER}: raised beside another error", "exception": error}
        )

    # What the family tells

    def _changed(self) -> None:
        family = self._family
        assert family is not None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if not self._ready and not family.starting and not family.stopping:
            self._ready = True
            self._tell_readiness()
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

    def _tell_readiness(self) -> None:
        parent = self._parent
        if self._notifier is not None:
            self._notifier.ready()
        if parent is not None and parent.reports and not parent.service.reports:
            parent.started(parent.life)

    def _cancel_body(self) -> None:
        family, host = self._family, self._tasks.host
        assert family is not None
        if self._in_body and not self._body_cancelled and family.broken:
            self._body_cancelled = host is not None and host.cancel()

    # What a shutdown asks

    @property
    def subscribed(self) -> bool:
        """Whether it would do anything about the beginning of a shutdown."""
        return self._parent is None and (self._awaited or self._listeners > 0)

    def shut_down(self, *, hurry: bool) -> None:
        """Stop in order, or not even that."""
        family = self._family
        assert family is not None
        if self._parent is None and (hurry or self.subscribed):
            family.stop()
        if hurry:
            family.hurry()

    # What its user asks

    @overload
    async def start(
        self, func: Reporting[T], /, **options: Unpack[Options]
    ) -> Handle[T]: ...
    @overload
    async def start(
        self, func: Reporting1[A, T], a: A, /, **options: Unpack[Options]
    ) -> Handle[T]: ...
    @overload
    async def start(
        self, func: Reporting2[A, B, T], a: A, b: B, /, **options: Unpack[Options]
    ) -> Handle[T]: ...
    @overload
    async def start(
        self,
        func: Callable[[*Ts], Awaitable[object]],
        /,
        *args: *Ts,
        **options: Unpack[Options],
    ) -> Handle[None]: ...
    @overload
    async def start(self, func: Service, /) -> Handle[Any]: ...
    async def start(  # type: ignore[misc]  # mypy: of *args: *Ts it asks for more than Any
        self, func: Any, /, *args: Any, **options: Any
    ) -> Handle[Any]:
        """Start one more service, and wait until it is ready.

        For many short-lived ones write `restart="never"`: when one of those has ended,
        nothing of it is left but the handle.

        Args:
            func: An async function, or a `Service`. If it has a parameter `task_status`,
                it is ready once it has called `task_status.started(value)`.
            *args: Its arguments.
            **options: As of a `Service`, if `func` is none.

        Returns:
            A handle, with the `value`.

        Raises:
            TypeError: For what is no async function, or for arguments to a `Service`.
            ValueError: If an option is out of its bounds, or the name taken.
            SupervisorClosed: If the supervisor is stopping, or begins to.
            RuntimeError: From another loop or thread; if it is not running; or if the
                service was stopped, or returned, before it was ready.
            TimeoutError: If it was not ready within its `start_timeout`.
            Exception: What the service raised before it was ready, the same object. It is
                not tried again, and nothing is left of it.

        Cancellation:
            The service is cancelled, and forgotten once it has ended. Does not
            checkpoint if the service is ready at once.
        """
        service, reports = self._service_of(func, args, options)
        family = self._opened()
        turn = family.turn
        if turn.starting:
            await turn.leave_stack(family.loop)
        if turn.spent(family.loop):
            await asyncio.sleep(0)
        if family.stopping:
            raise SupervisorClosed(family.path)
        child = family.add(service, service.args or args, static=False, reports=reports)
        family.start(child)
        try:
            while child.first and child.active:
                await child.changes()
        except BaseException:
            family.drop(child)
            raise
        if child.first:
            family.drop(child)
            raise child.error or _not_started(family, child)
        return Handle(child)

    async def stop(self, name: str) -> None:
        """Stop a service for good, and wait until it has ended.

        It stays in the snapshot, and may be restarted. Nothing happens to the others,
        whatever the strategy.

        Args:
            name: Its name.

        Raises:
            ValueError: If there is none of that name.
            RuntimeError: From within the service itself; from another loop or thread; or
                if the supervisor is not running.

        Cancellation:
            Ends the wait; the service is stopped all the same.
        """
        child = self._child(name)
        family = self._opened()
        family.stop_one(child)
        while child.active:
            await child.changes()

    async def restart(self, name: str) -> None:
        """Stop a service, if it lives, start it again, and wait until it is ready.

        That counts as no failure. Nothing happens to the others, whatever the strategy.

        Args:
            name: Its name.

        Raises:
            ValueError: If there is none of that name.
            SupervisorClosed: If the supervisor is stopping, or begins to.
            RuntimeError: From within the service itself; from another loop or thread; if
                the supervisor is not running; or if somebody stops it meanwhile.
            Exception: What it raised before it was ready. If it lived before, it will
                be tried again; else it is not.

        Cancellation:
            Ends the wait; the service is restarted all the same.
        """
        child = self._child(name)
        family = self._opened()
        if family.stopping:
            raise SupervisorClosed(family.path)
        life = child.life
        family.restart_one(child)
        while child.life == life or child.state in _ON_ITS_WAY:
            if not child.active:
                break
            await child.changes()
        if child.state is State.STOPPED or family.stopping:
            raise _not_started(family, child)
        if child.state not in (State.READY, State.FINISHED) and child.error is not None:
            raise child.error

    async def wait(self) -> None:
        """Wait until every service has ended for good.

        Under `safeaio.run` a shutdown stops them while somebody waits here.

        Raises:
            RuntimeError: From within a service, which would wait for itself; from another
                loop or thread; or if the supervisor is not running.

        Cancellation:
            Ends the wait alone.
        """
        family = self._opened()
        if any(family.members.get(child.name) is child for child in ancestors()):
            raise RuntimeError(
                f"wait() of supervisor {family.path!r} waits for all its services, so none "
                "of them can wait for it"
            )
        self._listeners += 1
        try:
            await self._until(lambda: not family.active or family.over)
        finally:
            self._listeners -= 1

    def snapshot(self) -> Snapshot:
        """Return what everything is doing right now; also when it has ended.

        Raises:
            RuntimeError: From another loop or thread, or before it was entered.
        """
        family = self._opened()
        members = self._members or family.members
        children = tuple(_snapshot_of(child) for child in members.values())
        state = "ready" if self._ready else "starting"
        if family.stopping:
            state = "stopped" if family.over else "stopping"
        return Snapshot(
            family.path.rpartition("/")[2], family.path, state, children=children
        )

    def health(self) -> Health:
        """Return what a health endpoint has to know.

        Raises:
            RuntimeError: From another loop or thread, or before it was entered.
        """
        family = self._opened()
        ready = self._ready and not family.stopping
        return Health(
            live=not family.over and not family.broken,
            ready=ready
            and all(
                child.state in (State.READY, State.FINISHED)
                and (child.nested is None or child.nested.health().ready)
                for child in family.members.values()
            ),
        )

    def _service_of(
        self, func: Any, args: tuple[Any, ...], options: Any
    ) -> tuple[Service, bool]:
        if isinstance(func, Service):
            service = _checked(func, args, options)
            return service, _reports(service)
        last = self._last  # a pool starts the same again and again
        if last is None or last[0] is not func or last[1] != options:
            check_function(OWNER, func)
            service = Service(func, **options)
            last = self._last = func, options, service, _reports(service)
        return last[2], last[3]

    def _opened(self) -> Family:
        family = self._family
        if family is None:
            raise RuntimeError(
                f"{OWNER} has not been entered: use `async with supervise(...) as sup:`"
            )
        if asyncio._get_running_loop() is not family.loop:
            raise RuntimeError(
                f"supervisor {family.path!r} belongs to another loop than this one, or "
                "to another thread: loop.call_soon_threadsafe gets there"
            )
        return family

    def _child(self, name: str) -> Child:
        family = self._opened()
        child = family.members.get(name)
        if child is None:
            known = ", ".join(map(repr, family.members)) or "none"
            raise ValueError(
                f"supervisor {family.path!r} has no service {name!r}; it has {known}"
            )
        if child in ancestors():
            raise RuntimeError(
                f"service {name!r} cannot wait for its own end: return, or raise"
            )
        return child

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            waiter = self._tasks.loop.create_future()
            self._waiters.append(waiter)
            await waiter


def supervise(
    *services: Callable[..., Awaitable[object]] | Service,
    strategy: Strategy = "one_for_one",
    intensity: Intensity | None = None,
    total_stop_timeout: float = 30.0,
    on_event: Callable[[Event], None] | None = None,
    name: str | None = None,
) -> Supervisor:
    """Keep services up, stop them in order, and give up loudly.

    Each runs in a task of its own, in a fresh copy of the context of whoever starts it.
    They start in order, each once the one before is ready, and stop in reverse order, also
    when the caller is cancelled or the program is told to end. One that fails is started
    again after a delay; one that fails too often in a row has everything stopped, and a
    `SupervisionError` raised: whoever is above may know better than to try for ever.

    Awaited, it runs until all have finished, or an essential one has. As a block, it
    stops them when the block is left, other than a task group, which would wait:
    `await sup.wait()` does that. It runs once.

    To nest, write `Service(supervise, a, b, name="workers")`: it is ready when all in it
    are, and if it gives up, so does the one above, unless it is to be restarted `"always"`.

    >>> import asyncio
    >>> from safeaio import Backoff, Service, supervise
    >>> async def main() -> None:
    ...     attempts = iter(["refused", "refused", "done"])
    ...     async def fetch() -> None:
    ...         answer = next(attempts)
    ...         print(answer)
    ...         if answer == "refused":
    ...             raise ConnectionError(answer)
    ...     await supervise(Service(fetch, backoff=Backoff(base=0.01)))
    >>> asyncio.run(main())
    refused
    refused
    done

    Follows Erlang/OTP's supervisors, with backoff and a limit for each service.

    Args:
        *services: Async functions without arguments, or a `Service` for anything else.
        strategy: Whom the failure of one restarts: `"one_for_one"` itself alone,
            `"one_for_all"` all, `"rest_for_one"` it and those that were started after
            it. Those that have finished, or were stopped, stay so.
        intensity: How many restarts of all together are too many; None for no limit
            beside that of each service.
        total_stop_timeout: Seconds for the ordered stop of all; then those that are left
            are cancelled at once. 0 for no order.
        on_event: Called with every event, in the loop. If it raises, that is logged, and
            it is not called again.
        name: What it is called in events, logs and snapshots; `"supervisor"` by default.

    Returns:
        A `Supervisor`, to be awaited or entered.

    Raises:
        TypeError: At the call, for a service that is no function, or the wrong type of an
            option.
        ValueError: At the call, for an option out of its bounds, for two services of one
            name, or if their backoffs never let `intensity` be exceeded. Awaited, if
            there is no service.
        SupervisionError: If a service failed too often, failed its first start, or was
            essential and failed; if one that is never restarted failed; or if some
            raised while they were stopped. Its leaves are what they raised.
        SupervisorClosed: On entering, if everything stopped before all were ready.
        KeyboardInterrupt: As a service raised it, the same object, before any other error.
        SystemExit: Likewise.
        RuntimeError: The second time it is awaited or entered.

    Cancellation:
        Cancelling the caller stops all in order, each cancelled once, and waits until all
        have ended; so an enclosing deadline may be overrun by `total_stop_timeout`. If a
        block runs when everything has to stop, it is cancelled once; that cancel is
        taken back when it ends. One that does not end within its `stop_timeout` is named,
        with where it stands, and waited for. Under `safeaio.run` the first signal
        stops in order whatever is being awaited, the second one gives up the order.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(
            f'strategy must be "one_for_one", "one_for_all" or "rest_for_one", got {strategy!r}'
        )
    check_seconds("total_stop_timeout", total_stop_timeout, optional=False)
    if intensity is not None:
        check_type("intensity", intensity, Intensity)
    if name is not None:
        check_type("name", name, str)
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be a function, got {on_event!r}")
    made = tuple(_service_of(service) for service in services)
    names = Counter(service.name for service in made if service.name is not None)
    for known, count in names.items():
        if count > 1:
            raise ValueError(
                f"{OWNER}: two services are called {known!r}; give each a name of its own"
            )
    window = None if intensity is None else Window(intensity)
    if intensity is not None and not can_exceed(intensity, made):
        raise ValueError(
            f"{OWNER}: {intensity} can never be exceeded, since each restart waits for "
            "its backoff; allow fewer restarts, or count them over a longer period"
        )
    return Supervisor(made, strategy, window, total_stop_timeout, on_event, name)


def beat() -> None:
    """Tell that the service that calls this is alive.

    For one with a `watchdog`; otherwise it does nothing. Any task that the service has
    started may call it.

    Cancellation:
        Does not wait for anything.
    """
    for child in ancestors()[-1:]:
        child.beat()


def _service_of(func: object) -> Service:
    if isinstance(func, Service):
        return func
    if isinstance(func, Supervisor):
        raise TypeError(
            f"{OWNER} takes async functions, got {func!r}, which runs but once; write "
            "Service(supervise, ...): it makes another for every life"
        )
    return Service(check_function(OWNER, func))


def _not_started(family: Family, child: Child) -> Exception:
    if family.stopping:
        return SupervisorClosed(family.path)
    return RuntimeError(f"service {child.name!r} was stopped while it started")


def _reports(service: Service) -> bool:
    return service.reports or innermost(service.func) is supervise


def _checked(service: Service, args: tuple[Any, ...], options: Any) -> Service:
    if args or options:
        raise TypeError(
            f"a Service has its arguments and options already, got {(*args, options)}"
        )
    return service


def _snapshot_of(child: Child) -> Snapshot:
    now = child.overseer.loop.time()
    nested = () if child.nested is None else child.nested.snapshot().children
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
        nested,
    )
