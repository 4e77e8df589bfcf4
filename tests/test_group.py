"""A group of children, at most some at once, that may start more."""

# ruff: noqa: PT012 - what is raised here leaves a block, not a statement

import asyncio
import gc
import sys
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar
from functools import partial
from importlib.metadata import version
from typing import Any

import anyio
import pytest
import uvloop

from safeaio import (
    BoundedGroup,
    ChildCancelled,
    bounded_gather,
    bounded_group,
    bounded_map,
)
from safeaio.testing import Run, VirtualClockLoop, cancel_sweep

Reports = list[dict[str, Any]]


class Gauge:
    """Counts what runs inside, and the most that ever did."""

    def __init__(self) -> None:
        self.now = self.most = self.ended = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1
        self.ended += 1


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(error: BaseException) -> None:
    raise error


def host() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# What it is for


@pytest.mark.parametrize("limit", [1, 2, 7, None])
async def test_at_most_limit_children_run(limit: int | None) -> None:
    """The body waits for a slot, and leaving it for every child."""
    gauge = Gauge()

    async def child(n: int) -> None:
        with gauge:
            await turns(n % 4)

    async with bounded_group(limit=limit) as group:
        for n in range(20):
            await group.start_soon(child, n)
    assert gauge.ended == 20
    assert gauge.most == (limit or 20) or gauge.most < 20


async def test_children_start_children() -> None:
    """Work may create work, as long as slots come free; leaving waits for all of it."""
    seen: list[int] = []
    gauge = Gauge()

    async def visit(n: int) -> None:
        with gauge:
            await turns(1)
            seen.append(n)
            for child in (2 * n, 2 * n + 1):
                if child < 60:
                    await group.start_soon(visit, child)

    async with bounded_group(limit=40) as group:
        await group.start_soon(visit, 1)
    assert sorted(seen) == list(range(1, 60))
    assert gauge.most <= 40


async def test_a_chain_of_children_is_not_nested() -> None:
    """Each child starts the next one: however long the chain, the stack does not grow."""
    ended, length = 0, 2 * sys.getrecursionlimit()

    async def visit(n: int) -> None:
        nonlocal ended
        if n:
            await group.start_soon(visit, n - 1)
        await turns(1)
        ended += 1

    async with bounded_group(limit=None) as group:
        await group.start_soon(visit, length)
    assert ended == length + 1


async def test_arguments_reach_the_child() -> None:
    """Positional arguments are passed on, and `partial` carries the others."""
    got: list[Any] = []

    async def child(*args: int, **kwargs: int) -> None:
        got.append((args, kwargs))

    async with bounded_group() as group:
        await group.start_soon(child, 1, 2)
        await group.start_soon(partial(child, 3, key=4))
        await group.start_soon(lambda n: child(n), 5)
    assert got == [((1, 2), {}), ((3,), {"key": 4}), ((5,), {})]


