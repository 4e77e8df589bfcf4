"""Who is named for a result after a cancel, and who is not."""

import asyncio
import gc
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any

import anyio
import pytest

from safeaio import bounded_gather, bounded_group, bounded_map, bounded_stream
from safeaio._cancel import cancel_and_wait
from safeaio._wait import Children, current_task
from safeaio.exceptions import CancellationSwallowedWarning

Reports = list[dict[str, Any]]


class Boom(Exception):
    pass


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def hold() -> None:
    await asyncio.Event().wait()


async def swallow(*_: object) -> str:
    try:
        await hold()
    except asyncio.CancelledError:
        await turns(2)
    return "a result"


async def boom(*_: object) -> None:
    await turns(3)
    raise Boom


async def texts_of(work: Awaitable[object]) -> list[str]:
    """Run `work`, and return what it has warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with suppress(Boom):
            await work
    assert {warning.category for warning in caught} <= {CancellationSwallowedWarning}
    return [str(warning.message) for warning in caught]


def children_of(*works: Awaitable[Any]) -> Children[None]:
    children = Children[None]("owner()")
    for work in works:
        children.add(asyncio.ensure_future(work), None, children.ended, Context())
    return children


async def cancelled(*works: Awaitable[Any], gap: int = 3) -> None:
    children = children_of(*works)
    await turns(gap)
    children.cancel()
    await children.wait()


async def in_gather() -> None:
    await bounded_gather(swallow(), boom())


async def in_gather_as_a_task() -> None:
    await bounded_gather(asyncio.create_task(swallow()), boom())


async def in_gather_with_a_limiter() -> None:
    await bounded_gather(swallow(), boom(), limit=anyio.CapacityLimiter(2))


async def call(item: int) -> None:
    await (boom() if item else swallow())


async def in_map() -> None:
    await bounded_map(call, range(2))


async def in_map_with_a_limiter() -> None:
    await bounded_map(call, range(2), limit=anyio.CapacityLimiter(2))


async def in_stream() -> None:
    async with bounded_stream(call, range(2)) as stream:
        async for _ in stream:
            pass


async def in_group() -> None:
    async with bounded_group() as group:
        await group.start_soon(swallow)
        await group.start_soon(boom)


async def in_cancel_and_wait() -> None:
    task = asyncio.create_task(swallow())
    await turns(1)
    await cancel_and_wait(task)


EVERYWHERE = {
    in_gather: ("bounded_gather()", "swallow()"),
    in_gather_as_a_task: ("bounded_gather()", "swallow()"),
    in_gather_with_a_limiter: ("bounded_gather()", "swallow()"),
    in_map: ("bounded_map()", "call()"),
    in_map_with_a_limiter: ("bounded_map()", "call()"),
    in_stream: ("bounded_stream()", "call()"),
    in_group: ("bounded_group()", "swallow()"),
    in_cancel_and_wait: ("cancel_and_wait()", "swallow()"),
}


@pytest.mark.parametrize("run", EVERYWHERE, ids=lambda run: run.__name__)
async def test_named_wherever_it_is_cancelled(run: Callable[[], Any]) -> None:
    """The owner, the user's own function and where that stood, once, and no other child."""
    owner, name = EVERYWHERE[run]
    (text,) = await texts_of(run())
    assert text.startswith(f"{owner} cancelled task ")
    assert "but it returned a result: let CancelledError through, or take" in text
    assert f"It stood in {name} at:\n" in text
    places = [line for line in text.splitlines() if "File" in line]
    assert any(
        f'"{__file__}", line ' in place and "in swallow" in place for place in places
    )
    assert text.index("in swallow\n") < text.index("in hold\n")


async def test_named_by_the_name_of_its_task() -> None:
    """The text gives the name under which the task was created."""
    task = asyncio.create_task(swallow(), name="the deaf")
    (text,) = await texts_of(cancelled(task))
    assert text.startswith("owner() cancelled task 'the deaf', but it returned")


async def test_place_is_that_of_the_cancel() -> None:
    """Where it stood when it was cancelled counts, not where it went from there."""

    async def child() -> None:
        try:
            await hold()
        except asyncio.CancelledError:
            await elsewhere()

    async def elsewhere() -> None:
        await turns(5)

    (text,) = await texts_of(cancelled(child()))
    assert "in hold\n" in text
    assert "elsewhere" not in text


