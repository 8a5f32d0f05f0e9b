"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

A ones'-complement sum of 16-bit words is the value of the octets as one large number modulo 65535: Python computes that in
C, whatever the length. The two zeros of ones'-complement arithmetic are kept apart only where a protocol does so.
"""

from __future__ import annotations

from typing import Final

_from_bytes: Final = int.from_bytes


def ones_sum(data: bytes) -> int:
    """Sum the 16-bit words of *data*, an odd last octet padded with zero; return 0 to 65534."""
    value = _from_bytes(data, "big")
    return (value << 8 if len(data) & 1 else value) % 0xFFFF


def checksum(data: bytes, initial: int = 0) -> int:
    """Compute the checksum field over *data* (its own field zero); *initial* is a sum to add, such as a pseudo-header's.

    The result is 0 to 0xFFFE. UDP sends ``or 0xFFFF`` of it, because 0 there means "no checksum" (RFC 768).
    """
    return -(ones_sum(data) + initial) % 0xFFFF


def is_valid(data: bytes, initial: int = 0) -> bool:
    """Tell whether *data*, its checksum field included, sums to zero."""
    return (ones_sum(data) + initial) % 0xFFFF == 0


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Sum the pseudo-header of IPv4 (RFC 9293 section 3.1) or IPv6 (RFC 8200 section 8.1); addresses as packed octets."""
    return (_from_bytes(source, "big") + _from_bytes(destination, "big") + protocol + length) % 0xFFFF


def delta(old: bytes, new: bytes) -> int:
    """Compute what ``update`` adds to a checksum field when *old* is replaced by *new* (even offset, even length)."""
    return (_from_bytes(old, "big") - _from_bytes(new, "big")) % 0xFFFF


def update(field: int, change: int) -> int:
    """Apply a precomputed ``delta`` to a checksum field (RFC 1624, equation 3); return 0 to 0xFFFE.

    For UDP write ``or 0xFFFF`` behind it, and leave a field of 0 (no checksum) alone.
    """
    return (field + change) % 0xFFFF


def update_partial(field: int, change: int) -> int:
    """Apply ``delta`` to the field of a packet whose checksum is still to be completed (NEEDS_CSUM).

    There the field holds the pseudo-header sum, not its complement, so the change has the other sign.
    """
    return (field - change) % 0xFFFF
