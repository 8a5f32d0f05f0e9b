"""Ping and port probes by sockets that were opened inside a network namespace; no program is started.

A socket belongs for good to the namespace in which it was made, so it is made there, and trio uses it here.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final

import trio

from vnet.guests.base import Address, PingReply, ProbeReply, Verdict
from vnet.guests.space import Space
from vnet.wire import icmpv6
from vnet.wire.checksum import checksum

_ECHO: Final = Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number (RFC 792)."""
_ECHO_REQUEST, _ECHO_REPLY, _UNREACHABLE, _TIME_EXCEEDED = 8, 0, 3, 11
_UNREACHABLE_TEXTS: Final = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
    4: "packet too big", 9: "prohibited", 10: "prohibited", 13: "prohibited",
}  # fmt: skip
_UNREACHABLE_ERRNOS: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EHOSTDOWN, errno.EPERM})


async def _socket_inside(space: Space, family: int, kind: int, protocol: int = 0) -> trio.socket.SocketType:
    plain = await trio.to_thread.run_sync(space.socket, family, kind, protocol)
    plain.setblocking(False)
    return trio.socket.from_stdlib_socket(plain)


async def ping(space: Space, target: Address, count: int, timeout: float, size: int) -> PingReply:
    """Send *count* echo requests from inside a namespace; see ``Guest.ping``."""
    protocol = socket.IPPROTO_ICMP if target.version == 4 else socket.IPPROTO_ICMPV6
    icmp = await _socket_inside(space, _family(target), socket.SOCK_RAW, protocol)
    identifier = int.from_bytes(os.urandom(2), "big")
    best: int | None = None
    responder: Address | None = None
    received, error = 0, "no answer"
    with icmp:
        for sequence in range(1, count + 1):
            request = _echo_request(
                identifier, sequence, size, _ECHO_REQUEST if target.version == 4 else icmpv6.ECHO_REQUEST
            )
            started = time.monotonic_ns()
            try:
                await icmp.sendto(request, (str(target), 0))
            except OSError as failure:
                error = (failure.strerror or "cannot send").lower()
                continue
            with trio.move_on_after(timeout):
                source, text = await _await_answer(icmp, identifier, sequence)
                responder = source
                if text:
                    error = text
                else:
                    rtt = time.monotonic_ns() - started
                    best = rtt if best is None else min(best, rtt)
                    received += 1
    return PingReply(received > 0, best, "" if received else error, count, received, responder)


def _family(target: Address) -> socket.AddressFamily:
    return socket.AF_INET if target.version == 4 else socket.AF_INET6


def _echo_request(identifier: int, sequence: int, size: int, kind: int = _ECHO_REQUEST) -> bytes:
    """Write a request; over IPv6 Linux replaces the checksum by that with the pseudo-header (RFC 3542, section 3.1)."""
    data = bytes(octet & 0xFF for octet in range(size))
    field = checksum(_ECHO.pack(kind, 0, 0, identifier, sequence) + data)
    return _ECHO.pack(kind, 0, field, identifier, sequence) + data


async def _await_answer(icmp: trio.socket.SocketType, identifier: int, sequence: int) -> tuple[Address, str]:
    """Wait for the reply to one request, or an ICMP error about it; return who sent it, and what the error said."""
    while True:
        packet, peer = await icmp.recvfrom(65536)
        answer: tuple[Address, str] | None
        if icmp.family == socket.AF_INET:
            answer = read_answer(packet, identifier, sequence)
        else:
            answer = read_answer6(packet, IPv6Address(peer[0].partition("%")[0]), identifier, sequence)
        if answer is not None:
            return answer


def read_answer(packet: bytes, identifier: int, sequence: int) -> tuple[IPv4Address, str] | None:
    """Read an ICMP packet, IP header first: who sent it and what it says about our request; None if it is about another."""
    message = packet[(packet[0] & 15) * 4 :] if packet else b""
    if len(packet) < 20 or len(message) < _ECHO.size:
        return None
    source = IPv4Address(packet[12:16])
    kind, code, _, *numbers = _ECHO.unpack_from(message)
    if kind == _ECHO_REPLY:
        return (source, "") if numbers == [identifier, sequence] else None
    if kind not in (_UNREACHABLE, _TIME_EXCEEDED):
        return None
    original = message[_ECHO.size :]
    echo = original[(original[0] & 15) * 4 :] if original else b""
    if len(original) < 20 or original[9] != socket.IPPROTO_ICMP or len(echo) < _ECHO.size:
        return None
    kind_sent, _, _, *numbers = _ECHO.unpack_from(echo)
    if kind_sent != _ECHO_REQUEST or numbers != [identifier, sequence]:
        return None
    text = "time exceeded" if kind == _TIME_EXCEEDED else _UNREACHABLE_TEXTS.get(code, f"unreachable (code {code})")
    return source, f"{text} from {source}"


def read_answer6(message: bytes, source: IPv6Address, identifier: int, sequence: int) -> tuple[IPv6Address, str] | None:
    """Read an ICMPv6 message, which comes without its IPv6 header: see ``read_answer``."""
    if len(message) < _ECHO.size:
        return None
    kind, code, _, *numbers = _ECHO.unpack_from(message)
    if kind == icmpv6.ECHO_REPLY:
        return (source, "") if numbers == [identifier, sequence] else None
    echo = message[_ECHO.size + 40 :]  # we send no extension headers
    if not icmpv6.UNREACHABLE <= kind <= icmpv6.PARAMETER_PROBLEM or len(echo) < _ECHO.size:
        return None
    kind_sent, _, _, *numbers = _ECHO.unpack_from(echo)
    if kind_sent != icmpv6.ECHO_REQUEST or numbers != [identifier, sequence]:
        return None
    return source, f"{icmpv6.describe(kind, code)} from {source}"


async def tcp_probe(space: Space, target: Address, port: int, timeout: float) -> ProbeReply:
    """Try to connect from inside a namespace; see ``Guest.tcp_probe``."""
    stream = await _socket_inside(space, _family(target), socket.SOCK_STREAM)
    started = time.monotonic_ns()
    with stream, trio.move_on_after(timeout):
        try:
            await stream.connect((str(target), port))
        except OSError as error:
            return _verdict(error, started)
        return ProbeReply(Verdict.OPEN, time.monotonic_ns() - started)
    return ProbeReply(Verdict.SILENT, None, "no answer")


async def udp_probe(space: Space, target: Address, port: int, payload: bytes, timeout: float) -> ProbeReply:
    """Send a datagram from inside a namespace; see ``Guest.udp_probe``."""
    datagrams = await _socket_inside(space, _family(target), socket.SOCK_DGRAM)
    started = time.monotonic_ns()
    with datagrams, trio.move_on_after(timeout):
        try:
            await datagrams.connect((str(target), port))
            await datagrams.send(payload)
            await datagrams.recv(65536)
        except OSError as error:
            return _verdict(error, started)
        return ProbeReply(Verdict.OPEN, time.monotonic_ns() - started)
    return ProbeReply(Verdict.SILENT, None, "no answer")


def _verdict(error: OSError, started: int) -> ProbeReply:
    rtt = time.monotonic_ns() - started
    if error.errno == errno.ECONNREFUSED:
        return ProbeReply(Verdict.CLOSED, rtt, "refused")
    if error.errno in _UNREACHABLE_ERRNOS:
        return ProbeReply(Verdict.UNREACHABLE, rtt, (error.strerror or "unreachable").lower())
    if error.errno == errno.ETIMEDOUT:
        return ProbeReply(Verdict.SILENT, None, "no answer")
    raise error
