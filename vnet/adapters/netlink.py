"""Configure the interfaces of a network namespace by rtnetlink (RFC 3549), several messages in one system call.

Only what vnet needs, because speed is the point: a namespace is configured in a few hundred microseconds. Messages are built
by the functions ``link``, ``address`` and ``route``; ``Netlink.run`` sends any number of them and checks every answer.
A ``Netlink`` belongs to the network namespace of the thread that made it, whatever thread uses it later.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from struct import Struct
from typing import Final, NamedTuple, final

_HEADER: Final = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK: Final = Struct("=BxHiII")
"""struct ifinfomsg: family, device type, index, flags, mask of flags to change."""
_ADDRESS: Final = Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
_ROUTE: Final = Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags."""
_ATTRIBUTE: Final = Struct("=HH")
_U32: Final = Struct("=I")
_ERRNO: Final = Struct("=i")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = (
    16,
    20,
    21,
    22,
    24,
    25,
    26,
)
_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_RTM_DELLINK, _RTM_GETLINK = 17, 18
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_TXQLEN, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 3, 4, 5, 13, 18, 26
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_MACVLAN_MODE: Final = 1
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_ADDR_GEN_MODE_NONE: Final = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x08, 0x40
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_IFF_UP: Final = 1
_IFF_LOWER_UP: Final = 0x10000
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST = 254, 4, 0, 253, 1
_RTMGRP_LINK: Final = 1
_PADDING: Final = bytes(3)


class Message(NamedTuple):
    """One request, not yet numbered; *what* is how an error names it."""

    kind: int
    flags: int
    body: bytes
    what: str


@final
@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel tells it; ``mac`` is empty where there is none, ``exists`` false in news of its end."""

    index: int
    name: str
    mac: bytes
    mtu: int
    is_up: bool
    has_carrier: bool
    exists: bool = True


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + _PADDING[: -length % 4]


def link(
    name: str,
    *,
    up: bool = True,
    mac: bytes | None = None,
    mtu: int | None = None,
    queue_length: int | None = None,
) -> Message:
    """Change the interface called *name* and take it up or down."""
    body = _LINK.pack(0, 0, 0, _IFF_UP if up else 0, _IFF_UP) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    if mac is not None:
        body += _attribute(_IFLA_ADDRESS, mac)
    if mtu is not None:
        body += _attribute(_IFLA_MTU, _U32.pack(mtu))
    if queue_length is not None:
        body += _attribute(_IFLA_TXQLEN, _U32.pack(queue_length))
    return Message(_RTM_NEWLINK, 0, body, f"interface {name}")


def macvtap(name: str, nic: int, mode: int) -> Message:
    """Make a macvtap device called *name* on the interface with index *nic*; *mode* is one of MACVLAN_MODE_*."""
    data = _attribute(_IFLA_INFO_DATA, _attribute(_IFLA_MACVLAN_MODE, _U32.pack(mode)))
    body = (
        _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINK, _U32.pack(nic))
    )
    body += _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"macvtap\0") + data)
    return Message(_RTM_NEWLINK, _CREATE | _EXCLUSIVE, body, f"macvtap device {name}")


def delete_link(index: int) -> Message:
    """Delete the interface with *index*."""
    return Message(_RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), f"interface {index}")


def quiet_ipv6(name: str) -> list[Message]:
    """Let the interface make no link-local address, so that it sends no IPv6 unasked; nothing if Linux speaks none at all.

    It must come before the interface goes up: within one message the kernel takes it up first.
    """
    if not os.path.exists("/proc/sys/net/ipv6"):
        return []
    mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_ADDR_GEN_MODE_NONE,)))
    body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    body += _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET6, mode))
    return [Message(_RTM_NEWLINK, 0, body, f"IPv6 of interface {name}")]


def _family(value: IPv4Interface | IPv6Interface | IPv4Network | IPv6Network) -> int:
    return socket.AF_INET if value.version == 4 else socket.AF_INET6


def address(index: int, interface: IPv4Interface | IPv6Interface, *, remove: bool = False) -> Message:
    """Give the interface with *index* an address, or take it away.

    An IPv6 address is used at once, without asking whether somebody has it (RFC 4862, section 5.4).
    """
    network = interface.network
    flags = 0 if interface.version == 4 else _IFA_F_NODAD
    body = _ADDRESS.pack(_family(interface), network.prefixlen, flags, _SCOPE_UNIVERSE, index)
    body += _attribute(_IFA_LOCAL, interface.ip.packed) + _attribute(_IFA_ADDRESS, interface.ip.packed)
    if interface.version == 4 and network.prefixlen < 31 and not remove:
        body += _attribute(_IFA_BROADCAST, network.broadcast_address.packed)
    kind, flags = (_RTM_DELADDR, 0) if remove else (_RTM_NEWADDR, _CREATE | _REPLACE)
    return Message(kind, flags, body, f"address {interface}")


def route(
    destination: IPv4Network | IPv6Network,
    gateway: IPv4Address | IPv6Address | None,
    index: int,
    *,
    source: IPv4Address | IPv6Address | None = None,
    remove: bool = False,
) -> Message:
    """Reach *destination* by *gateway*, or without one directly, on the interface with *index*; or no longer."""
    scope = _SCOPE_UNIVERSE if gateway else _SCOPE_LINK
    length = destination.prefixlen
    body = _ROUTE.pack(_family(destination), length, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, scope, _UNICAST, 0)
    if length:
        body += _attribute(_RTA_DST, destination.network_address.packed)
    if gateway:
        body += _attribute(_RTA_GATEWAY, gateway.packed)
    body += _attribute(_RTA_OIF, _U32.pack(index))
    if source:
        body += _attribute(_RTA_PREFSRC, source.packed)
    kind, flags = (_RTM_DELROUTE, 0) if remove else (_RTM_NEWROUTE, _CREATE | _REPLACE)
    return Message(kind, flags, body, f"route to {destination}")


class RouteKind(IntEnum):
    """What an address is to Linux (rtnetlink(7), rtm_type), as far as it names a destination."""

    OTHER = 0
    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3


@final
class Routes:
    """Asks how Linux would route packets, in the network namespace of the thread that makes it; never waits."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._sequence = 0

    def kind(self, address: bytes) -> RouteKind:
        """Tell what an IPv4 or IPv6 address is; raise OSError if there is no way there."""
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, address)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _REQUEST, sequence, 0) + body)
        while True:  # the kernel answers within the call; what is older was asked by a call that failed
            for kind, number, octets in _messages(self._socket.recv(4096)):
                if number != sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    code = -_ERRNO.unpack_from(octets)[0]
                    raise OSError(code, os.strerror(code))
                found: int = _ROUTE.unpack_from(octets)[7]
                return RouteKind(found) if found in _ROUTE_KINDS else RouteKind.OTHER

    def close(self) -> None:
        """Give the socket up."""
        self._socket.close()