async def test_an_awaitable_of_any_kind_is_a_child() -> None:
    """What the function returns may be a task or a future, and is cancelled with the rest."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(forever())
    future: asyncio.Future[None] = loop.create_future()
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        async with bounded_group() as group:
            await group.start_soon(lambda: task)
            await group.start_soon(lambda: future)
            await turns(3)
            await group.start_soon(fail, error)
    assert caught.value is error
    assert task.cancelled()
    assert future.cancelled()


async def test_empty_group() -> None:
    """A group without children does not wait."""
    async with bounded_group():
        pass


# One limiter for several


async def test_limiter_is_shared() -> None:
    """Groups and maps that are given one limiter keep to it together."""
    gauge = Gauge()
    limiter = anyio.CapacityLimiter(3)

    async def child(_: object = None) -> None:
        with gauge:
            await turns(2)

    async def use_group() -> None:
        async with bounded_group(limit=limiter) as group:
            for _ in range(10):
                await group.start_soon(child)

    await bounded_gather(
        use_group(), use_group(), bounded_map(child, range(10), limit=limiter)
    )
    assert gauge.ended == 30
    assert gauge.most == 3
    assert limiter.borrowed_tokens == 0


async def test_limiter_is_resized() -> None:
    """A larger limit holds at once; a smaller one when enough children have ended."""
    limiter = anyio.CapacityLimiter(1)
    gate = asyncio.Event()
    gauge = Gauge()

    async def child() -> None:
        with gauge:
            await gate.wait()

    async def start(group: BoundedGroup, count: int) -> None:
        for _ in range(count):
            await group.start_soon(child)

    async with bounded_group(limit=limiter) as group:
        starter = asyncio.create_task(start(group, 8))
        await turns(5)
        assert gauge.now == 1
        limiter.total_tokens = 4
        await turns(20)
        assert gauge.now == 4
        limiter.total_tokens = 2
        gauge.most = 0
        gate.set()
        await starter
    assert gauge.ended == 8
    assert gauge.most <= 2
    assert limiter.borrowed_tokens == 0


def test_made_outside_of_a_loop() -> None:
    """The group belongs to the loop in which it is entered."""
    block = bounded_group(limit=2)

    async def main() -> None:
        async with block as group:
            for _ in range(5):
                await group.start_soon(turns, 1)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


# Waiting for one's own slot


async def test_refuses_a_child_that_waits_for_its_own_slot() -> None:
    """With one slot, a child that starts another would wait for itself."""
    started: list[str] = []

    async def parent() -> None:
        started.append("parent")
        with pytest.raises(
            RuntimeError, match="1 slots are held by children that wait"
        ):
            await group.start_soon(forever)
        started.append("refused")

    async with bounded_group(limit=1) as group:
        await group.start_soon(parent)
        await group.start_soon(parent)
    assert started == ["parent", "refused"] * 2


async def test_refuses_the_last_of_children_that_wait_for_each_other() -> None:
    """Of children that all wait for a slot the last is refused, and the others go on."""
    refused: list[int] = []
    both = asyncio.Event()

    async def parent(n: int) -> None:
        if n:
            both.set()
        await both.wait()
        try:
            await group.start_soon(turns, 1)
        except RuntimeError:
            refused.append(n)

    async with bounded_group(limit=2) as group:
        await group.start_soon(parent, 0)
        await group.start_soon(parent, 1)
    assert len(refused) == 1


async def test_refuses_across_groups_that_share_a_limiter() -> None:
    """It does not matter through which group a child waits for its own slot."""
    limiter = anyio.CapacityLimiter(1)
    refused = 0

    async def parent() -> None:
        nonlocal refused
        try:
            await other.start_soon(forever)
        except RuntimeError:
            refused += 1

    async with (
        bounded_group(limit=limiter) as group,
        bounded_group(limit=limiter) as other,
    ):
        await group.start_soon(parent)
    assert refused == 1


async def test_refuses_across_groups_with_limits_of_their_own() -> None:
    """Children of two groups that wait for each other's slot wait for their own."""
    refused: list[str] = []
    finished: list[str] = []
    both = asyncio.Event()

    async def parent(name: str, other: BoundedGroup) -> None:
        if name == "second":
            both.set()
        await both.wait()
        try:
            await other.start_soon(turns, 1)
        except RuntimeError:
            refused.append(name)
        finished.append(name)

    async with bounded_group(limit=1) as one, bounded_group(limit=1) as two:
        await one.start_soon(parent, "first", two)
        await two.start_soon(parent, "second", one)
        while len(finished) < 2:
            await turns(1)
    assert len(refused) == 1


