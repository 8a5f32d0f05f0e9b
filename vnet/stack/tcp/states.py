"""The states of a connection (RFC 9293, 3.3.2), sequence numbers, and a segment as the machine sees it."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from vnet.stack.transport import TransportAddress

MODULUS: Final = 1 << 32
MASK: Final = MODULUS - 1
_HALF: Final = 1 << 31


class State(Enum):
    """Where a connection stands. LISTEN is a ``TcpListener``; a connection begins in SYN-SENT or SYN-RECEIVED."""

    CLOSED = "CLOSED"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"


SENDING: Final = frozenset({State.SYN_SENT, State.SYN_RECEIVED, State.ESTABLISHED, State.CLOSE_WAIT})
"""Where the user may still send."""
RECEIVING: Final = frozenset({State.SYN_RECEIVED, State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
"""Where the peer's FIN has not come."""


class Segment(NamedTuple):
    """A segment for a connection that is known; *options* as octets."""

    sequence: int
    acknowledgment: int
    flags: int
    window: int
    options: bytes
    payload: bytes
    is_marked: bool = False
    """Congestion was experienced: the ECN field of the IP header says so."""


def unwrap(number: int, near: int) -> int:
    """Find the whole number nearest to *near* that *number* stands for.

    Sequence numbers are kept as whole numbers without end and cut to 32 bits only on the wire (RFC 9293, 3.4): so they
    compare as numbers do.
    """
    return near + ((number - near + _HALF) & MASK) - _HALF


def split(key: bytes) -> tuple[TransportAddress, TransportAddress]:
    """Read the peer's and the own address and port from the key of a connection."""
    octets = (len(key) - 4) // 2
    ports = key[2 * octets :]
    return (key[:octets], int.from_bytes(ports[:2], "big")), (key[octets : 2 * octets], int.from_bytes(ports[2:], "big"))
