"""What a run raises in the end."""

import asyncio
import signal
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeaio import Terminated
from safeaio._verdict import Fatal, interrupt_of, is_fatal, verdict

FATAL = pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])


class Error(Exception):
    """What main raises."""


def chain(error: BaseException | None) -> list[BaseException]:
    """`error` and what it came from; it ends, or this fails."""
    found: list[BaseException] = []
    while error is not None:
        assert error not in found
        found.append(error)
        error = error.__context__
    return found


# Without a shutdown


def test_nothing() -> None:
    """A main that returned raises nothing."""
    assert verdict(None, None, None) == (None, None)


@pytest.mark.parametrize("error", [Error(), asyncio.CancelledError(), SystemExit(3)])
def test_what_main_raised(error: BaseException) -> None:
    """It is raised as it is."""
    assert verdict(error, None, None) == (error, None)
    assert error.__context__ is None


def test_group_of_errors() -> None:
    """Without an interrupt in it a group is an error as any other."""
    group = ExceptionGroup("", [Error(), Error()])
    assert verdict(group, None, None) == (group, None)


# Interrupts in groups


@FATAL
def test_fatal_alone_in_a_group(kind: type[Fatal]) -> None:
    """The interrupt itself is raised, bare; its group goes."""
    fatal = kind(3)
    assert verdict(BaseExceptionGroup("", [fatal]), None, None) == (fatal, None)
    assert fatal.args == (3,)


@FATAL
def test_fatal_in_nested_groups(kind: type[Fatal]) -> None:
    """However deep it is."""
    fatal = kind(3)
    group = BaseExceptionGroup(
        "", [BaseExceptionGroup("", [BaseExceptionGroup("", [fatal])])]
    )
    assert verdict(group, None, None) == (fatal, None)


def test_several_in_a_group() -> None:
    """The first of them is raised; with nothing else in the group, nothing is hidden."""
    first = SystemExit(3)
    group = BaseExceptionGroup(
        "", [BaseExceptionGroup("", [first]), KeyboardInterrupt(), SystemExit(4)]
    )
    assert verdict(group, None, None) == (first, None)


@FATAL
def test_mixed_group(kind: type[Fatal]) -> None:
    """The rest of the group is what the interrupt came from, and is handed back to report."""
    fatal, error, other = kind(3), Error("one"), Error("two")
    inner = BaseExceptionGroup("inner", [fatal, other])
    raised, hidden = verdict(BaseExceptionGroup("outer", [error, inner]), None, None)
    assert raised is fatal
    assert isinstance(hidden, ExceptionGroup)
    assert hidden.exceptions[0] is error
    assert isinstance(hidden.exceptions[1], ExceptionGroup)
    assert hidden.exceptions[1].exceptions == (other,)
    assert chain(fatal) == [fatal, hidden]


def test_context_of_an_interrupt_is_kept() -> None:
    """What it came from itself stays in front of what it hides."""
    fatal, cause, error = SystemExit(3), Error("cause"), Error("beside")
    fatal.__context__ = cause
    raised, hidden = verdict(BaseExceptionGroup("", [fatal, error]), None, None)
    assert raised is fatal
    assert chain(raised) == [fatal, cause, hidden]


# With a shutdown


@pytest.mark.parametrize(
    "interrupt", [KeyboardInterrupt(), Terminated(15), Terminated(None, "enough")]
)
def test_cancelled_main(interrupt: Fatal) -> None:
    """For its cancel stands what the shutdown raises."""
    cancel = asyncio.CancelledError()
    assert verdict(cancel, None, interrupt) == (interrupt, None)
    assert chain(interrupt) == [interrupt, cancel]


def test_main_that_returned() -> None:
    """A shutdown that main outlived raises nothing."""
    assert verdict(None, None, Terminated(15)) == (None, None)


def test_cleanup_error_does_not_hide_the_interrupt() -> None:
    """The error is raised, with a note and a context that tell of the shutdown."""
    cancel, error, interrupt = asyncio.CancelledError(), Error(), Terminated(15)
    error.__context__ = cancel
    assert verdict(error, None, interrupt) == (error, None)
    assert chain(error) == [error, interrupt, cancel]
    assert error.__notes__ == ["raised while main was cancelled: Terminated(15, None)"]


def test_interrupt_in_a_cleanup() -> None:
    """One that main itself raised goes before that of the shutdown."""
    fatal = SystemExit(3)
    assert verdict(fatal, None, Terminated(15)) == (fatal, None)
    assert not hasattr(fatal, "__notes__")


# What was thrown out of the loop


@FATAL
@pytest.mark.parametrize("interrupt", [None, KeyboardInterrupt(), Terminated()])
def test_escaped(kind: type[Fatal], interrupt: Fatal | None) -> None:
    """It is raised, whatever main made of the cancel that it got for it."""
    escaped = kind(3)
    assert verdict(None, escaped, interrupt) == (escaped, None)
    cancel = asyncio.CancelledError()
    assert verdict(cancel, escaped, interrupt) == (escaped, None)


