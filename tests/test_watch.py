"""The thread that tells a shutdown of signals, requests and time: with a run that is none."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from safeaio._shutdown import Phase, Share, Shutdown
from safeaio._watch import Watch

TERM = int(signal.SIGTERM)


class Run:
    """A run that has the signals it is given, and waits to be told."""

    def __init__(
        self, *, subscribed: bool = False, owned: tuple[int, ...] = (TERM,)
    ) -> None:
        self.subscribes = subscribed
        self.owned = owned
        self.taken = (TERM, int(signal.SIGINT))
        self.woken = threading.Semaphore(0)
        self.ended = threading.Event()

    def subscribed(self) -> bool:
        return self.subscribes

    def takes(self, signum: int) -> bool:
        return signum in self.taken

    def owns(self, signum: int) -> bool:
        return signum in self.owned

    def wake(self) -> None:
        self.woken.release()

    def end_process(self) -> None:
        self.ended.set()

    def was_woken(self) -> bool:
        return self.woken.acquire(timeout=20)


@contextmanager
def watching(run: Run, grace: float = 60.0) -> Iterator[tuple[Watch, Shutdown]]:
    shutdown = Shutdown(grace)
    watch = Watch(shutdown, run)
    watch.start()
    try:
        yield watch, shutdown
    finally:
        watch.stop()


def write(watch: Watch, *signums: int) -> None:
    """Write to the wake-up fd what the C handler of signals would."""
    watch._writer.send(bytes(signums))


# Two witnesses


def test_byte_alone() -> None:
    """A signal whose Python handler cannot run begins the shutdown."""
    run = Run()
    with watching(run) as (watch, shutdown):
        write(watch, TERM)
        assert run.was_woken()
        assert shutdown.phase is Phase.CANCEL
        assert shutdown.signum == TERM


def test_handler_alone() -> None:
    """So does one whose byte went to another library."""
    run = Run(subscribed=True)
    with watching(run) as (watch, shutdown):
        watch.hear(TERM, monotonic())
        assert run.was_woken()
        assert shutdown.phase is Phase.DRAIN


@pytest.mark.parametrize("byte_first", [True, False])
def test_both_are_one_signal(byte_first: bool) -> None:
    """However long the handler takes, it does not count again."""
    run = Run()
    with watching(run) as (watch, shutdown):
        now = monotonic()
        if byte_first:
            write(watch, TERM)
            assert run.was_woken()
        watch.hear(TERM, now + 0.3)
        if not byte_first:
            watch._read(bytes([TERM]), now + 0.6)
        assert shutdown.phase is Phase.CANCEL
        assert shutdown.ends_at > now + 50


def test_two_bytes_and_one_handler() -> None:
    """The larger count is how many there were."""
    run = Run(subscribed=True)
    with watching(run) as (watch, shutdown):
        now = monotonic()
        watch._read(bytes([TERM]), now)
        watch.hear(TERM, now + 0.3)
        assert shutdown.phase is Phase.DRAIN
        watch._read(bytes([TERM]), now + 0.6)
        assert Phase(shutdown.phase) is Phase.CANCEL


def test_signal_of_another_handler() -> None:
    """A server that has taken SIGTERM over winds up by itself; SIGINT may mean anything."""
    run = Run(owned=())
    with watching(run) as (watch, shutdown):
        watch._read(bytes([signal.SIGINT]), monotonic())
        watch._read(bytes([signal.SIGUSR1]), monotonic())
        assert shutdown.phase is Phase.RUN
        watch._read(bytes([TERM]), monotonic())
        assert Phase(shutdown.phase) is Phase.DRAIN


def test_let_in() -> None:
    """A handler waits for the thread to see its signal, but not for ever."""
    run = Run()
    with watching(run) as (watch, _):
        write(watch, TERM)
        assert run.was_woken()
        watch.let_in(1)
        began = monotonic()
        watch.let_in(2)
        assert monotonic() - began < 10


# Requests and time


def test_request() -> None:
    """From whatever thread; the first reason counts."""
    run = Run(subscribed=True)
    with watching(run) as (watch, shutdown):
        watch.request("first")
        watch.request("second")
        assert run.was_woken()
        assert shutdown.phase is Phase.DRAIN
        assert shutdown.reason == "first"


def test_time_is_told() -> None:
    """Share by share, until the process is to end."""
    run = Run(subscribed=True)
    with watching(run, grace=0.2) as (watch, shutdown):
        watch.request(None)
        assert run.ended.wait(20)
        assert shutdown.phase is Phase.HARD
        assert shutdown.share is Share.NOTHING
        assert monotonic() >= shutdown.ends_at


def test_event_without_change_wakes_nobody() -> None:
    """A second request changes nothing."""
    run = Run()
    with watching(run) as (watch, _):
        watch.request(None)
        assert run.was_woken()
        watch.tell(lambda shutdown: shutdown.request(None, 0.0, subscribed=False))
        assert not run.woken.acquire(blocking=False)


def test_poke_when_it_is_over() -> None:
    """It is too late, and that is no error."""
    with watching(Run()) as (watch, _):
        pass
    watch.poke()
    watch.request("late")


def test_more_pokes_than_fit() -> None:
    """The thread looks again all the same, and they are no signals."""
    run = Run()
    shutdown = Shutdown(60.0)
    watch = Watch(shutdown, run)
    for _ in range(10_000):
        watch.poke()
    watch.start()
    watch.request("enough")
    assert run.was_woken()
    watch.stop()
    assert shutdown.signum is None
    assert shutdown.reason == "enough"


# The wake-up fd


@pytest.fixture
def theirs() -> Iterator[socket.socket]:
    """The reading end of somebody else's wake-up fd."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reader.settimeout(20)
    signal.set_wakeup_fd(writer.fileno())
    yield reader
    signal.set_wakeup_fd(-1)
    reader.close()
    writer.close()


