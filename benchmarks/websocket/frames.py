"""As much of RFC 6455 as load needs: what it does not parse takes no time of the clients."""

from base64 import b64encode

END = b"z"  # the last byte of every message, which is in no header and nowhere else

_MASK = bytes(4)  # of zeros: what is masked with it stays as it is


def message(size: int) -> bytes:
    """Return a payload of `size` bytes."""
    return b"x" * (size - 1) + END


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """Return the frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    else:
        head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2)
    return head + _MASK + payload


def upgrade(path: str, port: int) -> bytes:
    """Return the opening handshake of a client."""
    key = b64encode(b"0123456789abcdef").decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()
