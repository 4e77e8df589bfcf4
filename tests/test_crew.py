"""Children whose first failure stops the rest."""

import asyncio
import inspect
from collections.abc import Generator
from contextvars import Context
from functools import partial
from typing import Any

import pytest

from safeaio._crew import Carried, Crew, carry, error_of, let_go, uncarried
from safeaio._wait import Children
from safeaio.testing import VirtualClockLoop

Reports = list[dict[str, Any]]


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(error: BaseException) -> None:
    raise error


def start(crew: Crew[str], name: str, work: Any) -> asyncio.Task[Any]:
    def ended(child: asyncio.Future[Any]) -> None:
        error = error_of(child)
        if error is not None:
            crew.fail(crew.children.running[child], error)
        del crew.children.running[child]
        if not crew.children.running:
            crew.children.wake()

    task = crew.children.loop.create_task(carry(work))
    crew.children.add(task, name, ended, Context())
    return task


async def test_join_without_failures() -> None:
    """It returns when the last child has ended."""
    crew = Crew[str]("owner()")
    task = start(crew, "child", asyncio.sleep(0))
    await crew.join()
    assert task.done()


async def test_first_failure_is_raised_and_later_ones_reported(
    reported: Reports,
) -> None:
    """The others are cancelled; what that does to them is no failure of theirs."""
    crew = Crew[str]("owner()")
    first, second = ValueError("first"), KeyError("second")
    start(crew, "one", forever())
    start(crew, "two", fail(first))
    start(crew, "three", fail(second))
    with pytest.raises(ValueError, match="first") as caught:
        await crew.join()
    assert caught.value is first
    assert first.__notes__ == ["also raised by three: KeyError('second')"]
    assert reported == [
        {"message": "owner(): three raised beside another error", "exception": second}
    ]
    crew.conclude()


async def test_cancel_of_ours_is_no_failure() -> None:
    """Children that we have cancelled, and that end so, did as they were told."""
    crew = Crew[str]("owner()")
    start(crew, "child", forever())
    await asyncio.sleep(0)
    crew.children.cancel()
    await crew.join()


async def test_cancel_that_came_before() -> None:
    """A cancel that the caller had got already is raised by the join."""
    crew = Crew[str]("owner()")
    start(crew, "child", forever())
    await asyncio.sleep(0)
    crew.children.cancel()
    cancel = asyncio.CancelledError("before")
    with pytest.raises(asyncio.CancelledError) as caught:
        await crew.join(cancel)
    assert caught.value is cancel


async def test_cancel_that_came_before_is_first() -> None:
    """One that comes while it waits is second, unless only that one is native."""
    for before, expected in (
        ("before", "before"),
        ("Cancelled via cancel scope 1", "later"),
    ):
        raised: list[asyncio.CancelledError] = []

        async def main(before: str = before) -> None:
            crew = Crew[str]("owner()")
            start(crew, "child", forever())
            await asyncio.sleep(0)
            try:
                await crew.join(asyncio.CancelledError(before))
            except asyncio.CancelledError as exc:
                raised.append(exc)  # noqa: B023
                raise

        task = asyncio.create_task(main())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel("later")
        await asyncio.wait([task])
        assert raised[0].args == (expected,)


async def test_what_leaves_by_itself_is_not_raised() -> None:
    """An exception that is on its way out of the block goes on undisturbed."""
    crew = Crew[str]("owner()")
    error = ValueError("x")
    crew.fail("the body", error)
    crew.conclude(leaving=error)
    cancel = asyncio.CancelledError()
    crew.conclude(cancel, leaving=cancel)


def test_failure_after_a_close() -> None:
    """A child that raises when nobody waits any more is reported."""
    loop = VirtualClockLoop()
    reported: Reports = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    error = ValueError("late")

    async def child() -> None:
        try:
            await forever()
        finally:
            raise error

    async def main() -> None:
        crew = Crew[str]("owner()")
        start(crew, "child", child())
        await crew.join()

    coro = main()

    async def step() -> None:
        coro.send(None)

    loop.run_until_complete(step())
    loop.run_until_complete(asyncio.sleep(0))
    coro.close()
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    assert [report["exception"] for report in reported] == [error]


class Custom:
    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "custom"


async def test_carry_bears_the_name_of_its_work() -> None:
    """In a list of tasks a child goes by the name of what it does."""
    for work, name in ((asyncio.sleep(0, "sleep"), "sleep"), (Custom(), "awaitable")):
        coro: Any = carry(work)
        assert coro.__qualname__ == name
        assert await coro == (name if name == "sleep" else "custom")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_interrupt_is_carried_as_a_value(interrupt: type[BaseException]) -> None:
    """It does not leave the loop, and comes out the same object."""
    error = interrupt("x")
    task = asyncio.create_task(carry(fail(error)))
    await asyncio.wait([task])
    carried = task.exception()
    assert isinstance(carried, Carried)
    assert uncarried(carried) is error
    assert error_of(task) is error


async def test_error_of() -> None:
    """What a child raised, its cancel included; None for a result."""
    error = ValueError("x")
    works = [asyncio.sleep(0), fail(error), forever()]
    tasks = [asyncio.create_task(carry(work)) for work in works]
    await asyncio.wait(tasks[:2])
    tasks[2].cancel("stop")
    await asyncio.wait(tasks)
    assert error_of(tasks[0]) is None
    assert error_of(tasks[1]) is error
    cancel = error_of(tasks[2])
    assert isinstance(cancel, asyncio.CancelledError)
    assert cancel.args == ("stop",)


def carried_by(work: Any) -> Children[Any]:
    children = Children[Any]("owner()")
    task = children.loop.create_task(carry(work))
    children.add(task, work, partial(let_go, children), Context())
    return children


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_let_go_closes_what_never_started(turns: int) -> None:
    """Cancelled before or after its first step, no coroutine is left behind."""
    work = forever()
    children = carried_by(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    children.cancel()
    await children.wait()
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED
    assert not children.running


async def test_let_go_closes_nothing_else() -> None:
    """An awaitable that is no coroutine, or one that ran to its end, is left alone."""

    class Counted(Custom):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    work = Counted()
    children = carried_by(work)
    children.cancel()
    await children.wait()
    assert work.closed == 0
    children = carried_by(asyncio.sleep(0))
    await children.wait()
    assert not children.running


async def test_let_go_after_it_was_abandoned() -> None:
    """A child that nobody waits for any more ends as any task does."""
    children = carried_by(forever())
    await asyncio.sleep(0)
    (task,) = children.running
    children.cancel()
    (report,) = children.abandon(1.0)
    assert "forever" in report
    await asyncio.wait([task])
    assert task.cancelled()
