"""Where a suspended task stands, through everything that it awaits."""

import asyncio
import traceback
from gc import get_referents
from types import FrameType
from typing import Any

_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")

# Between one frame and the next CPython puts these, which tell nothing of themselves.
_WRAPPERS = (
    "coroutine_wrapper",
    "anext_awaitable",
    "async_generator_asend",
    "async_generator_athrow",
)


def suspended_at(task: asyncio.Task[Any]) -> str:
    """Format the frames in which `task` is suspended, outermost first.

    `Task.get_stack` gives the outermost alone, which for a child of ours is always
    the same line.
    """
    frames: list[tuple[FrameType, int]] = []
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = _first(awaited, _FRAMES)
        if isinstance(frame, FrameType):
            frames.append((frame, frame.f_lineno))
        awaited = (
            _wrapped(awaited) if _is_wrapper(awaited) else _first(awaited, _AWAITED)
        )
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _is_wrapper(awaited: object) -> bool:
    return type(awaited).__name__ in _WRAPPERS


def _wrapped(wrapper: object) -> object:
    return next(
        (
            inner
            for inner in get_referents(wrapper)
            if _first(inner, _FRAMES) is not None or _is_wrapper(inner)
        ),
        None,
    )


def _first(awaited: object, names: tuple[str, ...]) -> object:
    return next(
        (getattr(awaited, name) for name in names if hasattr(awaited, name)), None
    )
