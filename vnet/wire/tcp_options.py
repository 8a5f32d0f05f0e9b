"""TCP options (RFC 9293, 3.2): maximum segment size, window scale and timestamps (RFC 7323), SACK (RFC 2018).

Options of other kinds are skipped. An option whose length cannot be ends the reading: what stood before it counts, for a
peer's mistake here must not cost a connection (RFC 9293, MUST-7).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.errors import WireError

END: Final = 0
NO_OPERATION: Final = 1
MSS: Final = 2
WINDOW_SCALE: Final = 3
SACK_PERMITTED: Final = 4
SACK: Final = 5
TIMESTAMPS: Final = 8

MAX_OCTETS: Final = 40
"""What a data offset of 15 words leaves room for."""
MAX_SHIFT: Final = 14
"""RFC 7323, 2.3: a larger shift is to be used as this one."""
TIMESTAMPS_OCTETS: Final = 12
"""The timestamps option with the two no-operations that align it (RFC 7323, appendix A)."""

Block = tuple[int, int]
"""Left and right edge of octets that were received: the first sequence number, and the one after the last."""

_ALIGNED_TIMESTAMPS: Final = b"\x01\x01\x08\x0a"
_STAMPS: Final = Struct("!II")
_STAMPED: Final = Struct("!4sII")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TcpOptions:
    """The options of a segment; None or empty where one is not there. ``timestamps`` are TSval and TSecr."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack: tuple[Block, ...] = ()

    def encode(self) -> bytes:
        """Write them, padded to words; raise WireError if there are more than 40 octets."""
        parts = []
        if self.mss is not None:
            parts.append(b"\x02\x04" + self.mss.to_bytes(2, "big"))
        if self.window_scale is not None:
            parts.append(b"\x01\x03\x03" + bytes((self.window_scale,)))
        if self.sack_permitted:
            parts.append(b"\x01\x01\x04\x02")
        if self.timestamps is not None:
            parts.append(stamped(*self.timestamps))
        if self.sack:
            blocks = b"".join(_STAMPS.pack(*block) for block in self.sack)
            parts.append(b"\x01\x01\x05" + bytes((2 + len(blocks),)) + blocks)
        octets = b"".join(parts)
        if len(octets) > MAX_OCTETS:
            raise WireError(f"TCP options of {len(octets)} octets: there is room for {MAX_OCTETS}")
        return octets


NO_OPTIONS: Final = TcpOptions()


def stamped(value: int, echo: int) -> bytes:
    """Write the timestamps option alone, aligned: what nearly every segment of a connection carries."""
    return _STAMPED.pack(_ALIGNED_TIMESTAMPS, value, echo)


def peek_timestamps(options: bytes) -> tuple[int, int] | None:
    """Read TSval and TSecr of options that are the aligned timestamps and nothing else; None for all others."""
    if len(options) == TIMESTAMPS_OCTETS and options[:4] == _ALIGNED_TIMESTAMPS:
        return _STAMPS.unpack_from(options, 4)
    return None


def decode(options: bytes) -> TcpOptions:
    """Read whatever octets; of an option that is there twice the last counts."""
    mss = scale = None
    permitted = False
    stamps: tuple[int, int] | None = None
    blocks: tuple[Block, ...] = ()
    at, size = 0, len(options)
    while at < size and (kind := options[at]) != END:
        if kind == NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < size else 0
        if length < 2 or at + length > size:
            break
        value = options[at + 2 : at + length]
        at += length
        if kind == MSS and length == 4:
            mss = value[0] << 8 | value[1]
        elif kind == WINDOW_SCALE and length == 3:
            scale = min(value[0], MAX_SHIFT)
        elif kind == SACK_PERMITTED and length == 2:
            permitted = True
        elif kind == TIMESTAMPS and length == 10:
            stamps = _STAMPS.unpack(value)
        elif kind == SACK and length >= 10 and not (length - 2) % 8:
            blocks = tuple(_STAMPS.iter_unpack(value))
    return TcpOptions(mss=mss, window_scale=scale, sack_permitted=permitted, timestamps=stamps, sack=blocks)
