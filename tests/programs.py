"""The programs of test_run_signals: `python programs.py NAME LOOP GRACE SECONDS`.

Each says "ready" when it is where its signals shall find it. Whatever else it prints, it
does not flush. SECONDS is what its cleanup takes, if it has one.
"""

import asyncio
import hashlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.to_thread
import uvloop

import safeaio

Main = Callable[[float], Coroutine[Any, Any, object]]

FOR_EVER = 60

programs: dict[str, Main] = {}
_left: list[asyncio.Task[None]] = []


def program(main: Main) -> Main:
    programs[main.__name__] = main
    return main


def ready() -> None:
    print("waiting")
    os.write(1, b"ready\n")


def block(seconds: float = FOR_EVER) -> None:
    ready()
    time.sleep(seconds)


async def clean_up(seconds: float) -> None:
    print("cleaning up")
    await asyncio.sleep(seconds)
    print("cleaned up")


async def swallow() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(FOR_EVER)


# The loop runs


@program
async def sleeping(seconds: float) -> None:
    try:
        ready()
        await asyncio.sleep(FOR_EVER)
    finally:
        await clean_up(seconds)


@program
async def in_cleanup(seconds: float) -> None:
    async with safeaio.cleanup_scope() as scope:
        scope.defer(clean_up, seconds)
        scope.defer(ready)


@program
async def leftover_swallows(seconds: float) -> None:
    _left.append(asyncio.create_task(swallow()))
    await sleeping(seconds)


@program
async def main_swallows(_: float) -> None:
    ready()
    await swallow()


# The loop stands still


@program
async def in_python(_: float) -> None:
    ready()
    while True:
        pass


@program
async def in_sleep(_: float) -> None:
    block()


@program
async def in_c(_: float) -> None:
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)


@program
async def in_c_with_gil(_: float) -> None:
    ready()
    re.match(r"(a|a)*b", "a" * 60)


# A thread is blocked


@program
async def executor_thread(_: float) -> None:
    await asyncio.to_thread(block)


@program
async def anyio_thread(_: float) -> None:
    await anyio.to_thread.run_sync(block)


@program
async def own_thread(seconds: float) -> None:
    threading.Thread(target=time.sleep, args=(FOR_EVER,)).start()
    await sleeping(seconds)


# Main has not begun, or has ended


@program
async def making_loop(_: float) -> None:
    print("began")


@program
async def making_task(_: float) -> None:
    print("began")


@program
async def teardown(seconds: float) -> str:
    began = asyncio.Event()

    async def left_behind() -> None:
        try:
            began.set()
            await asyncio.sleep(FOR_EVER)
        finally:
            ready()
            await clean_up(seconds)

    _left.append(asyncio.create_task(left_behind()))
    await began.wait()
    return "result"


@program
async def returned(_: float) -> str:
    return "result"


# Somebody else handles a signal


@program
async def own_sigint(seconds: float) -> None:
    await sleeping(seconds)


@program
async def own_sigint_in_main(seconds: float) -> None:
    signal.signal(signal.SIGINT, handle)
    await sleeping(seconds)


@program
async def own_sigterm_in_main(seconds: float) -> None:
    signal.signal(signal.SIGTERM, handle)
    await sleeping(seconds)


@program
async def loop_sigint(seconds: float) -> None:
    await asyncio.sleep(0)
    _handle_in_loop(signal.SIGINT)
    await sleeping(seconds)


@program
async def loop_sigterm(seconds: float) -> None:
    _handle_in_loop(signal.SIGTERM)
    await sleeping(seconds)


def handle(signum: int, _: object) -> None:
    print(signal.Signals(signum).name, "handled")


def _handle_in_loop(signum: int) -> None:
    asyncio.get_running_loop().add_signal_handler(signum, handle, signum, None)


# The run


def make_loop(name: str, kind: str, seconds: float) -> asyncio.AbstractEventLoop:
    if name == "making_loop":
        block()
    loop = uvloop.new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
    if name == "making_task":
        loop.set_task_factory(partial(_make_slowly, seconds))
    return loop


def _make_slowly(
    seconds: float,
    loop: asyncio.AbstractEventLoop,
    coro: Any,
    **options: Any,
) -> asyncio.Task[Any]:
    loop.set_task_factory(None)
    block(seconds)
    return asyncio.Task(coro, loop=loop, **options)


def handlers() -> dict[str, object]:
    wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup_fd)
    return {
        "SIGINT": signal.getsignal(signal.SIGINT),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "wake-up fd": wakeup_fd,
    }


def main(name: str, kind: str, grace: str, cleanup: str) -> None:
    signal.alarm(FOR_EVER)  # kills, should nobody else do so
    seconds = float(cleanup)
    if name == "own_sigint":
        signal.signal(signal.SIGINT, handle)
    before = handlers()
    try:
        print(
            safeaio.run(
                programs[name],
                seconds,
                grace=float(grace),
                loop_factory=partial(make_loop, name, kind, seconds),
            )
        )
    finally:
        after = handlers()
        changed = [what for what in before if after[what] != before[what]]
        print("changed:" if changed else "restored", *changed)
    if name == "returned":
        block()


if __name__ == "__main__":
    main(*sys.argv[1:])
