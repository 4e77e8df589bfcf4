"""Messages to data and back."""

from typing import Any

import msgspec
import pydantic
import pytest

from safeaio.websocket import (
    BINARY,
    EITHER,
    JSON,
    TEXT,
    Codec,
    msgspec_codec,
    pydantic_codec,
)
from safeaio.websocket._codec import WrongKind


class Struct(msgspec.Struct):
    room: str
    size: int = 0


class Model(pydantic.BaseModel):
    room: str
    size: int = 0


CODECS: dict[str, tuple[Codec[Any], Any, type]] = {
    "text": (TEXT, "ü", str),
    "binary": (BINARY, b"\xff", bytes),
    "either-text": (EITHER, "ü", str),
    "either-binary": (EITHER, b"\xff", bytes),
    "json": (JSON, {"room": "ü", "size": [1, None]}, str),
    "msgspec": (msgspec_codec(Struct), Struct("ü", 3), str),
    "msgspec-binary": (msgspec_codec(Struct, binary=True), Struct("ü", 3), bytes),
    "pydantic": (pydantic_codec(Model), Model(room="ü", size=3), str),
}

codecs = pytest.mark.parametrize(
    ("codec", "message", "kind"), CODECS.values(), ids=CODECS
)


@codecs
def test_there_and_back(codec: Codec[Any], message: Any, kind: type) -> None:
    data = codec.encode(message)
    assert type(data) is kind
    assert codec.decode(data) == message


@pytest.mark.parametrize("codec", [TEXT, BINARY, EITHER, JSON])
def test_what_cannot_be_encoded(codec: Codec[Any]) -> None:
    with pytest.raises(TypeError):
        codec.encode(object())


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (TEXT, b"x"),
        (BINARY, "x"),
        (msgspec_codec(Struct, binary=True), "x"),
    ],
)
def test_wrong_kind(codec: Codec[Any], data: Any) -> None:
    with pytest.raises(WrongKind):
        codec.decode(data)


@pytest.mark.parametrize("codec", [msgspec_codec(Struct), pydantic_codec(Model)])
@pytest.mark.parametrize("data", ["", "{", "[]", '{"room": 1}', b"\xff"])
def test_what_is_no_message(codec: Codec[Any], data: Any) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
        codec.decode(data)
    kinds = (msgspec.MsgspecError, pydantic.ValidationError, UnicodeDecodeError)
    assert isinstance(caught.value, kinds)
