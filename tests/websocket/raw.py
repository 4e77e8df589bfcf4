"""A WebSocket client as bare bytes on a socket, for what no library would send."""

import asyncio
import base64
import os
import socket
import struct

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return one masked frame."""
    first = (0x80 if fin else 0) | opcode
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload  # masked with zeros


class Raw:
    """A client whose handshake is over."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send bytes, for as long as the peer takes them."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def read(self, size: int) -> bytes:
        """Read some bytes, whatever they are of."""
        return await asyncio.get_running_loop().sock_recv(self._socket, size)

    async def receive(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame.

        Raises:
            EOFError: If there is none.
        """
        while (parsed := self._parse()) is None:
            data = await self.read(65536)
            if not data:
                raise EOFError
            self._received += data
        return parsed

    async def close_code(self) -> int | None:
        """Read up to the close frame, and return its code; None if there was none."""
        try:
            while True:
                opcode, payload = await self.receive()
                if opcode == CLOSE:
                    code: int = struct.unpack("!H", payload[:2])[0]
                    return code
        except (OSError, EOFError):
            return None

    def _parse(self) -> tuple[int, bytes] | None:
        data = self._received
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10]), 10
        if len(data) < start + size:
            return None
        self._received = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]

    def close(self) -> None:
        """Send a FIN, without a close frame."""
        self._socket.close()

    def reset(self) -> None:
        """Send a RST."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()


async def connect(
    port: int, *, source: str | None = None, receive_buffer: int | None = None
) -> Raw:
    """Make a connection, and shake hands.

    Raises:
        ConnectionError: If the answer is not 101.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        if source is not None:
            connection.bind((source, 0))
        await loop.sock_connect(connection, ("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        await loop.sock_sendall(
            connection,
            (
                f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n"
            ).encode(),
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = await loop.sock_recv(connection, 65536)
            if not data:
                raise ConnectionError(f"closed after {answer!r}")
            answer += data
        status = answer.split(b" ", 2)[1]
        if status != b"101":
            raise ConnectionError(answer.decode())
    except BaseException:
        connection.close()
        raise
    raw = Raw(connection)
    raw._received = answer.partition(b"\r\n\r\n")[2]
    return raw
