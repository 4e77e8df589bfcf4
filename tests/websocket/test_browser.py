"""A real browser in examples/chat: what its pages see, and how one of them gets slow."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from .chat import chat
from .chromium import Browser, Page, chromium, install

PATIENCE = 120.0  # seconds; on a busy machine

_AWAKE = "['connected', 'awake again'].includes($('state').textContent)"


@pytest.fixture(scope="module", autouse=True)
def _chromium() -> None:
    install()


def run(test: Callable[[Browser], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE), chromium() as browser:
            await test(browser)

    asyncio.run(main())


class Visitor:
    """Somebody at the page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def click(self, button: str) -> None:
        await self.page.run(f"$('{button}').click()")

    async def say(self, text: str) -> None:
        submit = "$('talk').requestSubmit()"
        await self.page.run(f"$('text').value = '{text}'; {submit}")

    async def sees_here(self, names: str) -> None:
        await self.page.until(f"$('here').textContent === '{names}'")

    async def reads(self, line: str) -> None:
        await self.page.until(_in_log(line))


def _in_log(line: str) -> str:
    lines = "[...$('log').children].map((each) => each.textContent)"
    return f"{lines}.includes('{line}')"


async def visit(browser: Browser, port: int, name: str) -> Visitor:
    page = await browser.open(f"http://127.0.0.1:{port}/")
    await page.run(f"$('name').value = '{name}'; $('hello').requestSubmit()")
    await page.until("$('state').textContent === 'connected'")
    return Visitor(page)


def test_a_room_and_a_restart() -> None:
    """Two pages hear each other, are told of the restart, and come back by themselves."""

    async def test(browser: Browser) -> None:
        async with chat() as (process, port):
            alice = await visit(browser, port, "alice")
            bob = await visit(browser, port, "bob")
            carol = await visit(browser, port, "carol")
            for visitor in (alice, bob, carol):
                await visitor.sees_here("alice, bob, carol")
            await alice.say("hello")
            for visitor in (alice, bob, carol):
                await visitor.reads("alice: hello")
            await carol.page.close()
            for visitor in (alice, bob):
                await visitor.sees_here("alice, bob")
            process.send_signal(signal.SIGTERM)
            for visitor in (alice, bob):
                await visitor.reads("closed: 1012 service restart")
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        async with chat(port):
            for visitor in (alice, bob):
                await visitor.page.until("$('state').textContent === 'connected'")
                await visitor.sees_here("alice, bob")
            await bob.say("here we are again")
            await alice.reads("bob: here we are again")

    run(test)


def test_a_page_that_talks_too_much() -> None:
    """It is told why it is closed, and stays away until somebody joins again."""

    async def test(browser: Browser) -> None:
        async with chat() as (_, port):
            alice = await visit(browser, port, "alice")
            for _ in range(50):
                await alice.say("spam")
            await alice.reads("closed: 1008 too many messages")
            await alice.page.until("!$('hello').hidden")
            await alice.page.run("$('hello').requestSubmit()")
            await alice.page.until("$('state').textContent === 'connected'")
            await alice.sees_here("alice")

    run(test)


def test_a_busy_page_is_evicted() -> None:
    """One of two pages reads nothing: it is cut off, the other hears all, and it comes back."""

    async def test(browser: Browser) -> None:
        async with chat() as (_, port):
            alice = await visit(browser, port, "alice")
            bob = await visit(browser, port, "bob")
            await alice.sees_here("alice, bob")
            floods = 0
            evicted = False
            while not evicted:
                await bob.page.until(_AWAKE)
                await bob.click("slow")
                await alice.click("flood")
                floods += 1
                await alice.page.until(f"$('noise').textContent === '{4000 * floods}'")
                evicted = await alice.page.run(_in_log("bob has left"))
            await bob.reads("closed: 1006 cut off")
            for visitor in (alice, bob):
                await visitor.sees_here("alice, bob")
            while not await bob.page.run(_in_log("alice: welcome back")):
                await alice.say("welcome back")
                await asyncio.sleep(0.2)
            assert not await alice.page.run("$('log').textContent.includes('closed')")

    run(test)