_ROUTE_KINDS: Final = frozenset(RouteKind)


@final
class Netlink:
    """A netlink socket: of the namespace of the thread that makes the object, unless a socket is given."""

    __slots__ = ("_sequence", "socket")

    def __init__(self, made: socket.socket | None = None) -> None:
        self.socket = made or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def run(self, messages: Iterable[Message]) -> None:
        """Send all *messages* at once; raise OSError for the first that the kernel refused, after all were answered."""
        waiting: dict[int, str] = {}
        batch = bytearray()
        for kind, flags, body, what in messages:
            self._sequence += 1
            waiting[self._sequence] = what
            batch += _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST | _ACK, self._sequence, 0) + body
        if not waiting:
            return
        self.socket.send(batch)
        failure: OSError | None = None
        while waiting:
            for sequence, number in _answers(self.socket.recv(65536)):
                what = waiting.pop(sequence, "")
                if number and what and failure is None:
                    failure = OSError(number, f"{what}: {os.strerror(number)}")
        if failure is not None:
            raise failure

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """List (interface index, IPv4 address) of every address there is."""
        found = []
        for body in self._dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix_length, _, _, index = _ADDRESS.unpack_from(body)
            attributes = _read_attributes(body[_ADDRESS.size :])
            if local := attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS):
                found.append((index, IPv4Interface((local, prefix_length))))
        return found

    def addresses6(self) -> list[tuple[int, IPv6Interface]]:
        """List (interface index, IPv6 address) of every IPv6 address in use: Linux is done with asking for it."""
        found = []
        for body in self._dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_INET6, 0, 0, 0, 0)):
            family, prefix_length, flags, _, index = _ADDRESS.unpack_from(body)
            packed = _read_attributes(body[_ADDRESS.size :]).get(_IFA_ADDRESS)
            if family == socket.AF_INET6 and packed is not None and not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
                found.append((index, IPv6Interface((packed, prefix_length))))
        return found

    def links(self) -> list[Link]:
        """List every interface."""
        return [_read_link(body) for body in self._dump(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0))]

    def gateways(self) -> dict[int, IPv4Address]:
        """Find the gateway of the default route on each interface, by its index."""
        found: dict[int, IPv4Address] = {}
        for body in self._dump(_RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, *_ = _ROUTE.unpack_from(body)
            attributes = _read_attributes(body[_ROUTE.size :])
            if length == 0 and table == _TABLE_MAIN and _RTA_GATEWAY in attributes and _RTA_OIF in attributes:
                found.setdefault(_U32.unpack(attributes[_RTA_OIF])[0], IPv4Address(attributes[_RTA_GATEWAY]))
        return found

    def close(self) -> None:
        """Give the socket up."""
        self.socket.close()

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Ask for everything of one kind; yield the body of each message of the answer."""
        self._sequence += 1
        self.socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, self._sequence, 0) + body)
        while True:
            for answer, _, octets in _messages(self.socket.recv(65536)):
                if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                yield octets


@final
class LinkWatch:
    """A descriptor on which the kernel tells of every change of an interface in the maker's network namespace."""

    __slots__ = ("_socket", "fd")

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))
        self.fd = self._socket.fileno()

    def read(self) -> list[Link]:
        """Take what was told, at most one datagram; raise OSError (ENOBUFS) if more was told than there is room for."""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return []
        kinds = (_RTM_NEWLINK, _RTM_DELLINK)
        # a bridge tells of its ports as messages of its own family, with other meaning
        told = ((kind, body) for kind, _, body in _messages(data) if kind in kinds and body[:1] == b"\0")
        return [_read_link(body, exists=kind == _RTM_NEWLINK) for kind, body in told]

    def close(self) -> None:
        """Give the descriptor up."""
        self._socket.close()


def _read_link(body: bytes, *, exists: bool = True) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    attributes = _read_attributes(body[_LINK.size :])
    return Link(
        index=index,
        name=attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        mac=attributes.get(_IFLA_ADDRESS, b""),
        mtu=_U32.unpack(attributes.get(_IFLA_MTU, bytes(4)))[0],
        is_up=bool(flags & _IFF_UP),
        has_carrier=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        exists=exists,
    )


def _answers(data: bytes) -> Iterator[tuple[int, int]]:
    """Read (sequence, errno) of each acknowledgement."""
    for kind, sequence, body in _messages(data):
        if kind == _NLMSG_ERROR:
            yield sequence, -_ERRNO.unpack_from(body)[0]


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Read (type, sequence, body) of each message."""
    while len(data) >= _HEADER.size:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _read_attributes(data: bytes) -> dict[int, bytes]:
    attributes: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return attributes
