"""`run` gives what main returns, and `background` a task of it."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio
import signal
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, assert_type

from safeaio import (
    background,
    request_shutdown,
    run,
    shutdown_requested,
    wait_for_shutdown,
)


async def main() -> int:
    return 1


async def serve(host: str, port: int = 80) -> str:
    return f"{host}:{port}"


def later() -> Coroutine[Any, Any, bytes]:
    raise NotImplementedError


def not_async() -> int:
    return 1


class Application:
    async def main(self, port: int) -> float:
        return 0.5

    async def __call__(self) -> complex:
        return 1j


def functions() -> None:
    """The result's type comes from the function, and its arguments are checked."""
    assert_type(run(main), int)
    assert_type(run(later), bytes)
    assert_type(run(serve, "localhost", 80), str)
    assert_type(run(Application().main, 80), float)
    assert_type(run(Application()), complex)
    assert_type(run(partial(serve, port=80), "localhost"), str)
    run(main, 1)  # type: ignore[arg-type]
    run(serve, 80, "localhost")  # type: ignore[arg-type, call-arg]
    run(Application().main)  # type: ignore[arg-type, call-arg]


def coroutines() -> None:
    """A coroutine goes as it is, as with `asyncio.run`, and without arguments."""
    assert_type(run(main()), int)
    assert_type(run(serve("localhost")), str)
    run(serve("localhost"), 80)  # type: ignore[call-overload]


def options() -> None:
    """All of them by keyword."""
    assert_type(run(main, grace=8), int)
    assert_type(run(main, grace=None, signals=()), int)
    assert_type(run(main, signals=[signal.SIGTERM, 10]), int)
    assert_type(run(main, on_leak="raise", debug=True, watchdog=0.5), int)
    assert_type(run(main, loop_factory=asyncio.SelectorEventLoop), int)
    assert_type(run(main, context=copy_context(), allow_concurrent=True), int)
    assert_type(run(main(), grace=8, exit_on_stuck_thread=False), int)
    run(main, grace="8")  # type: ignore[call-arg, call-overload]
    run(main, signals=signal.SIGTERM)  # type: ignore[call-arg, call-overload]
    run(main, signals=["SIGTERM"])  # type: ignore[call-arg, list-item]
    run(main, on_leak="log")  # type: ignore[call-arg, call-overload]
    run(main, loop_factory=main)  # type: ignore[arg-type, call-arg]
    run(main, timeout=8)  # type: ignore[call-overload]


def misuse() -> None:
    """What fails at run time is an error here, too."""
    run(not_async)  # type: ignore[arg-type, call-arg]
    run(Application)  # type: ignore[arg-type, call-arg]
    run(None)  # type: ignore[call-overload]
    wrong: str = run(main)  # type: ignore[assignment]
    print(wrong)


async def shutdown() -> None:
    """Asked for with a reason or none, and waited for."""
    request_shutdown()
    request_shutdown("enough")
    assert_type(shutdown_requested(), bool)
    await wait_for_shutdown()
    request_shutdown(3)  # type: ignore[arg-type]
    await wait_for_shutdown(8)  # type: ignore[call-arg]


async def tasks(task: asyncio.Task[str]) -> None:
    """A task, whatever was given."""
    assert_type(background(main()), asyncio.Task[int])
    assert_type(background(task), asyncio.Task[str])
    assert_type(background(serve("localhost"), name="server"), asyncio.Task[str])
    background(main)  # type: ignore[arg-type]
    background(asyncio.Event())  # type: ignore[arg-type]
    background(main(), "server")  # type: ignore[call-arg]
