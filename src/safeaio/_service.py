"""What a supervisor is asked to keep up, and how patiently."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf, isfinite
from types import FunctionType, MethodType
from typing import Any, ClassVar, Literal, TypeAlias, cast, final

import attrs

from ._record import Record
from ._seconds import check_seconds

RestartPolicy: TypeAlias = Literal["on-failure", "always", "never"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]

MAX_RESTARTS = 5

_POLICIES = ("on-failure", "always", "never")


@attrs.frozen(kw_only=True, eq=False, repr=False)
@final
class Backoff(Record):
    """How long to wait before one restart after another: pure.

    The delay before the first restart in a row is `base`, every further one is `factor`
    times the one before, none is longer than `cap`; each is then shortened by a random
    part of up to `jitter` of it, lest many clients come back at once. Jitter that is
    added before the cap, as elsewhere, is none where it matters most: at the cap.

    >>> backoff = Backoff(base=1.0, cap=5.0)
    >>> [backoff.delay(restart) for restart in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]

    Args:
        base: Seconds before the first restart.
        factor: What each further delay is multiplied by, at least 1.
        cap: The longest delay, in seconds.
        jitter: The part of a delay that chance may take off, between 0 and 1.

    Raises:
        TypeError: For what is no number.
        ValueError: For a number that is negative, NaN, infinite, or out of its bounds.
    """

    base: float = 0.2
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.5

    def __attrs_post_init__(self) -> None:
        for name in ("base", "factor", "cap", "jitter"):
            value: object = getattr(self, name)
            check_seconds(f"Backoff: {name}", value, optional=False)
            if not isfinite(getattr(self, name)):
                raise ValueError(f"Backoff: {name} must be finite, got {value!r}")
        if self.factor < 1:
            raise ValueError(
                f"Backoff: factor must be at least 1, got {self.factor!r}: a delay "
                "does not get shorter from one failure to the next"
            )
        if self.jitter > 1:
            raise ValueError(
                f"Backoff: jitter is a part of the delay, between 0 and 1, got {self.jitter!r}"
            )

    def delay(self, restart: int, chance: float = 0.0) -> float:
        """Return the seconds to wait before a restart.

        Args:
            restart: Which one it is in a row, from 1.
            chance: How much of the jitter to apply, between 0 and 1.
        """
        try:
            longest = min(self.cap, self.base * float(self.factor) ** (restart - 1))
        except OverflowError:
            longest = self.cap if self.base else 0.0
        return longest * (1.0 - self.jitter * chance)


@attrs.frozen(eq=False, repr=False)
@final
class Intensity(Record):
    """How many restarts a supervisor stands, over all its children, before it gives up.

    As in Erlang/OTP: more than `restarts` within `period` are too many. A restart of a
    whole group counts once.

    Args:
        restarts: The number, at least 0.
        period: The seconds, more than 0.

    Raises:
        TypeError: For what is no number.
        ValueError: For a number out of its bounds.
    """

    restarts: int
    period: float

    def __attrs_post_init__(self) -> None:
        _check_count("Intensity: restarts", self.restarts)
        check_seconds("Intensity: period", self.period, optional=False)
        if not 0 < self.period < inf:
            raise ValueError(
                f"Intensity: period must be more than 0 seconds and finite, got {self.period!r}"
            )


@attrs.frozen(init=False, eq=False, repr=False)
@final
class Service(Record):
    """An async function that a supervisor keeps up, and how.

    >>> async def poll(url: str) -> None: ...
    >>> Service(poll, "/status", name="poller", restart="always").name
    'poller'

    Args:
        func: An async function; each of its lives is a new call. If it has a parameter
            `task_status`, it is ready once it has called `task_status.started()`, as in
            anyio; else it is ready once it has been started.
        *args: Its arguments. Use `functools.partial` for keyword arguments.
        name: Unique in its supervisor; by default the function's name.
        restart: Whether to start it again `"on-failure"`, `"always"` (also if it returns)
            or `"never"`.
        essential: Whether all others stop when it has ended for good: normally if it
            returned, by a SupervisionError if it failed.
        max_restarts: How often it may be restarted in a row; 5 by default.
        healthy_after: Seconds of being ready after which the next restart is the first in
            a row again.
        backoff: How long to wait before a restart.
        start_timeout: Seconds it may take to become ready; None for no limit.
        stop_timeout: Seconds it may take to end once it is cancelled; then it is called
            stuck. None for no limit.
        watchdog: Seconds without a call of `beat()` after which it counts as failed; None
            for no limit.

    Raises:
        TypeError: If `func` is no async function, or an option has the wrong type.
        ValueError: If an option is out of its bounds, or two exclude each other:
            `essential` one that is always restarted, `max_restarts` for one that never is.
    """

    func: Callable[..., Awaitable[object]]
    args: tuple[Any, ...]
    name: str | None
    restart: RestartPolicy
    essential: bool
    max_restarts: int | None
    healthy_after: float
    backoff: Backoff
    start_timeout: float | None
    stop_timeout: float | None
    watchdog: float | None
    reports: bool
    default_name: str
    __attrs_init__: ClassVar[Any]  # type checkers do not know it

    def __init__(
        self,
        func: Callable[..., Awaitable[object]],
        /,
        *args: Any,
        name: str | None = None,
        restart: RestartPolicy = "on-failure",
        essential: bool = False,
        max_restarts: int | None = None,
        healthy_after: float = 30.0,
        backoff: Backoff = Backoff(),
        start_timeout: float | None = 30.0,
        stop_timeout: float | None = 10.0,
        watchdog: float | None = None,
    ) -> None:
        check_function("Service", func)
        self.__attrs_init__(
            func,
            args,
            name,
            restart,
            essential,
            max_restarts,
            healthy_after,
            backoff,
            start_timeout,
            stop_timeout,
            watchdog,
            reports_readiness(func),
            getattr(innermost(func), "__name__", type(func).__name__),
        )

    def __attrs_post_init__(self) -> None:
        if self.restart not in _POLICIES:
            raise ValueError(
                f'restart must be "on-failure", "always" or "never", got {self.restart!r}'
            )
        if self.max_restarts is not None:
            _check_count("max_restarts", self.max_restarts)
        for option in ("healthy_after", "start_timeout", "stop_timeout", "watchdog"):
            optional = option != "healthy_after"
            check_seconds(option, getattr(self, option), optional=optional)
        check_type("essential", self.essential, bool)
        if self.watchdog == 0:
            raise ValueError("watchdog must be more than 0 seconds, got 0")
        check_type("backoff", self.backoff, Backoff)
        check_name(self.name)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.essential and self.restart == "always":
            raise ValueError(
                'essential=True with restart="always": it never ends for good, so nothing '
                'would ever follow from it; write restart="on-failure"'
            )
        if self.max_restarts is not None and self.restart == "never":
            raise ValueError(
                f'max_restarts={self.max_restarts} with restart="never": it is not '
                "restarted at all; leave max_restarts out"
            )


def innermost(func: Any) -> Any:
    """Return a function without the partials around it."""
    while isinstance(func, partial):
        func = func.func
    return func


def check_function(owner: str, func: object) -> Callable[..., Awaitable[object]]:
    """Refuse what cannot be called again for every life."""
    if inspect.iscoroutine(func):
        func.close()
        raise TypeError(
            f"{owner} takes an async function, which it calls for every life, got {func!r}; "
            f"write {func.__name__}, not {func.__name__}(...)"
        )
    if not callable(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{owner} takes an async function, got {func!r}")
    return cast("Callable[..., Awaitable[object]]", func)


def reports_readiness(func: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter `task_status`."""
    plain = func.__func__ if isinstance(func, MethodType) else func
    if isinstance(plain, FunctionType) and not hasattr(plain, "__wrapped__"):
        code = plain.__code__  # a twentieth of what a signature costs
        return (
            "task_status"
            in code.co_varnames[
                code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount
            ]
        )
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):  # a builtin
        return False
    found = parameters.get("task_status")
    return found is not None and found.kind in (
        found.KEYWORD_ONLY,
        found.POSITIONAL_OR_KEYWORD,
    )


def check_arguments(owner: str, service: Service, args: tuple[Any, ...]) -> None:
    """Refuse what every life would fail with."""
    try:
        signature = inspect.signature(service.func)
    except (TypeError, ValueError):  # a builtin
        return
    try:
        signature.bind(*args, **({"task_status": None} if service.reports else {}))
    except TypeError as exc:
        raise TypeError(
            f"{owner}: {service.func!r} cannot be called with the arguments {args!r}: {exc}; "
            "positional ones follow the function, for others use functools.partial"
        ) from None


def check_type(name: str, value: object, wanted: type) -> None:
    """Refuse an option of another type."""
    if not isinstance(value, wanted):
        article = "an" if wanted.__name__[0] in "AEIO" else "a"
        raise TypeError(f"{name} must be {article} {wanted.__name__}, got {value!r}")


def check_name(name: object) -> None:
    """Refuse what cannot be part of a path."""
    if name is not None:
        check_type("name", name, str)
    if name == "":
        raise ValueError("name must not be empty; leave it out for the default")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
