"""Where a child of a supervisor is in its life."""

from enum import StrEnum


class State(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"  # for its turn to start
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


ENDED = frozenset({State.STOPPED, State.FINISHED, State.FAILED})
