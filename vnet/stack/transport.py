"""What a transport protocol is to the IPv4 layer of a host; ICMP, UDP and TCP are plugged in by this shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TransportAddress: TypeAlias = tuple[bytes, int]
"""A packed IPv4 address and a port number (RFC 8489)."""


class IcmpError(NamedTuple):
    """An ICMP error, or our own finding that a neighbor is not there.

    ``reporter`` is the packed address of who says so, ``text`` fit for a user, ``mtu`` that of "fragmentation needed".
    """

    kind: int
    code: int
    reporter: bytes
    text: str
    mtu: int = 0


class Transport(Protocol):
    """A protocol above IPv4."""

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a whole packet sent to this host.

        *octets* is the length of its IPv4 header; *trusted* says that the transport checksum was seen to, or is yet to be
        completed by offload; *group* that packet or frame was sent to more than one host.
        """

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about a packet of ours, of which *quoted* has the header and at least 8 octets more; tell whether
        anybody was concerned."""
