"""Structured-concurrency drop-ins for raw asyncio habits."""

from ._gather import bounded_gather
from ._group import BoundedGroup, bounded_group
from ._map import bounded_map
from ._rate import RateLimiter
from ._stream import bounded_stream
from .exceptions import ChildCancelled, SafeaioError, TaskStuckWarning

__all__ = [
    "BoundedGroup",
    "ChildCancelled",
    "RateLimiter",
    "SafeaioError",
    "TaskStuckWarning",
    "bounded_gather",
    "bounded_group",
    "bounded_map",
    "bounded_stream",
]
