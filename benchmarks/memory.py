"""Peak memory, in a pass of its own: tracing slows what it watches."""

import gc
import tracemalloc
from collections.abc import Awaitable, Callable


async def peak_memory(work: Callable[[], Awaitable[object]]) -> int:
    """Return the most bytes that `work` held at once, above what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        await work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