async def test_lines_are_those_of_the_await() -> None:
    """Each line of the place is the one of its `await`, and shown."""

    async def child() -> None:
        try:
            await asyncio.sleep(0)
            await hold()
        except asyncio.CancelledError:
            pass

    (text,) = await texts_of(cancelled(child()))
    line = child.__code__.co_firstlineno + 3
    assert f'"{__file__}", line {line}, in child\n    await hold()\n' in text


async def test_source_of_a_map() -> None:
    """An async generator that answers a cancel with an item is named as the feeder's place."""

    async def source() -> AsyncIterator[int]:
        yield 1
        try:
            await hold()
        except asyncio.CancelledError:
            yield 0

    (text,) = await texts_of(bounded_map(call, source()))
    assert text.startswith("bounded_map() cancelled task")
    assert "source() at:\n" in text
    assert "in source\n" in text


async def test_many_are_all_named() -> None:
    """Each one that swallowed is named, in the order in which they were cancelled."""
    works = [swallow(), hold(), swallow(), fail_instead(), swallow()]
    tasks = [asyncio.create_task(work) for work in works]
    warned = await texts_of(cancelled(*tasks))
    assert [text.split("'")[1] for text in warned] == [
        tasks[index].get_name() for index in (0, 2, 4)
    ]
    with pytest.raises(Boom):
        await tasks[3]


async def test_coroutine_without_a_frame() -> None:
    """A task around something that has no frame is named all the same."""

    class Native:
        future: asyncio.Future[None] | None = None

        def send(self, value: None) -> Any:
            self.future = asyncio.get_running_loop().create_future()
            self.future._asyncio_future_blocking = True
            return self.future

        def throw(self, *error: Any) -> Any:
            raise StopIteration(7)

        def close(self) -> None:
            pass

        def __await__(self) -> Any:
            raise AssertionError

        def __repr__(self) -> str:
            return "<native>"

    Coroutine.register(Native)
    task = asyncio.create_task(Native())
    (text,) = await texts_of(cancelled(task))
    assert "It stood in <native>() at:\n" in text
    assert task.result() == 7


async def let_through() -> None:
    try:
        await hold()
    finally:
        await turns(2)


async def take_back() -> str:
    try:
        await hold()
    except asyncio.CancelledError:
        current_task().uncancel()
        await turns(2)
    return "a result, for good reason"


async def fail_instead() -> None:
    try:
        await hold()
    except asyncio.CancelledError:
        raise Boom from None


async def time_out() -> None:
    try:
        async with asyncio.timeout(0):
            await hold()
    except TimeoutError:
        pass
    await hold()


async def leave_a_scope() -> None:
    with anyio.move_on_after(0):
        await hold()
    await hold()


@pytest.mark.parametrize(
    "work", [let_through, take_back, fail_instead, time_out, turns]
)
@pytest.mark.parametrize("gap", range(6))
async def test_not_named(work: Callable[..., Any], gap: int) -> None:
    """Who lets the cancel through, takes it back, fails, or had ended, is not named."""
    task = asyncio.create_task(work(*[3] if work is turns else []))
    assert await texts_of(cancelled(task, gap=gap)) == []
    assert task.cancelled() or not task.exception() or work is fail_instead


async def test_cancel_of_a_scope_is_taken_back_by_it() -> None:
    """A child that an anyio scope had cancelled before has swallowed nothing by that."""

    async def ends() -> None:
        with anyio.move_on_after(0):
            await hold()
        await turns(6)

    for work in (leave_a_scope(), ends()):
        assert await texts_of(cancelled(work, gap=6)) == []


async def test_ended_in_the_turn_of_the_cancel() -> None:
    """A child that had ended, though nobody was told yet, could not have known."""
    children = Children[None]("owner()")

    async def last_step() -> str:
        current_task().cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        children.loop.call_soon(children.cancel)
        return "of an earlier cancel"

    task = asyncio.create_task(last_step())
    children.add(task, None, children.ended, Context())
    await asyncio.wait([task])
    assert await texts_of(children.wait()) == []
    assert task.result() == "of an earlier cancel"
    assert task.cancelling() == 1


async def test_eager_child_that_ends_at_once() -> None:
    """A task that its first step has ended is looked at without harm."""

    async def at_once() -> None:
        pass

    children = children_of(at_once())
    children.cancel()
    assert await texts_of(children.wait()) == []


