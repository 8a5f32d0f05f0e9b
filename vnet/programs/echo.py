"""The echo service (RFC 862), over TCP and UDP.

A datagram whose sender's address was forged to be that of another service makes the two answer each other for ever
(CVE-1999-0103). As inetd does, this one therefore leaves datagrams alone that come from a port where services are: its own,
the system ports (RFC 6335, 6), among them echo, daytime, chargen and time, and those of other services that it is told of.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from vnet.programs.both_protocols import answer_datagrams, listening
from vnet.programs.connections import bounded

DEFAULT_PORT: Final = 7
MAX_CONNECTIONS: Final = 1024
"""TCP connections at a time; further ones are closed at once."""
LAST_SYSTEM_PORT: Final = 1023
_BLOCK: Final = 64 * 1024


async def serve(
    port: int = DEFAULT_PORT,
    *,
    host: str | None = None,
    services: Collection[int] = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send back whatever comes, until cancelled; with ``nursery.start`` it returns the port once it listens.

    Datagrams from system ports, its own number and those of *services* are not answered. Raise OSError if the port is taken.
    """
    async with listening(port, host) as (port, listeners, socket), trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, bounded(_echo, MAX_CONNECTIONS), listeners)
        task_status.started(port)
        unanswered = frozenset((port, *services))
        await answer_datagrams(
            socket, _BLOCK, lambda data, sender: data if sender > LAST_SYSTEM_PORT and sender not in unanswered else None
        )


async def _echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some(_BLOCK):
        await stream.send_all(data)
    await stream.send_eof()
