"""A service that a supervisor has started, and how `Supervisor.start` is typed."""

from collections.abc import Awaitable
from typing import Any, Generic, Protocol, TypedDict, TypeVar, final

import anyio

from ._child import Child
from ._service import Backoff, RestartPolicy
from ._state import State

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)


class Options(TypedDict, total=False):
    """The options of a `Service`."""

    name: str | None
    restart: RestartPolicy
    essential: bool
    max_restarts: int | None
    healthy_after: float
    backoff: Backoff
    start_timeout: float | None
    stop_timeout: float | None
    watchdog: float | None


# In quotes: `anyio.abc` is a thirtieth of what `import safeaio` may cost.
# mypy does not infer T through one protocol with a TypeVarTuple, so there is one each.
class Reporting(Protocol[T_co]):
    """An async function that reports when it is ready."""

    def __call__(
        self, *, task_status: "anyio.abc.TaskStatus[T_co]"
    ) -> Awaitable[object]: ...


class Reporting1(Protocol[A_contra, T_co]):
    """One with an argument."""

    def __call__(
        self, a: A_contra, /, *, task_status: "anyio.abc.TaskStatus[T_co]"
    ) -> Awaitable[object]: ...


class Reporting2(Protocol[A_contra, B_contra, T_co]):
    """One with two arguments."""

    def __call__(
        self, a: A_contra, b: B_contra, /, *, task_status: "anyio.abc.TaskStatus[T_co]"
    ) -> Awaitable[object]: ...


class Reporting3(Protocol[A_contra, B_contra, C_contra, T_co]):
    """One with three; for more there is `functools.partial`."""

    def __call__(
        self,
        a: A_contra,
        b: B_contra,
        c: C_contra,
        /,
        *,
        task_status: "anyio.abc.TaskStatus[T_co]",
    ) -> Awaitable[object]: ...


@final
class Handle(Generic[T]):
    """A service that a supervisor has started; see `Supervisor.start`."""

    __slots__ = ("_child",)

    def __init__(self, child: Child) -> None:
        self._child = child

    @property
    def name(self) -> str:
        """Its name."""
        return self._child.name

    @property
    def state(self) -> str:
        """Where it is, as in a `Snapshot`."""
        return self._child.state.value

    @property
    def value(self) -> T:
        """What its current life, or its last, gave to `task_status.started()`."""
        value: T = self._child.value
        return value

    async def wait_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: If it has ended for good.

        Cancellation:
            Ends the wait alone.
        """
        child = self._child
        while child.state is not State.READY:
            if not child.active:
                raise RuntimeError(f"service {child.name!r} has ended: {self.state}")
            await child.changes()

    async def wait(self) -> Any:
        """Wait until it has ended for good.

        Returns:
            What it returned; None if it was stopped.

        Raises:
            Exception: What it failed with.
            RuntimeError: If that was a KeyboardInterrupt or SystemExit, which the
                supervisor raises.

        Cancellation:
            Ends the wait alone.
        """
        child = self._child
        while child.active:
            await child.changes()
        if child.state is State.FAILED and child.error is not None:
            if not isinstance(child.error, Exception):  # it ends the whole program
                raise RuntimeError(
                    f"service {child.name!r} ended it all"
                ) from child.error
            raise child.error
        return child.result

    def __repr__(self) -> str:
        return f"<Handle {self._child.path!r} {self.state}>"
