"""Programs that choose in the kernel which frames a packet socket gets (classic BPF, linux/filter.h).

What a frame's own octets no longer tell is read from its metadata: the kernel has taken the outer VLAN tag off by the time
a packet socket sees the frame. A frame that is not for us so costs no wake-up.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence
from struct import pack
from typing import Final

from vnet.adapters.to_machine import MARK_MASK, OWN_MARKS, TURNED_MARK

Instruction = tuple[int, int, int, int]
"""Code, steps to skip if true, steps to skip if false, operand."""

_SO_ATTACH_FILTER: Final = 26
_LOAD, _AND, _EQUAL, _ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_METADATA: Final = 0xFFFFF000
_PACKET_TYPE, _MARK, _TAG, _TAG_PRESENT, _TPID = (_METADATA + offset for offset in (4, 20, 44, 48, 60))
_VID_BITS: Final = 0x0FFF
_C_TAG: Final = 0x8100
_OTHER_HOST: Final = 3
"""The packet types up to this one are of frames that came in (linux/if_packet.h)."""
_OUTGOING: Final = 4
_EVERYTHING: Final = 0x40000
"""Octets of the frame that are let through: more than it can have."""


def of_vlan(vid: int | None, *, outgoing: bool) -> list[Instruction]:
    """Write the filter for frames with a C-tag of *vid*, or with None for untagged and priority-tagged ones.

    What a lab has sent to the machine itself is refused. With *outgoing*, what the machine itself sends passes, and what
    labs send does not.
    """
    steps: list[tuple[int, str, str, int]] = [  # "-" goes on, "+2" skips two, "no" refuses
        (_LOAD, "-", "-", _MARK),
        (_EQUAL, "no", "-", TURNED_MARK),
    ]
    if outgoing:
        steps += [
            (_AND, "-", "-", MARK_MASK),
            (_EQUAL, "-", "+2", OWN_MARKS),
            (_LOAD, "-", "-", _PACKET_TYPE),
            (_EQUAL, "no", "-", _OUTGOING),
        ]
    steps += [
        (_LOAD, "-", "-", _PACKET_TYPE),
        (_ABOVE, "no", "-", _OUTGOING if outgoing else _OTHER_HOST),
        (_LOAD, "-", "-", _TAG_PRESENT),
    ]
    if vid is None:
        steps += [(_EQUAL, "yes", "-", 0), (_LOAD, "-", "-", _TAG), (_AND, "-", "-", _VID_BITS), (_EQUAL, "-", "no", 0)]
    else:
        steps += [
            (_EQUAL, "no", "-", 0),
            (_LOAD, "-", "-", _TPID),
            (_EQUAL, "-", "no", _C_TAG),
            (_LOAD, "-", "-", _TAG),
            (_AND, "-", "-", _VID_BITS),
            (_EQUAL, "-", "no", vid),
        ]
    end = {"yes": len(steps), "no": len(steps) + 1}

    def jump(step: int, word: str) -> int:
        return end[word] - step - 1 if word in end else int(word.replace("-", "0"))

    program = [(code, jump(at, true), jump(at, false), operand) for at, (code, true, false, operand) in enumerate(steps)]
    return [*program, (_RETURN, 0, 0, _EVERYTHING), (_RETURN, 0, 0, 0)]


def attach(packets: socket.socket, program: Sequence[Instruction]) -> None:
    """Give a packet socket its filter; done before the socket is bound, nothing slips in."""
    code = ctypes.create_string_buffer(b"".join(pack("HBBI", *step) for step in program))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pack("HP", len(program), ctypes.addressof(code)))
