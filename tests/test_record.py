"""Values of ours are like those of attrs."""

import pickle

import attrs
import pytest

import safeaio
from safeaio._record import Record

RECORDS = [
    value
    for name in safeaio.__all__
    if isinstance(value := getattr(safeaio, name), type) and issubclass(value, Record)
]


@attrs.frozen
class Point:
    x: int
    y: list[int]


@attrs.frozen(eq=False, repr=False)
class Ours(Record):
    x: int
    y: list[int]


def test_repr_and_equality_are_those_of_attrs() -> None:
    assert repr(Ours(1, [2])).replace("Ours", "Point") == repr(Point(1, [2]))
    assert Ours(1, [2]) == Ours(1, [2])
    assert Ours(1, [2]) != Ours(1, [3])
    assert Ours(1, [2]) != Point(1, [2])
    assert Ours(1, [2]) != 1


def test_hash() -> None:
    """Of what can be hashed, as with tuples."""
    assert hash(safeaio.Backoff(base=2)) == hash(safeaio.Backoff(base=2.0))
    assert len({safeaio.Backoff(), safeaio.Backoff(), safeaio.Backoff(cap=1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours(1, [2]))


def test_frozen_picklable_and_matched() -> None:
    ready = safeaio.ChildReady("app/api")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ready.path = "app"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(ready)) == ready
    match ready:
        case safeaio.ChildReady(path):
            assert path == "app/api"


@pytest.mark.parametrize("record", RECORDS)
def test_attrs_generates_nothing_else(record: type) -> None:
    """It would take twice as long to import."""
    assert len(RECORDS) > 10
    assert not {"__eq__", "__repr__", "__hash__"} & vars(record).keys()
