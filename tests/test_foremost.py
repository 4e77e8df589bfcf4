"""Which of two cancels of one task goes first."""

import asyncio

import anyio
import pytest

from safeaio._foremost import foremost, from_scope

NATIVE, OTHER = asyncio.CancelledError("x"), asyncio.CancelledError()
SCOPE, INNER = [
    asyncio.CancelledError(f"Cancelled via cancel scope {n:x}") for n in (1, 2)
]


@pytest.mark.parametrize("first", [NATIVE, OTHER, SCOPE, INNER])
def test_one_alone(first: asyncio.CancelledError) -> None:
    """Where there is no second one, the first is raised."""
    assert foremost(first, None) is first


@pytest.mark.parametrize(
    ("first", "again", "expected"),
    [
        (NATIVE, OTHER, NATIVE),
        (NATIVE, SCOPE, NATIVE),
        (SCOPE, NATIVE, NATIVE),
        (SCOPE, INNER, SCOPE),
    ],
)
def test_the_first_native_one_else_the_first(
    first: asyncio.CancelledError,
    again: asyncio.CancelledError,
    expected: asyncio.CancelledError,
) -> None:
    """A native cancel goes before a scope's, and among equals the first one."""
    assert foremost(first, again) is expected


@pytest.mark.parametrize(
    "message", [None, 7, "", "words", "not Cancelled via cancel scope 1", b"bytes"]
)
def test_any_other_message_is_native(message: object) -> None:
    """Only the words of anyio, at the start of the text, mark the cancel of a scope."""
    assert not from_scope(asyncio.CancelledError(message))


async def test_anyio_still_marks_its_cancels() -> None:
    """The text by which they are told apart is the one that anyio writes."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(0)
        assert from_scope(caught.value)
