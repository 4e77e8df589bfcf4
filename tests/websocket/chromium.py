"""Headless Chromium, driven by the DevTools protocol."""

import asyncio
import itertools
import json
import os
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .installed import installed

# As root in a container there is no sandbox, no display, and little /dev/shm. The others are
# for a browser that asks nothing of anybody but the test's own server.
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# It takes the protocol at descriptors 3 and 4, and ends with the former: so none is left
# behind by a test that is killed.
_SHELL = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'

_LONGEST = 1 << 26  # bytes of an answer


class Page:
    """One tab."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session

    async def run(self, script: str) -> Any:
        """Run JavaScript in it, and return what that gives."""
        said = await self._browser.ask(
            "Runtime.evaluate", self._session, expression=script, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until an expression of JavaScript is true, and return its value."""
        while not (value := await self.run(condition)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return value

    async def close(self) -> None:
        """Close the tab."""
        await self._browser.ask("Page.close", self._session)


class Browser:
    """Chromium as it is asked, and as it answers."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._asks, self._says = process.stdin, process.stdout
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": params}
        if session is not None:
            request["sessionId"] = session
        self._asks.write(json.dumps(request).encode() + b"\0")
        said = await answer
        assert "error" not in said, (method, said)
        return said["result"]

    async def open(self, url: str) -> Page:
        """Open a page in a tab of its own."""
        target = await self.ask("Target.createTarget", url=url)
        attached = await self.ask("Target.attachToTarget", **target, flatten=True)
        page = Page(self, attached["sessionId"])
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        await page.until(loaded)
        return page

    async def listen(self) -> None:
        """Hand out the answers, until it ends."""
        try:
            while text := (await self._says.readuntil(b"\0"))[:-1]:
                message = json.loads(text)
                answer = self._answers.pop(message.get("id", 0), None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
        except asyncio.IncompleteReadError:
            for answer in self._answers.values():
                answer.set_exception(RuntimeError("chromium has ended"))


def install() -> str:
    """Return where Chromium is, once it has been installed."""
    return installed("chromium", "chromium")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium, with a profile that is thrown away."""
    program = install()
    with tempfile.TemporaryDirectory(
        prefix="chromium-", ignore_cleanup_errors=True
    ) as profile:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", _SHELL, program, *_OPTIONS),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
            limit=_LONGEST,
        )
        browser = Browser(process)
        listening = asyncio.create_task(browser.listen())
        try:
            yield browser
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await listening
            await process.wait()
