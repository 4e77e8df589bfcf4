"""Runs the examples of the docs, the README and the docstrings, and compares what they print.

A `text` block shows what the `python` blocks before it have printed. One that nothing
printed, and a print that no block shows, fail.
"""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

_execute = PythonEvaluator()


def _run(example: Example) -> None:
    with redirect_stdout(StringIO()) as printed:
        _execute(example)
    example.namespace["printed"] = (
        example.namespace.get("printed", "") + printed.getvalue()
    )


def _compare(example: Example) -> str | None:
    printed = example.namespace.pop("printed", "")
    shown = str(example.parsed)
    if printed.rstrip("\n") == shown.rstrip("\n"):
        return None
    return f"the page shows:\n{shown}\nbut this was printed:\n{printed}"


def _all_shown(namespace: dict[str, Any]) -> None:
    printed = namespace.get("printed", "")
    assert not printed, f"no text block shows what was printed last:\n{printed}"


_pages = Sybil(
    parsers=[
        CodeBlockParser("python", _run),
        CodeBlockParser("text", _compare),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    teardown=_all_shown,
)
_docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/**/*.py"])

pytest_collect_file = (_pages + _docstrings).pytest()
