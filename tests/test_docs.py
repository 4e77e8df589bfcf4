"""The pages say of the public names what the code says; what they run is in conftest.py."""

import ast
import inspect
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

import safeaio
import safeaio.exceptions
import safeaio.testing
import safeaio.websocket.uvicorn

PARTS = (safeaio, safeaio.testing, safeaio.websocket, safeaio.websocket.uvicorn)

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)(?:\((.*)\))?", re.MULTILINE)
# Defaults that are no literals.
DEFAULTS: dict[str, object] = {
    "(SIGINT, SIGTERM)": (signal.SIGINT, signal.SIGTERM),
    "tuple(Route)": tuple(safeaio.testing.Route),
    "VirtualClockLoop": safeaio.testing.VirtualClockLoop,
}


@pytest.mark.parametrize("module", [safeaio, safeaio.testing, safeaio.websocket])
def test_reference_has_every_name(module: ModuleType) -> None:
    """Whatever can be imported from the package is in the reference."""
    documented = {name for _, name, _ in DIRECTIVE.findall(REFERENCE)}
    assert set(module.__all__) <= documented


def test_every_error_is_exported() -> None:
    """Errors that the reference says can be imported from `safeaio` can be."""
    errors = {
        name
        for name, value in vars(safeaio.exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert errors <= set(safeaio.__all__)


def written_signatures() -> Iterator[tuple[str, str]]:
    for kind, name, signature in DIRECTIVE.findall(REFERENCE):
        if kind in {"function", "method"}:
            yield name, signature


@pytest.mark.parametrize(("name", "signature"), [*written_signatures()])
def test_reference_shows_the_signature(name: str, signature: str) -> None:
    """Parameters, their kinds and their defaults are those of the code."""
    arguments = re.sub(r"\) ->.*", "", signature)
    written = ast.parse(f"def written({arguments}): ...").body[0]
    assert isinstance(written, ast.FunctionDef)
    parameters = inspect.signature(_find(name)).parameters.values()
    assert [*_written(written.args)] == [
        (p.name, p.kind, p.default) for p in parameters if p.name != "self"
    ]


def _written(args: ast.arguments) -> Iterator[tuple[str, object, object]]:
    none: Any = inspect.Parameter.empty
    positional = [*args.posonlyargs, *args.args]
    defaults = [none] * (len(positional) - len(args.defaults)) + [*args.defaults]
    for arg, default in zip(positional, defaults, strict=True):
        only = arg in args.posonlyargs
        kind = (
            inspect.Parameter.POSITIONAL_ONLY
            if only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        yield arg.arg, kind, _value(default)
    if args.vararg is not None:
        yield args.vararg.arg, inspect.Parameter.VAR_POSITIONAL, none
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield arg.arg, inspect.Parameter.KEYWORD_ONLY, _value(default)
    if args.kwarg is not None:
        yield args.kwarg.arg, inspect.Parameter.VAR_KEYWORD, none


def _value(default: object) -> object:
    if not isinstance(default, ast.expr):
        return inspect.Parameter.empty
    return DEFAULTS.get(ast.unparse(default)) or ast.literal_eval(default)


def _find(name: str) -> Callable[..., object]:
    first, *_ = parts = name.removeprefix("safeaio.websocket.uvicorn.").split(".")
    found: Any = next(part for part in PARTS if hasattr(part, first))
    for part in parts:
        found = getattr(found, part)
    return cast(Callable[..., object], found)


PAGES = [
    str(page.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "howto")
    for page in sorted(folder.glob("*.md"))
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """A link to a file of the repository finds it."""
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_readme_is_short() -> None:
    """It has at most 400 words, so that people read it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    assert len(re.findall(r"[\w`.']+", prose)) <= 400


def test_migration_starts_with_the_one_trap() -> None:
    """Whoever reads only one line of it reads that one."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    assert text.splitlines()[2] == (
        "Children that wait for *each other* need `limit=None`."
    )
