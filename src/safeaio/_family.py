"""The children of a supervisor, and what follows when one of them ends."""

# Invariants; the code names them where it keeps them.
#
# 1. Nothing awaits here, and no callback takes more steps than there were when it began:
#    the supervisor answers in the tick in which it is asked, however its children fail.
# 2. Nothing is started once the stop has begun.
# 3. There is at most one turnover of a group; a failure meanwhile becomes part of it.
# 4. An error is either in the error that is raised in the end, or has been told by an
#    event and a line in the log.
# 5. A life is launched when no frame on the stack holds an error or an ended task: of one
#    that fails in its first step the traceback leads to that stack, and so from life to
#    life.

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from ._blame import Blame, reason_of
from ._child import Child
from ._ending import How
from ._ends import Ends
from ._events import (
    ChildFailed,
    ChildFinished,
    ChildStopped,
    GroupRestart,
    SupervisorGaveUp,
)
from ._guard import Guard
from ._herald import Herald
from ._names import Names
from ._restart import Then, Window, affected, what_follows
from ._service import Service, Strategy
from ._state import State
from ._turn import Turn, eager_start, turn_of
from ._turnover import Turnover
from ._wait import Children


@final
class Family:
    """What a supervisor decides; see the invariants.

    Attributes:
        path: Where the supervisor is.
        strategy: Who is restarted when one fails.
        window: The restarts of all that still count, if they are limited.
        stop_timeout: Seconds for the ordered stop of all.
        herald: Tells of every event.
        tasks: The live tasks of all, for whoever waits for them.
        on_change: Called when it became ready, began to stop, or all have ended.
        ancestors: The children whose lives it is part of, the outermost first.
        members: The children by their names, in the order of their starts.
        active: How many live, or will.
        stopping: Whether the end has begun.
        over: Whether all have ended.
        names: What they are called.
        broken: Whether the end began by itself: the body has to end, too.
        blame: What is to be raised in the end.
    """

    def __init__(
        self,
        path: str,
        strategy: Strategy,
        window: Window | None,
        stop_timeout: float,
        herald: Herald,
        tasks: Children[Child | None],
        on_change: Callable[[], object],
        ancestors: tuple[Child, ...],
    ) -> None:
        self.path: str = path
        self.strategy: Strategy = strategy
        self.window: Window | None = window
        self.stop_timeout: float = stop_timeout
        self.herald: Herald = herald
        self.tasks: Children[Child | None] = tasks
        self.on_change: Callable[[], object] = on_change
        self.ancestors: tuple[Child, ...] = ancestors
        self.loop: asyncio.AbstractEventLoop = tasks.loop
        self.turn: Turn = turn_of(self.loop)
        self.guard: Guard = Guard(self.loop)
        self.blame: Blame = Blame()
        self.names: Names = Names()
        self.members: dict[str, Child] = {}
        self.active: int = 0
        self.stopping: bool = False
        self.over: bool = False
        self.broken: bool = False
        self._initial: Turnover | None = None
        self._group: Turnover | None = None
        self._final: Turnover | None = None
        self._relaunched: Child | None = None
        self._hurried = False
        self._create: Callable[..., asyncio.Task[Any]] = eager_start(self.loop)
        self._ends = Ends(tasks)

    # Starts

    def add(
        self, service: Service, args: tuple[Any, ...], *, static: bool, reports: bool
    ) -> Child:
        """Take a child in; it is started by whoever calls this."""
        name = self.names.name(service, self.members, self.path)
        child = Child(self, name, service, args)
        child.static, child.reports = static, reports
        self.members[name] = child
        return child

    def start_all(self) -> None:
        """Start what is there, in order."""
        for child in self.members.values():
            child.keep_context()
            child.enter(State.WAITING)
        waiting = deque(self.members.values())
        self._initial = Turnover(self.loop, [], waiting, self._started)
        self._initial.advance()

    def start(self, child: Child) -> None:
        """Start one, or have it started with the group that is about to be."""
        if self._group is not None or not child.brief:
            child.keep_context()
        if self._group is not None:
            child.enter(State.WAITING)
            self._group.add(child)
        else:
            child.launch(inline=True)
            if child.has_ended:
                self.ended(child)

    @property
    def starting(self) -> bool:
        """Whether not all of the first ones have been ready."""
        return self._initial is not None

    def _started(self, _: Turnover) -> None:
        self._initial = None
        self.on_change()

    def create_task(self, child: Child, context: Context | None) -> asyncio.Task[Any]:
        """Start a life."""
        coro = child.live_on()
        coro.send(None)
        turn = self.turn
        create = self._create
        if turn.starting:  # eagerly, that would be recursion
            create = self.loop.create_task
        nested, turn.starting = turn.starting, True
        try:
            return create(coro, name=child.name, context=context)
        except BaseException as exc:  # noqa: BLE001 - of the loop's task factory
            coro.close()
            task = asyncio.Task(_fail(exc), loop=self.loop, name=child.name)
            self._ends.wait_for(task)
            return task
        finally:
            turn.starting = nested

    def watch(self, child: Child, task: asyncio.Task[Any]) -> None:
        """Have the end of a life told."""
        self.tasks.hold(task, child)
        if task.done():  # an eager one
            self.note_end(child)

    def became_ready(self, child: Child) -> None:
        if child.order is not None:
            child.order.advance()

    def stuck(self, child: Child) -> None:
        if child.order is not None:
            child.order.hurry()

    # Ends

    def note_end(self, child: Child) -> None:
        """Have the end of a life told that is in its last step."""
        self._ends.note(child)

    def ended(self, child: Child) -> None:
        """Decide what follows the end of a life."""
        self._decide(child)
        if self._relaunched is not None:
            again, self._relaunched = self._relaunched, None
            again.launch()
        if child.order is not None:
            child.order.advance()
        if not self.active:
            self.on_change()

    def _decide(self, child: Child) -> None:
        how, error = child.take_ending()
        child.lived()  # however it ended
        if how is How.FATAL:
            if self.blame.fatal is None:
                self.blame.fatal = error
            self.broken = True
            assert error is not None
            child.remember(error)
            self.herald.tell(ChildFailed, child, error, 0, None)
            child.enter(State.FAILED)
            self.stop()
        elif how is How.STOPPED:
            self._stopped(child, error)
        elif self.stopping:
            self._ended_during_stop(child, error)
        elif child.late and child.order is not self._group:
            self._ended_before_its_stop(child, how, error)
        else:
            self._ended_by_itself(child, how, error)
        del error  # its traceback may hold this frame

    def _stopped(self, child: Child, error: BaseException | None) -> None:
        self.herald.tell(ChildStopped, child, error)
        if isinstance(error, Exception):
            child.error = error
            if self.stopping:
                self.blame.errors.append(error)
        if child.order is not None and child.order.starts_again(child):
            child.enter(State.WAITING)
        else:
            self._settle(child, State.STOPPED)

    def _ended_before_its_stop(
        self, child: Child, how: How, error: BaseException | None
    ) -> None:
        """It was about to be told when somebody stopped it: nothing follows of it."""
        again = child.order is not None and child.order.starts_again(child)
        finished = what_follows(child.service, how) is Then.FINISH
        if finished and not again:
            self._finish(child)
            return
        if finished:
            self.herald.tell(ChildFinished, child)
        else:
            if error is not None:
                child.remember(error)
            self.herald.tell(ChildFailed, child, error, 0, None)
        if again:
            child.enter(State.WAITING)
        else:
            self._settle(child, State.STOPPED)

    def _ended_during_stop(self, child: Child, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            child.remember(error)
            if not child.late:
                self.blame.errors.append(error)
            self.herald.tell(ChildFailed, child, error, 0, None)
            child.enter(State.FAILED)
        else:
            self.herald.tell(ChildFinished, child)
            child.enter(State.FINISHED)

    def _ended_by_itself(
        self, child: Child, how: How, error: BaseException | None
    ) -> None:
        if child.reports and not child.announced and error is None:
            how = How.FAILED
            error = RuntimeError(
                f"service {child.name!r} returned before it called task_status.started()"
            )
        if child.first and error is not None and child.reports:
            self._first_start_failed(child, error)
            return
        then = what_follows(child.service, how)
        if error is not None or then is Then.RESTART:
            child.remember(_returned(child) if error is None else error)
        if then is Then.RESTART and not self._again(child):
            then = Then.GIVE_UP
        if then is Then.RESTART:
            self._restart(child, error)
        elif then is Then.FINISH:
            self._finish(child)
        else:
            self.herald.tell(ChildFailed, child, error, 0, None)
            if then is Then.GIVE_UP:
                child.enter(State.FAILED)
                self.give_up(child)
            else:
                if child.static and isinstance(error, Exception):
                    self.blame.errors.append(error)
                self._settle(child, State.FAILED)

    def _again(self, child: Child) -> bool:
        """Count a restart, unless it is one too many in a row."""
        from random import random  # dear to import

        again = child.restarts.again(child.uptime, random())
        if child.restarts.streak < 2 and again:
            child.failing_since = self.loop.time()
        return again

    def _finish(self, child: Child) -> None:
        self.herald.tell(ChildFinished, child)
        self._settle(child, State.FINISHED)
        if child.service.essential:
            self.broken = True
            self.stop()

    def _settle(self, child: Child, state: State) -> None:
        child.enter(state)
        if child.brief:
            del self.members[child.name]

    def drop(self, child: Child) -> None:
        """Stop a child, if it lives, and forget it when it has ended."""
        child.brief = True
        if child.active:
            self.stop_one(child)
        elif self.members.get(child.name) is child:
            del self.members[child.name]

    def _first_start_failed(self, child: Child, error: BaseException) -> None:
        child.remember(error)
        self.herald.tell(ChildFailed, child, error, 0, None)
        child.enter(State.FAILED)
        if child.static and not child.revived:
            self.give_up(child, f"service {child.name!r} failed to start")

    # Restarts

    def _restart(self, child: Child, error: BaseException | None) -> None:
        now = self.loop.time()
        group = self._group
        merged = group is not None and child.order is group and not group.starting
        if self.window is not None and not merged and self.window.exceeded(now):
            child.restarts.take_back()
            self.herald.tell(ChildFailed, child, error, 0, None)
            child.enter(State.FAILED)
            self.give_up(
                child,
                f"{reason_of(child, child.restarts.streak + 1)}, and all together more than "
                f"{self.window.intensity.restarts} times in {self.window.intensity.period} s",
            )
            return
        restarts = child.restarts
        self.herald.tell(ChildFailed, child, error, restarts.streak, restarts.delay)
        if self.strategy == "one_for_one":
            child.enter(State.BACKOFF)
            if restarts.delay > 0:
                child.call_later(restarts.delay, child.launch)
            else:
                self._relaunched = child  # 5
        else:
            self._restart_group(child, now + restarts.delay)

    def _restart_group(self, failed: Child, not_before: float) -> None:
        if self._group is not None:
            not_before = max(not_before, self._group.not_before)
        waiting = [] if self._group is None else list(self._group.cancel())  # 3
        if self._initial is not None:
            waiting += self._initial.cancel()
            # It is over when the group is up; the first start has yet to succeed.
        again = set(affected(self.strategy, list(self.members.values()), failed))
        again.update(waiting)
        group = [
            child
            for child in self.members.values()
            if child is failed or (child in again and child.active and child.wanted)
        ]
        failed.enter(State.WAITING)
        starts = deque(
            child
            for child in group
            if not child.brief or child.state is State.WAITING  # for its only life
        )
        self._group = Turnover(self.loop, group, starts, self._restarted, not_before)
        names = tuple(child.name for child in starts)
        self.herald.tell(
            GroupRestart, self, names, max(not_before - self.loop.time(), 0.0)
        )

    def _restarted(self, group: Turnover) -> None:
        self._group = None
        if self._initial is not None:
            self._started(group)
        self.on_change()

    # The end of all

    def give_up(self, culprit: Child, why: str | None = None) -> None:
        """Stop everything, since a child cannot be kept up."""
        why = why or reason_of(culprit, culprit.restarts.streak + 1)
        self.blame.lay_on(culprit, why)
        self.broken = True
        self.herald.tell(SupervisorGaveUp, self, why)
        self.stop()

    def stop(self) -> None:
        """Stop everything, in reverse order."""
        if self.stopping:
            return
        self.stopping = True  # 2
        for turnover in (self._initial, self._group):
            if turnover is not None:
                turnover.cancel()
        self._initial = self._group = None
        live: list[Child] = []
        for child in tuple(self.members.values()):
            if child.order is not None:
                child.order.cancel()
            if child.live:
                live.append(child)
                child.late = child.has_ended
            elif child.active:
                child.enter(State.STOPPED)
        self._final = Turnover(self.loop, live, deque(), self._all_ended)
        self._final.limit(0.0 if self._hurried else self.stop_timeout)
        self.on_change()
        self._final.advance()

    @property
    def abandoned(self) -> bool:
        """Whether everything was cancelled at once, since nobody can wait for it."""
        return self.tasks.cancelled

    def hurry(self) -> None:
        """Give up the order of the stop, also of one that has yet to begin."""
        self._hurried = True
        if self._final is not None:
            self._final.hurry()

    def stop_one(self, child: Child) -> None:
        """Stop one child for good."""
        if self.stopping:
            if child.live:  # whoever asks may be what its turn waits for
                child.cancel()
            return
        child.wanted = False
        if child.order is not None:
            child.order.drop(child)
        if child.live:
            Turnover(self.loop, [child], deque(), _nothing).advance()
        elif child.active:
            self._settle(child, State.STOPPED)
            if not self.active:
                self.on_change()

    def restart_one(self, child: Child) -> None:
        """Stop one child, if it lives, and start it."""
        child.wanted = True
        if child.order is not None:
            child.order.drop(child)
        if not child.active:
            child.first = child.revived = True
        child.keep_context()
        if not child.live:
            child.enter(State.WAITING)
        Turnover(
            self.loop, [child] if child.live else [], deque([child]), _nothing
        ).advance()

    def _all_ended(self, _: Turnover) -> None:
        self.over = True
        self.on_change()

    def let_go(self) -> dict[str, Child]:
        """Part from the children, and from whoever waited for them."""
        members, self.members = self.members, {}
        self.on_change = _nothing
        self.herald.close()
        self.guard.close()
        self._final = None
        return members


def _returned(child: Child) -> RuntimeError:
    return RuntimeError(f"service {child.name!r} returned, and is to stay up")


def _nothing(*_: object) -> None:
    pass


async def _fail(error: BaseException) -> None:
    raise error
