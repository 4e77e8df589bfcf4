"""Structured-concurrency drop-ins for raw asyncio habits."""

from ._cancel import cancel_and_wait, shielded
from ._gather import bounded_gather
from ._group import BoundedGroup, bounded_group
from ._map import bounded_map
from ._rate import RateLimiter
from ._scope import CleanupScope, cleanup_scope
from ._stream import bounded_stream
from .exceptions import (
    CancellationSwallowedWarning,
    ChildCancelled,
    CleanupError,
    SafeaioError,
    TaskStuckError,
    TaskStuckWarning,
)

__all__ = [
    "BoundedGroup",
    "CancellationSwallowedWarning",
    "ChildCancelled",
    "CleanupError",
    "CleanupScope",
    "RateLimiter",
    "SafeaioError",
    "TaskStuckError",
    "TaskStuckWarning",
    "bounded_gather",
    "bounded_group",
    "bounded_map",
    "bounded_stream",
    "cancel_and_wait",
    "cleanup_scope",
    "shielded",
]
