"""The ten invariants of a session, on every transport that a hub takes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from safeaio.websocket import SessionClosed, WebSocketHub, WebSocketSession

from .wires import TASKS, TELLS_NO_CODE, WIRES, Client, Wire, memory

Session = WebSocketSession[Any]

pytestmark = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)

CHUNK = "x" * 16_384


def run(
    test: Callable[[], Awaitable[None]],
    reported: type[Exception] | tuple[()] = (),
) -> None:
    """On a real clock, which sockets go by; nothing may be left."""

    async def main() -> None:
        errors: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(20):
            await test()
        await asyncio.sleep(0.01)
        assert [e for e in errors if not isinstance(e.get("exception"), reported)] == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def until(holds: Callable[[], object]) -> None:
    """Wait, in real time: for a server, or a kernel."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def descriptors() -> int:
    """Return how many files, and sockets, this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Endpoint:
    """Runs a handler in a session, and keeps what came of it."""

    def __init__(
        self, hub: WebSocketHub[Any], handler: Callable[[Session], Awaitable[None]]
    ) -> None:
        self.hub = hub
        self.handler = handler
        self.sessions: list[Session] = []
        self.errors: list[BaseException | None] = []
        self.peer: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    async def __call__(self, websocket: Any) -> None:
        error: BaseException | None = None
        try:
            async with self.hub.session(websocket) as session:
                self.sessions.append(session)
                await self.handler(session)
        except BaseException as exc:
            error = exc
            raise
        finally:
            self.errors.append(error)


async def echo(session: Session) -> None:
    async for message in session:
        await session.send(message)


async def idle(session: Session) -> None:
    async for _ in session:
        pass


async def fill(session: Session) -> int:
    """Send until that waits; return how many were taken."""
    sent = 0
    while True:
        sending = asyncio.create_task(session.send(f"{sent}:{CHUNK}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            return sent
        sending.result()
        sent += 1


def test_it_echoes(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()
        endpoint = Endpoint(hub, echo)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            for data in ("text", b"bytes", "", "ü" * 70_000):
                await client.send(data)
                assert await client.receive() == data
            await client.close(4001, "bye")
            await until(lambda: endpoint.errors)
        [session] = endpoint.sessions
        assert endpoint.errors == [None]
        assert session.closed is not None
        told = wire not in TELLS_NO_CODE
        assert (session.closed.code, session.closed.reason) == (
            (4001, "bye") if told else (1006, "")
        )
        assert (session.closed.initiator, session.closed.clean) == ("remote", told)

    run(test)


def test_1_a_write_that_is_cut_is_the_last(wire: Wire) -> None:
    """Nothing follows it, though the peer reads again."""

    async def test() -> None:
        hub = WebSocketHub(max_queue_messages=2, close_timeout=0.3)

        async def handler(session: Session) -> None:
            client = await endpoint.peer
            session.join("room")
            client.be_deaf()
            await fill(session)
            assert hub.publish("room", "one too many").evicted == 1
            client.hear()
            with pytest.raises(SessionClosed):
                await session.send("never")

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            endpoint.peer.set_result(client)
            await until(lambda: endpoint.errors)
            while (message := await client.receive()) is not None:
                assert str(message).endswith(CHUNK)
        assert endpoint.errors == [None]

    run(test)


def test_2_send_is_cancel_safe(wire: Wire) -> None:
    """Once it returns the message is queued, and once it is cancelled it is not."""

    async def test() -> None:
        hub = WebSocketHub(max_queue_bytes=1 << 18)
        taken: list[int] = []

        async def handler(session: Session) -> None:
            client = await endpoint.peer
            client.be_deaf()
            taken.append(await fill(session))
            client.hear()
            await session.send("last")
            await idle(session)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            endpoint.peer.set_result(client)
            received: list[Any] = []
            while (message := await client.receive()) != "last":
                received.append(message)
            assert [m.partition(":")[0] for m in received] == [
                str(n) for n in range(taken[0])
            ]
            await client.close()
            await until(lambda: endpoint.errors)

    run(test)


def test_3_a_busy_handler_does_not_hide_the_end_of_the_peer(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()
        gone = asyncio.Event()

        async def handler(session: Session) -> None:
            await until(lambda: session.closed)  # it never receives
            gone.set()

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            await client.close(4000)
            await gone.wait()
            await until(lambda: endpoint.errors)
        [session] = endpoint.sessions
        assert session.closed is not None
        assert session.closed.code == (1006 if wire in TELLS_NO_CODE else 4000)

    run(test)


def test_3_what_arrived_before_the_close_is_received(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()
        received: list[Any] = []

        async def handler(session: Session) -> None:
            await until(lambda: session.closed)
            received.extend([message async for message in session])

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            for n in range(50):
                await client.send(str(n))
            await client.close()
            await until(lambda: endpoint.errors)
        assert received == [str(n) for n in range(50)]

    run(test)


def test_4_the_first_cause_wins(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()
        raised: list[SessionClosed] = []

        async def handler(session: Session) -> None:
            await session.close(4002, "first")
            await session.close(4003, "second")
            for call in (session.receive, lambda: session.send("x"), session.flush):
                with pytest.raises(SessionClosed) as caught:
                    await call()
                raised.append(caught.value)
            with pytest.raises(SessionClosed):
                session.join("room")

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            assert await client.receive() is None
            await until(lambda: endpoint.errors)
            assert client.closed == (4002, "first")
        assert {error.info.code for error in raised} == {4002}
        assert endpoint.errors == [None]

    run(test)


def test_5_and_9_every_buffer_is_bounded_and_every_drop_counted(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub(max_queue_bytes=100_000, stall_timeout=60)

        async def handler(session: Session) -> None:
            session.join("room")
            await idle(session)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            client = await connect()
            await until(lambda: hub.snapshot().rooms)
            client.be_deaf()
            dropped = 0
            for _ in range(1500):
                dropped += hub.publish("room", CHUNK, slow="drop_oldest").dropped
                await asyncio.sleep(0)
                assert hub.snapshot().queued_bytes <= 100_000
            [session] = endpoint.sessions
            assert dropped == session.dropped == hub.snapshot().dropped > 0
            client.vanish()
            await until(lambda: endpoint.errors)
        assert hub.snapshot().queued_bytes == 0

    run(test)


def test_6_publish_never_fails_for_one_peer(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()

        async def handler(session: Session) -> None:
            session.join("room")
            await idle(session)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            clients = [await connect() for _ in range(3)]
            await until(lambda: len(endpoint.sessions) == 3)
            await asyncio.sleep(0.01)
            clients[1].vanish()
            delivery = hub.publish("room", "hello")
            assert delivery.sent + delivery.queued in (2, 3)
            assert await clients[0].receive() == "hello"
            assert await clients[2].receive() == "hello"
            await until(lambda: endpoint.errors)
            assert hub.publish("room", "again").sent == 2
            for client in clients:
                await client.close()
            await until(lambda: len(endpoint.errors) == 3)
        assert hub.publish("room", "nobody").sent == 0
        assert hub.snapshot().rooms == 0

    run(test)


def test_7_an_idle_session_has_no_task(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub()
        tasks: list[int] = []
        endpoint = Endpoint(hub, idle)
        async with wire(endpoint, hub) as connect:
            clients = []
            for _ in range(3):
                clients.append(await connect())
                await until(lambda: len(endpoint.sessions) == len(clients))
                await asyncio.sleep(0.3)  # and the sweeper has been there
                tasks.append(len(asyncio.all_tasks()))
            assert tasks[1] - tasks[0] == TASKS.get(wire, 1)
            assert tasks[2] - tasks[1] == TASKS.get(wire, 1)
            for client in clients:
                await client.close()
            await until(lambda: len(endpoint.errors) == 3)

    run(test)


def test_8_every_close_has_a_deadline(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub(close_timeout=0.3, stall_timeout=60)
        took: list[float] = []

        async def handler(session: Session) -> None:
            client = await endpoint.peer
            client.be_deaf()
            await fill(session)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await session.close()
            took.append(loop.time() - began)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
            [session] = endpoint.sessions
            assert session.closed is not None
            assert endpoint.errors == [None]
            assert not session.closed.clean
            assert took[0] < 1.0

    run(test)


def test_10_nothing_is_left_whenever_the_peer_goes(wire: Wire) -> None:
    async def test() -> None:
        hub = WebSocketHub(close_timeout=0.3)
        endpoint = Endpoint(hub, echo)
        async with wire(endpoint, hub) as connect:
            for ticks in range(12):
                client = await connect()
                await until(lambda n=ticks: len(endpoint.sessions) > n)  # type: ignore[misc]
                await client.send("hello")
                for _ in range(ticks):
                    await asyncio.sleep(0)
                if ticks % 2:
                    client.vanish()
                else:
                    await client.close()
                await until(lambda n=ticks: len(endpoint.errors) > n)  # type: ignore[misc]
                snapshot = hub.snapshot()
                assert snapshot.sessions == snapshot.rooms == snapshot.queued_bytes == 0
        assert not any(endpoint.errors)

    run(test)


def test_10_no_socket_is_left_of_one_that_reads_nothing(wire: Wire) -> None:
    """It is evicted, and the server lets go of it, though the peer never does."""

    async def test() -> None:
        hub = WebSocketHub(stall_timeout=0.2, close_timeout=0.2)
        before: list[int] = []

        async def handler(session: Session) -> None:
            client = await endpoint.peer
            before.append(descriptors())
            client.be_deaf()
            await fill(session)
            await until(lambda: session.closed)

        endpoint = Endpoint(hub, handler)
        async with wire(endpoint, hub) as connect:
            endpoint.peer.set_result(await connect())
            await until(lambda: endpoint.errors)
            assert hub.snapshot().evicted == 1
            sockets = 0 if wire is memory else 1
            await until(lambda: descriptors() == before[0] - sockets)
        assert endpoint.errors == [None]

    run(test)
