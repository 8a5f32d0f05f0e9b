"""The states of a DHCP client and every move between them (RFC 2131, figure 5).

::

    OFF -> INIT -> SELECTING -> REQUESTING -> CHECKING -> BOUND -T1-> RENEWING -T2-> REBINDING -end-> INIT
    OFF or link up, with a lease -> INIT_REBOOT -> REBOOTING -> CHECKING or BOUND

CHECKING is the probe for a conflict between ACK and use (RFC 5227). What may happen without a move is in ``IGNORED``,
what cannot happen in ``IMPOSSIBLE``; a test checks that the three together are everything.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, final


@final
class State(Enum):
    """Where the client stands."""

    OFF = "off"
    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    CHECKING = "checking"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"
    INIT_REBOOT = "init-reboot"
    REBOOTING = "rebooting"


@final
class Event(Enum):
    """What can happen."""

    START = "start"
    RESUME = "start with a lease"
    STOP = "stop"
    RELEASE = "release"
    RENEW = "renew now"
    LINK_UP = "link up"
    OFFER = "OFFER"
    ACK = "ACK"
    NAK = "NAK"
    FREE = "address is free"
    TAKEN = "address is taken"
    SEND = "time to send"
    GIVE_UP = "tries used up"
    T1 = "T1"
    T2 = "T2"
    END = "end of lease"


_S, _E = State, Event
_HELD: Final = (_S.BOUND, _S.RENEWING, _S.REBINDING, _S.INIT_REBOOT, _S.REBOOTING)
"""The states in which there is a lease to verify."""
_SEEKING: Final = (_S.INIT, _S.SELECTING, _S.REQUESTING, _S.CHECKING)
_RUNNING: Final = _SEEKING + _HELD

MOVES: Final[dict[tuple[State, Event], State]] = {
    (_S.OFF, _E.START): _S.INIT,
    (_S.OFF, _E.RESUME): _S.INIT_REBOOT,
    (_S.INIT, _E.SEND): _S.SELECTING,
    (_S.SELECTING, _E.SEND): _S.SELECTING,
    (_S.SELECTING, _E.OFFER): _S.REQUESTING,
    (_S.REQUESTING, _E.SEND): _S.REQUESTING,
    (_S.REQUESTING, _E.GIVE_UP): _S.INIT,
    (_S.REQUESTING, _E.ACK): _S.CHECKING,
    (_S.REQUESTING, _E.NAK): _S.INIT,
    (_S.CHECKING, _E.FREE): _S.BOUND,
    (_S.CHECKING, _E.TAKEN): _S.INIT,
    (_S.CHECKING, _E.END): _S.INIT,
    (_S.BOUND, _E.RENEW): _S.RENEWING,
    (_S.BOUND, _E.T1): _S.RENEWING,
    (_S.BOUND, _E.T2): _S.REBINDING,  # a clock that was stopped may have passed T1 too
    (_S.BOUND, _E.END): _S.INIT,
    (_S.RENEWING, _E.RENEW): _S.RENEWING,
    (_S.RENEWING, _E.SEND): _S.RENEWING,
    (_S.RENEWING, _E.ACK): _S.BOUND,
    (_S.RENEWING, _E.NAK): _S.INIT,
    (_S.RENEWING, _E.T2): _S.REBINDING,
    (_S.RENEWING, _E.END): _S.INIT,
    (_S.REBINDING, _E.RENEW): _S.REBINDING,
    (_S.REBINDING, _E.SEND): _S.REBINDING,
    (_S.REBINDING, _E.ACK): _S.BOUND,
    (_S.REBINDING, _E.NAK): _S.INIT,
    (_S.REBINDING, _E.END): _S.INIT,
    (_S.INIT_REBOOT, _E.SEND): _S.REBOOTING,
    (_S.INIT_REBOOT, _E.END): _S.INIT,
    (_S.REBOOTING, _E.SEND): _S.REBOOTING,
    (_S.REBOOTING, _E.GIVE_UP): _S.INIT,
    (_S.REBOOTING, _E.ACK): _S.CHECKING,
    (_S.REBOOTING, _E.NAK): _S.INIT,
    (_S.REBOOTING, _E.END): _S.INIT,
    **{(state, event): _S.OFF for state in _RUNNING for event in (_E.STOP, _E.RELEASE)},
    **{(state, _E.LINK_UP): _S.INIT for state in _SEEKING},
    **{(state, _E.LINK_UP): _S.INIT_REBOOT for state in _HELD},
}

_COMMANDS: Final = frozenset({_E.START, _E.STOP, _E.RELEASE, _E.RENEW, _E.LINK_UP})
_MESSAGES: Final = frozenset({_E.OFFER, _E.ACK, _E.NAK})
IGNORED: Final = frozenset(
    (state, event) for state in State for event in _COMMANDS | _MESSAGES if (state, event) not in MOVES
)  # fmt: skip
"""Commands that are obeyed already, and messages that come late, twice, or from somebody who guesses."""
IMPOSSIBLE: Final = frozenset(
    (state, event) for state in State for event in Event if (state, event) not in MOVES and (state, event) not in IGNORED
)  # fmt: skip
"""Timers that do not run in the state, and answers to probes that were cancelled."""
