"""What type checkers and readers of annotations find; the types themselves are in tests/typing."""

import inspect
import typing
from importlib.resources import files

import pytest

import safeaio


def public_callables() -> dict[str, typing.Any]:
    return {
        name: value
        for name in safeaio.__all__
        if callable(value := getattr(safeaio, name))
    }


def test_is_typed() -> None:
    """The package says that it is typed."""
    assert files("safeaio").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", public_callables())
def test_annotations_resolve(name: str) -> None:
    """Annotations are real: they can be resolved at run time."""
    value = public_callables()[name]
    typing.get_type_hints(value)
    if inspect.isclass(value):
        for _, method in inspect.getmembers(value, inspect.isfunction):
            typing.get_type_hints(method)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (safeaio.bounded_gather, 14),
        (safeaio.bounded_map, 2),
        (safeaio.bounded_stream, 2),
    ],
)
def test_overloads_take_what_the_function_takes(
    function: typing.Any, count: int
) -> None:
    """Overloads have the keywords and the defaults of the function itself."""
    overloads = typing.get_overloads(function)
    assert len(overloads) == count
    keywords = keyword_defaults(function)
    for overload in overloads:
        for name, default in keyword_defaults(overload).items():
            assert default in (keywords[name], inspect.Parameter.empty)
        assert keyword_defaults(overload).keys() == keywords.keys()


def keyword_defaults(function: typing.Any) -> dict[str, object]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
