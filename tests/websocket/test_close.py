"""Close codes and reasons."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeaio.websocket._close import (
    Cause,
    cause_of,
    check_code,
    check_reason,
    close_of,
)

RECEIVED = ("peer", "vanished", "protocol", "closed")


@pytest.mark.parametrize("cause", [c for c in get_args(Cause) if c not in RECEIVED])
def test_what_we_send_may_be_sent(cause: Cause) -> None:
    code, reason = close_of(cause)
    check_code(code)
    check_reason(reason)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999]
)
def test_allowed_codes(code: int) -> None:
    check_code(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536]
)
def test_forbidden_codes(code: int) -> None:
    with pytest.raises(
        ValueError, match=f"close code {code} may not be sent; use 1000"
    ):
        check_code(code)


@pytest.mark.parametrize("code", [True, "1000", 1000.0, None])
def test_what_is_no_code(code: Any) -> None:
    with pytest.raises(TypeError, match="must be an int, got"):
        check_code(code)


@given(st.text(max_size=130))
def test_reasons_have_to_fit_in_a_close_frame(reason: str) -> None:
    if len(reason.encode(errors="surrogatepass")) <= 123 and _encodes(reason):
        check_reason(reason)
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError is one
            check_reason(reason)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_what_is_no_reason() -> None:
    with pytest.raises(TypeError, match="must be a str, got b'bye'"):
        check_reason(b"bye")


def test_why_a_transport_closed() -> None:
    assert cause_of(1009) == "too-big"
    assert cause_of(1007) == "undecodable"
    assert cause_of(1002) == "protocol"
