"""When sessions are told to go."""

import math

from hypothesis import given
from hypothesis import strategies as st

from safeaio.websocket._drain import batches


@given(
    st.integers(0, 5000),
    st.integers(1, 600),
    st.floats(0, 10),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_batches(
    sessions: int, size: int, interval: float, jitter: float, chance: float
) -> None:
    """All are told, none twice, and no pause is longer than asked for."""
    plan = list(batches(sessions, size, interval, jitter, lambda: chance))
    assert sum(told for _, told in plan) == sessions
    assert len(plan) == math.ceil(sessions / size)
    assert all(0 < told <= size for _, told in plan)
    waits = [wait for wait, _ in plan]
    assert waits[:1] in ([], [0.0])
    assert all((1 - jitter) * interval <= wait <= interval for wait in waits[1:])
