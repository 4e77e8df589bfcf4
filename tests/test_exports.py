"""The public surface, pinned."""

import safeaio
import safeaio.exceptions


def test_public_names() -> None:
    """These names, and no others, are public."""
    assert safeaio.__all__ == [
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
    assert all(hasattr(safeaio, name) for name in safeaio.__all__)


def test_exceptions_live_in_a_public_module() -> None:
    """A traceback shows where to import an exception from."""
    assert safeaio.ChildCancelled.__module__ == "safeaio.exceptions"


async def test_loops_run() -> None:
    """The suite runs async tests on every loop."""
    assert await safeaio.bounded_gather() == []
