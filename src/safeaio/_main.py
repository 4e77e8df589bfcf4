"""What `run` is given to run."""

import asyncio
import inspect
from collections.abc import Coroutine
from contextvars import Context
from typing import Any


def coroutine_of(
    main: object, args: tuple[Any, ...], context: Context | None
) -> Coroutine[Any, Any, Any]:
    """Call `main`, or take it as it is.

    Raises:
        TypeError: If it is no coroutine function, and no coroutine either.
        RuntimeError: If it is a coroutine that has been awaited.
    """
    if asyncio.iscoroutine(main):
        return _unawaited(main, args)
    name = getattr(main, "__qualname__", type(main).__qualname__)
    if inspect.isclass(main) or not callable(main) or inspect.isasyncgenfunction(main):
        raise TypeError(f"run() takes an async function or a coroutine, got {main!r}")
    coro = main(*args) if context is None else context.run(main, *args)
    if not asyncio.iscoroutine(coro):
        raise TypeError(
            f"run() takes an async function, and {name}() returned {coro!r}; write "
            f"`async def {name}`"
        )
    return coro


def close(main: object) -> None:
    """Close a coroutine that will not run."""
    if asyncio.iscoroutine(main):
        main.close()


def _unawaited(
    coro: Coroutine[Any, Any, Any], args: tuple[Any, ...]
) -> Coroutine[Any, Any, Any]:
    if args:
        raise TypeError(
            f"run() got a coroutine and arguments for it: {args!r}; write run(func, *args)"
        )
    if inspect.iscoroutine(coro) and (
        inspect.getcoroutinestate(coro) != inspect.CORO_CREATED
    ):
        raise RuntimeError(
            f"run(): {coro!r} has been awaited already; write run(main), not run(main())"
        )
    return coro
