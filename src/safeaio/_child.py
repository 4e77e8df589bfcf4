"""One child of a supervisor: its lives, one after another, each in a task of its own."""

# Invariants; the code names them where it keeps them.
#
# 1. There is at most one live task. The next is started after the last has ended.
# 2. A life is cancelled once; only if it is stuck again, once per interval.
# 3. There is at most one timer: for the start, the heartbeat or the restart. One more
#    stands by once it is stuck.
# 4. A life's readiness and its end are told in the loop's next turn, never on its stack:
#    an eager task runs its first step inside of `launch`.

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar, copy_context
from math import inf
from types import CoroutineType, TracebackType, coroutine
from typing import Any, TypeAlias, final

from ._crew import Carried, error_of
from ._ending import How, ending
from ._events import ChildReady, ChildStarting, ChildStopping, ChildStuck, text_of
from ._guard import SLIGHT
from ._overseer import Nested, Order, Overseer
from ._restart import Restarts
from ._service import Service
from ._stack import trace_of
from ._state import ENDED, State
from ._stop import Stop
from ._warn import warn
from .exceptions import Failure, TaskStuckWarning

OWNER = "supervise()"

_KEPT = 8  # failures in a history


Ancestors: TypeAlias = "tuple[Child, ...]"

_ancestors: ContextVar[Ancestors] = ContextVar("safeaio.supervise", default=())


def ancestors() -> Ancestors:
    """Return the children whose lives this is part of, the outermost first."""
    return _ancestors.get()


@final
class Status:
    """What a service calls when it is ready: an `anyio.abc.TaskStatus`."""

    __slots__ = ("_child", "_life")

    def __init__(self, child: "Child") -> None:
        self._child = child
        self._life = child.life

    def started(self, value: Any = None) -> None:
        """Take note that the service is ready.

        Raises:
            RuntimeError: The second time in one life.
        """
        self._child.started(self._life, value)


