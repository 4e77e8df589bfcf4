"""The options of `supervise`, checked."""

import inspect
from collections import Counter

from ._child import OWNER
from ._restart import Window, can_exceed
from ._seconds import check_seconds
from ._service import (
    Intensity,
    Service,
    check_arguments,
    check_name,
    check_type,
)

_STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


def check_options(
    strategy: object,
    intensity: object,
    total_stop_timeout: float,
    on_event: object,
    name: str | None,
) -> None:
    """Check each by itself."""
    if strategy not in _STRATEGIES:
        raise ValueError(
            f'strategy must be "one_for_one", "one_for_all" or "rest_for_one", got {strategy!r}'
        )
    check_seconds("total_stop_timeout", total_stop_timeout, optional=False)
    if intensity is not None:
        check_type("intensity", intensity, Intensity)
    check_name(name)
    if on_event is not None and (
        not callable(on_event) or inspect.iscoroutinefunction(on_event)
    ):
        raise TypeError(
            f"on_event must be a function, which is called and not awaited, got {on_event!r}"
        )


def check_services(services: tuple[Service, ...]) -> None:
    """Check that each has a name of its own, and takes its arguments."""
    names = Counter(service.name for service in services if service.name is not None)
    for known, count in names.items():
        if count > 1:
            raise ValueError(
                f"{OWNER}: two services are called {known!r}; give each a name of its own"
            )
    alike = {(id(service.func), len(service.args)): service for service in services}
    for service in alike.values():  # a signature takes longer than a start
        check_arguments(OWNER, service, service.args)


def window_of(
    intensity: Intensity | None, services: tuple[Service, ...]
) -> Window | None:
    """Return what counts the restarts of all, if they are limited."""
    if intensity is None:
        return None
    if not can_exceed(intensity, services):
        raise ValueError(
            f"{OWNER}: {intensity} can never be exceeded, since each restart waits for "
            "its backoff; allow fewer restarts, or count them over a longer period"
        )
    return Window(intensity)
