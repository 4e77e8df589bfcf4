"""Four ways to fetch many pages, and the process that measures one of them.

Prints JSON lines: how many requests are done, now and then, and what it counted.
"""

import asyncio
import gc
import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import attrs

import safeaio
from safeaio import bounded_map, bounded_stream

LIMIT = 50

Fetch = Callable[[str], Coroutine[Any, Any, bytes]]


async def gather(fetch: Fetch, urls: list[str], keep_going: bool) -> None:
    await asyncio.gather(*[fetch(url) for url in urls], return_exceptions=keep_going)


async def semaphore(fetch: Fetch, urls: list[str], keep_going: bool) -> None:
    slots = asyncio.Semaphore(LIMIT)

    async def one(url: str) -> bytes:
        async with slots:
            return await fetch(url)

    await asyncio.gather(*[one(url) for url in urls], return_exceptions=keep_going)


async def mapped(fetch: Fetch, urls: list[str], keep_going: bool) -> None:
    await bounded_map(fetch, urls, limit=LIMIT, return_exceptions=keep_going)


async def streamed(fetch: Fetch, urls: list[str], keep_going: bool) -> None:
    async with bounded_stream(
        fetch, urls, limit=LIMIT, return_exceptions=keep_going
    ) as pages:
        async for _url, _page in pages:
            pass


WAYS: dict[str, Callable[[Fetch, list[str], bool], Awaitable[None]]] = {
    "asyncio.gather": gather,
    "semaphore + gather": semaphore,
    "bounded_map": mapped,
    "bounded_stream": streamed,
}


@attrs.define(eq=False)
class Fetcher:
    """Fetches pages and counts them."""

    client: aiohttp.ClientSession
    done: int = 0
    pages: int = 0

    async def fetch(self, url: str) -> bytes:
        try:
            async with self.client.get(url) as response:
                page = await response.read()
        finally:
            self.done += 1
            if self.done % 20 == 0:
                print(json.dumps({"done": self.done}), flush=True)
        self.pages += 1
        return page


async def measure(
    complaints: list[str], way: str, port: int, count: int, keep_going: bool
) -> dict[str, float]:
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: complaints.append(context["message"])
    )
    urls = [f"http://127.0.0.1:{port}/page/{n}" for n in range(count)]
    # As it comes, the client opens at most 100 connections.
    async with aiohttp.ClientSession(raise_for_status=True) as client:
        fetcher = Fetcher(client)
        memory = _peak_memory()
        start = time.perf_counter()
        with suppress(aiohttp.ClientError):
            await WAYS[way](fetcher.fetch, urls, keep_going)
        seconds = time.perf_counter() - start
        orphans = len(asyncio.all_tasks()) - 1
        done = fetcher.done
        if not keep_going:
            await asyncio.sleep(1)  # the rest of the program goes on
        return {
            "done": fetcher.done,
            "pages": fetcher.pages,
            "seconds": seconds,
            "memory": _peak_memory() - memory,
            "orphans": orphans,
            "late": fetcher.done - done,
        }


def _peak_memory() -> float:
    """Return the most MB that this process has held in RAM."""
    if sys.platform == "linux":  # where ru_maxrss starts at the parent's
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end when nobody reads any more
    complaints: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        job = json.loads(sys.argv[1])
        # What a way has left behind is counted already.
        seen = safeaio.run(measure, complaints, *job, on_leak="ignore")
        gc.collect()
    print(json.dumps({**seen, "warnings": len(caught) + len(complaints)}))


if __name__ == "__main__":
    main()
