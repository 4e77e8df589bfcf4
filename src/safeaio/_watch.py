"""The thread that sees signals when nothing else can, and ends what does not end."""

# Python runs signal handlers between two bytecodes of the main thread: behind a long call
# into C they come too late. The C function that catches a signal writes its number to the
# wake-up fd at once, so this thread reads that. Where the call keeps the GIL as well, not
# even this thread runs; `faulthandler` has a timer that needs no GIL.
#
# A signal has two witnesses, the byte and the handler: another library may take the
# wake-up fd, and the handler may come late, or once for several. Each of them counts, and
# the larger count is how many signals there were.

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic, sleep
from typing import Protocol, final

from . import _backstop
from ._shutdown import SPACING, Phase, Shutdown

_LAST_WORDS = 0.4  # seconds to end the process, once there is time to begin with it
_POKE = b"\0"  # no signal has this number
_LONGEST = 86400.0  # what a socket may be asked to wait for


class Watched(Protocol):
    """The run, as its watch sees it."""

    def subscribed(self) -> bool:
        """Tell whether anybody would notice a drain."""
        ...

    def takes(self, signum: int) -> bool:
        """Tell whether a signal was ours when the run began."""
        ...

    def owns(self, signum: int) -> bool:
        """Tell whether a signal is ours now."""
        ...

    def wake(self) -> None:
        """Have the loop obey the shutdown; from any thread."""

    def end_process(self) -> None:
        """Kill the process, unless there is nothing left that has to be killed."""


