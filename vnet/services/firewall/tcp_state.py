"""What a middlebox can know of a TCP connection from the flags that pass (RFC 6146 section 3.5.2.2, RFC 7857 section 2).

The originator is the side whose SYN opened the connection. Deviations from RFC 6146: a connection is established when the
originator has acknowledged the other side's SYN, not before, so that a flood of SYNs with forged sources leaves nothing that
lasts; and after a reset only the side that seemed to send it can bring the connection back, because what the other side had
in flight proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, final

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
STATE_FLAGS: Final = FIN | SYN | RST
"""A segment with none of these changes nothing in an established connection."""


@final
class TcpState(Enum):
    """Where a tracked connection is."""

    OPENING = auto()
    ANSWERED = auto()
    ESTABLISHED = auto()
    ORIGINATOR_CLOSED = auto()
    RESPONDER_CLOSED = auto()
    CLOSED = auto()
    RESET_BY_ORIGINATOR = auto()
    RESET_BY_RESPONDER = auto()


@final
class Segment(Enum):
    """What passes: the flag that matters, and who sent it."""

    ORIGINATOR_SYN = auto()
    RESPONDER_SYN = auto()
    ORIGINATOR_FIN = auto()
    RESPONDER_FIN = auto()
    ORIGINATOR_RST = auto()
    RESPONDER_RST = auto()
    ORIGINATOR_DATA = auto()
    RESPONDER_DATA = auto()


_S: Final = TcpState
_G: Final = Segment

TRANSITIONS: Final[Mapping[tuple[TcpState, Segment], TcpState]] = {
    (_S.OPENING, _G.RESPONDER_SYN): _S.ANSWERED,
    (_S.OPENING, _G.ORIGINATOR_RST): _S.RESET_BY_ORIGINATOR,
    (_S.OPENING, _G.RESPONDER_RST): _S.RESET_BY_RESPONDER,
    (_S.ANSWERED, _G.ORIGINATOR_DATA): _S.ESTABLISHED,
    (_S.ANSWERED, _G.ORIGINATOR_FIN): _S.ORIGINATOR_CLOSED,
    (_S.ANSWERED, _G.ORIGINATOR_RST): _S.RESET_BY_ORIGINATOR,
    (_S.ANSWERED, _G.RESPONDER_RST): _S.RESET_BY_RESPONDER,
    (_S.ESTABLISHED, _G.ORIGINATOR_FIN): _S.ORIGINATOR_CLOSED,
    (_S.ESTABLISHED, _G.RESPONDER_FIN): _S.RESPONDER_CLOSED,
    (_S.ESTABLISHED, _G.ORIGINATOR_RST): _S.RESET_BY_ORIGINATOR,
    (_S.ESTABLISHED, _G.RESPONDER_RST): _S.RESET_BY_RESPONDER,
    (_S.ORIGINATOR_CLOSED, _G.RESPONDER_FIN): _S.CLOSED,
    (_S.ORIGINATOR_CLOSED, _G.ORIGINATOR_RST): _S.RESET_BY_ORIGINATOR,
    (_S.ORIGINATOR_CLOSED, _G.RESPONDER_RST): _S.RESET_BY_RESPONDER,
    (_S.RESPONDER_CLOSED, _G.ORIGINATOR_FIN): _S.CLOSED,
    (_S.RESPONDER_CLOSED, _G.ORIGINATOR_RST): _S.RESET_BY_ORIGINATOR,
    (_S.RESPONDER_CLOSED, _G.RESPONDER_RST): _S.RESET_BY_RESPONDER,
    (_S.CLOSED, _G.ORIGINATOR_SYN): _S.OPENING,  # the ports are used again before the old connection is forgotten
    (_S.RESET_BY_ORIGINATOR, _G.ORIGINATOR_SYN): _S.OPENING,
    (_S.RESET_BY_RESPONDER, _G.ORIGINATOR_SYN): _S.OPENING,
    (_S.RESET_BY_ORIGINATOR, _G.ORIGINATOR_DATA): _S.ESTABLISHED,  # the reset was forged: its supposed sender goes on
    (_S.RESET_BY_RESPONDER, _G.RESPONDER_DATA): _S.ESTABLISHED,
}
"""Every pair that is not listed leaves the state as it is."""

LASTING: Final = frozenset({_S.ESTABLISHED, _S.ORIGINATOR_CLOSED, _S.RESPONDER_CLOSED})
"""States with the long timeout. Every segment starts it anew."""
ENDED: Final = frozenset({_S.CLOSED, _S.RESET_BY_ORIGINATOR, _S.RESET_BY_RESPONDER})
"""States in which traffic no longer keeps the connection (RFC 6146: no segment starts the timer anew)."""


def segment_kind(flags: int, from_originator: bool) -> Segment:
    """Reduce a segment's flags to the one that matters: RST before SYN before FIN."""
    if flags & RST:
        return _G.ORIGINATOR_RST if from_originator else _G.RESPONDER_RST
    if flags & SYN:
        return _G.ORIGINATOR_SYN if from_originator else _G.RESPONDER_SYN
    if flags & FIN:
        return _G.ORIGINATOR_FIN if from_originator else _G.RESPONDER_FIN
    return _G.ORIGINATOR_DATA if from_originator else _G.RESPONDER_DATA
