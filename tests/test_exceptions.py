"""Errors and warnings: what they carry, and where they stand."""

import inspect
import pickle
from copy import copy

import pytest

from safeaio import exceptions
from safeaio.exceptions import (
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

GIVEN_UP = SupervisionError("service 'db' failed 2 times", [OSError("refused")])
GIVEN_UP.service = "db"
GIVEN_UP.history = (Failure("db", "OSError('refused')", 12.5),)

EXAMPLES = [
    SafeaioError("x"),
    CancellationSwallowedWarning("went on"),
    ChildCancelled("argument 3"),
    CleanupError("cleanup failed", [ValueError(1), TimeoutError(2)]),
    LeakError("main left behind a task"),
    LeakWarning("main left behind a task"),
    SessionClosed(CloseInfo(1000, "bye", "remote", True, "peer")),
    SessionRefused(CloseInfo(1013, "", "local", False, "refused")),
    GIVEN_UP,
    SupervisorClosed("app"),
    TaskStuckError(("one hangs", "another one, too")),
    TaskStuckWarning("hangs"),
    Terminated(15),
]


def ours() -> set[type]:
    return {
        cls
        for _, cls in inspect.getmembers(exceptions, inspect.isclass)
        if cls.__module__ == exceptions.__name__ and issubclass(cls, BaseException)
    }


def test_every_exception_has_an_example() -> None:
    """No exception escapes the tests below."""
    assert {type(example) for example in EXAMPLES} == ours()


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda example: type(example).__name__
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(example: BaseException, protocol: int) -> None:
    """An exception crosses to another process with its fields, text and notes."""
    example.add_note("a note")
    for again in (pickle.loads(pickle.dumps(example, protocol)), copy(example)):
        assert type(again) is type(example)
        assert again.__dict__ == example.__dict__
        assert str(again) == str(example)


def test_tree_is_the_one_that_is_drawn() -> None:
    """The tree at the top of the module shows every exception below its base."""
    drawing = (exceptions.__doc__ or "").split("```")[1]
    parents: list[str] = []
    drawn: set[tuple[str, str]] = set()
    for line in drawing.strip().splitlines():
        name = line.lstrip(" │├└─").partition(" ")[0]
        depth = line.index(name) // 4
        del parents[depth:]
        if parents:
            drawn.add((parents[-1], name))
        parents.append(name)
    bases = {(base.__name__, cls.__name__) for cls in ours() for base in cls.__bases__}
    assert bases <= drawn
    assert drawn - bases == {
        ("Exception", "ExceptionGroup"),
        ("Warning", "ResourceWarning"),
        ("Warning", "RuntimeWarning"),
    }


def test_part_of_a_supervision_error_says_the_same() -> None:
    """Of which service it is, and what came before."""
    part, rest = GIVEN_UP.split(OSError)
    assert rest is None
    assert isinstance(part, SupervisionError)
    assert (part.service, part.history) == (GIVEN_UP.service, GIVEN_UP.history)


def test_child_cancelled_names_the_child() -> None:
    """The text begins with which child it was, and says what may have happened."""
    error = ChildCancelled("argument 3")
    assert error.child == "argument 3"
    assert str(error).startswith(
        "argument 3 ended cancelled, though its caller was not"
    )


@pytest.mark.parametrize(
    ("terminated", "code", "text"),
    [
        (Terminated(15), 143, "shut down by SIGTERM"),
        (Terminated(36), 164, "shut down by signal 36"),
        (Terminated(), 0, "shut down by request_shutdown()"),
        (Terminated(None, "idle"), 0, "shut down by request_shutdown(): idle"),
    ],
)
def test_terminated_says_what_ended_the_program(
    terminated: Terminated, code: int, text: str
) -> None:
    """The exit status is that of a process killed by the signal; without one it is 0."""
    assert (terminated.code, str(terminated)) == (code, text)
    assert pickle.loads(pickle.dumps(terminated)).code == code
