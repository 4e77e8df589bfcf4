"""Frames, as a parser that is not ours reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from safeaio.websocket._framing import BINARY, TEXT, framed


def parsed(frame: bytes) -> Frame:
    client = ClientProtocol(
        parse_uri("ws://localhost/"), state=State.OPEN, max_size=None
    )
    client.receive_data(frame)
    [event] = client.events_received()
    assert isinstance(event, Frame)
    return event


@given(st.text() | st.binary())
def test_a_client_reads_what_was_framed(data: str | bytes) -> None:
    frame, start = framed(data)
    event = parsed(frame)
    text = isinstance(data, str)
    assert event.opcode is (Opcode.TEXT if text else Opcode.BINARY)
    assert event.fin
    assert bytes(event.data) == (data.encode() if isinstance(data, str) else data)
    assert frame[start:] == event.data
    assert frame[0] == (TEXT if text else BINARY)


@pytest.mark.parametrize("size", [0, 125, 126, 127, 65_535, 65_536, 1 << 20])
def test_every_length(size: int) -> None:
    frame, start = framed(b"x" * size)
    assert parsed(frame).data == b"x" * size
    assert len(frame) == start + size
