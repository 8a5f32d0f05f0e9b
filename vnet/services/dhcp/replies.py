"""The server's replies: their octets, and where they go (RFC 2131, section 4.1)."""

from __future__ import annotations

from typing import Final, NamedTuple

from vnet.addresses import BROADCAST, Mac
from vnet.wire import dhcpv4 as wire
from vnet.wire import dhcpv4_options as opt
from vnet.wire.dhcpv4 import NO_ADDRESS, Message
from vnet.wire.dhcpv4_frame import IP_BROADCAST

_MIN_MAX_SIZE: Final = 576
"""No client may ask for smaller messages than this, IP and UDP headers included (RFC 2132, 9.10)."""
_IP_UDP_OCTETS: Final = 28
_TYPES: Final = {kind: bytes((opt.MESSAGE_TYPE, 1, kind)) for kind in (wire.OFFER, wire.ACK, wire.NAK)}


class Reply(NamedTuple):
    """Send *payload* from port 67 to *address* (4 octets), *port*.

    ``mac`` is where to send the frame; None: the station that the request came from, or whatever leads to the relay agent.
    """

    payload: bytes
    address: bytes
    port: int
    mac: Mac | None


def write_reply(message: Message, kind: int, yiaddr: bytes, ciaddr: bytes, options: bytes) -> Reply:
    """Write an OFFER or ACK to *message*: *options* come ready, without message type and END."""
    payload = _encode(message, kind, yiaddr, ciaddr, message.flags, options)
    if message.giaddr != NO_ADDRESS:
        return Reply(payload, message.giaddr, wire.SERVER_PORT, None)
    if message.ciaddr != NO_ADDRESS:
        return Reply(payload, message.ciaddr, wire.CLIENT_PORT, None)
    if message.flags & wire.BROADCAST_FLAG or len(message.chaddr) != 6:
        return Reply(payload, IP_BROADCAST, wire.CLIENT_PORT, BROADCAST)
    return Reply(payload, yiaddr, wire.CLIENT_PORT, message.chaddr)


def write_nak(message: Message, server: bytes, text: str) -> Reply:
    """Write a NAK: it is broadcast, because the address that the client has may be wrong (RFC 2131, 4.3.2)."""
    options = opt.encode_options({opt.SERVER_ID: server, opt.ERROR_TEXT: text.encode("ascii")})
    if message.giaddr == NO_ADDRESS:
        payload = _encode(message, wire.NAK, NO_ADDRESS, NO_ADDRESS, message.flags, options)
        return Reply(payload, IP_BROADCAST, wire.CLIENT_PORT, BROADCAST)
    payload = _encode(message, wire.NAK, NO_ADDRESS, NO_ADDRESS, message.flags | wire.BROADCAST_FLAG, options)
    return Reply(payload, message.giaddr, wire.SERVER_PORT, None)


def _encode(message: Message, kind: int, yiaddr: bytes, ciaddr: bytes, flags: int, options: bytes) -> bytes:
    """Answer *message* with the options given, and those that the sender must get back as it sent them."""
    client = message.options.get(opt.CLIENT_ID)  # RFC 6842, section 3
    relay = message.options.get(opt.RELAY_INFORMATION)  # RFC 3046, section 2.2
    echo = b"" if client is None else opt.encode_option(opt.CLIENT_ID, client)
    if relay is not None:
        echo += opt.encode_option(opt.RELAY_INFORMATION, relay)
    header = wire.HEADER.pack(
        wire.BOOTREPLY, message.htype, len(message.chaddr), 0, message.xid, 0, flags, ciaddr, yiaddr, NO_ADDRESS,
        message.giaddr, message.chaddr, b"", b"", wire.COOKIE,
    )  # fmt: skip
    payload = b"".join((header, _TYPES[kind], options, echo, b"\xff"))
    if len(payload) > wire.DEFAULT_MAX_OCTETS:
        size = int.from_bytes(message.options.get(opt.MAX_MESSAGE_SIZE, b"")[:2], "big")
        return wire.encode(wire.decode(payload), max(size, _MIN_MAX_SIZE) - _IP_UDP_OCTETS)
    return payload.ljust(wire.MIN_OCTETS, b"\0")
