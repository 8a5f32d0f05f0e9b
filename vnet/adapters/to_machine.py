"""How frames of guests reach the machine itself by the NIC that they are bridged with (VS-04).

What a packet socket sends leaves by the wire, and the machine does not hear it. A program of eBPF at the way out of the NIC
(TCX, Linux 6.6) looks at what labs send, known by its mark, and turns what is for the NIC's own address around, to where
frames from the wire come in; of what is for a group it makes a copy. The program is held by a descriptor, and goes with it.

A frame that is turned around gets another mark, by which packet sockets know that it did not come from the wire.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from struct import Struct, pack
from typing import Final, final

from vnet.errors import HostError

OWN_MARKS: Final = 0x766E0000
"""Socket marks (SO_MARK) of what labs send where the machine is to hear it: these upper 16 bits ("vn"), and below a number
for each network, so that of several programs on one NIC only its own takes a frame."""
MARK_MASK: Final = 0xFFFF0000
TURNED_MARK: Final = OWN_MARKS | 0xFFFF
"""Mark of what was turned around."""

_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""Numbers of the system call bpf(2), by machine."""
_PROG_LOAD, _LINK_CREATE = 5, 28
_SCHED_CLS, _TCX_EGRESS = 3, 47
_INSTRUCTION: Final = Struct("=BBhi")
_REDIRECT, _CLONE_REDIRECT, _INGRESS = 23, 13, 1
_NEXT: Final = -1
"""TCX_NEXT: whatever else is to be done with the frame."""
_MARK, _INDEX, _DATA, _DATA_END = 8, 40, 76, 80
"""Offsets in struct __sk_buff (linux/bpf.h)."""

# opcodes: class | size or operation | source
_LOAD_B, _LOAD_H, _LOAD_W, _STORE_W = 0x71, 0x69, 0x61, 0x63
_MOVE, _MOVE_REGISTER, _ADD, _CALL, _EXIT = 0xB7, 0xBF, 0x07, 0x85, 0x95
_IF_ABOVE_REGISTER, _IF_SET, _IF_NOT_32 = 0x2D, 0x45, 0x56

Instruction = tuple[int, int, int, int | str, int]
"""Opcode, destination and source register, offset or label of a jump, operand."""


def own_mark(drawn: bytes) -> int:
    """Make the mark of a network from two octets that were drawn for it."""
    return OWN_MARKS | 1 + int.from_bytes(drawn[:2], "big") % 0xFFFE


def _program(mac: bytes, mark: int) -> bytes:
    low, high = int.from_bytes(mac[:4], "little"), int.from_bytes(mac[4:6], "little")
    signed = low - (1 << 32) if low >> 31 else low
    steps: Sequence[Instruction | str] = (
        (_MOVE_REGISTER, 6, 1, 0, 0),
        (_LOAD_W, 2, 6, _MARK, 0),
        (_IF_NOT_32, 2, 0, "on", mark),
        (_LOAD_W, 7, 6, _INDEX, 0),
        (_LOAD_W, 2, 6, _DATA, 0),
        (_LOAD_W, 3, 6, _DATA_END, 0),
        (_MOVE_REGISTER, 4, 2, 0, 0),
        (_ADD, 4, 0, 0, 6),
        (_IF_ABOVE_REGISTER, 4, 3, "on", 0),
        (_LOAD_B, 5, 2, 0, 0),
        (_IF_SET, 5, 0, "group", 1),
        (_LOAD_W, 5, 2, 0, 0),
        (_IF_NOT_32, 5, 0, "on", signed),
        (_LOAD_H, 5, 2, 4, 0),
        (_IF_NOT_32, 5, 0, "on", high),
        (_MOVE, 8, 0, 0, TURNED_MARK),
        (_STORE_W, 6, 8, _MARK, 0),
        (_MOVE_REGISTER, 1, 7, 0, 0),
        (_MOVE, 2, 0, 0, _INGRESS),
        (_CALL, 0, 0, 0, _REDIRECT),
        (_EXIT, 0, 0, 0, 0),
        "group",
        (_MOVE, 8, 0, 0, TURNED_MARK),
        (_STORE_W, 6, 8, _MARK, 0),
        (_MOVE_REGISTER, 1, 6, 0, 0),
        (_MOVE_REGISTER, 2, 7, 0, 0),
        (_MOVE, 3, 0, 0, _INGRESS),
        (_CALL, 0, 0, 0, _CLONE_REDIRECT),
        (_MOVE, 8, 0, 0, mark),
        (_STORE_W, 6, 8, _MARK, 0),
        "on",
        (_MOVE, 0, 0, 0, _NEXT),
        (_EXIT, 0, 0, 0, 0),
    )
    places: dict[str, int] = {}
    code: list[Instruction] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(code)
        else:
            code.append(step)
    octets = b""
    for at, (opcode, destination, source, offset, operand) in enumerate(code):
        jump = places[offset] - at - 1 if isinstance(offset, str) else offset
        octets += _INSTRUCTION.pack(opcode, source << 4 | destination, jump, operand)
    return octets


@final
class ToMachine:
    """The program on the interface with *index*, whose MAC address is *mac*, for frames with *mark*.

    Raise HostError if this kernel cannot do it.
    """

    __slots__ = ("_fd",)

    def __init__(self, index: int, mac: bytes, mark: int) -> None:
        code = ctypes.create_string_buffer(_program(mac, mark))
        licence = ctypes.create_string_buffer(b"MIT")
        size = (len(code) - 1) // _INSTRUCTION.size
        load = pack(
            "=IIQQIIQII16sII", _SCHED_CLS, size, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0,
            b"vnet_to_machine"[:15], 0, _TCX_EGRESS,
        )  # fmt: skip
        program = -1
        try:
            program = _bpf(_PROG_LOAD, load)
            self._fd = _bpf(_LINK_CREATE, pack("=IIIIIIQ", program, index, _TCX_EGRESS, 0, 0, 0, 0))
        except OSError as error:
            why = "Linux 6.6 or newer is needed" if error.errno == errno.EINVAL else error.strerror
            raise HostError(f"guests do not reach the machine by this NIC: {why}") from error
        finally:
            if program >= 0:
                os.close(program)

    def close(self) -> None:
        """Take the program off."""
        os.close(self._fd)


def _bpf(command: int, attributes: bytes) -> int:
    number = _BPF.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    block = ctypes.create_string_buffer(attributes, len(attributes))
    fd: int = libc.syscall(ctypes.c_long(number), ctypes.c_int(command), block, ctypes.c_uint(len(attributes)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
