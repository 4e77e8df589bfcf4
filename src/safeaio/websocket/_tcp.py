"""Options of TCP that have a slow peer show."""

import asyncio
import socket
from contextlib import suppress

NOT_SENT = 1 << 16
"""Bytes of a connection that the kernel holds before they are sent.

Beyond, they wait where a hub can see them; and a slow peer that reads on is told from one that
does not: with the default of the kernel either has to read a megabyte before anything moves.
"""


def tcp_options(
    user_timeout: float | None, not_sent: int | None
) -> list[tuple[int, int]]:
    """Return the options of TCP to set, where the system has them."""
    wanted = (
        (
            "TCP_USER_TIMEOUT",
            None if user_timeout is None else round(user_timeout * 1000),
        ),
        ("TCP_NOTSENT_LOWAT", not_sent),
    )
    return [
        (getattr(socket, name), value)
        for name, value in wanted
        if value is not None and hasattr(socket, name)
    ]


def set_options(
    transport: asyncio.BaseTransport, options: list[tuple[int, int]]
) -> None:
    """Set options of TCP on a connection; one over a UNIX socket has none."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for option, value in options:
        with suppress(OSError):  # it may be closed by now
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def hold_little(transport: asyncio.WriteTransport) -> None:
    """Have the kernel hold `NOT_SENT` of a connection, as `HubMiddleware` does.

    asyncio, too: over TLS it would hold 512 KiB before it wants no more.
    """
    set_options(transport, _HOLD_LITTLE)
    if transport.get_write_buffer_limits()[1] > NOT_SENT:
        transport.set_write_buffer_limits(NOT_SENT)


_HOLD_LITTLE = tcp_options(None, NOT_SENT)
