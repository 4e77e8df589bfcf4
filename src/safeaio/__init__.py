"""Structured-concurrency drop-ins for raw asyncio habits."""

from ._background import background
from ._cancel import cancel_and_wait, shielded
from ._gather import bounded_gather
from ._group import BoundedGroup, bounded_group
from ._map import bounded_map
from ._rate import RateLimiter
from ._runner import request_shutdown, run, shutdown_requested, wait_for_shutdown
from ._scope import CleanupScope, cleanup_scope
from ._stream import bounded_stream
from .exceptions import (
    CancellationSwallowedWarning,
    ChildCancelled,
    CleanupError,
    LeakError,
    LeakWarning,
    SafeaioError,
    TaskStuckError,
    TaskStuckWarning,
    Terminated,
)

__all__ = [
    "BoundedGroup",
    "CancellationSwallowedWarning",
    "ChildCancelled",
    "CleanupError",
    "CleanupScope",
    "LeakError",
    "LeakWarning",
    "RateLimiter",
    "SafeaioError",
    "TaskStuckError",
    "TaskStuckWarning",
    "Terminated",
    "background",
    "bounded_gather",
    "bounded_group",
    "bounded_map",
    "bounded_stream",
    "cancel_and_wait",
    "cleanup_scope",
    "request_shutdown",
    "run",
    "shielded",
    "shutdown_requested",
    "wait_for_shutdown",
]
