"""What TCP asks of the IP version below it (RFC 9293, 3.9.2): chosen once for each connection, by its addresses.

``over_ipv4`` and ``over_ipv6`` have one of each. Which version it is, nothing else in TCP asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vnet.stack.transport import IcmpError, TransportAddress

if TYPE_CHECKING:
    from vnet.stack.interface import Interface


class Path(Protocol):
    """The way from a connection to its peer; ``mtu`` is that of the path as far as it is known.

    ``mss`` are the octets that a segment has room for, options included (RFC 6691), ``announced_mss`` what the interface can
    take in, whatever the path carries (RFC 9293, 3.7.1).
    """

    mtu: int
    mss: int
    announced_mss: int

    def send(
        self, sequence: int, acknowledgment: int, flags: int, window: int, options: bytes, payload: bytes, mss: int,
        ecn: int = 0,
    ) -> str | None:  # fmt: skip
        """Send a segment, or a super-frame of segments with *mss* octets of data each; numbers have 32 bits here.

        *ecn* is the ECN field of the IP header. Return None, or why it could not be sent.
        """


class LowerLevel(Protocol):
    """One IP version of one host.

    ``unspecified`` is the address that stands for none, ``default_mss`` what a peer that says nothing takes, ``headers`` the
    octets of both headers, ``black_hole_mtu`` what to try when large segments find no answer at all.
    """

    unspecified: bytes
    default_mss: int
    headers: int
    black_hole_mtu: int

    def source_for(self, destination: bytes, interface: Interface | None) -> bytes | str:
        """Choose the address to talk from, or return why there is none."""

    def scope_of(self, remote: bytes, interface: Interface | None) -> Interface | None:
        """Return the *interface* if the address means something on its link only (RFC 4007)."""

    def path(self, local: TransportAddress, remote: TransportAddress, interface: Interface | None) -> Path | None:
        """Find the way to a peer, by *interface* if that is its scope; None without a route."""

    def learn(self, destination: bytes, mtu: int, present: int) -> bool:
        """Take what is said of a path's MTU, *present* until now; tell whether it is of use."""

    def send(self, destination: bytes, segment: bytes, source: bytes, interface: Interface | None) -> str | None:
        """Send a segment that belongs to no connection, complete; return None, or why it could not be sent."""

    def is_too_large(self, error: IcmpError) -> bool:
        """Tell whether an error says that a segment was too large."""

    def is_refusal(self, error: IcmpError) -> bool:
        """Tell whether an error ends the opening of a connection (RFC 9293, 3.9.2.2)."""
