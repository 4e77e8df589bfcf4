"""What a run found, as data: `--json` writes it, `--write` reads it."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Self, final

import attrs

_PACKAGES = ("anyio", "aiometer", "aioitertools", "uvloop")


@attrs.frozen
@final
class Context:
    """Where the figures come from."""

    python: str
    system: str
    cores: int
    load: list[float]  # average of one minute, before and after
    packages: dict[str, str]
    quick: bool

    @classmethod
    def here(cls, *, quick: bool, packages: Sequence[str] = _PACKAGES) -> Self:
        """Describe this interpreter and machine, without naming the machine."""
        return cls(
            python=f"{platform.python_implementation()} {platform.python_version()}",
            system=f"{platform.system()} {platform.machine()}",
            cores=len(os.sched_getaffinity(0))
            if sys.platform == "linux"
            else os.cpu_count() or 1,
            load=[load_average()],
            packages={name: version(name) for name in packages},
            quick=quick,
        )

    def __str__(self) -> str:
        load = " to ".join(f"{load:.1f}" for load in self.load)
        packages = ", ".join(
            f"{name} {number}" for name, number in self.packages.items()
        )
        return (
            f"{self.python}, {self.system}, {self.cores} cores, load average {load}; "
            f"{packages}"
        )


def load_average() -> float:
    return os.getloadavg()[0]


@attrs.frozen
@final
class Cell:
    """One way of doing one thing.

    Attributes:
        seconds: The median of the timed repeats.
        spread: The distance of the quickest from the slowest repeat, over the median.
        speed: How many times as fast as asyncio.gather.
        peak: Bytes, results and coroutines included.
        memory: The peak as a share of asyncio.gather's.
    """

    loop: str
    item: str
    n: int
    way: str
    repeats: int
    seconds: float
    spread: float
    speed: float
    peak: int
    memory: float


@attrs.frozen
@final
class Verdict:
    """What a goal asks, and what was measured.

    Attributes:
        judged: Whether the bound holds for this run, or it is for orientation only.
    """

    goal: str
    value: float
    unit: str
    at_least: float | None
    at_most: float | None
    judged: bool

    @property
    def met(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def missed(self) -> bool:
        return self.judged and not self.met


@attrs.frozen
@final
class Report:
    """All of one run, on one interpreter."""

    context: Context
    cells: list[Cell] = attrs.field(factory=list[Cell])
    verdicts: list[Verdict] = attrs.field(factory=list[Verdict])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(attrs.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        data = json.loads(path.read_text())
        return cls(
            Context(**data["context"]),
            [Cell(**cell) for cell in data["cells"]],
            [Verdict(**verdict) for verdict in data["verdicts"]],
        )
