"""How messages become data and back: text, bytes and JSON; msgspec and pydantic as extras."""

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, final

from ._transport import Data

M = TypeVar("M")

_PLAIN = (str, bytes)  # `str | bytes` would be made anew for every message


class Codec(Protocol[M]):
    """Encodes messages, and decodes data."""

    def encode(self, message: M, /) -> Data:
        """Return what is sent for a message: a str as a text frame, bytes as a binary one."""
        ...

    def decode(self, data: Data, /) -> M:
        """Return the message.

        Raises:
            WrongKind: If it is text that should be binary, or the reverse: 1003.
            Exception: If it is no message: 1007.
        """
        ...


class WrongKind(Exception):
    """A text frame where only binary ones are understood, or the reverse."""


@final
class _Text:
    def encode(self, message: object, /) -> Data:
        if not isinstance(message, str):
            raise TypeError(
                f"this hub sends str, got {message!r}; choose another codec for it"
            )
        return message

    def decode(self, data: Data, /) -> str:
        if not isinstance(data, str):
            raise WrongKind
        return data


@final
class _Binary:
    def encode(self, message: object, /) -> Data:
        if not isinstance(message, bytes):
            raise TypeError(
                f"this hub sends bytes, got {message!r}; choose another codec for it"
            )
        return message

    def decode(self, data: Data, /) -> bytes:
        if not isinstance(data, bytes):
            raise WrongKind
        return data


@final
class _Either:
    def encode(self, message: object, /) -> Data:
        if not isinstance(message, _PLAIN):
            raise TypeError(
                f"this hub sends str and bytes, got {message!r}; encode it, or make the "
                "hub with codec=JSON"
            )
        return message

    def decode(self, data: Data, /) -> Data:
        return data


@final
class _Of:
    """A codec of two functions; what they know of binary frames is theirs."""

    def __init__(
        self, encode: Callable[[Any], Data], decode: Callable[[Data], Any]
    ) -> None:
        self.encode = encode
        self.decode = decode


EITHER: Codec[Data] = _Either()
"""Text and binary frames as they are."""

TEXT: Codec[str] = _Text()
"""Text frames; a binary one closes the session with 1003."""

BINARY: Codec[bytes] = _Binary()
"""Binary frames; a text one closes the session with 1003."""

JSON: Codec[Any] = _Of(
    json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode, json.loads
)
"""JSON in text frames; what is none closes the session with 1007."""


def msgspec_codec(message: type[M], *, binary: bool = False) -> Codec[M]:
    """Return a codec for what msgspec can encode, such as a `msgspec.Struct`.

    Args:
        message: The type, also a union of several.
        binary: MessagePack in binary frames, not JSON in text frames.

    Raises:
        ImportError: If msgspec is not installed: `pip install safeaio[msgspec]`.
    """
    import msgspec

    if binary:
        decoder = msgspec.msgpack.Decoder(message)
        return _Of(
            msgspec.msgpack.encode, lambda data: decoder.decode(BINARY.decode(data))
        )
    encoder = msgspec.json.Encoder()
    return _Of(
        lambda value: encoder.encode(value).decode(),
        msgspec.json.Decoder(message).decode,
    )


def pydantic_codec(message: type[M]) -> Codec[M]:
    """Return a codec for what pydantic can validate, such as a `pydantic.BaseModel`.

    Args:
        message: The type, also a union of several. It goes in text frames, as JSON.

    Raises:
        ImportError: If pydantic is not installed: `pip install safeaio[pydantic]`.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(message)
    return _Of(lambda value: adapter.dump_json(value).decode(), adapter.validate_json)
