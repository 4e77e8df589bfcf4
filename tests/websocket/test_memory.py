"""The pair in memory does what a network does."""

import asyncio

import pytest

from safeaio.websocket import CloseInfo, TransportClosed, memory_pair

pytestmark = pytest.mark.virtual_time

VANISHED = CloseInfo(1006, "", "remote", False, "vanished")


async def test_messages_take_their_time() -> None:
    loop = asyncio.get_running_loop()
    one, other = memory_pair(latency=0.5)
    await one.send("a")
    await one.send(b"b")
    assert [await other.receive(), await other.receive()] == ["a", b"b"]
    assert loop.time() == pytest.approx(0.5)
    assert await one.ping() == pytest.approx(1.0)


async def test_window_holds_the_sender_back() -> None:
    one, other = memory_pair(window=10)
    assert one.try_send("x" * 9)
    assert one.try_send("x" * 9)  # a message passes as a whole
    assert one.try_send("x" * 9)  # into the buffer
    assert not one.try_send("x")
    assert one.buffered() == 9
    waiting = asyncio.create_task(one.send("last"))
    await asyncio.sleep(1)
    assert not waiting.done()
    for _ in range(4):
        await other.receive()
    await waiting
    assert one.buffered() == 0


async def test_both_close() -> None:
    one, other = memory_pair(latency=1.0)
    assert all(await asyncio.gather(one.close(4000), other.close(4001)))
    assert one.closed == CloseInfo(4001, "", "local", True, "closed")


async def test_close_that_is_answered() -> None:
    one, other = memory_pair()
    await other.send("unread")
    assert await one.close(4000, "bye")
    assert other.closed == CloseInfo(4000, "bye", "remote", True, "peer")
    with pytest.raises(TransportClosed):
        await other.receive()
    assert not other.try_send("x")
    with pytest.raises(TransportClosed):
        await other.send("x")


async def test_what_comes_while_it_closes_is_dropped() -> None:
    one, other = memory_pair(latency=1.0)
    closing = asyncio.create_task(one.close())
    await asyncio.sleep(0.5)
    await other.send("late")
    assert await closing


@pytest.mark.parametrize("half_open", [False, True])
async def test_abort(half_open: bool) -> None:
    one, other = memory_pair()
    pong = one.ping() if half_open else None
    one.half_open = half_open
    one.abort()
    one.abort()
    assert other.closed == (None if half_open else VANISHED)
    with pytest.raises(TransportClosed):
        await one.receive()
    assert pong is None or pong.done()


async def test_abort_while_a_ping_is_under_way() -> None:
    one, other = memory_pair(latency=1.0)
    pong = one.ping()
    await asyncio.sleep(1.5)
    one.abort()
    assert pong.cancelled()
    await asyncio.sleep(1)
    assert other.closed == VANISHED


async def test_pong_that_nobody_waits_for() -> None:
    one, _ = memory_pair(latency=1.0)
    one.ping().cancel()
    await asyncio.sleep(3)


@pytest.mark.parametrize("way", ["deaf", "half_open"])
async def test_deaf_and_half_open(way: str) -> None:
    one, other = memory_pair(window=10)
    setattr(other, way, True)
    pong = one.ping()
    one.try_send("x" * 20)
    one.try_send("x")
    assert one.buffered() > 0
    await asyncio.sleep(10)
    assert not pong.done()
    one.abort()
