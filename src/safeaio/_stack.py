"""Where a suspended task stands, through everything that it awaits."""

import asyncio
import traceback
from gc import get_referents
from types import CodeType, CoroutineType, FrameType
from typing import Any, TypeAlias

_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")

# Between one frame and the next CPython puts these, which tell nothing of themselves.
_WRAPPERS = (
    "coroutine_wrapper",
    "anext_awaitable",
    "async_generator_asend",
    "async_generator_athrow",
)


# A code and an offset in it by turns: frames would keep what the coroutines held, lines
# take longer, and a tuple for each would give the garbage collector more to look at.
Trace: TypeAlias = tuple[Any, ...]


def trace_of(task: asyncio.Task[Any]) -> Trace:
    """Return where `task` is suspended, outermost first, as cheaply as can be."""
    if task.done():  # CPython 3.12.1 crashes on `get_coro` if it was eager to the end
        return ()
    trace: Trace = ()
    awaited: object = task.get_coro()
    while type(awaited) is CoroutineType:
        frame: FrameType | None = awaited.cr_frame
        if frame is not None:
            trace += (frame.f_code, frame.f_lasti)
        awaited = awaited.cr_await
    if type(awaited).__name__ != "FutureIter":  # most stand at one; it tells nothing
        for frame in _frames(awaited):
            trace += (frame.f_code, frame.f_lasti)
    return trace


def codes_of(trace: Trace) -> tuple[CodeType, ...]:
    """Return the functions of a trace, outermost first."""
    return trace[::2]


def shown(trace: Trace) -> str:
    """Format a trace as Python does."""
    summary = traceback.StackSummary.from_list(
        [
            (code.co_filename, _line(code, offset), code.co_name, None)
            for code, offset in zip(codes_of(trace), trace[1::2], strict=True)
        ]
    )
    return "".join(summary.format())


def suspended_at(task: asyncio.Task[Any]) -> str:
    """Format where `task` is suspended, outermost first.

    `Task.get_stack` gives the outermost frame alone, which for a child of ours is
    always the same line.
    """
    return shown(trace_of(task))


def _line(code: CodeType, offset: int) -> int:
    lines = (line for start, end, line in code.co_lines() if start <= offset < end)
    return next(lines, None) or code.co_firstlineno


def _frames(awaited: object) -> list[FrameType]:
    frames: list[FrameType] = []
    while awaited is not None:
        frame = _first(awaited, _FRAMES)
        if isinstance(frame, FrameType):
            frames.append(frame)
        awaited = (
            _wrapped(awaited) if _is_wrapper(awaited) else _first(awaited, _AWAITED)
        )
    return frames


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
