"""Structured-concurrency drop-ins for raw asyncio habits."""

from ._background import background
from ._cancel import cancel_and_wait, shielded
from ._events import (
    ChildFailed,
    ChildFinished,
    ChildReady,
    ChildStarting,
    ChildStopped,
    ChildStopping,
    ChildStuck,
    Event,
    GroupRestart,
    SupervisorGaveUp,
)
from ._gather import bounded_gather
from ._group import BoundedGroup, bounded_group
from ._handle import Handle
from ._map import bounded_map
from ._rate import RateLimiter
from ._runner import request_shutdown, run, shutdown_requested, wait_for_shutdown
from ._scope import CleanupScope, cleanup_scope
from ._service import Backoff, Intensity, Service
from ._snapshot import Health, Snapshot
from ._stream import bounded_stream
from ._supervisor import Supervisor, beat, supervise
from .exceptions import (
    CancellationSwallowedWarning,
    ChildCancelled,
    CleanupError,
    CloseInfo,
    Failure,
    LeakError,
    LeakWarning,
    SafeaioError,
    SessionClosed,
    SessionRefused,
    SupervisionError,
    SupervisorClosed,
    TaskStuckError,
    TaskStuckWarning,
    Terminated,
)

__all__ = [
    "Backoff",
    "BoundedGroup",
    "CancellationSwallowedWarning",
    "ChildCancelled",
    "ChildFailed",
    "ChildFinished",
    "ChildReady",
    "ChildStarting",
    "ChildStopped",
    "ChildStopping",
    "ChildStuck",
    "CleanupError",
    "CleanupScope",
    "CloseInfo",
    "Event",
    "Failure",
    "GroupRestart",
    "Handle",
    "Health",
    "Intensity",
    "LeakError",
    "LeakWarning",
    "RateLimiter",
    "SafeaioError",
    "Service",
    "SessionClosed",
    "SessionRefused",
    "Snapshot",
    "SupervisionError",
    "Supervisor",
    "SupervisorClosed",
    "SupervisorGaveUp",
    "TaskStuckError",
    "TaskStuckWarning",
    "Terminated",
    "background",
    "beat",
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
    "supervise",
    "wait_for_shutdown",
]
