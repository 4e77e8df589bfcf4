"""Say where a task waits."""

import asyncio
from pathlib import Path
from types import CoroutineType


def trail(task: asyncio.Task[object]) -> str:
    """Return the task's name and each of its `await`s, the innermost last.

    Its `repr` knows only the first.
    """
    places: list[str] = []
    coro: object = task.get_coro()
    while isinstance(coro, CoroutineType) and coro.cr_frame is not None:
        file = Path(coro.cr_frame.f_code.co_filename).name
        places.append(f"{coro.__qualname__} ({file}:{coro.cr_frame.f_lineno})")
        coro = coro.cr_await
    return f"{task.get_name()}: {' > '.join(places) or repr(task)}"
