"""A message as a server sends it: one frame of RFC 6455, neither masked nor compressed: pure."""

from struct import Struct
from typing import TypeAlias

from ._transport import Data

Framed: TypeAlias = tuple[bytes, int]
"""A frame, and where in it the payload begins."""

TEXT, BINARY = 0x81, 0x82  # the first byte of a message in a single frame

_HEAD_OF_LONG = Struct("!BBH").pack
_HEAD_OF_LONGEST = Struct("!BBQ").pack


def framed(data: Data) -> Framed:
    """Return the frame of a message, for any number of peers."""
    if isinstance(data, str):
        first, payload = TEXT, data.encode()
    else:
        first, payload = BINARY, data
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload, 2
    if size < 1 << 16:
        return _HEAD_OF_LONG(first, 126, size) + payload, 4
    return _HEAD_OF_LONGEST(first, 127, size) + payload, 10
