"""Explicit congestion notification of a connection (RFC 3168, section 6): routers mark data instead of dropping it.

New data says that it may be marked (ECT). Whoever receives a mark (CE) sets ECE in all it sends, until the sender says that
it has reduced its window (CWR). How much and how often it reduces is ``Sender.experience``'s.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, final

from vnet.wire.tcp import ACK, CWR, ECE

ECT: Final = 0b10
"""ECT(0), what senders put in the ECN field of the IP header (RFC 3168, section 5)."""
CE: Final = 0b11
MASK: Final = 0b11


class Ecn(Enum):
    """Whether a host has its data marked rather than dropped."""

    NEVER = auto()
    ACCEPT = auto()
    """If the peer asks for it, as Linux does by default."""
    REQUEST = auto()
    """Ask for it when connecting, too."""


@final
class EcnState:
    """What a connection agreed on, and what it echoes.

    ``agreed`` holds from the handshake on. ``echoing`` tells that a mark came, and no CWR since.
    """

    __slots__ = ("_accepts", "_asks", "agreed", "echoing")

    def __init__(self, policy: Ecn) -> None:
        self._accepts = policy is not Ecn.NEVER
        self._asks = policy is Ecn.REQUEST
        self.agreed = False
        self.echoing = False

    def syn_flags(self, flags: int) -> int:
        """Add to the *flags* of our SYN, or SYN and ACK, what asks for ECN or agrees to it (RFC 3168, 6.1.1)."""
        if flags & ACK:
            return flags | ECE if self.agreed else flags
        return flags | ECE | CWR if self._asks else flags

    def fall_back(self) -> None:
        """Ask no more: the SYN found no answer, perhaps because something on the way drops what it does not know."""
        self._asks = False

    def take_syn(self, flags: int, *, is_first: bool) -> None:
        """Take the *flags* of the peer's SYN; *is_first* says that ours was not sent before: else it has to have asked.

        A SYN that comes again and asks for nothing takes the agreement back.
        """
        agreeing = ECE if flags & ACK else ECE | CWR
        self.agreed = (self._accepts if is_first else self._asks) and flags & (ECE | CWR) == agreeing

    def take_data(self, flags: int, marked: bool) -> bool:
        """Take note of data within the window; tell whether echoing begins (6.1.3)."""
        if not self.agreed:
            return False
        was_echoing = self.echoing and not flags & CWR
        self.echoing = was_echoing or marked
        return self.echoing and not was_echoing