def current() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def test_fd_is_forwarded_and_given_back(theirs: socket.socket) -> None:
    """Whoever had it gets every signal, and none of our pokes."""
    before = current()
    with watching(Run()) as (watch, _):
        watch.take_wakeup_fd()
        watch.take_wakeup_fd()
        assert current() == watch._writer.fileno()
        watch.poke()
        write(watch, TERM)
        assert theirs.recv(10) == bytes([TERM])
        watch.loop_stopped()
        write(watch, TERM)
        assert theirs.recv(10) == bytes([TERM])
        watch.give_back_wakeup_fd()
        assert current() == before
        watch.give_back_wakeup_fd()
        assert current() == before


def test_fd_of_the_loop_is_dropped_with_it(theirs: socket.socket) -> None:
    """One that came later is the loop's, which closes it when it stops."""
    with watching(Run()) as (watch, _):
        watch.take_wakeup_fd()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        reader.settimeout(20)
        signal.set_wakeup_fd(writer.fileno())
        watch.take_wakeup_fd()
        writer.close()
        write(watch, TERM)
        assert reader.recv(10) == bytes([TERM])
        assert theirs.recv(10) == bytes([TERM])
        watch.loop_stopped()
        assert reader.recv(10) == b""
        reader.close()
        watch.give_back_wakeup_fd()


def test_fd_that_nobody_had() -> None:
    """Then nobody has it afterwards."""
    assert current() == -1
    with watching(Run()) as (watch, _):
        watch.take_wakeup_fd()
        watch.loop_stopped()
        watch.give_back_wakeup_fd()
        assert current() == -1


def test_fd_that_was_taken_from_us(theirs: socket.socket) -> None:
    """Whoever has it at the end keeps it."""
    before = current()
    with watching(Run()) as (watch, _):
        watch.take_wakeup_fd()
        signal.set_wakeup_fd(before)
        watch.give_back_wakeup_fd()
        assert current() == before


def fill(fd: int) -> None:
    with suppress(BlockingIOError):
        while True:
            os.write(fd, b"\1" * 1000)


def test_forward_that_is_full(theirs: socket.socket) -> None:
    """It does not keep the shutdown from its signal."""
    run = Run()
    with watching(run) as (watch, _):
        watch.take_wakeup_fd()
        fill(watch._forwards[0])
        write(watch, TERM)
        assert run.was_woken()
        watch.give_back_wakeup_fd()


def test_forget(theirs: socket.socket) -> None:
    """A forked child has none of it open, and writes no signal to its parent."""
    files = len(os.listdir("/proc/self/fd"))
    watch = Watch(Shutdown(60.0), Run())
    watch.take_wakeup_fd()
    watch.forget()
    assert current() == -1
    assert len(os.listdir("/proc/self/fd")) == files


def test_reader_that_is_closed() -> None:
    """Whatever closed it, the thread ends quietly."""
    watch = Watch(Shutdown(60.0), Run())
    watch._reader.close()
    watch.start()
    watch._thread.join(20)
    assert not watch._thread.is_alive()
    watch.stop()
