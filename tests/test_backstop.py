"""The timer of `faulthandler`: where it writes, and what stays open."""

import os
import sys
from collections.abc import Iterator
from math import inf
from time import monotonic

import pytest

from safeaio import _backstop


class Stream:
    """A stderr that goes to a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def opened(deadline: float) -> list[int]:
    """Return what is open while the timer is set, and see that it is closed then."""
    owner = object()
    _backstop.arm(owner, deadline)
    try:
        return list(_backstop._opened)
    finally:
        _backstop.disarm(owner)
        assert _backstop._opened == []


def test_a_pipe_is_opened_again(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody who shares it finds it non-blocking."""
    monkeypatch.setattr(sys, "stderr", Stream(pipe[1]))
    (again,) = opened(monotonic() + 60)
    assert again not in pipe
    assert os.get_blocking(pipe[1])


def test_a_system_without_proc(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe itself is better than nothing."""

    def refuse(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(sys, "stderr", Stream(pipe[1]))
    monkeypatch.setattr(os, "open", refuse)
    assert opened(monotonic() + 60) == []


def test_around_a_fork(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent keeps its deadlines and its timer, a child has none."""
    monkeypatch.setattr(sys, "stderr", Stream(pipe[1]))
    owner = object()
    _backstop.arm(owner, monotonic() + 60)
    _backstop._before_fork()
    _backstop._after_fork()
    assert list(_backstop._deadlines) == [owner]
    assert len(_backstop._opened) == 1
    _backstop._before_fork()
    _backstop._in_child()
    assert not _backstop._deadlines
    assert not _backstop._opened
    _backstop._before_fork()
    _backstop._after_fork()


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is ended without last words."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "__stderr__", None)
    (null,) = opened(monotonic() + 60)
    assert null > 2


@pytest.mark.parametrize("deadline", [inf, monotonic() + 1e9])
def test_a_deadline_that_never_comes(deadline: float) -> None:
    """No timer is set for it."""
    assert opened(deadline) == []
