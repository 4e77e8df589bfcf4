"""`supervise`: services that stay up, stop in order, and give up loudly."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack, final, overload

from ._child import OWNER, Child, ancestors
from ._events import Event
from ._family import Family
from ._handle import Handle, Options, Reporting, Reporting1, Reporting2, Reporting3
from ._options import check_options, check_services, window_of
from ._restart import Window
from ._service import (
    Intensity,
    Service,
    Strategy,
    check_arguments,
    check_function,
    innermost,
)
from ._snapshot import Health, Snapshot
from ._state import State
from ._supervision import Supervision, path_of
from .exceptions import SupervisorClosed

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
Ts = TypeVarTuple("Ts")

_ON_ITS_WAY = (State.STARTING, State.STOPPING)


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
        self._name = name
        self._supervise = partial(
            Supervision, strategy, window, total_stop_timeout, on_event, name
        )
        self._supervision: Supervision | None = None
        self._last: tuple[Any, Any, Service, bool] | None = None

    def __repr__(self) -> str:
        supervision = self._supervision
        path = self._name if supervision is None else supervision.family.path
        return f"<Supervisor {path or path_of(None, None)!r}>"

    # Running it

    def __await__(self) -> Generator[Any, None, None]:
        return self._run().__await__()

    async def _run(self) -> None:
        if not self._services:
            raise ValueError(
                f"{OWNER}: nothing to supervise; name a service, or write "
                "`async with supervise() as sup:` and start some there"
            )
        await self._enter().run(self._first_ones())

    async def __aenter__(self) -> Self:
        await self._enter().enter(self._first_ones())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._supervision is not None
        try:
            return await self._supervision.leave(exc)
        finally:
            del exc, traceback  # it holds this frame

    def _enter(self) -> Supervision:
        if self._supervision is not None:
            raise RuntimeError(
                f"{OWNER} runs once; call supervise(...) again for another"
            )
        self._supervision = self._supervise()
        return self._supervision

    def _first_ones(self) -> list[tuple[Service, bool]]:
        return [(service, _reports(service)) for service in self._services]

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
        func: Reporting3[A, B, C, T],
        a: A,
        b: B,
        c: C,
        /,
        **options: Unpack[Options],
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
        nothing of it is left but the handle, and the function if it was the last one.

        Args:
            func: An async function, or a `Service`. If it has a parameter `task_status`,
                it is ready once it has called `task_status.started(value)`.
            *args: Its arguments.
            **options: As of a `Service`, if `func` is none.

        Returns:
            A handle, with the `value`.

        Raises:
            TypeError: For what is no async function, or does not take these arguments;
                for arguments to a `Service`.
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
        service, args, reports = self._service_of(func, args, options)
        family = self._opened().family
        turn = family.turn
        if turn.starting:
            await turn.leave_stack(family.loop)
        if turn.spent(family.loop):
            await asyncio.sleep(0)
        if family.stopping:
            raise SupervisorClosed(family.path)
        child = family.add(service, args, static=False, reports=reports)
        family.start(child)
        try:
            while child.first and child.active:
                await child.changes()
        except BaseException:
            family.drop(child)
            raise
        if child.first:
            family.drop(child)
            raise _not_started(family, child)
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
        family = await self._off_the_stack()
        child = self._child(name)
        life = child.life
        family.stop_one(child)
        while child.active and child.life == life:
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
        family = await self._off_the_stack()
        if family.stopping:
            raise SupervisorClosed(family.path)
        child = self._child(name)
        life = child.life
        family.restart_one(child)
        while child.life == life or child.state in _ON_ITS_WAY:
            if not child.active:
                break
            await child.changes()
        if child.state is State.STOPPED or family.stopping:
            raise _not_started(family, child)
        if child.state not in (State.READY, State.FINISHED):
            raise _not_started(family, child)

    async def wait(self) -> None:
        """Wait until every service has ended for good.

        Under `safeaio.run` a shutdown stops them while somebody waits here.

        Raises:
            RuntimeError: From within a service, which would wait for itself; from another
                loop or thread; or if the supervisor is not running.

        Cancellation:
            Ends the wait alone.
        """
        family = self._opened().family
        if any(family.members.get(child.name) is child for child in ancestors()):
            raise RuntimeError(
                f"wait() of supervisor {family.path!r} waits for all its services, so none "
                "of them can wait for it"
            )
        await self._opened().wait()

    def snapshot(self) -> Snapshot:
        """Return what everything is doing right now; also when it has ended.

        Raises:
            RuntimeError: From another loop or thread, or before it was entered.
        """
        return self._opened().snapshot()

    def health(self) -> Health:
        """Return what a health endpoint has to know.

        Raises:
            RuntimeError: From another loop or thread, or before it was entered.
        """
        return self._opened().health()

    def _service_of(
        self, func: Any, args: tuple[Any, ...], options: Any
    ) -> tuple[Service, tuple[Any, ...], bool]:
        if isinstance(func, Service):
            service = _refuse_more(func, args, options)
            check_arguments(OWNER, service, service.args)
            return service, service.args, _reports(service)
        last = self._last  # a pool starts the same again and again
        if last is None or last[0] is not func or last[1] != options:
            check_function(OWNER, func)
            service = Service(func, **options)
            check_arguments(OWNER, service, args)
            last = self._last = func, options, service, _reports(service)
        return last[2], args, last[3]

    def _opened(self) -> Supervision:
        supervision = self._supervision
        if supervision is None:
            raise RuntimeError(
                f"{OWNER} has not been entered: use `async with supervise(...) as sup:`"
            )
        family = supervision.family
        if asyncio._get_running_loop() is not family.loop:
            raise RuntimeError(
                f"supervisor {family.path!r} belongs to another loop than this one, or "
                "to another thread: loop.call_soon_threadsafe gets there"
            )
        return supervision

    async def _off_the_stack(self) -> Family:
        """Let a `launch` return that an eager task may be part of."""
        family = self._opened().family
        await family.turn.leave_stack(family.loop)
        return family

    def _child(self, name: str) -> Child:
        family = self._opened().family
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
        TypeError: At the call, for a service that is no function, or does not take its
            arguments, or for the wrong type of an option.
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
    try:
        check_options(strategy, intensity, total_stop_timeout, on_event, name)
        made = tuple(_as_service(service) for service in services)
        check_services(made)
        window = window_of(intensity, made)
    except (TypeError, ValueError):
        for func in services:
            if inspect.iscoroutine(func):
                func.close()
        raise
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


def _not_started(family: Family, child: Child) -> Exception:
    if isinstance(child.error, Exception) and child.state is not State.STOPPED:
        return child.error
    if family.stopping:
        return SupervisorClosed(family.path)
    return RuntimeError(f"service {child.name!r} was stopped while it started")


def _as_service(func: object) -> Service:
    if isinstance(func, Service):
        return func
    if isinstance(func, Supervisor):
        raise TypeError(
            f"{OWNER} takes async functions, got {func!r}, which runs but once; write "
            "Service(supervise, ...): it makes another for every life"
        )
    return Service(check_function(OWNER, func))


def _reports(service: Service) -> bool:
    return service.reports or innermost(service.func) is supervise


def _refuse_more(service: Service, args: tuple[Any, ...], options: Any) -> Service:
    if args or options:
        raise TypeError(
            f"a Service has its arguments and options already, got {(*args, options)}"
        )
    return service
