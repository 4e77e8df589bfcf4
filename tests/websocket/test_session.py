"""Sessions over a pair in memory, where the test has the network and the clock."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest

import safeaio
from safeaio import RateLimiter
from safeaio.testing import VirtualClockLoop
from safeaio.websocket import (
    BINARY,
    JSON,
    TEXT,
    CloseInfo,
    Delivery,
    MemoryWebSocket,
    SessionClosed,
    SessionRefused,
    TransportClosed,
    WebSocketHub,
    WebSocketSession,
    memory_pair,
)

pytestmark = pytest.mark.virtual_time

Session = WebSocketSession[Any]
Handler = Callable[[Session], Awaitable[None]]


async def idle(session: Session) -> None:
    session.join("room")
    async for _ in session:
        pass


async def away(session: Session) -> None:
    session.join("room")
    await asyncio.Event().wait()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Served:
    """A handler in its session, in a task of its own."""

    def __init__(
        self,
        hub: WebSocketHub[Any],
        handler: Handler = idle,
        *,
        window: int = 1000,
        latency: float = 0.0,
    ) -> None:
        self.session: Session
        self.server, self.client = memory_pair(window=window, latency=latency)
        self.task = asyncio.create_task(self._serve(hub, handler))

    async def _serve(self, hub: WebSocketHub[Any], handler: Handler) -> None:
        async with hub.session(self.server) as self.session:
            await handler(self.session)

    @property
    def closed(self) -> CloseInfo:
        assert self.session.closed is not None
        return self.session.closed


# Policies


async def test_slow_peers_by_each_policy() -> None:
    """Ten messages of 400 bytes: the window takes three, and the queue two."""
    hub = WebSocketHub(max_queue_bytes=1000)
    served = Served(hub)
    await turns()

    def publish(slow: Any, key: Any = None) -> list[Delivery]:
        return [hub.publish("room", "x" * 400, slow=slow, key=key) for _ in range(5)]

    assert publish("drop_newest") == [
        Delivery(1, 0, 0, 0),
        Delivery(1, 0, 0, 0),
        Delivery(1, 0, 0, 0),
        Delivery(1, 0, 0, 0),  # into the sender's buffer
        Delivery(0, 1, 0, 0),
    ]
    served.client.abort()
    await served.task


async def test_conflated_messages_are_the_latest() -> None:
    hub = WebSocketHub(max_queue_messages=4)
    served = Served(hub, window=1)
    await turns()
    hub.publish("room", "first")  # fills the window
    hub.publish("room", "second")  # and the sender's buffer
    for price in range(10):
        hub.publish("room", f"a {price}", slow="conflate", key="a")
        hub.publish("room", f"b {price}", slow="conflate", key="b")
    received = [await served.client.receive() for _ in range(4)]
    assert received[:2] == ["first", "second"]
    assert {str(message)[2:] for message in received[2:]} <= {"0", "9"}
    await served.client.close()
    await served.task


async def test_conflated_message_that_has_grown_too_large() -> None:
    hub = WebSocketHub(max_queue_bytes=100)
    served = Served(hub, window=1)
    await turns()
    for size in (1, 1, 50):
        hub.publish("room", "x" * size, slow="conflate")
    await turns()  # the last one is being sent
    hub.publish("room", "y" * 40, slow="conflate")
    assert hub.publish("room", "z" * 80, slow="conflate").evicted == 1
    await served.task


async def test_slow_peer_is_disconnected() -> None:
    hub = WebSocketHub(max_queue_messages=3)
    served = Served(hub, away, window=1)
    await turns()
    deliveries = [hub.publish("room", str(n)) for n in range(10)]
    assert sum(d.evicted for d in deliveries) == 1
    with pytest.raises(SessionClosed):
        await served.session.send("x")
    assert hub.publish("room", "y") == Delivery(0, 0, 0, 0)
    await served.task  # although its handler waits for something else
    assert served.closed == CloseInfo(1013, "slow consumer", "local", False, "slow")
    assert hub.snapshot().evicted == 1


async def test_send_waits_for_a_slow_peer() -> None:
    hub = WebSocketHub(max_queue_messages=2)
    sent: list[int] = []

    async def handler(session: Session) -> None:
        for n in range(20):
            await session.send(str(n))
            sent.append(n)

    served = Served(hub, handler, window=1)
    await turns(20)
    assert len(sent) < 6
    assert [await served.client.receive() for _ in range(20)] == [
        str(n) for n in range(20)
    ]
    await served.task
    assert served.client.closed is not None
    assert served.client.closed.code == 1000


async def test_budget_ends_those_that_hold_the_most() -> None:
    hub = WebSocketHub(memory_budget=10_000)
    slow, slower = Served(hub, window=1), Served(hub, window=1)
    await turns()
    for served, size in ((slow, 2000), (slower, 6000)):
        for _ in range(2):  # the window, and the sender's buffer
            await served.session.send("x")
        await served.session.send("x" * size)
    await turns()
    hub.publish("room", "x" * 4000)
    assert slow.session.closed is None
    assert slower.closed.cause == "budget"
    assert hub.snapshot().queued_bytes <= 10_000
    await slower.task
    slow.client.abort()
    await slow.task
    assert hub.snapshot().queued_bytes == 0


# Timeouts


@pytest.mark.parametrize(
    ("option", "cause", "code"),
    [("idle_timeout", "idle", 3008), ("first_message_timeout", "first-message", 3008)],
)
async def test_silent_peers(option: str, cause: str, code: int) -> None:
    hub = WebSocketHub(**{option: 10.0})  # type: ignore[call-overload]
    served = Served(hub)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await served.task
    assert (served.closed.cause, served.closed.code) == (cause, code)
    assert 10 <= loop.time() - began <= 11


async def test_a_first_message_in_time() -> None:
    hub = WebSocketHub(first_message_timeout=10.0)
    served = Served(hub)
    await asyncio.sleep(9)
    await served.client.send("token")
    await asyncio.sleep(100)
    assert served.session.closed is None
    await served.client.close()
    await served.task


async def test_heartbeat_gives_the_latency() -> None:
    hub = WebSocketHub(heartbeat=10.0)
    served = Served(hub, latency=0.25)
    await asyncio.sleep(30)
    assert served.session.latency == pytest.approx(0.5)
    await served.client.close()
    await served.task


@pytest.mark.parametrize("way", ["deaf", "half_open"])
async def test_heartbeat_is_lost(way: str) -> None:
    hub = WebSocketHub(heartbeat=10.0)
    served = Served(hub)
    await turns()
    setattr(served.client, way, True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await served.task
    assert (served.closed.cause, served.closed.code) == ("heartbeat", 1006)
    assert loop.time() - began < 22


async def test_heartbeat_waits_while_we_do_not_read() -> None:
    """The peer is not to blame for our being slow."""
    hub = WebSocketHub(heartbeat=5.0, max_queue_messages=2)

    async def handler(session: Session) -> None:
        await asyncio.sleep(60)
        assert [await session.receive() for _ in range(6)] == list("abcdef")

    served = Served(hub, handler, window=3)
    for letter in "abcdef":
        await served.client.send(letter)
    await served.task
    assert served.closed.cause == "returned"


async def test_a_transport_that_fails_ends_its_own_session_alone() -> None:
    """The sweeper looks at the others, now and later."""

    class Failing:
        def __init__(self, inner: MemoryWebSocket) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def buffered(self) -> int:
            raise OSError("no such thing")

    hub = WebSocketHub(idle_timeout=60.0)
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    server, _ = memory_pair()

    async def endpoint() -> CloseInfo:
        async with hub.session(Failing(server)) as session:
            await idle(session)
            assert session.closed is not None
            return session.closed

    failing = asyncio.create_task(endpoint())
    other = Served(hub)
    assert (await failing).cause == "protocol"
    assert [str(context["exception"]) for context in reported] == ["no such thing"]
    await other.task
    assert other.closed.cause == "idle"


async def test_stalled_peer_is_evicted() -> None:
    hub = WebSocketHub(stall_timeout=10.0, heartbeat=None)
    served = Served(hub, window=1)
    await turns()
    for _ in range(5):
        hub.publish("room", "x")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await served.task
    assert served.closed.cause == "slow"
    assert 10 <= loop.time() - began <= 11


async def test_lagging_peer_is_evicted() -> None:
    """It takes something now and then, but never catches up."""
    hub = WebSocketHub(
        stall_timeout=10.0, lag_timeout=30.0, heartbeat=None, max_queue_messages=10
    )
    served = Served(hub, window=1)
    await turns()
    for _ in range(11):
        hub.publish("room", "x")
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not served.task.done():
        await asyncio.sleep(5)
        if served.client.closed is None and served.session.closed is None:
            await served.client.receive()
            hub.publish("room", "x", slow="drop_newest")
    assert served.closed.cause == "slow"
    assert 30 <= loop.time() - began <= 40


# What comes in


async def test_too_big() -> None:
    hub = WebSocketHub(max_message_bytes=10)
    served = Served(hub)
    await served.client.send("ü" * 5)
    await turns()
    assert served.session.closed is None
    await served.client.send("ü" * 5 + "!")
    await served.task
    assert (served.closed.cause, served.closed.code) == ("too-big", 1009)


@pytest.mark.parametrize("over_rate", ["close", "drop", "delay"])
async def test_rate(over_rate: Any) -> None:
    """Two at once, then one a second."""
    hub = WebSocketHub(receive_rate=RateLimiter(1, burst=2), over_rate=over_rate)
    received: list[tuple[float, Any]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def handler(session: Session) -> None:
        async for message in session:
            received.append((round(loop.time() - began, 1), message))

    served = Served(hub, handler)
    for letter in "abcd":
        await served.client.send(letter)
    if over_rate == "close":
        await served.task
        assert received == [(0, "a"), (0, "b")]
        assert (served.closed.cause, served.closed.code) == ("rate", 1008)
        return
    await asyncio.sleep(10)
    await served.client.close()
    await served.task
    assert hub.snapshot().ignored == (2 if over_rate == "drop" else 0)
    if over_rate == "drop":
        assert received == [(0, "a"), (0, "b")]
    else:
        assert received == [(0, "a"), (0, "b"), (1, "c"), (2, "d")]


async def test_a_rate_holds_while_the_handler_is_away() -> None:
    """What was delayed comes late, and not all at once when it is asked for."""
    rate = RateLimiter(1, burst=2)
    hub = WebSocketHub(receive_rate=rate, over_rate="delay")
    received: list[int] = []

    async def handler(session: Session) -> None:
        await asyncio.sleep(4.5)
        for _ in range(8):
            await session.receive()
            received.append(round(asyncio.get_running_loop().time()))

    served = Served(hub, handler)
    for letter in "abcdefgh":
        await served.client.send(letter)
    await served.task
    assert received == [4] * 6 + [5, 6]  # of 4.5 s


async def test_heartbeat_waits_while_messages_are_delayed() -> None:
    """The pong is behind them."""
    rate = RateLimiter(1, burst=1)
    hub = WebSocketHub(receive_rate=rate, over_rate="delay", heartbeat=2.0)
    served = Served(hub, window=3)
    for letter in "abcdefgh":
        await served.client.send(letter)
    await asyncio.sleep(0.5)
    assert served.session.closed is None
    await served.client.close()
    await served.task
    assert served.closed.cause == "peer"


async def test_rates_are_each_sessions_own() -> None:
    hub = WebSocketHub(receive_rate=RateLimiter(1, burst=2))
    served = [Served(hub) for _ in range(3)]
    for one in served:
        await one.client.send("a")
        await one.client.send("b")
    await turns()
    assert not any(one.session.closed for one in served)
    for one in served:
        await one.client.close()
        await one.task


@pytest.mark.parametrize(
    ("codec", "data", "code"),
    [
        (JSON, "{", 1007),
        (JSON, b"\xff", 1007),
        (TEXT, b"x", 1003),
        (BINARY, "x", 1003),
    ],
)
async def test_undecodable(codec: Any, data: Any, code: int) -> None:
    hub = WebSocketHub(codec=codec)
    served = Served(hub)
    await served.client.send(data)
    await served.task
    assert served.closed.code == code


async def test_undecodable_by_a_hook() -> None:
    seen: list[Any] = []
    hub = WebSocketHub(
        codec=JSON,
        on_undecodable=lambda session, data, error: seen.append((data, type(error))),
    )
    received: list[Any] = []

    async def handler(session: Session) -> None:
        received.extend([message async for message in session])

    served = Served(hub, handler)
    for data in ("1", "{", "2"):
        await served.client.send(data)
    await served.client.close()
    await served.task
    assert received == [1, 2]
    assert [data for data, _ in seen] == ["{"]


async def test_two_readers() -> None:
    hub = WebSocketHub()

    async def handler(session: Session) -> None:
        first = asyncio.create_task(session.receive())
        await turns()
        with pytest.raises(RuntimeError, match="somebody else receives"):
            await session.receive()
        assert await first == "x"
        assert await session.receive() == "y"

    served = Served(hub, handler)
    await turns(10)
    await served.client.send("x")
    await served.client.send("y")
    await served.task


async def test_receive_loses_nothing_when_it_is_cancelled() -> None:
    hub = WebSocketHub()
    received: list[Any] = []

    async def handler(session: Session) -> None:
        while len(received) < 40:
            try:
                async with asyncio.timeout(0.01):
                    received.append(await session.receive())
            except TimeoutError:
                await asyncio.sleep(len(received) % 3)  # the reader takes over

    served = Served(hub, handler)
    for n in range(40):
        await asyncio.sleep(0.0097)
        await served.client.send(str(n))
    await served.task
    assert received == [str(n) for n in range(40)]


# Handlers


async def test_handler_that_raises() -> None:
    hub = WebSocketHub()
    error = ValueError("no")

    async def handler(_: Session) -> None:
        raise error

    served = Served(hub, handler)
    with pytest.raises(ValueError, match="no") as caught:
        await served.task
    assert caught.value is error
    assert served.client.closed is not None
    assert served.client.closed.code == 1011
    assert hub.snapshot().sessions == 0


async def test_handler_that_is_cancelled() -> None:
    hub = WebSocketHub()
    served = Served(hub)
    await turns()
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task
    assert served.client.closed is not None
    assert served.client.closed.code == 1001


async def test_handler_elsewhere_is_cancelled_after_the_end() -> None:
    """Once `close_timeout` has passed twice, and the cancel goes no further."""
    hub = WebSocketHub(close_timeout=3.0)
    served = Served(hub, away)
    await turns()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await served.client.close(4000)
    await served.task
    assert served.task.cancelling() == 0
    assert 6 <= loop.time() - began <= 7


async def test_a_closed_session_of_another_hub_is_an_error() -> None:
    outer, inner = WebSocketHub(), WebSocketHub()

    async def proxy(session: Session) -> None:
        upstream, server = memory_pair()
        async with inner.session(upstream) as up:
            server.abort()
            await turns()
            await up.receive()

    served = Served(outer, proxy)
    await served.task  # the inner one ends quietly

    async def leak(session: Session) -> None:
        raise SessionClosed(CloseInfo(1000, "", "remote", True, "peer"))

    served = Served(outer, leak)
    with pytest.raises(SessionClosed):
        await served.task


async def test_group_of_our_own_ends() -> None:
    hub = WebSocketHub()

    async def handler(session: Session) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.receive())
            await session.close()
            group.create_task(session.send("x"))

    await Served(hub, handler).task


async def test_serve_runs_handlers_side_by_side() -> None:
    hub = WebSocketHub(codec=JSON)

    async def double(number: Any) -> Any:
        await asyncio.sleep(10 - number)
        return None if number == 3 else number * 2

    async def handler(session: Session) -> None:
        await session.serve(double, concurrency=4)

    served = Served(hub, handler)
    for n in range(6):
        await served.client.send(str(n))
    replies = [await served.client.receive() for _ in range(5)]
    assert replies == ["0", "2", "4", "8", "10"]
    await served.client.close()
    await served.task


async def test_serve_unordered_and_failing() -> None:
    hub = WebSocketHub(codec=JSON)

    async def handle(number: Any) -> Any:
        await asyncio.sleep(10 - number)
        if number == 1:
            raise ValueError(number)
        return number

    async def handler(session: Session) -> None:
        await session.serve(handle, concurrency=4, ordered=False)

    served = Served(hub, handler)
    for n in (0, 9, 8, 1):
        await served.client.send(str(n))
    assert [await served.client.receive() for _ in range(2)] == ["9", "8"]
    with pytest.raises(ValueError, match="1"):
        await served.task
    assert served.client.closed is not None
    assert served.client.closed.code == 1011


# Admission


async def test_refused() -> None:
    hub = WebSocketHub(max_sessions=2)
    inside = [Served(hub), Served(hub)]
    await turns()
    assert not hub.admits
    third = Served(hub)
    receiving = asyncio.create_task(third.client.close())
    with pytest.raises(SessionRefused) as caught:
        await third.task
    assert caught.value.info.cause == "refused"
    assert isinstance(caught.value, SessionClosed)
    await receiving
    assert hub.snapshot().refused == 1
    for served in inside:
        await served.client.close()
        await served.task
    assert hub.admits


async def test_unknown_websocket() -> None:
    with pytest.raises(
        TypeError, match=r"hub.session\(\) takes a Starlette or FastAPI"
    ):
        WebSocketHub().session(object())


async def test_entered_twice() -> None:
    hub = WebSocketHub()
    server, client = memory_pair()
    admission = hub.session(server)
    async with admission:
        with pytest.raises(RuntimeError, match="entered once"):
            await admission.__aenter__()
        client.abort()


def test_another_loop() -> None:
    hub = WebSocketHub()

    async def enter() -> None:
        async with hub.session(memory_pair()[0]):
            pass

    first = asyncio.new_event_loop()
    server, client = first.run_until_complete(_pair())

    async def hold() -> None:
        async with hub.session(server):
            await asyncio.Event().wait()

    task = first.create_task(hold())
    first.run_until_complete(asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="sessions in another loop"):
        asyncio.run(enter())
    task.cancel()
    client.abort()
    first.run_until_complete(asyncio.wait([task]))
    first.close()
    asyncio.run(enter())


async def test_a_session_is_its_loops_own() -> None:
    hub = WebSocketHub()
    served = Served(hub)
    await turns()
    session = served.session

    def in_another_loop(use: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(RuntimeError, match="another loop"):
            asyncio.run(cast("Coroutine[Any, Any, object]", use()))

    def in_no_loop(use: Callable[[], object]) -> None:
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            use()

    def elsewhere() -> None:
        for use in (
            lambda: session.send("a"),
            session.receive,
            session.flush,
            session.close,
            lambda: hub.publish_async("room", "a"),
            hub.drain,
        ):
            in_another_loop(use)
        in_no_loop(lambda: session.join("another"))
        in_no_loop(lambda: session.leave("room"))
        in_no_loop(lambda: hub.publish("room", "a"))

    await asyncio.to_thread(elsewhere)
    assert session.closed is None
    assert hub.publish("room", "b").sent == 1
    assert await served.client.receive() == "b"
    await served.client.close()
    await served.task


async def _pair() -> tuple[MemoryWebSocket, MemoryWebSocket]:
    return memory_pair()


# Drain


async def test_drain_delivers_what_is_queued() -> None:
    hub = WebSocketHub()
    served = [Served(hub) for _ in range(7)]
    await turns()
    hub.publish("room", "last words")
    draining = asyncio.create_task(hub.drain(batch=3, interval=2.0, jitter=0.0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for one in served:
        assert await one.client.receive() == "last words"
    result = await draining
    assert (result.finished, result.closed, result.aborted) == (0, 7, 0)
    assert loop.time() - began == pytest.approx(4.0, abs=0.1)
    assert all(one.closed.code == 1012 for one in served)
    assert not hub.admits
    await asyncio.gather(*(one.task for one in served))


async def test_drain_lets_handlers_finish() -> None:
    hub = WebSocketHub()

    async def handler(session: Session) -> None:
        while not session.draining:  # noqa: ASYNC110
            await asyncio.sleep(1)
        await session.send("done")

    served = Served(hub, handler)
    await turns()
    result = await hub.drain(grace=10.0)
    assert (result.finished, result.closed, result.aborted) == (1, 0, 0)
    assert await served.client.receive() == "done"
    await served.task
    assert served.closed.code == 1000


async def test_drain_has_a_deadline() -> None:
    hub = WebSocketHub(close_timeout=60.0, heartbeat=None)
    deaf = Served(hub, window=1)
    stuck = Served(hub, away)
    await turns()
    for _ in range(5):
        await deaf.session.send("x")
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await hub.drain(deadline=10.0)
    assert loop.time() - began <= 10
    assert result.aborted == 2
    await asyncio.gather(deaf.task, stuck.task)
    assert hub.snapshot().sessions == 0


async def test_drain_is_over_by_its_deadline_whatever_handlers_do() -> None:
    hub = WebSocketHub()
    enough = asyncio.Event()

    async def stubborn(_: Session) -> None:
        while not enough.is_set():
            with suppress(asyncio.CancelledError):
                await enough.wait()

    all_served = [Served(hub, stubborn) for _ in range(5)]
    await turns()
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await hub.drain(batch=1, interval=5.0, jitter=0.0, deadline=2.0)
    took = loop.time() - began
    enough.set()
    assert took == pytest.approx(2.0)
    assert result.aborted == 5
    await asyncio.gather(*(served.task for served in all_served))


async def test_drain_of_handlers_that_the_peer_has_left() -> None:
    hub = WebSocketHub(close_timeout=60.0)
    served = Served(hub, away)
    await turns()
    await served.client.close()
    await asyncio.sleep(2)  # the sweeper has been there
    result = await hub.drain(deadline=10.0)
    assert result.aborted == 1
    await served.task
    assert served.closed.cause == "peer"


async def test_second_drain_waits_for_the_first() -> None:
    hub = WebSocketHub()
    served = Served(hub)
    await turns()
    first, second = await asyncio.gather(hub.drain(), hub.drain())
    assert first is second
    await served.task


async def test_drain_from_within() -> None:
    hub = WebSocketHub()

    async def handler(_: Session) -> None:
        with pytest.raises(RuntimeError, match="waits for all sessions"):
            await hub.drain()

    await Served(hub, handler).task


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"code": 1006}, ValueError, "may not be sent"),
        ({"batch": 0}, ValueError, "at least 1"),
        ({"grace": -1}, ValueError, "at least 0"),
        ({"jitter": 2}, ValueError, "a part of the interval"),
        ({"deadline": "1"}, TypeError, "number of seconds"),
    ],
)
async def test_bad_drains(options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        await WebSocketHub().drain(**options)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_sessions": 0}, ValueError, "max_sessions must be at least 1"),
        ({"max_queue_bytes": -1}, ValueError, "max_queue_bytes must be at least 1"),
        ({"max_queue_messages": 1.5}, TypeError, "max_queue_messages must be an int"),
        ({"max_message_bytes": True}, TypeError, "max_message_bytes must be an int"),
        ({"memory_budget": 0}, ValueError, "memory_budget must be at least 1"),
        ({"receive_rate": 10}, TypeError, "must be a RateLimiter, such as"),
        ({"over_rate": "ignore"}, ValueError, 'must be "close", "delay" or "drop"'),
        ({"idle_timeout": 0}, ValueError, "more than 0 seconds"),
        ({"stall_timeout": None}, TypeError, "stall_timeout must be a number"),
        ({"heartbeat": float("nan")}, ValueError, "heartbeat must be at least 0"),
    ],
)
def test_bad_limits(options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        WebSocketHub(**options)


async def test_bad_messages() -> None:
    hub = WebSocketHub(max_queue_bytes=100)

    async def handler(session: Session) -> None:
        with pytest.raises(TypeError, match="sends str and bytes, got 1"):
            await session.send(1)
        with pytest.raises(TypeError, match="sends str and bytes, got 1"):
            hub.publish("room", 1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="of 101 bytes never fits"):
            hub.publish("room", "x" * 101)
        with pytest.raises(ValueError, match="slow must be one of"):
            hub.publish("room", "x", slow="ignore")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="may not be sent"):
            await session.close(1005)
        with pytest.raises(ValueError, match="at most 123 bytes"):
            await session.close(1000, "x" * 124)
        assert session.closed is None
        assert session.rooms == frozenset()
        session.join("a")
        session.join("a")
        session.leave("b")
        assert session.rooms == {"a"}
        session.leave("a")
        assert hub.snapshot().rooms == 0

    await Served(hub, handler).task


async def test_unencodable_json() -> None:
    hub = WebSocketHub(codec=JSON)
    with pytest.raises(TypeError, match="not JSON serializable"):
        hub.publish("room", object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        hub.publish("room", float("nan"))


# Corners


async def test_reader_keeps_to_the_limits() -> None:
    """Also while the handler is away."""
    for options, data, cause in (
        ({"receive_rate": RateLimiter(1, burst=2)}, "x", "rate"),
        ({"max_message_bytes": 10}, "x" * 11, "too-big"),
    ):
        hub = WebSocketHub(**options)
        served = Served(hub, away)
        await asyncio.sleep(2)
        for _ in range(3):
            with suppress(TransportClosed):
                await served.client.send(data)
        await served.task
        assert served.closed.cause == cause


async def test_reader_drops_what_is_over_the_rate() -> None:
    hub = WebSocketHub(receive_rate=RateLimiter(1, burst=2), over_rate="drop")
    received: list[Any] = []

    async def handler(session: Session) -> None:
        await asyncio.sleep(5)
        assert session.queued_bytes == 2
        received.extend([message async for message in session])

    served = Served(hub, handler)
    await asyncio.sleep(2)
    for letter in "abcd":
        await served.client.send(letter)
    await served.client.close()
    await served.task
    assert received == ["a", "b"]


async def test_budget_and_send() -> None:
    """Whoever sends is ended, too, if it is the one that holds the most."""
    hub = WebSocketHub(memory_budget=1000)
    small, large = Served(hub, window=1), Served(hub, window=1)
    await turns()
    for served, size in ((small, 300), (large, 600)):
        for text in ("x", "x", "x" * size):
            await served.session.send(text)
    await turns()
    await small.session.send("x" * 600)
    assert large.closed.cause == "budget"
    assert small.session.closed is None
    with pytest.raises(SessionClosed):
        await small.session.send("x" * 200)
    assert small.closed.cause == "budget"
    await asyncio.gather(small.task, large.task)


async def test_budget_that_one_message_exceeds() -> None:
    hub = WebSocketHub(memory_budget=100)
    served = Served(hub, window=1)
    await turns()
    hub.publish("room", "x")
    hub.publish("room", "x")
    with pytest.raises(ValueError, match="of 200 bytes never fits"):
        hub.publish("room", "x" * 200)
    with pytest.raises(ValueError, match="memory_budget let 100 wait"):
        await served.session.send("x" * 200)
    assert served.session.closed is None
    served.client.abort()
    await served.task


async def test_budget_that_closing_sessions_hold() -> None:
    """Whoever sends next does not turn in circles until they are closed."""
    hub = WebSocketHub(memory_budget=1000, close_timeout=60.0)
    deaf, small = Served(hub, window=1), Served(hub, window=1)
    await turns()
    for served in (deaf, small):
        await served.session.send("x")
        await served.session.send("x")
    await deaf.session.send("x" * 900)
    closing = asyncio.create_task(deaf.session.close())
    await turns()
    assert deaf.session.queued_bytes == 900
    async with asyncio.timeout(1):
        await small.session.send("x" * 200)
        await closing
    assert (deaf.closed.cause, deaf.closed.clean) == ("closed", False)
    assert small.session.closed is None
    assert hub.snapshot().evicted == 0
    small.client.abort()
    await asyncio.gather(small.task, deaf.task)


async def test_budget_that_unread_messages_of_a_lost_session_hold() -> None:
    hub = WebSocketHub(memory_budget=1000)
    left, small = Served(hub, away), Served(hub, window=1)
    await turns()
    await left.client.send("x" * 900)
    await asyncio.sleep(1)  # the sweeper has it read
    await left.client.close()
    await turns()
    assert (left.closed.cause, left.session.queued_bytes) == ("peer", 900)
    async with asyncio.timeout(1):
        for size in (1, 1, 200):
            await small.session.send("x" * size)
    assert small.session.closed is None
    small.client.abort()
    left.task.cancel()
    await asyncio.gather(small.task, left.task, return_exceptions=True)


async def test_handler_that_is_back_reads_whatever_the_budget() -> None:
    hub = WebSocketHub(memory_budget=100)
    back = asyncio.Event()

    async def handler(session: Session) -> None:
        await back.wait()
        assert await session.receive() == "hello"

    full, served = Served(hub, away, window=1), Served(hub, handler)
    await turns()
    for size in (1, 1, 100):
        hub.publish("room", "x" * size)
    await asyncio.sleep(1)  # the sweeper has begun to read, and found no room
    await served.client.send("hello")
    await asyncio.sleep(1)
    assert served.session.queued_bytes == 0
    back.set()
    async with asyncio.timeout(1):
        await served.task
    full.client.abort()
    full.task.cancel()
    await asyncio.gather(full.task, return_exceptions=True)


async def test_nobody_is_idle_while_we_do_not_read() -> None:
    hub = WebSocketHub(
        memory_budget=100,
        idle_timeout=2.0,
        first_message_timeout=2.0,
        stall_timeout=60.0,
    )
    full, served = Served(hub, window=1), Served(hub, away)
    await turns()
    for size in (1, 1, 100):
        await full.session.send("x" * size)
    for _ in range(10):
        await full.client.send("x")
        await served.client.send("x")
        await asyncio.sleep(1)
    assert served.session.closed is None
    full.client.abort()
    await full.task
    await asyncio.sleep(5)
    assert served.session.queued_bytes == 10
    served.task.cancel()
    await asyncio.gather(served.task, return_exceptions=True)


async def test_nobody_is_idle_whose_messages_are_delayed() -> None:
    rate = RateLimiter(1, per=10)
    hub = WebSocketHub(receive_rate=rate, over_rate="delay", idle_timeout=2.0)
    served = Served(hub)
    await turns()
    for _ in range(3):
        await served.client.send("x")
    await asyncio.sleep(15)
    assert served.session.closed is None
    await asyncio.sleep(20)
    assert served.closed.cause == "idle"
    await served.task


async def test_no_message_comes_after_the_end() -> None:
    """The reader stops where it finds a message that ends the session."""
    hub = WebSocketHub(max_message_bytes=10)
    back = asyncio.Event()

    async def handler(session: Session) -> None:
        await back.wait()
        with pytest.raises(SessionClosed):
            await session.receive()

    served = Served(hub, handler)
    await turns()
    await served.client.send("x" * 11)
    await served.client.send("y")
    await asyncio.sleep(1)  # the sweeper has it read
    assert (served.closed.cause, served.session.queued_bytes) == ("too-big", 0)
    assert served.client.closed is not None
    assert served.client.closed.code == 1009
    back.set()
    await served.task


async def test_nobody_pays_for_a_loop_that_was_held() -> None:
    """What came meanwhile has yet to be read when the sweeper is late."""
    hub = WebSocketHub(idle_timeout=2.0, first_message_timeout=2.0)
    served = Served(hub)
    await turns()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    await asyncio.sleep(1)
    loop._clock.now += 3.0
    await asyncio.sleep(0)
    await served.client.send("x")  # which arrives with the first look at the sockets
    await asyncio.sleep(1)
    assert served.session.closed is None
    await asyncio.sleep(2)
    assert served.closed.cause == "idle"
    await served.task


async def test_messages_as_other_kinds_of_bytes() -> None:
    class Buffers:
        def encode(self, message: Any, /) -> Any:
            return bytearray(message)

        def decode(self, data: Any, /) -> Any:
            return data

    hub = WebSocketHub(codec=Buffers())
    served = Served(hub, window=1)
    await turns()
    for _ in range(3):
        await served.session.send(b"\xff")
    assert [await served.client.receive() for _ in range(3)] == [b"\xff"] * 3
    served.client.abort()
    await served.task


async def test_publish_evicts_itself_for_the_budget() -> None:
    hub = WebSocketHub(memory_budget=1000)
    served = Served(hub, window=1)
    await turns()
    for text in ("x", "x", "x" * 900):
        hub.publish("room", text)
    assert hub.publish("room", "x" * 200) == Delivery(0, 0, 0, 1)
    assert served.closed.cause == "budget"
    assert hub.snapshot().evicted == 1
    await served.task


async def test_send_that_never_fits() -> None:
    hub = WebSocketHub(max_queue_bytes=100)
    served = Served(hub, window=1)
    await turns()
    for _ in range(3):  # nothing waits at first
        with pytest.raises(ValueError, match="of 101 bytes never fits"):
            await served.session.send("x" * 101)
        await served.session.send("x")
    served.client.abort()
    await served.task


async def test_senders_that_wait_are_told_of_the_end() -> None:
    hub = WebSocketHub(max_queue_messages=1)
    served = Served(hub, window=1)
    await turns()
    sending = [asyncio.create_task(served.session.send(str(n))) for n in range(6)]
    await turns(10)
    assert not all(task.done() for task in sending)
    served.client.abort()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert sum(isinstance(outcome, SessionClosed) for outcome in outcomes) == 3
    await served.task


async def test_publish_async_lets_the_loop_turn() -> None:
    hub = WebSocketHub()
    served = [Served(hub, window=1 << 20) for _ in range(600)]
    await turns()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await hub.publish_async("room", "x") == Delivery(600, 0, 0, 0)
    assert ticks >= 1
    assert await hub.publish_async("nobody", "x") == Delivery(0, 0, 0, 0)
    ticking.cancel()
    assert "600 sessions" in repr(hub)
    for one in served:
        one.client.abort()
    await asyncio.gather(*(one.task for one in served))


async def test_undecodable_for_receive() -> None:
    hub = WebSocketHub(codec=JSON, on_undecodable=lambda *_: None)

    async def handler(session: Session) -> None:
        assert "open" in repr(session)
        assert await session.receive() == 1
        with pytest.raises(SessionClosed):
            await session.receive()
        assert "peer" in repr(session)

    served = Served(hub, handler)
    await served.client.send("{")
    await served.client.send("1")
    await served.client.close()
    await served.task


async def test_interrupt_beside_a_cancel_from_outside() -> None:
    hub = WebSocketHub(close_timeout=1.0)

    async def handler(session: Session) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # as somebody else might, in this tick
            raise

    served = Served(hub, handler)
    await turns()
    await served.client.close()
    with pytest.raises(asyncio.CancelledError):
        await served.task


async def test_interrupt_beside_a_cancelled_scope() -> None:
    hub = WebSocketHub(close_timeout=1.0)
    server, client = memory_pair()
    closing = asyncio.create_task(client.close())
    with anyio.CancelScope() as scope:
        async with hub.session(server):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                scope.cancel()
                await asyncio.sleep(0)
    assert scope.cancelled_caught
    await closing
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_closed_as_a_generator() -> None:
    """Nobody can wait for it then: it is aborted."""
    hub = WebSocketHub()
    server, client = memory_pair()

    async def messages() -> AsyncGenerator[Any]:
        async with hub.session(server) as session:
            async for message in session:
                yield message

    generator = messages()
    await client.send("x")
    assert await anext(generator) == "x"
    await generator.aclose()
    await turns()
    assert client.closed is not None
    assert client.closed.code in (1006, 1011)
    assert hub.snapshot().sessions == 0


async def test_admitted_while_the_drain_begins() -> None:
    hub = WebSocketHub()
    served = Served(hub)
    draining = asyncio.create_task(hub.drain())
    await asyncio.gather(draining, asyncio.wait([served.task]))
    assert served.task.done()
    served.task.exception()
    assert hub.snapshot().sessions == 0


@pytest.mark.parametrize("ticks", range(12))
async def test_drain_that_is_cancelled_goes_on(ticks: int) -> None:
    hub = WebSocketHub()
    served = [Served(hub) for _ in range(3)]
    await turns()
    draining = asyncio.create_task(hub.drain())
    await turns(ticks)
    draining.cancel()
    await asyncio.wait([draining])
    result = await hub.drain()
    assert result.closed == 3
    await asyncio.gather(*(one.task for one in served))


def test_whoever_stops_the_loop_aborts() -> None:
    """As `asyncio.run` does at its end, which cancels every task, the closers among them."""

    async def main() -> None:
        hub = WebSocketHub(close_timeout=60.0)
        served = Served(hub, window=1)
        await turns()
        for _ in range(5):
            await served.session.send("x")
        asyncio.create_task(hub.drain())  # noqa: RUF006
        await asyncio.sleep(1)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


def test_shutdown_drains() -> None:
    hub = WebSocketHub()
    closed: list[CloseInfo] = []

    async def main() -> None:
        served = Served(hub)
        await turns()
        safeaio.request_shutdown()
        await served.task
        closed.append(served.closed)

    safeaio.run(main, loop_factory=VirtualClockLoop)
    assert closed[0].code == 1012


def test_second_signal_aborts() -> None:
    hub = WebSocketHub(close_timeout=60.0)
    closed: list[CloseInfo] = []

    async def main() -> None:
        served = Served(hub, window=1)
        await turns()
        for _ in range(5):
            await served.session.send("x")
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        signal.raise_signal(signal.SIGTERM)
        try:
            await served.task
        finally:
            await asyncio.wait([served.task])
            closed.append(served.closed)

    with pytest.raises(safeaio.Terminated):
        safeaio.run(main, grace=30)
    assert closed[0].cause == "drain"
    assert not closed[0].clean
