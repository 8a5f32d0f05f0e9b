"""Putting IPv6 fragments together again (RFC 8200 section 4.5), with bounds.

A packet whose fragments overlap is dropped whole, and so is what still comes of it (RFC 5722). A first fragment must hold
the whole chain of headers (RFC 7112). The header of the first fragment becomes that of the packet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.stack.reassembly import FragmentBuffer, Partial
from vnet.units import SECOND, Instant
from vnet.wire import ipv6
from vnet.wire.ipv6 import FRAGMENT_OCTETS, HEADER_OCTETS, FragmentHeader, Walk

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TIMEOUT: Final = 60 * SECOND
"""RFC 8200, section 4.5."""


@final
class Ipv6Reassembler(FragmentBuffer):
    """The IPv6 packets in pieces."""

    __slots__ = ()

    def __init__(self, drop: Callable[[str], None]) -> None:
        super().__init__(drop, TIMEOUT)

    def add(self, now: Instant, interface: Interface, packet: bytes, walk: Walk, header: FragmentHeader) -> bytes | None:
        """Take a fragment, cut to its length, whose fragment *header* is where the *walk* ends; return the packet that it
        completes, if it does.

        The caller has checked that the length of all but the last is a multiple of 8, and that no end is beyond 65535.
        """
        payload = packet[walk.offset + FRAGMENT_OCTETS :]
        start, end = header.offset, header.offset + len(payload)
        if not payload:
            self._drop("fragment-malformed")
            return None
        if start == 0 and not _whole_chain(packet, walk, header):
            self._drop("fragment-tiny")
            return None
        key = packet[8:40], header.ident.to_bytes(4, "big")
        partial = self._partial(now, interface, key, len(payload))
        if partial.dead:
            self._drop("fragment-overlap")
            return None
        if partial.repeats(start, payload, more=header.more):
            self._drop("fragment-duplicate")
            return None
        if partial.overlaps(start, end, more=header.more):
            self._kill(partial)
            return None
        self._keep(partial, start, payload, more=header.more)
        if start == 0:
            partial.first = packet
        if partial.first is None or partial.size != partial.total:
            return None
        self._forget(key)
        head = _unfragmented(partial.first)
        length = len(head) - HEADER_OCTETS + partial.size
        if length > ipv6.MAX_PAYLOAD:
            self._drop("fragment-malformed")
            return None
        return head[:4] + length.to_bytes(2, "big") + head[6:] + b"".join(partial.parts[at] for at in sorted(partial.parts))

    def _kill(self, partial: Partial) -> None:
        self._octets -= partial.size
        partial.dead, partial.size, partial.first = True, 0, None
        partial.parts.clear()
        self._drop("fragment-overlap")


_TRANSPORT_OCTETS: Final = {ipv6.PROTOCOL_TCP: 20, ipv6.PROTOCOL_UDP: 8, ipv6.PROTOCOL_ICMPV6: 4}


def _whole_chain(packet: bytes, walk: Walk, header: FragmentHeader) -> bool:
    """Tell whether a first fragment has all headers up to that of the transport, and that one (RFC 7112, section 5)."""
    try:
        found = ipv6.walk(packet, header.next_header, walk.offset + FRAGMENT_OCTETS)
    except WireError:
        return False
    return len(packet) >= found.offset + _TRANSPORT_OCTETS.get(found.protocol, 0)


def _unfragmented(first: bytes) -> bytes:
    """Return the headers before the first fragment's fragment header, naming what that one carries."""
    found = ipv6.walk(first, heed=False)
    return first[: found.named_at] + first[found.offset : found.offset + 1] + first[found.named_at + 1 : found.offset]