def test_escaped_and_raised() -> None:
    """The same object on both ways is one error."""
    fatal = SystemExit(3)
    assert verdict(fatal, fatal, None) == (fatal, None)
    assert chain(fatal) == [fatal]
    group = BaseExceptionGroup("", [fatal])
    assert verdict(group, fatal, Terminated()) == (fatal, None)


def test_escaped_before_another_error() -> None:
    """What main raised beside it is hidden, and handed back."""
    escaped, error = SystemExit(3), Error()
    assert verdict(error, escaped, None) == (escaped, error)
    assert chain(escaped) == [escaped, error]


def test_escaped_from_what_main_raised() -> None:
    """An error that is in the context already is not put there again."""
    escaped, error = SystemExit(3), Error()
    escaped.__context__ = error
    assert verdict(error, escaped, None) == (escaped, error)
    assert chain(escaped) == [escaped, error]


def test_main_that_raised_for_what_escaped() -> None:
    """An error that came from the escaped one cannot be its context, too."""
    escaped, error = SystemExit(3), Error()
    error.__context__ = escaped
    assert verdict(error, escaped, None) == (escaped, error)
    assert chain(escaped) == [escaped]


def test_escaped_beside_a_mixed_group() -> None:
    """What is in the group beside another interrupt is not lost."""
    escaped, error = SystemExit(3), Error()
    group = BaseExceptionGroup("", [error, KeyboardInterrupt()])
    raised, hidden = verdict(group, escaped, None)
    assert raised is escaped
    assert error in leaves_of(hidden)


# What stands for a shutdown


def test_interrupt_of() -> None:
    """Ctrl-C is what Python makes of it; the others exit as if the signal had killed."""
    assert type(interrupt_of(signal.SIGINT, None)) is KeyboardInterrupt
    terminated = interrupt_of(signal.SIGTERM, None)
    assert isinstance(terminated, Terminated)
    assert (terminated.signum, terminated.code) == (signal.SIGTERM, 143)
    requested = interrupt_of(None, "enough")
    assert isinstance(requested, Terminated)
    assert (requested.signum, requested.reason, requested.code) == (None, "enough", 0)


# Any tree of errors


leaves = st.sampled_from(
    [
        Error,
        ValueError,
        asyncio.CancelledError,
        KeyboardInterrupt,
        SystemExit,
        Terminated,
    ]
).map(lambda kind: kind())
trees: st.SearchStrategy[BaseException] = st.recursive(
    leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda errors: BaseExceptionGroup("", errors)
    ),
    max_leaves=6,
)

thrown = st.sampled_from([KeyboardInterrupt, SystemExit, RuntimeError]).map(
    lambda kind: kind()
)


@attrs.frozen
class Case:
    """What main raised, what escaped, and the interrupt, joined by random contexts."""

    error: BaseException | None
    escaped: BaseException | None
    interrupt: Fatal | None


def parts(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from parts(inner)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    error = draw(st.none() | trees)
    escaped: BaseException | None = draw(st.none() | thrown)
    interrupt = draw(st.sampled_from([None, KeyboardInterrupt(), Terminated(15)]))
    known = list(parts(error)) if error is not None else []
    if draw(st.booleans()) and known:
        escaped = known[draw(st.integers(0, len(known) - 1))]
    if escaped is not None:
        known.append(escaped)
    known.append(Error("elsewhere"))
    for link in draw(st.lists(st.tuples(*[st.integers(0, len(known) - 1)] * 2))):
        from_, to = (known[n] for n in link)
        if from_ not in chain(to):  # Python itself breaks such cycles
            from_.__context__ = to
    return Case(error, escaped, fresh(interrupt))


def fresh(interrupt: Fatal | None) -> Fatal | None:
    return None if interrupt is None else type(interrupt)(*interrupt.args)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(cases())
def test_any_errors(case: Case) -> None:
    """One result, an interrupt before all else, no cycle, and nothing that is lost."""
    raised, hidden = verdict(case.error, case.escaped, case.interrupt)
    assert (raised is None) == (case.error is None and case.escaped is None)
    if case.escaped is not None:
        assert raised is case.escaped
    elif case.error is not None:
        check_raised(case, raised)
    shown = {id(part) for error in chain(raised) for part in parts(error)}
    for leaf in leaves_of(case.error):
        if isinstance(leaf, Exception):
            assert id(leaf) in shown or leaf in leaves_of(hidden)
    chain(hidden)


def check_raised(case: Case, raised: BaseException | None) -> None:
    fatal = [leaf for leaf in leaves_of(case.error) if is_fatal(leaf)]
    if isinstance(case.error, asyncio.CancelledError):
        assert raised is (case.interrupt or case.error)
    elif fatal:
        assert raised is fatal[0]
    else:
        assert raised is case.error
        assert case.interrupt is None or case.interrupt in chain(raised)


def leaves_of(error: BaseException | None) -> list[BaseException]:
    found = [] if error is None else list(parts(error))
    return [part for part in found if not isinstance(part, BaseExceptionGroup)]