async def test_child_started_after_the_cancel() -> None:
    """A child that was added when the others had been cancelled is named, too."""
    children = children_of(hold())
    await turns(1)
    children.cancel()
    late = asyncio.create_task(swallow())
    await turns(1)
    children.add(late, None, children.ended, Context())
    (text,) = await texts_of(children.wait())
    assert late.get_name() in text


async def test_futures_are_not_named() -> None:
    """A future has no coroutine that could swallow anything."""

    class Deaf(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            self.get_loop().call_soon(self.set_result, None)
            return False

    assert await texts_of(cancelled(Deaf())) == []


async def test_worker_that_fails_by_itself() -> None:
    """A worker whose failure cancels all the others, and itself, swallows nothing."""
    for limit in (1, 3, anyio.CapacityLimiter(3)):
        assert await texts_of(bounded_map(boom, range(5), limit=limit)) == []


async def test_workers_and_feeder_of_a_pool_that_fails() -> None:
    """Where the calls and the source behave, nothing of ours is named."""

    async def source() -> AsyncIterator[int]:
        for item in range(9):
            await asyncio.sleep(0)
            yield item
        await hold()

    async def behave(item: int) -> None:
        await (boom() if item == 5 else hold())

    for items in (range(9), source()):
        for limit in (9, anyio.CapacityLimiter(9)):
            assert await texts_of(bounded_map(behave, items, limit=limit)) == []


async def test_children_of_a_group_that_stops_while_they_start() -> None:
    """Children cancelled before or in their first step are not named."""

    async def at_once() -> None:
        raise Boom

    async def main() -> None:
        async with bounded_group() as group:
            for func in (hold, at_once, hold, let_through, hold):
                await group.start_soon(func)

    assert await texts_of(main()) == []


async def test_no_error_is_marked_as_seen(reported: Reports) -> None:
    """A cancelled task's own error is still reported by asyncio, if nobody asks for it."""
    task = asyncio.create_task(fail_instead())
    children = Children[None]("owner()")
    children.add(task, None, children.ended, Context())
    await turns(1)
    children.cancel()
    assert await texts_of(children.wait()) == []
    del task, children
    gc.collect()
    assert [type(report["exception"]) for report in reported] == [Boom]


async def test_private_attribute_is_where_it_was() -> None:
    """Only `Task._exception` tells of an error without marking it as seen."""
    error = Boom()

    async def fail() -> None:
        raise error

    failed, fine = asyncio.create_task(fail()), asyncio.create_task(turns(1))
    await asyncio.wait([failed, fine])
    assert failed._exception is error
    assert fine._exception is None
    assert failed._log_traceback
    assert failed.exception() is error
    assert not failed._log_traceback


class Local:
    pass


async def test_nothing_is_kept() -> None:
    """Neither a trace nor a warning keeps a child's variables, nor the child itself."""
    freed: list[bool] = []

    async def child() -> None:
        local = Local()
        held = weakref.ref(local)
        try:
            await hold()
        except asyncio.CancelledError:
            del local
            freed.append(held() is None)
            await turns(1)

    children = children_of(child(), hold())
    refs = [weakref.ref(task) for task in children.running]
    await turns(1)
    children.cancel()
    assert len(await texts_of(children.wait())) == 1
    await turns(1)
    gc.collect()
    assert freed == [True]
    assert [ref() for ref in refs] == [None] * 2


async def test_warning_as_error_keeps_nobody_waiting(reported: Reports) -> None:
    """The waiter goes on, every child is named, and each in a report to the loop."""
    tasks = [asyncio.create_task(swallow()) for _ in range(3)]
    await asyncio.wait_for(cancelled(*tasks), 5)
    assert [report["future"] for report in reported] == tasks
    assert {report["message"] for report in reported} == {
        "owner(): a warning was turned into an error"
    }
    assert {type(report["exception"]) for report in reported} == {
        CancellationSwallowedWarning
    }


@pytest.mark.parametrize("run", EVERYWHERE, ids=lambda run: run.__name__)
async def test_warning_as_error_changes_nothing_else(
    run: Callable[[], Any], reported: Reports
) -> None:
    """Every call ends as it would have, the reader of a stream is woken, too."""
    with suppress(Boom):
        async with asyncio.timeout(5):
            await run()
    assert [type(report["exception"]) for report in reported] == [
        CancellationSwallowedWarning
    ]
