"""What goes into the tests of asyncio code."""

from ._clock import DeadlockError, VirtualClockLoop
from ._run import Route, Run
from ._sweep import Broken, SweepError, SweepReport, cancel_sweep

__all__ = [
    "Broken",
    "DeadlockError",
    "Route",
    "Run",
    "SweepError",
    "SweepReport",
    "VirtualClockLoop",
    "cancel_sweep",
]