@final
class Child:
    """A service, and its lives.

    Attributes:
        overseer: Its supervisor; it tells who is static, and who reports.
        name: Its name there.
        service: What it runs.
        args: With what.
        static: Whether it was given to `supervise()` itself.
        reports: Whether it is ready only once it says so.
        brief: Whether it is forgotten when it ends.
        state: Where it is.
        since: For how long, as the time when it came there.
        first: Whether a failed start is final: nothing has shown yet that it can be up.
        life: How many it has had.
        announced: Whether this one has said that it is ready.
        wanted: Whether nobody has stopped it by hand since it was started.
        revived: Whether somebody started it by hand after it had ended.
        late: Whether it had ended of itself when it was to be cancelled.
        ready_at: When it became ready.
        value: What it gave to `started()` last.
        error: What it raised last.
        result: What it returned last.
        task: The one of the life that has not been seen to end.
        order: The ordered stop or start that it is part of, if it is of one.
        nested: The supervisor that runs in it.
        restarts: What its failures lead to.
        history: Its last ones.
        failing_since: When the first failure in a row was.
        due_at: When its timer is due, on the loop's clock; in BACKOFF, its next life.
    """

    __slots__ = (
        "_beaten_at",
        "_context",
        "_restarts",
        "_stop",
        "_timer",
        "_traceback",
        "_waiters",
        "announced",
        "args",
        "brief",
        "due_at",
        "error",
        "failing_since",
        "first",
        "history",
        "late",
        "life",
        "name",
        "nested",
        "order",
        "overseer",
        "ready_at",
        "reports",
        "result",
        "revived",
        "service",
        "since",
        "state",
        "static",
        "task",
        "value",
        "wanted",
    )

    def __init__(
        self,
        overseer: "Overseer[Child]",
        name: str,
        service: Service,
        args: tuple[Any, ...],
    ) -> None:
        self.overseer: Overseer[Child] = overseer
        self.name: str = name
        self.service: Service = service
        self.args: tuple[Any, ...] = args
        self.static: bool = False
        self.reports: bool = False
        self.brief: bool = service.restart == "never"
        self.state: State = State.WAITING
        self.since: float = 0.0
        self.first: bool = True
        self.life: int = 0
        self.announced: bool = False
        self.wanted: bool = True
        self.revived: bool = False
        self.late: bool = False
        self.ready_at: float = inf
        self.value: Any = None
        self.error: BaseException | None = None
        self.result: Any = None
        self.task: asyncio.Task[Any] | None = None
        self.order: Order[Child] | None = None
        self.nested: Nested | None = None
        self.history: deque[Failure] | None = None
        self.failing_since: float = 0.0
        self.due_at: float | None = None
        self._restarts: Restarts | None = None
        self._context: Context | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stop: Stop | None = None
        self._beaten_at: float = 0.0
        self._traceback: TracebackType | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        overseer.active += 1

    @property
    def uptime(self) -> float:
        """For how many seconds the life that has just ended was ready."""
        until = self.overseer.loop.time() if self._stop is None else self._stop.since
        return until - self.ready_at

    def lived(self) -> None:
        """Take note of for how long the life that has just ended was ready."""
        if self._restarts is not None:
            self._restarts.lived(self.uptime)

    @property
    def restarts(self) -> Restarts:
        if self._restarts is None:
            self._restarts = Restarts(self.service)
        return self._restarts

    def keep_context(self) -> None:
        """Start every life in a copy of the context that is here now, or was at first."""
        if self._context is None:
            self._context = copy_context()

    @property
    def path(self) -> str:
        return f"{self.overseer.path}/{self.name}"

    @property
    def nests(self) -> bool:
        """Whether what it runs is a supervisor, which is ready when all in it are."""
        return self.reports and not self.service.reports

    @property
    def live(self) -> bool:
        """Whether its task has not ended."""
        return self.task is not None

    @property
    def has_ended(self) -> bool:
        """Whether its task has, which is about to be told."""
        return self.task is not None and self.task.done()

    @property
    def active(self) -> bool:
        """Whether it lives, or will."""
        return self.state not in ENDED

    # Its state

    def enter(self, state: State) -> None:
        """Go on to a state, and wake who waits for that."""
        overseer = self.overseer
        ended = state in ENDED
        if ended != (self.state in ENDED):
            overseer.active += -1 if ended else 1
        self.state = state
        self.since = overseer.loop.time()
        self._stop = None
        if self._timer is not None:
            self._timer.cancel()  # 3
            self._timer = self.due_at = None
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def changes(self) -> None:
        """Wait until it enters a state."""
        loop = self.overseer.loop
        if asyncio._get_running_loop() is not loop:
            raise RuntimeError(
                f"service {self.path!r} belongs to another loop than this one, or to "
                "another thread: loop.call_soon_threadsafe gets there"
            )
        waiter = loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """Set the timer of a state."""
        loop = self.overseer.loop
        self.due_at = loop.time() + delay
        self._timer = loop.call_at(self.due_at, callback, context=Context())

    # A life

    def launch(self, *, inline: bool = False) -> None:
        """Start the next life.

        Args:
            inline: Whether the caller sees to the end of one that is over at once.
        """
        assert self.task is None  # 1
        overseer = self.overseer
        self.life += 1
        overseer.herald.tell(ChildStarting, self, self.life)
        self.ready_at = inf
        self.late = False
        self.result = None
        if self.reports:
            self.announced = False
            self.enter(State.STARTING)
        context = None if self._context is None else self._context.copy()
        self.task = task = overseer.create_task(self, context)
        if not inline or not task.done():
            overseer.watch(self, task)
        del task  # its error may hold this frame: an eager life ran on top of it
        if not self.reports:
            self.become_ready()
        elif self.service.start_timeout is not None:
            self.call_later(self.service.start_timeout, self._start_late)

    async def live_on(self) -> Any:
        """Run one life, and tell its end; after one step that is taken beforehand."""
        try:
            await _begun()
            _ancestors.set((*self.overseer.ancestors, self))
            service = self.service
            work: Any
            if service.reports:
                work = service.func(*self.args, task_status=Status(self))
            else:
                work = service.func(*self.args)
            if type(work) is not CoroutineType and not inspect.isawaitable(work):
                raise TypeError(
                    f"{OWNER} takes async functions, but {service.func!r} returned "
                    f"{work!r}; write `async def`"
                )
            return await work  # pyright: ignore[reportUnknownVariableType]
        except (KeyboardInterrupt, SystemExit) as exc:
            raise Carried(exc) from None
        finally:
            if self.task is not None:  # not within the `launch` of an eager one
                self.overseer.note_end(self)

    def started(self, life: int, value: Any = None) -> None:
        """Take note that a life is ready; what follows comes in the loop's next turn."""
        if life != self.life or self.state not in (State.STARTING, State.READY):
            return
        if self.announced:
            raise RuntimeError(
                f"service {self.name!r} has called task_status.started() before; once "
                "is enough"
            )
        self.value = value
        self.announced = True
        self.overseer.loop.call_soon(self._started, life, context=Context())  # 4

    def _started(self, life: int) -> None:
        if life == self.life and self.state is State.STARTING:
            self.become_ready()
            self.overseer.became_ready(self)

    def become_ready(self) -> None:
        self.first = False
        self.enter(State.READY)
        self.ready_at = self.since
        self.overseer.herald.tell(ChildReady, self)
        if self.service.watchdog is not None:
            self.beat()

    def beat(self) -> None:
        """Begin the time until the next beat anew."""
        seconds = self.service.watchdog
        if seconds is None or self.state is not State.READY:
            return
        self._beaten_at = self.overseer.loop.time()
        if self._timer is None:
            self.call_later(seconds, self._check_beat)

    def take_ending(self) -> tuple[How, BaseException | None]:
        """Let go of the task that has ended; tell how it did."""
        task = self.task
        assert task is not None
        if self.announced and self.state is State.STARTING:  # in its last step
            self.become_ready()
        self.task = self.nested = None
        stop = self._stop
        error = error_of(task)
        if error is None and stop is None:  # so end most
            self.result = task.result()
            return How.RETURNED, None
        how, error = ending(self.name, error, stopped=stop is not None)
        return (how, error) if stop is None else stop.end(OWNER, how, error)

    def remember(self, error: BaseException) -> None:
        """Keep an error, and of those before it the text."""
        if self.history is None:
            self.history = deque(maxlen=_KEPT)
        if error is self.error:
            _cut(error.__traceback__, self._traceback)
        self.error, self._traceback = error, error.__traceback__
        now = self.overseer.loop.time()
        self.history.append(Failure(self.name, text_of(error), now))

    # Its end

    def cancel(
        self, *, after: float | None = None, doom: Exception | None = None
    ) -> None:
        """Tell a live one to end.

        Args:
            after: Seconds until it is reported as stuck, if not its `stop_timeout`.
            doom: What it failed with, if that is why.
        """
        if self._stop is not None:
            self._stop.doom = None
            return
        task = self.task
        assert task is not None
        trace = trace_of(task)
        if not self.overseer.abandoned and not task.cancel():  # 2
            if doom is None:
                self.late = self.late or not self.overseer.stopping
            return
        self.enter(State.STOPPING)
        self._stop = Stop(
            self.overseer.guard,
            task,
            trace,
            self._stuck,
            self.service.stop_timeout,
            after,
            doom,
        )
        self.overseer.herald.tell(ChildStopping, self)

    def _stuck(self, age: float, stack: str) -> None:
        overseer, task = self.overseer, self.task
        assert task is not None
        overseer.herald.tell(ChildStuck, self, age, stack)
        report = TaskStuckWarning(str(ChildStuck(self.path, age, stack)))
        warn(overseer.loop, OWNER, task, report)
        overseer.stuck(self)

    def _start_late(self) -> None:
        if self.announced:  # in this very turn
            return
        seconds = self.service.start_timeout
        self.cancel(
            doom=TimeoutError(
                f"service {self.name!r} was not ready {seconds} s after its start; it has "
                "to call task_status.started()"
            )
        )

    def _check_beat(self) -> None:
        seconds = self.service.watchdog
        assert seconds is not None
        rest = self._beaten_at + seconds - self.overseer.loop.time()
        if rest > SLIGHT:
            self.call_later(rest, self._check_beat)
            return
        self.cancel(
            doom=TimeoutError(
                f"service {self.name!r} has not called beat() for {seconds} s"
            )
        )


@coroutine
def _begun() -> Generator[None, None, None]:
    # One who is cancelled before his first step never runs, not even his `finally`.
    yield


def _cut(traceback: TracebackType | None, tail: TracebackType | None) -> None:
    """Cut off what an error that is raised again has kept from the life before."""
    while traceback is not None and traceback.tb_next is not tail:
        traceback = traceback.tb_next
    if traceback is not None:
        traceback.tb_next = None
