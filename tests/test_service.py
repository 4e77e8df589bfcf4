"""What `Service`, `Backoff` and `Intensity` take and refuse."""

import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from hypothesis import given
from hypothesis import strategies as st

from safeaio import Backoff, Intensity, Service


async def poll(*_: object) -> None: ...


async def reports(*, task_status: TaskStatus[None]) -> None: ...


async def reports_too(
    a: int = 0, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None: ...


class Poller:
    async def run(self, *, task_status: TaskStatus[None]) -> None: ...

    async def __call__(self) -> None: ...


def test_defaults() -> None:
    """A service is what the contract says, unless it is told otherwise."""
    service = Service(poll, 1, 2)
    assert service.func is poll
    assert service.args == (1, 2)
    assert service.name is None
    assert service.restart == "on-failure"
    assert not service.essential
    assert service.max_restarts is None
    assert service.healthy_after == 30
    assert service.backoff == Backoff(base=0.2, factor=2.0, cap=30.0, jitter=0.5)
    assert service.start_timeout == 30
    assert service.stop_timeout == 10
    assert service.watchdog is None


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (poll, False),
        (reports, True),
        (reports_too, True),
        (functools.partial(reports), True),
        (functools.partial(reports_too, 1), True),
        (functools.partial(poll), False),
        (functools.partial(reports, task_status=anyio.TASK_STATUS_IGNORED), True),
        (Poller().run, True),
        (Poller(), False),
        (functools.wraps(reports)(lambda **kwargs: reports(**kwargs)), True),
        (min, False),
    ],
    ids=str,
)
def test_readiness_is_read_from_the_signature(
    func: Callable[..., Awaitable[object]], expected: bool
) -> None:
    """Who has a parameter `task_status` reports when it is ready."""
    assert Service(func).reports is expected


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (poll, "poll"),
        (functools.partial(functools.partial(poll, 1), 2), "poll"),
        (Poller().run, "run"),
        (Poller(), "Poller"),
    ],
)
def test_default_names(func: Callable[..., Awaitable[object]], name: str) -> None:
    """A service is called like its function, below any partial."""
    assert Service(func).default_name == name


def test_a_coroutine_is_closed_and_refused() -> None:
    """It could not be called again; the message says what to write."""
    with pytest.raises(TypeError, match=r"write poll, not poll\(\.\.\.\)"):
        Service(poll())  # type: ignore[arg-type]


async def generator() -> Any:
    yield


@pytest.mark.parametrize("func", [None, 3, generator], ids=str)
def test_what_is_no_function(func: Any) -> None:
    """Neither what cannot be called, nor an async generator."""
    with pytest.raises(TypeError, match="Service takes an async function, got"):
        Service(func)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"restart": "sometimes"}, ValueError, '"on-failure", "always" or "never"'),
        ({"max_restarts": -1}, ValueError, "max_restarts must be at least 0, got -1"),
        ({"max_restarts": 1.5}, TypeError, "a whole number, got 1.5"),
        ({"max_restarts": True}, TypeError, "a whole number, got True"),
        ({"healthy_after": -1}, ValueError, "healthy_after must be at least 0"),
        ({"healthy_after": None}, TypeError, "healthy_after must be a number"),
        ({"start_timeout": math.nan}, ValueError, "start_timeout"),
        ({"stop_timeout": "3"}, TypeError, "stop_timeout"),
        ({"watchdog": 0}, ValueError, "watchdog must be more than 0 seconds"),
        ({"backoff": 3}, TypeError, "backoff must be a Backoff, got 3"),
        ({"name": 3}, TypeError, "name must be a str, got 3"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"essential": True, "restart": "always"}, ValueError, "never ends for good"),
        ({"max_restarts": 3, "restart": "never"}, ValueError, "leave max_restarts out"),
    ],
    ids=str,
)
def test_what_a_service_refuses(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Every option is checked at the call."""
    with pytest.raises(error, match=match):
        Service(poll, **options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"base": -1}, ValueError, "Backoff: base must be at least 0"),
        ({"cap": math.inf}, ValueError, "Backoff: cap must be finite"),
        ({"factor": 0.5}, ValueError, "factor must be at least 1"),
        ({"jitter": 1.5}, ValueError, "between 0 and 1, got 1.5"),
        ({"jitter": math.nan}, ValueError, "jitter"),
        ({"base": "1"}, TypeError, "base"),
    ],
    ids=str,
)
def test_what_a_backoff_refuses(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """Numbers out of their bounds."""
    with pytest.raises(error, match=match):
        Backoff(**options)


@pytest.mark.parametrize(
    ("restarts", "period", "error"),
    [
        (-1, 1, ValueError),
        (1.0, 1, TypeError),
        (1, 0, ValueError),
        (1, math.inf, ValueError),
    ],
)
def test_what_an_intensity_refuses(
    restarts: Any, period: float, error: type[Exception]
) -> None:
    """Numbers out of their bounds."""
    with pytest.raises(error, match="Intensity"):
        Intensity(restarts, period)


def numbers(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_nan=False)


@given(
    base=numbers(0, 100),
    factor=numbers(1, 10),
    cap=numbers(0, 1000),
    jitter=numbers(0, 1),
    restart=st.integers(1, 500) | st.integers(1, 10**6),
    chance=numbers(0, 1),
)
def test_delays_are_capped_and_then_shortened(
    base: float, factor: float, cap: float, jitter: float, restart: int, chance: float
) -> None:
    """Every delay lies between its longest without the jitter, and its longest."""
    backoff = Backoff(base=base, factor=factor, cap=cap, jitter=jitter)
    longest = backoff.delay(restart)
    step_by_step = min(base, cap)
    for _ in range(min(restart - 1, 10_000)):
        step_by_step = min(step_by_step * factor, cap)
    assert restart > 10_000 or longest == pytest.approx(step_by_step)
    assert longest <= cap
    delay = backoff.delay(restart, chance)
    assert longest * (1 - jitter) <= delay * (1 + 1e-9)
    assert delay <= longest


def test_jitter_matters_at_the_cap_too() -> None:
    """Two that wait as long as can be do not come back together."""
    backoff = Backoff(base=1, cap=8, jitter=0.5)
    assert [backoff.delay(100, chance) for chance in (0, 0.5, 1)] == [8, 6, 4]
