"""`Supervisor.start` gives a handle of what the service reports when it is ready."""

# A `type: ignore` that either checker has no need of is an error: each proves a negative.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from functools import partial
from typing import Any, assert_type

import anyio
from anyio.abc import TaskStatus

from safeaio import Event, Handle, Service, Supervisor, supervise


async def plain() -> None: ...


async def fetch(url: str, times: int) -> bytes:
    return b""


async def serve(*, task_status: TaskStatus[int]) -> None: ...


async def serve_on(
    host: str, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None: ...


async def serve_at(host: str, port: int, task_status: TaskStatus[bytes]) -> None: ...


async def serve_all(
    host: str, port: int, name: str, *, task_status: TaskStatus[bool]
) -> None: ...


def note(event: Event) -> None: ...


async def main() -> None:
    await supervise(plain, Service(fetch, "/", 3), on_event=note)
    assert_type(supervise(plain), Supervisor)
    async with supervise(strategy="rest_for_one") as sup:
        assert_type(sup, Supervisor)
        assert_type(await sup.start(plain), Handle[None])
        assert_type(await sup.start(fetch, "/", 3), Handle[None])
        await sup.start(partial(fetch, times=3), "/")
        assert_type(await sup.start(serve), Handle[int])
        assert_type(await sup.start(serve_on, "::1", name="a"), Handle[int])
        assert_type(await sup.start(serve_at, "::1", 80), Handle[bytes])
        assert_type(await sup.start(serve_all, "::1", 80, "a"), Handle[bool])
        assert_type((await sup.start(serve)).value, int)
        assert_type(await sup.start(Service(serve)), Handle[Any])
        await sup.start(serve_on, 3)  # type: ignore[misc]
    supervise(plain())  # type: ignore[arg-type]
    supervise(plain, strategy="one")  # type: ignore[arg-type]
    Service(plain, restart="sometimes")  # type: ignore[arg-type]