@final
class Watch:
    """Tells a shutdown of signals, requests and time."""

    def __init__(self, shutdown: Shutdown, watched: Watched) -> None:
        self._shutdown = shutdown
        self._watched = watched
        self._lock = threading.Lock()  # never taken in a signal handler
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before: int | None = None
        self._forwards: list[int] = []
        self._requests: deque[str | None] = deque()
        self._seen = self._heard = self._counted = 0
        self._armed_for = inf
        self._stopped = False
        self._foreign_at = -inf
        self._thread = threading.Thread(
            target=self._run, name="safeaio.run", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take_wakeup_fd(self) -> None:
        """Have signals written to us first, and forward them; main thread only."""
        mine = self._writer.fileno()
        theirs = signal.set_wakeup_fd(mine, warn_on_full_buffer=False)
        if self._before is None:
            self._before = theirs
        if theirs in (-1, mine):
            return
        try:
            copy = os.dup(theirs)  # uvloop closes its own whenever it stops
        except OSError:  # it is closed already
            self._before = -1 if self._before == theirs else self._before
            return
        with self._lock:
            self._forwards.append(copy)

    def loop_stopped(self) -> None:
        """Forward no longer to the loop, which has put back what it found; main thread only."""
        with self._lock:
            keep = 0 if self._before in (-1, None) else 1
            gone, self._forwards = self._forwards[keep:], self._forwards[:keep]
        for copy in gone:
            os.close(copy)

    def give_back_wakeup_fd(self) -> None:
        """Restore the wake-up fd, unless somebody has taken it from us; main thread only."""
        if self._before is None:
            return
        try:
            theirs = signal.set_wakeup_fd(self._before)
        except (OSError, ValueError):  # closed meanwhile
            theirs = signal.set_wakeup_fd(-1)
        if theirs not in (-1, self._writer.fileno()):
            signal.set_wakeup_fd(theirs)
        self._before = None
        self.loop_stopped()

    def poke(self) -> None:
        """Have the thread look again; from anywhere, a signal handler included."""
        with suppress(OSError):  # full: it will look; closed: the run is over
            self._writer.send(_POKE)

    def let_in(self, arrived: int) -> None:
        """Give the thread the GIL, for it to see the latest signal; in a signal handler.

        Below the handler there may be C code that would keep it for long.
        """
        for _ in range(20):
            if self._seen >= arrived:
                return
            sleep(0.001)

    def request(self, reason: str | None) -> None:
        """Ask for the shutdown; from anywhere, a signal handler included."""
        self._requests.append(reason)
        self.poke()

    def tell(self, event: Callable[[Shutdown], None]) -> None:
        """Let `event` change the shutdown; `poke` if that cannot wait."""
        with self._lock:
            self._tell(event)

    def hear(self, signum: int, now: float) -> None:
        """Count a signal by its handler."""
        with self._lock:
            self._heard += 1
            if self._heard > self._counted:
                self._counted = self._heard
                self._signal(signum, now, subscribed=self._watched.subscribed())
            if now - self._foreign_at < SPACING and not self._watched.subscribed():
                # Their handler has called ours: it does not wind up by itself.
                self._tell(lambda shutdown: shutdown.interrupt(now))
        self.poke()

    def stop(self) -> None:
        """End the thread, if it was started."""
        with self._lock:
            self._stopped = True
            _backstop.disarm(self)
        self._writer.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._reader.close()
        del self._watched  # it holds this

    def forget(self) -> None:
        """Let go of what a forked child has inherited; the thread it has not."""
        if self._before is not None:
            signal.set_wakeup_fd(-1)  # else its signals would be written to its parent
        for copy in self._forwards:
            os.close(copy)
        self._writer.close()
        self._reader.close()

    def _tell(self, event: Callable[[Shutdown], None]) -> None:
        shutdown = self._shutdown
        before = (shutdown.phase, shutdown.share, shutdown.ends_at)
        event(shutdown)
        changed = (shutdown.phase, shutdown.share, shutdown.ends_at) != before
        if changed and shutdown.phase is not Phase.HARD:  # then it is our turn
            self._watched.wake()
        self._arm()

    def _pass_on(self, shutdown: Shutdown) -> None:
        now = monotonic()
        while self._requests:
            reason = self._requests.popleft()
            subscribed = self._watched.subscribed()
            shutdown.request(reason, now, subscribed=subscribed)
        shutdown.tick(now)

    def _signal(self, signum: int, now: float, *, subscribed: bool) -> None:
        self._tell(lambda shutdown: shutdown.signal(signum, now, subscribed=subscribed))

    def _arm(self) -> None:
        ends_at = self._shutdown.ends_at
        if self._shutdown.begun and ends_at != self._armed_for and not self._stopped:
            self._armed_for = ends_at
            _backstop.arm(self, ends_at)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._tell(self._pass_on)
                hard = self._shutdown.phase is Phase.HARD
                rest = self._shutdown.next_tick - monotonic()
            if hard:
                _backstop.arm(self, monotonic() + _LAST_WORDS - _backstop.AFTER)
                self._watched.end_process()
                _backstop.disarm(self)  # after all, there was nothing to end
                self._writer.close()
                self._reader.close()
                return
            wait = min(max(rest, 1e-4), _LONGEST)  # not 0, which would be not to wait
            try:
                self._reader.settimeout(None if rest == inf else wait)
                data = self._reader.recv(4096)
            except TimeoutError:
                continue
            except (
                OSError
            ):  # closed, by an interrupt of the main thread in a bad moment
                return
            if not data:
                return
            self._read(data, monotonic())

    def _read(self, data: bytes, now: float) -> None:
        signums = data.replace(_POKE, b"")
        with self._lock:
            for copy in self._forwards:
                with suppress(OSError):  # full, or closed
                    os.write(copy, signums)
            for signum in signums:
                self._see(signum, now)

    def _see(self, signum: int, now: float) -> None:
        if self._watched.owns(signum):
            if self._seen + 1 > self._counted:
                self._counted = self._seen + 1
                self._signal(signum, now, subscribed=self._watched.subscribed())
            self._seen += 1  # last: the handler waits for it
        elif signum != signal.SIGINT and self._watched.takes(signum):
            # A server that has put its own handler there winds up by itself. Of SIGINT
            # one cannot tell: a prompt or a debugger takes that for something else.
            self._foreign_at = now
            self._signal(signum, now, subscribed=True)
