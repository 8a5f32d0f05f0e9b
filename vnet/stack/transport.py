"""What a transport protocol is to the IPv4 layer of a host, by which ICMP, UDP and TCP are plugged in; and addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from vnet.wire.ipv6 import ANY as ANY6

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TransportAddress: TypeAlias = tuple[bytes, int]
"""A packed address, of four octets or sixteen, and a port number (RFC 8489)."""


def overlap(one: bytes | None, one_both: bool, other: bytes | None, other_both: bool) -> bool:
    """Tell whether two bound addresses have one in common: None stands for all of IPv4, ``::`` for all of IPv6, and each of
    them, where it is for *both*, for all of either."""
    if one is None or one == ANY6:
        if other is None or other == ANY6:
            return one_both or other_both or one == other
        return one_both or (one is None) == (len(other) == 4)
    if other is None or other == ANY6:
        return other_both or (other is None) == (len(one) == 4)
    return one == other


class IcmpError(NamedTuple):
    """An ICMP error, or our own finding that a neighbor is not there.

    ``reporter`` is the packed address of who says so, ``text`` fit for a user, ``mtu`` that
    of "fragmentation needed" or "packet too big".
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