async def test_refuses_through_what_the_child_waits_for() -> None:
    """A task that the child awaits, or a nested group's child, waits in its name."""
    refused: list[str] = []

    async def start(name: str) -> None:
        try:
            await group.start_soon(forever)
        except RuntimeError:
            refused.append(name)

    async def parent() -> None:
        await asyncio.create_task(start("task"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(start("task group"))
        async with bounded_group(limit=1) as nested:
            await nested.start_soon(start, "nested group")
        await bounded_gather(start("gather"), limit=anyio.CapacityLimiter(1))
        await bounded_map(start, ["map"])

    async with bounded_group(limit=1) as group:
        await group.start_soon(parent)
    assert refused == ["task", "task group", "nested group", "gather", "map"]


async def test_waits_for_a_slot_that_another_child_will_free() -> None:
    """While some child of the limiter does not wait, its slot will come."""
    go = asyncio.Event()
    ended: list[str] = []

    async def parent() -> None:
        await group.start_soon(turns, 1)
        ended.append("parent")

    async with bounded_group(limit=3) as group:
        await group.start_soon(parent)
        await group.start_soon(go.wait)
        await group.start_soon(parent)
        await turns(5)
        go.set()
    assert ended == ["parent", "parent"]


async def test_waits_for_a_token_that_someone_else_will_free() -> None:
    """A token held by code outside any group comes back, as far as anybody can tell."""
    limiter = anyio.CapacityLimiter(2)
    ended = 0

    async def parent() -> None:
        nonlocal ended
        await group.start_soon(turns, 1)
        ended += 1

    async with bounded_group(limit=limiter) as group, limiter:
        await group.start_soon(parent)
        await turns(5)
        assert ended == 0
    assert ended == 1


async def test_a_task_that_outlives_the_child_is_not_the_child() -> None:
    """What a child left running waits like anybody else."""
    left: list[asyncio.Task[None]] = []
    started = 0

    async def child() -> None:
        nonlocal started
        started += 1
        await turns(1)

    async def background() -> None:
        while not ended.is_set():
            await turns(1)
        await group.start_soon(child)
        await group.start_soon(child)
        async with bounded_group(limit=limiter) as nested:
            await nested.start_soon(child)

    async def parent() -> None:
        left.append(asyncio.create_task(background()))

    limiter = anyio.CapacityLimiter(1)
    ended = asyncio.Event()
    async with bounded_group(limit=limiter) as group:
        await group.start_soon(parent)
        await turns(5)
        ended.set()
        await left[0]
    assert started == 3


async def test_refuses_a_nested_group_on_the_same_limiter() -> None:
    """A group inside a child, under the child's own limiter, could only block it."""
    limiter = anyio.CapacityLimiter(5)
    made: list[AbstractAsyncContextManager[BoundedGroup]] = [
        bounded_group(limit=limiter)
    ]

    async def parent() -> None:
        with pytest.raises(RuntimeError, match="already holds a token"):
            bounded_group(limit=limiter)
        with pytest.raises(RuntimeError, match="already holds a token"):
            await made[0].__aenter__()

    async with bounded_group(limit=limiter) as group:
        await group.start_soon(parent)


# Contexts


async def test_child_sees_a_copy_of_its_starters_context() -> None:
    """What a child sets, nobody else sees; what its starter had set, it does."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    async def child() -> None:
        seen.append(variable.get())
        variable.set("child")
        await turns(1)

    async def parent() -> None:
        variable.set("parent")
        await group.start_soon(child)
        await turns(3)
        seen.append(variable.get())

    async with bounded_group() as group:
        await group.start_soon(child)
        variable.set("body")
        await group.start_soon(child)
        await group.start_soon(parent)
    assert seen == ["unset", "body", "parent", "parent"]
    assert variable.get() == "body"


async def test_child_does_not_hold_its_starters_token() -> None:
    """A child that another one started does not keep that one waiting."""
    limiter, other = anyio.CapacityLimiter(1), anyio.CapacityLimiter(2)
    ended = 0

    async def grandchild() -> None:
        nonlocal ended
        async with bounded_group(limit=limiter) as nested:
            await nested.start_soon(turns, 1)
        ended += 1

    async def parent() -> None:
        await group.start_soon(grandchild)

    async with (
        bounded_group(limit=other) as group,
        bounded_group(limit=limiter) as outer,
    ):
        await outer.start_soon(parent)
    assert ended == 1


# Failure


async def test_first_failure_is_raised_bare(reported: Reports) -> None:
    """The first error leaves, the same object; later ones are notes, and reported."""
    first, second = ValueError("first"), KeyError("second")

    async def fetch() -> None:
        try:
            await forever()
        finally:
            await turns(3)
            raise second

    with pytest.raises(ValueError, match="first") as caught:
        async with bounded_group() as group:
            await group.start_soon(fetch)
            await turns(2)
            await group.start_soon(fail, first)
            await forever()
    assert caught.value is first
    name = f"{test_first_failure_is_raised_bare.__name__}.<locals>.fetch()"
    assert first.__notes__ == [f"also raised by {name}: KeyError('second')"]
    assert [report["exception"] for report in reported] == [second]
    assert name in reported[0]["message"]


async def test_siblings_are_cancelled_once_and_awaited() -> None:
    """Cleanup that awaits several times completes, and sees no second cancel."""
    cancels, cleaned = 0, 0

    async def sibling() -> None:
        nonlocal cancels, cleaned
        try:
            await forever()
        except asyncio.CancelledError:
            cancels += 1
            for _ in range(10):
                try:
                    await turns(1)
                except asyncio.CancelledError:
                    cancels += 1
            cleaned += 1
            raise

    with pytest.raises(ValueError, match="x"):
        async with bounded_group() as group:
            for _ in range(3):
                await group.start_soon(sibling)
            await turns(2)
            await group.start_soon(fail, ValueError("x"))
    assert (cancels, cleaned) == (3, 3)


async def test_body_is_cancelled_once(reported: Reports) -> None:
    """Failures of children cancel the body, and that is taken back when it ends."""
    cancels = 0
    with pytest.raises(ValueError, match="x"):
        async with bounded_group() as group:
            await group.start_soon(fail, ValueError("x"))
            await group.start_soon(fail, ValueError("x"))
            try:
                await forever()
            except asyncio.CancelledError:
                cancels += 1
                assert host().cancelling() == 1
                await turns(5)
                raise
    assert cancels == 1
    assert host().cancelling() == 0
    assert len(reported) == 1


async def test_count_of_cancels_that_were_there_before() -> None:
    """In the cleanup of a cancelled task a group works as anywhere else."""
    errors: list[BaseException] = []
    counts: list[int] = []

    async def cancelled() -> None:
        try:
            await forever()
        finally:
            try:
                async with bounded_group() as group:
                    await group.start_soon(turns, 2)
                async with bounded_group() as group:
                    await group.start_soon(fail, ValueError("x"))
                    await forever()
            except ValueError as exc:
                errors.append(exc)
            with suppress(ChildCancelled):
                async with bounded_group() as group:
                    await group.start_soon(fail, asyncio.CancelledError())
            counts.append(host().cancelling())

    task = asyncio.create_task(cancelled())
    await turns(2)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert counts == [1]
    assert len(errors) == 1


@pytest.mark.parametrize("limit", [1, anyio.CapacityLimiter])
async def test_body_that_waits_for_a_slot_is_cancelled(limit: Any) -> None:
    """A failure ends the body's wait in start_soon, and nothing more starts."""
    limit = limit if limit == 1 else limit(1)
    go = asyncio.Event()

    async def child() -> None:
        await go.wait()
        raise ValueError("x")

    async def never() -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="x"):
        async with bounded_group(limit=limit) as group:
            await group.start_soon(child)
            asyncio.get_running_loop().call_soon(go.set)
            await group.start_soon(never)
    assert limit == 1 or limit.borrowed_tokens == 0


async def test_body_in_its_own_finally() -> None:
    """A body that is being left gets its one cancel there, and what it raised is a note."""
    with pytest.raises(ValueError, match="x") as caught:
        async with bounded_group() as group:
            await group.start_soon(turns, 1)
            try:
                await group.start_soon(fail, ValueError("x"))
            finally:
                with pytest.raises(asyncio.CancelledError):
                    await forever()
                await turns(4)
    assert host().cancelling() == 0
    assert not hasattr(caught.value, "__notes__")


async def test_body_that_swallows_the_cancel() -> None:
    """The failure is raised all the same, and nothing can be started any more."""
    refused = 0
    with pytest.raises(ValueError, match="x"):
        async with bounded_group() as group:
            await group.start_soon(fail, ValueError("x"))
            with suppress(asyncio.CancelledError):
                await forever()
            try:
                await group.start_soon(forever)
            except RuntimeError as exc:
                refused += "is stopping" in str(exc)
    assert refused == 1
    assert host().cancelling() == 0


async def test_body_error_cancels_the_children() -> None:
    """What the body raises first leaves the block, the same object, when all have ended."""
    error = ValueError("body")
    cleaned = 0

    async def child() -> None:
        nonlocal cleaned
        try:
            await forever()
        finally:
            await turns(3)
            cleaned += 1

    with pytest.raises(ValueError, match="body") as caught:
        async with bounded_group() as group:
            await group.start_soon(child)
            await group.start_soon(child)
            await turns(2)
            raise error
    assert caught.value is error
    assert cleaned == 2


async def test_body_error_before_a_childs(reported: Reports) -> None:
    """A child's later error is a note on the body's, and reported."""
    later = KeyError("later")

    async def child() -> None:
        try:
            await forever()
        finally:
            raise later

    with pytest.raises(ValueError, match="body") as caught:
        async with bounded_group() as group:
            await group.start_soon(child)
            await turns(2)
            raise ValueError("body")
    assert len(caught.value.__notes__) == 1
    assert [report["exception"] for report in reported] == [later]


async def test_body_error_after_a_childs(reported: Reports) -> None:
    """The body's later error is a note on the child's, and reported."""
    first, later = ValueError("child"), KeyError("body")
    with pytest.raises(ValueError, match="child") as caught:
        async with bounded_group() as group:
            await group.start_soon(fail, first)
            try:
                await forever()
            finally:
                raise later
    assert caught.value is first
    assert first.__notes__ == ["also raised by the body: KeyError('body')"]
    assert [report["exception"] for report in reported] == [later]


async def test_body_raises_the_childs_error(reported: Reports) -> None:
    """An error that is raised twice is one error."""
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        async with bounded_group() as group:
            await group.start_soon(fail, error)
            with suppress(asyncio.CancelledError):
                await forever()
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert reported == []


async def test_many_failures(reported: Reports) -> None:
    """Ten errors are noted, the others counted; every one is reported."""

    async def child(n: int) -> None:
        try:
            await forever()
        finally:
            raise KeyError(n)

    with pytest.raises(ValueError, match="x") as caught:
        async with bounded_group() as group:
            for n in range(25):
                await group.start_soon(child, n)
            await turns(2)
            raise ValueError("x")
    assert len(caught.value.__notes__) == 11
    assert caught.value.__notes__[-1] == "and 15 more"
    assert len(reported) == 25


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_interrupt_of_a_child(
    interrupt: type[BaseException], reported: Reports
) -> None:
    """It goes over any other error, after every child has ended."""
    error, ended = interrupt(), 0

    async def child() -> None:
        nonlocal ended
        try:
            await forever()
        finally:
            await turns(3)
            ended += 1
            raise error

    with pytest.raises(interrupt) as caught:
        async with bounded_group() as group:
            await group.start_soon(child)
            await turns(2)
            await group.start_soon(fail, ValueError("x"))
            await forever()
    assert caught.value is error
    assert ended == 1
    assert error.__notes__ == ["also raised by fail(): ValueError('x')"]
    assert len(reported) == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_interrupt_of_the_body(interrupt: type[BaseException]) -> None:
    """The children have ended when it leaves the block."""
    ended = 0

    async def child() -> None:
        nonlocal ended
        try:
            await forever()
        finally:
            await turns(3)
            ended += 1

    with pytest.raises(interrupt):
        async with bounded_group() as group:
            await group.start_soon(child)
            await turns(2)
            raise interrupt
    assert ended == 1


async def test_interrupt_goes_over_the_cancel(reported: Reports) -> None:
    """A child that interrupts while the caller's cancel is under way is heard."""
    ended: list[BaseException] = []

    async def child() -> None:
        try:
            await forever()
        finally:
            raise SystemExit(3)

    async def main() -> None:
        try:
            async with bounded_group() as group:
                await group.start_soon(child)
                await forever()
        except SystemExit as exc:
            ended.append(exc)

    task = asyncio.create_task(main())
    await turns(3)
    task.cancel()
    await task
    assert [type(exc) for exc in ended] == [SystemExit]
    assert reported == []


async def test_stray_cancel_of_a_child() -> None:
    """A child that ends cancelled by itself is an error that no one takes for a cancel."""
    cleaned = 0

    async def stray() -> None:
        task = asyncio.create_task(forever())
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def sibling() -> None:
        nonlocal cleaned
        try:
            await forever()
        finally:
            cleaned += 1

    with pytest.raises(ChildCancelled) as caught:
        async with bounded_group() as group:
            await group.start_soon(sibling)
            await group.start_soon(stray)
            await forever()
    assert caught.value.child.endswith("stray()")
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert cleaned == 1
    assert host().cancelling() == 0


async def test_stray_cancel_in_the_body() -> None:
    """A CancelledError that the body raises by itself leaves as it came."""
    error = asyncio.CancelledError("body")
    with pytest.raises(asyncio.CancelledError) as caught:
        async with bounded_group() as group:
            await group.start_soon(forever)
            raise error
    assert caught.value is error


# Cancelling the call


def tidy(group_body: Callable[[BoundedGroup], Awaitable[object]], **limit: Any) -> Any:
    """Return a scenario for a sweep, and the invariant that its children's cleanup ran."""
    state: dict[str, int] = {}
    limiters: list[anyio.CapacityLimiter] = []

    async def child(length: int = 3, error: BaseException | None = None) -> None:
        try:
            await turns(length)
        except asyncio.CancelledError:
            state["cancelled"] += 1
            await turns(1)
            await turns(2)
            state["cleaned"] += 1
            raise
        if error is not None:
            raise error

    async def scenario() -> None:
        state.update(cancelled=0, cleaned=0)
        limiter = anyio.CapacityLimiter(limit.get("limit", 2))
        limiters[:] = [limiter]
        async with bounded_group(limit=limiter) as group:
            await group_body(group)

    def cleaned(run: Run) -> None:
        assert state["cancelled"] == state["cleaned"]
        assert limiters[0].borrowed_tokens == 0

    return scenario, cleaned, child


def sweep(
    body: Callable[[BoundedGroup, Any], Awaitable[object]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    may_raise: Any = (),
    **limit: Any,
) -> None:
    scenario, cleaned, child = tidy(lambda group: body(group, child), **limit)

    def native_cancel_is_raised(run: Run) -> None:
        if not run.native_cancels and isinstance(run.exception, asyncio.CancelledError):
            raise AssertionError("a CancelledError leaked out of a scope or timeout")

    cancel_sweep(
        scenario,
        cleaned,
        native_cancel_is_raised,
        may_raise=may_raise,
        loop_factory=loop_factory,
    )


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = VirtualClockLoop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS = pytest.mark.parametrize(
    "factory", [VirtualClockLoop, uvloop.new_event_loop, eager_loop]
)


@LOOPS
def test_cancelled_at_any_tick(factory: Any) -> None:
    """Whenever the call is cancelled, cleanup completes and nothing is left behind."""

    async def body(group: BoundedGroup, child: Any) -> None:
        for _ in range(4):
            await group.start_soon(child)
        await turns(2)

    sweep(body, factory)


@LOOPS
def test_cancelled_at_any_tick_while_children_start_children(factory: Any) -> None:
    """So it is where the children start children, and wait for slots."""

    async def body(group: BoundedGroup, child: Any) -> None:
        async def parent() -> None:
            await group.start_soon(child)
            await child()

        await group.start_soon(parent)
        await group.start_soon(child)
        await group.start_soon(parent)

    sweep(body, factory, limit=3)


@LOOPS
def test_cancelled_at_any_tick_around_a_failure(factory: Any) -> None:
    """A cancel beside a child's failure is not lost, whichever comes first."""

    async def body(group: BoundedGroup, child: Any) -> None:
        await group.start_soon(child, 9)
        await group.start_soon(child, 2, ValueError("x"))
        await turns(20)

    sweep(body, factory, may_raise=ValueError)


def test_cancelled_at_any_tick_in_nested_groups() -> None:
    """So it is for a group in the body, and in a child, of another one."""

    async def body(group: BoundedGroup, child: Any) -> None:
        async def parent() -> None:
            async with bounded_group(limit=1) as nested:
                await nested.start_soon(child)
                await nested.start_soon(child)

        async with bounded_group(limit=2) as inner:
            await group.start_soon(parent)
            await inner.start_soon(child)

    sweep(body, VirtualClockLoop)


def test_cancelled_at_any_tick_around_failures_in_nested_groups() -> None:
    """Failures of both groups, a tick apart, leave the counts right."""

    async def body(group: BoundedGroup, child: Any) -> None:
        await group.start_soon(child, 3, ValueError("outer"))
        async with bounded_group() as inner:
            await inner.start_soon(child, 2, KeyError("inner"))
            await forever()

    sweep(body, VirtualClockLoop, may_raise=(ValueError, KeyError))


def test_cancelled_at_any_tick_with_task_groups() -> None:
    """A group holds asyncio.TaskGroups, and is held by one."""

    async def body(group: BoundedGroup, child: Any) -> None:
        async def parent() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child())
                tasks.create_task(child())

        await group.start_soon(parent)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    sweep(body, VirtualClockLoop)


async def scenario_of_a_task_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(turns(4))
        async with bounded_group() as group:
            await group.start_soon(turns, 6)
            await turns(3)


def test_cancelled_at_any_tick_inside_a_task_group() -> None:
    """A task group around the block sees the cancel that is its own."""
    cancel_sweep(scenario_of_a_task_group)


def test_scope_then_native_cancel() -> None:
    """A native cancel that comes any time after a scope's own is not swallowed by it."""

    async def run(gap: int, *, failing: bool) -> None:
        async def child() -> None:
            try:
                await turns(4 if failing else 99)
                if failing:
                    raise ValueError("x")
            finally:
                await turns(12)

        async def main() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                try:
                    async with bounded_group() as group:
                        await group.start_soon(child)
                        await group.start_soon(child)
                        await forever()
                except asyncio.CancelledError as exc:
                    left.extend(exc.args)
                    raise

        scopes: list[anyio.CancelScope] = []
        left: list[object] = []
        task = asyncio.create_task(main())
        await turns(3)
        scopes[0].cancel()
        await turns(gap)
        if task.cancel("native"):
            await asyncio.wait([task])
            assert gap == 0 or left == [
                "native"
            ]  # of two in one turn asyncio makes one
            assert task.cancelled() or not anyio_tells_them_apart
            assert task.cancelling() == 1
        assert task.done()

    # Before 4.16 a scope takes a native cancel for its own if that came beside its own.
    anyio_tells_them_apart = tuple(map(int, version("anyio").split(".")[:2])) >= (4, 16)
    for gap in range(20):
        for failing in (False, True):
            with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
                runner.get_loop().set_exception_handler(lambda *_: None)
                runner.run(run(gap, failing=failing))


@pytest.mark.parametrize("failure_first", [False, True])
@pytest.mark.parametrize("via", ["native", "scope", "timeout"])
@pytest.mark.virtual_time
async def test_cancel_in_the_tick_of_a_failure(
    failure_first: bool, via: str, reported: Reports
) -> None:
    """A cancel from outside beside a child's failure leaves as that cancel."""
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()
    scopes: list[Any] = []

    async def block() -> None:
        async with bounded_group() as group:
            await group.start_soon(lambda: failure)
            await forever()

    async def main() -> str:
        if via == "scope":
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await block()
            return "caught" if scope.cancelled_caught else "ended"
        if via == "timeout":
            try:
                async with asyncio.timeout(None) as timeout:
                    scopes.append(timeout)
                    await block()
            except TimeoutError:
                return "caught"
        await block()
        return "ended"

    def cut() -> None:
        if via == "scope":
            scopes[0].cancel()
        elif via == "timeout":
            scopes[0].reschedule(loop.time())
        else:
            task.cancel("outside")

    task = asyncio.create_task(main())
    await turns(4)
    # The child's task needs one more turn to see its error.
    if failure_first:
        failure.set_exception(ValueError("x"))
        await asyncio.sleep(0)
        cut()
    else:
        cut()
        failure.set_exception(ValueError("x"))
    await asyncio.wait([task])
    if via == "native":
        assert task.cancelled()
        assert task.cancelling() == 1
    else:
        outcome = task.exception() or task.result()
        assert outcome == "caught" or isinstance(outcome, ValueError)
        assert task.cancelling() == 0


async def test_scope_and_failure_leave_the_first_cancel() -> None:
    """The CancelledError that the body got is the one that leaves, the same object."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    failure: asyncio.Future[None] = loop.create_future()
    seen: list[BaseException] = []
    with anyio.CancelScope() as scope:
        try:
            async with bounded_group() as group:
                await group.start_soon(lambda: failure)
                await turns(2)
                # In one turn the scope is cancelled, and then the child's end is seen.
                loop.call_soon(partial(loop.call_soon, scope.cancel))
                failure.set_exception(ValueError("x"))
                try:
                    await forever()
                except asyncio.CancelledError as exc:
                    assert host().cancelling() == 2
                    seen.append(exc)
                    raise
        except asyncio.CancelledError as exc:
            seen.append(exc)
            raise
    assert scope.cancelled_caught
    assert seen[0] is seen[1]


@pytest.mark.virtual_time
async def test_failing_group_in_a_cancelled_scope() -> None:
    """A scope that ends by its deadline catches its own cancel, with a failure beside it."""

    async def child() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(5)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    for at in (0.5, 1.0, 1.5):
        with anyio.move_on_after(1) as scope:
            with suppress(ValueError):
                async with bounded_group() as group:
                    await group.start_soon(child)
                    await group.start_soon(asyncio.sleep, 2)
                    loop.call_later(at, lambda: None)
                    await asyncio.sleep(at)
                    await group.start_soon(fail, ValueError("x"))
                    await forever()
        assert host().cancelling() == 0
        assert scope.cancel_called


# GeneratorExit


def test_closed_while_the_body_waits(recwarn: pytest.WarningsRecorder) -> None:
    """On close the children are cancelled, not awaited: Python allows no more."""
    children: list[asyncio.Task[Any]] = []
    ended: list[str] = []

    async def child(name: str) -> None:
        children.append(host())
        try:
            await forever()
        finally:
            await turns(1)
            ended.append(name)

    async def main(*, leaving: bool) -> None:
        async with bounded_group() as group:
            await group.start_soon(child, "first")
            await group.start_soon(child, "second")
            if not leaving:
                await forever()

    for leaving in (False, True):
        loop = VirtualClockLoop()
        coro = main(leaving=leaving)

        async def step(coro: Coroutine[Any, Any, None]) -> None:
            coro.send(None)

        loop.run_until_complete(step(coro))
        loop.run_until_complete(turns(2))
        coro.close()
        loop.run_until_complete(asyncio.wait(children))
        assert all(task.cancelled() for task in children)
        loop.close()
        children.clear()
    assert sorted(ended) == ["first", "first", "second", "second"]
    assert not recwarn.list


def test_child_fails_while_nobody_runs_the_body() -> None:
    """The task that entered has ended without the coroutine: there is none to cancel."""

    async def fail() -> None:
        await turns(1)
        raise ValueError

    async def main() -> None:
        async with bounded_group() as group:
            await group.start_soon(fail)
            await forever()

    loop = VirtualClockLoop()
    coro = main()

    async def step() -> None:
        coro.send(None)

    loop.run_until_complete(step())
    loop.run_until_complete(turns(9))
    with pytest.raises(ValueError):  # noqa: PT011
        coro.close()
    loop.close()


# Misuse


async def test_start_soon_outside_of_the_block() -> None:
    """Children start inside the block, and nothing is taken when they cannot."""
    limiter = anyio.CapacityLimiter(1)
    block = bounded_group(limit=limiter)
    assert isinstance(block, BoundedGroup)
    with pytest.raises(RuntimeError, match="has not been entered"):
        await block.start_soon(forever)
    async with block as group:
        with pytest.raises(RuntimeError, match="entered once"):
            await block.__aenter__()
    with pytest.raises(RuntimeError, match="has ended"):
        await group.start_soon(forever)
    with pytest.raises(RuntimeError, match="entered once"):
        await block.__aenter__()
    assert limiter.borrowed_tokens == 0


async def test_someone_else_waits_for_a_slot_of_a_group_that_ends() -> None:
    """Whoever gets a slot too late is refused, and gives it back."""
    limiter = anyio.CapacityLimiter(1)
    go = asyncio.Event()
    async with bounded_group(limit=limiter) as group:
        await group.start_soon(go.wait)
        late = asyncio.create_task(group.start_soon(forever))
        await turns(2)
        go.set()
    with pytest.raises(RuntimeError, match="has ended"):
        await late
    assert limiter.borrowed_tokens == 0


async def test_refuses_a_coroutine_object() -> None:
    """It is closed, and the message shows the corrected line."""
    async with bounded_group() as group:
        with pytest.raises(
            TypeError, match=r"write start_soon\(turns, \.\.\.\), not"
        ) as caught:
            await group.start_soon(turns(1))  # type: ignore[arg-type]
    assert "got <coroutine object turns" in str(caught.value)


async def test_refuses_what_is_no_async_function() -> None:
    """Nothing is started, and no slot is lost."""

    async def generate() -> AsyncIterator[int]:
        yield 1

    limiter = anyio.CapacityLimiter(1)
    async with bounded_group(limit=limiter) as group:
        wrong: list[Any] = [generate, 3, None, "x"]
        for func in wrong:
            with pytest.raises(TypeError, match="takes an async function, got"):
                await group.start_soon(func)
        wrong = [print, lambda: 3, lambda: generate()]
        for func in wrong:
            with pytest.raises(TypeError, match=r"returned .*asyncio\.to_thread"):
                await group.start_soon(func)
        with pytest.raises(ZeroDivisionError):
            await group.start_soon(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        assert limiter.borrowed_tokens == 0
        await group.start_soon(turns, 1)


async def test_task_factory_that_fails() -> None:
    """The call that would have started the child fails, and takes nothing."""

    def make(loop: Any, coro: Any, **kwargs: Any) -> Any:
        raise ValueError("x")

    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    limiter = anyio.CapacityLimiter(1)
    async with bounded_group(limit=limiter) as group:
        loop.set_task_factory(make)
        try:
            with pytest.raises(ValueError, match="x"):
                await group.start_soon(forever)
        finally:
            loop.set_task_factory(factory)
        assert limiter.borrowed_tokens == 0
        await group.start_soon(turns, 1)


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (1.5, TypeError),
        (True, TypeError),
        ("3", TypeError),
    ],
)
def test_refuses_a_limit_that_is_none(limit: Any, error: type[Exception]) -> None:
    """A limit is an int of at least 1, a limiter, or None."""
    with pytest.raises(error, match=f"limit must be .*got {limit!r}; write limit=None"):
        bounded_group(limit=limit)


# Memory


def test_memory_is_flat() -> None:
    """A hundred thousand children leave nothing behind, not even cycles to collect."""

    async def child() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with bounded_group() as group:
            for n in range(100_000):
                await group.start_soon(child)
                if n == 90_000:
                    gc.collect()
                    gc.disable()
                    tracemalloc.start()
            used, _ = tracemalloc.get_traced_memory()
            assert used < 256 * 1024

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            runner.run(main())
        finally:
            tracemalloc.stop()
            gc.enable()


@pytest.mark.parametrize("cut", ["by nobody", "in the body", "on leaving"])
def test_a_failed_group_is_freed_at_once(cut: str) -> None:
    """Neither the group nor what leaves it is part of a cycle."""

    class Error(Exception):
        pass

    async def child() -> None:
        try:
            await turns(3)
            raise Error
        finally:
            await turns(3)

    async def main() -> None:
        if cut != "by nobody":
            asyncio.get_running_loop().call_soon(host().cancel, "outside")
        try:
            async with bounded_group() as group:
                refs.append(weakref.ref(group))
                await group.start_soon(child)
                if cut != "on leaving":
                    await forever()
        except (Error, asyncio.CancelledError) as exc:
            refs.append(weakref.ref(exc))

    refs: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(main())
        assert [ref() for ref in refs] == [None, None]
    finally:
        gc.enable()
