"""What guests' sockets need of TCP: the user calls of RFC 9293, section 3.9.1, in callback style.

Callbacks run within timeline events, never within a call of the user's. Addresses are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnet.stack.transport import TransportAddress
from vnet.units import Duration


class TcpConnection(Protocol):
    """A connection, from the moment it is asked for."""

    on_change: Callable[[], None] | None
    """Called when something a user may wait for has changed: established, data or its end, room, failure, closed."""
    no_delay: bool
    keep_alive: Duration | None

    @property
    def local(self) -> TransportAddress:
        """This end."""

    @property
    def remote(self) -> TransportAddress:
        """The far end."""

    @property
    def error(self) -> str | None:
        """Why it failed, in words, or None."""

    @property
    def is_established(self) -> bool:
        """Whether it was synchronized at least once, and did not fail."""

    @property
    def available(self) -> int:
        """Octets that ``receive`` would return."""

    @property
    def at_end(self) -> bool:
        """Whether all was taken up to the peer's FIN."""

    @property
    def room(self) -> int:
        """Octets that ``send`` takes now."""

    @property
    def unsent(self) -> int:
        """Octets that ``send`` took, and the peer has not acknowledged."""

    def send(self, data: bytes, /) -> int:
        """Queue data; return how many octets were taken."""

    def receive(self, limit: int, /) -> bytes:
        """Take up to *limit* octets."""

    def shutdown(self) -> None:
        """Send a FIN after what is queued."""

    def close(self) -> None:
        """Do the same, and take nothing more: data that is unread or still comes is answered with RST."""

    def abort(self) -> None:
        """Send a RST and forget everything."""


class TcpListener(Protocol):
    """A port that takes connections."""

    on_ready: Callable[[], None] | None
    """Called when ``accept`` has something."""

    @property
    def port(self) -> int:
        """The port, also if the stack picked it."""

    def accept(self) -> TcpConnection | None:
        """Return a connection that is established, None if there is none."""

    def close(self) -> None:
        """Take no more connections."""


class Tcp(Protocol):
    """The TCP of a host."""

    def connect(
        self, destination: bytes, port: int, *, source: bytes | None = None, source_port: int = 0
    ) -> TcpConnection:  # fmt: skip
        """Send a SYN; raise UsageError if the port is taken."""

    def listen(self, port: int = 0, address: bytes | None = None, *, backlog: int = 128) -> TcpListener:
        """Take connections; raise UsageError if the port is taken."""
