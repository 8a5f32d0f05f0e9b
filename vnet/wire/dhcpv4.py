"""DHCP messages (RFC 2131, section 2).

::

    op 1 | htype 1 | hlen 1 | hops 1 | xid 4 | secs 2 | flags 2 | ciaddr 4 | yiaddr 4 | siaddr 4 | giaddr 4
    chaddr 16 | sname 64 | file 128 | magic cookie 4 | options ...

``Message`` is a named tuple, not a dataclass, because a busy server makes tens of thousands a second. Addresses in it are 4
octets as they stand on the wire. Options that a sender put into *file* and *sname* (option 52) come out among the others,
with those two fields empty; ``encode`` does the same when the space for options runs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from vnet.errors import WireError
from vnet.wire import dhcpv4_options as opt

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68

BOOTREQUEST: Final = 1
BOOTREPLY: Final = 2
ETHERNET: Final = 1
"""Hardware type of Ethernet (RFC 1700)."""
BROADCAST_FLAG: Final = 0x8000

DISCOVER: Final = 1
OFFER: Final = 2
REQUEST: Final = 3
DECLINE: Final = 4
ACK: Final = 5
NAK: Final = 6
RELEASE: Final = 7
INFORM: Final = 8

MESSAGE_NAMES: Final[Mapping[int, str]] = {
    DISCOVER: "DISCOVER", OFFER: "OFFER", REQUEST: "REQUEST", DECLINE: "DECLINE",
    ACK: "ACK", NAK: "NAK", RELEASE: "RELEASE", INFORM: "INFORM",
}  # fmt: skip

COOKIE: Final = bytes((99, 130, 83, 99))
"""Says that options follow (RFC 2131, section 3)."""
HEADER: Final = Struct("!4BIHH4s4s4s4s16s64s128s4s")
MIN_OCTETS: Final = 300
"""Shorter messages are padded to the size of a BOOTP message: some relays and clients drop them (RFC 1542, 2.1)."""
DEFAULT_MAX_OCTETS: Final = 548
"""What any client takes: a datagram of 576 octets less its IP and UDP headers (RFC 2131, section 2)."""
NO_ADDRESS: Final = bytes(4)

_EMPTY_NAME: Final = bytes(64)
_EMPTY_FILE: Final = bytes(128)


class Message(NamedTuple):
    """One DHCP message.

    ``chaddr`` has the length that hlen gives, at most 16 octets; ``sname`` and ``file`` are without trailing zeros.
    Treat ``options`` as frozen: code to value, in the order in which they are sent.
    """

    op: int
    xid: int
    chaddr: bytes
    options: Mapping[int, bytes]
    ciaddr: bytes = NO_ADDRESS
    yiaddr: bytes = NO_ADDRESS
    siaddr: bytes = NO_ADDRESS
    giaddr: bytes = NO_ADDRESS
    flags: int = 0
    secs: int = 0
    hops: int = 0
    htype: int = ETHERNET
    sname: bytes = b""
    file: bytes = b""

    @property
    def message_type(self) -> int:
        """Return DISCOVER, OFFER, ...: 0 for a BOOTP message, which has none."""
        value = self.options.get(opt.MESSAGE_TYPE)
        return value[0] if value and len(value) == 1 else 0

    @property
    def broadcast(self) -> bool:
        """Tell whether the client cannot take a unicast reply yet (RFC 2131, 4.1)."""
        return bool(self.flags & BROADCAST_FLAG)

    def describe(self) -> str:
        """Name the message and its transaction, for people."""
        name = MESSAGE_NAMES.get(self.message_type, "BOOTP" if not self.message_type else f"type {self.message_type}")
        return f"DHCP {name} xid {self.xid:08x}"


def decode(payload: bytes) -> Message:
    """Read the payload of a UDP datagram; raise WireError if it is no DHCP message."""
    if len(payload) < HEADER.size:
        raise WireError(f"a DHCP message has at least {HEADER.size} octets, not {len(payload)}")
    (
        op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie,
    ) = HEADER.unpack_from(payload)  # fmt: skip
    if cookie != COOKIE:
        raise WireError("no DHCP magic cookie")
    if op not in (BOOTREQUEST, BOOTREPLY):
        raise WireError(f"DHCP op is 1 or 2, not {op}")
    if hlen > 16:
        raise WireError(f"a DHCP hardware address has at most 16 octets, not {hlen}")
    options: dict[int, bytes] = {}
    opt.decode_field(payload, HEADER.size, options)
    if opt.OVERLOAD in options:
        file, sname = _decode_overload(options, file, sname)
    # most messages leave both empty: comparing is cheaper than stripping 192 zeros
    name = b"" if sname == _EMPTY_NAME else sname.rstrip(b"\0")
    boot_file = b"" if file == _EMPTY_FILE else file.rstrip(b"\0")
    return Message(
        op, xid, chaddr[:hlen], options, ciaddr, yiaddr, siaddr, giaddr, flags, secs, hops, htype, name, boot_file
    )  # fmt: skip


def _decode_overload(options: dict[int, bytes], file: bytes, sname: bytes) -> tuple[bytes, bytes]:
    """Take the options out of *file* and *sname*, in this order (RFC 3396, section 5); return what is left of the two."""
    value = options.pop(opt.OVERLOAD)
    if len(value) != 1 or value[0] not in (1, 2, 3):
        raise WireError("DHCP option overload is 1, 2 or 3")
    if value[0] & opt.OVERLOAD_FILE:
        opt.decode_field(file, 0, options)
        file = _EMPTY_FILE
    if value[0] & opt.OVERLOAD_SNAME:
        opt.decode_field(sname, 0, options)
        sname = _EMPTY_NAME
    if opt.OVERLOAD in options:
        raise WireError("DHCP option overload inside an overloaded field")
    return file, sname


def encode(message: Message, max_octets: int = 0xFFFF) -> bytes:
    """Write the message in at most *max_octets* (no less than 300).

    Options that do not fit go whole into *file* and *sname*, where those are free (option 52); what fits nowhere is left
    out, so the options that matter most stand first (RFC 2131, 4.1: as many as possible).
    """
    sname, file = message.sname, message.file
    octets = opt.encode_options(message.options)
    if HEADER.size + len(octets) + 1 > max_octets:
        octets, file, sname = _encode_overload(message, max_octets - HEADER.size)
    header = HEADER.pack(
        message.op, message.htype, len(message.chaddr), message.hops, message.xid, message.secs, message.flags,
        message.ciaddr, message.yiaddr, message.siaddr, message.giaddr, message.chaddr, sname, file, COOKIE,
    )  # fmt: skip
    return (header + octets + b"\xff").ljust(MIN_OCTETS, b"\0")


def _encode_overload(message: Message, room: int) -> tuple[bytes, bytes, bytes]:
    """Spread the options over the options field, *file* and *sname*; return the three."""
    spaces: list[tuple[int, int]] = []
    if not message.file:
        spaces.append((opt.OVERLOAD_FILE, len(_EMPTY_FILE) - 1))
    if not message.sname:
        spaces.append((opt.OVERLOAD_SNAME, len(_EMPTY_NAME) - 1))
    fields = {0: bytearray(), **{bit: bytearray() for bit, _ in spaces}}
    limits = {0: room - 1 - (3 if spaces else 0), **dict(spaces)}
    for code, value in message.options.items():
        encoded = opt.encode_option(code, value)
        for bit, field in fields.items():
            if len(field) + len(encoded) <= limits[bit]:
                field += encoded
                break
    used = sum(bit for bit, field in fields.items() if field and bit)
    if used:
        fields[0] += bytes((opt.OVERLOAD, 1, used))
    file = bytes(fields[1]) + b"\xff" if used & opt.OVERLOAD_FILE else message.file
    sname = bytes(fields[2]) + b"\xff" if used & opt.OVERLOAD_SNAME else message.sname
    return bytes(fields[0]), file, sname
