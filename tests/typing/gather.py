"""`bounded_gather` is typed as `asyncio.gather`: each call stands beside its twin."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, assert_type

import anyio

from safeaio import bounded_gather


async def i() -> int:
    return 1


async def s() -> str:
    return ""


async def b() -> bytes:
    return b""


async def f() -> float:
    return 0.5


async def n() -> None: ...


async def l() -> list[int]:
    return []


class Later:
    def __await__(self) -> Generator[Any, None, complex]:
        yield
        return 1j


async def results() -> None:
    """As many types as arguments, up to six."""
    assert_type(await asyncio.gather(i()), tuple[int])
    assert_type(await bounded_gather(i()), tuple[int])
    assert_type(await asyncio.gather(i(), s()), tuple[int, str])
    assert_type(await bounded_gather(i(), s()), tuple[int, str])
    assert_type(await asyncio.gather(i(), s(), b()), tuple[int, str, bytes])
    assert_type(await bounded_gather(i(), s(), b()), tuple[int, str, bytes])
    assert_type(await asyncio.gather(i(), s(), b(), f()), tuple[int, str, bytes, float])
    assert_type(await bounded_gather(i(), s(), b(), f()), tuple[int, str, bytes, float])
    assert_type(
        await asyncio.gather(i(), s(), b(), f(), n()),
        tuple[int, str, bytes, float, None],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), f(), n()),
        tuple[int, str, bytes, float, None],
    )
    assert_type(
        await asyncio.gather(i(), s(), b(), f(), n(), l()),
        tuple[int, str, bytes, float, None, list[int]],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), f(), n(), l()),
        tuple[int, str, bytes, float, None, list[int]],
    )


async def results_or_exceptions() -> None:
    """The same with `return_exceptions=True`."""
    assert_type(
        await asyncio.gather(i(), return_exceptions=True), tuple[int | BaseException]
    )
    assert_type(
        await bounded_gather(i(), return_exceptions=True), tuple[int | BaseException]
    )
    assert_type(
        await asyncio.gather(i(), s(), return_exceptions=True),
        tuple[int | BaseException, str | BaseException],
    )
    assert_type(
        await bounded_gather(i(), s(), return_exceptions=True),
        tuple[int | BaseException, str | BaseException],
    )
    assert_type(
        await asyncio.gather(i(), s(), b(), return_exceptions=True),
        tuple[int | BaseException, str | BaseException, bytes | BaseException],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), return_exceptions=True),
        tuple[int | BaseException, str | BaseException, bytes | BaseException],
    )
    assert_type(
        await asyncio.gather(i(), s(), b(), f(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
        ],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), f(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
        ],
    )
    assert_type(
        await asyncio.gather(i(), s(), b(), f(), n(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
            None | BaseException,
        ],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), f(), n(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
            None | BaseException,
        ],
    )
    assert_type(
        await asyncio.gather(i(), s(), b(), f(), n(), l(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
            None | BaseException,
            list[int] | BaseException,
        ],
    )
    assert_type(
        await bounded_gather(i(), s(), b(), f(), n(), l(), return_exceptions=True),
        tuple[
            int | BaseException,
            str | BaseException,
            bytes | BaseException,
            float | BaseException,
            None | BaseException,
            list[int] | BaseException,
        ],
    )


async def flags(flag: bool) -> None:
    """False as if left out; a `bool` as if True."""
    assert_type(
        await asyncio.gather(i(), s(), return_exceptions=False), tuple[int, str]
    )
    assert_type(
        await bounded_gather(i(), s(), return_exceptions=False), tuple[int, str]
    )
    assert_type(
        await asyncio.gather(i(), s(), return_exceptions=flag),
        tuple[int | BaseException, str | BaseException],
    )
    assert_type(
        await bounded_gather(i(), s(), return_exceptions=flag),
        tuple[int | BaseException, str | BaseException],
    )


async def lists(coros: list[Coroutine[Any, Any, int]], flag: bool) -> None:
    """A list of one type, whatever its length, and seven or more arguments."""
    assert_type(await asyncio.gather(*coros), list[int])
    assert_type(await bounded_gather(*coros), list[int])
    assert_type(await asyncio.gather(*[s() for _ in range(9)]), list[str])
    assert_type(await bounded_gather(*[s() for _ in range(9)]), list[str])
    assert_type(await asyncio.gather(*(s() for _ in range(9))), list[str])
    assert_type(await bounded_gather(*(s() for _ in range(9))), list[str])
    assert_type(await asyncio.gather(i(), i(), i(), i(), i(), i(), i()), list[int])
    assert_type(await bounded_gather(i(), i(), i(), i(), i(), i(), i()), list[int])
    assert_type(
        await asyncio.gather(*coros, return_exceptions=True), list[int | BaseException]
    )
    assert_type(
        await bounded_gather(*coros, return_exceptions=True), list[int | BaseException]
    )
    assert_type(
        await asyncio.gather(*coros, return_exceptions=flag), list[int | BaseException]
    )
    assert_type(
        await bounded_gather(*coros, return_exceptions=flag), list[int | BaseException]
    )


async def awaitables(
    task: asyncio.Task[int], future: asyncio.Future[str], awaitable: Awaitable[bytes]
) -> None:
    """Tasks, futures, and any other awaitable."""
    assert_type(
        await asyncio.gather(task, future, awaitable, Later()),
        tuple[int, str, bytes, complex],
    )
    assert_type(
        await bounded_gather(task, future, awaitable, Later()),
        tuple[int, str, bytes, complex],
    )


async def unpacked() -> None:
    """The usual ways to use the result."""
    number, text = await bounded_gather(i(), s())
    assert_type(number, int)
    assert_type(text, str)
    for result in await bounded_gather(i(), s(), return_exceptions=True):
        if not isinstance(result, BaseException):
            assert_type(result, int | str)


async def limits(shared: anyio.CapacityLimiter) -> None:
    """A number, a limiter, or None."""
    assert_type(await bounded_gather(i(), s(), limit=10), tuple[int, str])
    assert_type(await bounded_gather(i(), s(), limit=shared), tuple[int, str])
    assert_type(await bounded_gather(i(), s(), limit=None), tuple[int, str])
    assert_type(await bounded_gather(*[i()], limit=10), list[int])
    assert_type(
        await bounded_gather(*[i()], limit=10, return_exceptions=True),
        list[int | BaseException],
    )
    await bounded_gather(i(), limit=1.5)  # type: ignore[call-overload]
    await bounded_gather(i(), limit="3")  # type: ignore[call-overload]


async def a_coroutine() -> None:
    """It is a coroutine, where `gather` gives a future: it goes wherever one goes."""
    call = bounded_gather(i(), s())
    await assert_type(call, Coroutine[Any, Any, tuple[int, str]])
    task = asyncio.create_task(bounded_gather(i(), s()))
    assert_type(await task, tuple[int, str])
    async with asyncio.TaskGroup() as group:
        assert_type(
            group.create_task(bounded_gather(i(), s())), asyncio.Task[tuple[int, str]]
        )
    assert_type(await asyncio.wait_for(bounded_gather(i(), s()), 1), tuple[int, str])
    bounded_gather(i()).cancel()  # type: ignore[attr-defined]


async def misuse(coros: list[Coroutine[Any, Any, int]]) -> None:
    """What fails at run time is an error here, too."""
    await bounded_gather(i)  # type: ignore[call-overload]
    await bounded_gather(coros)  # type: ignore[call-overload]
    await bounded_gather(i(), 3)  # type: ignore[call-overload]
    await bounded_gather(i(), 10, return_exceptions=True)  # type: ignore[call-overload]
    await bounded_gather(i(), max_at_once=3)  # type: ignore[call-overload]
    wrong: tuple[str] = await bounded_gather(i())  # type: ignore[assignment]
    print(wrong)
