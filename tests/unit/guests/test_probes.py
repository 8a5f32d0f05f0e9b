from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.guests.base import PingReply, ProbeReply, Verdict
from vnet.guests.probes import _echo_request, read_answer, read_answer6
from vnet.wire.checksum import is_valid

ROUTER = IPv4Address("10.0.0.1")
IP = bytes.fromhex("4500003c000000004001 0000".replace(" ", "")) + ROUTER.packed + bytes((10, 0, 0, 9))
REQUEST = _echo_request(7, 3, 56)


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    return IP + bytes((kind, code, 0, 0)) + rest


REPLY = icmp(0, 0, REQUEST[4:])


def test_an_echo_request_is_whole() -> None:
    assert len(REQUEST) == 64 and is_valid(REQUEST) and REQUEST[0] == 8


def test_the_reply_to_our_request_is_an_answer() -> None:
    assert read_answer(REPLY, 7, 3) == (ROUTER, "")
    assert read_answer(REPLY, 7, 4) is None and read_answer(REPLY, 8, 3) is None


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        (3, 0, "network unreachable from 10.0.0.1"),
        (3, 1, "host unreachable from 10.0.0.1"),
        (3, 13, "prohibited from 10.0.0.1"),
        (3, 77, "unreachable (code 77) from 10.0.0.1"),
        (11, 0, "time exceeded from 10.0.0.1"),
    ],
)
def test_an_error_about_our_request_is_an_answer(kind: int, code: int, text: str) -> None:
    packet = icmp(kind, code, bytes(4) + IP[:9] + b"\x01" + IP[10:] + REQUEST[:8])
    assert read_answer(packet, 7, 3) == (ROUTER, text)
    assert read_answer(packet, 7, 2) is None


def test_what_is_about_others_is_none() -> None:
    assert read_answer(icmp(8, 0, REQUEST[4:]), 7, 3) is None
    udp = IP[:9] + b"\x11" + IP[10:]
    assert read_answer(icmp(3, 3, bytes(4) + udp + REQUEST[:8]), 7, 3) is None
    assert read_answer(icmp(3, 1, bytes(4)), 7, 3) is None


ROUTER6 = IPv6Address("fd00::1")
REQUEST6 = _echo_request(7, 3, 56, 128)


def test_answers_over_ipv6() -> None:
    assert read_answer6(b"\x81\0\0\0" + REQUEST6[4:], ROUTER6, 7, 3) == (ROUTER6, "")
    assert read_answer6(b"\x81\0\0\0" + REQUEST6[4:], ROUTER6, 7, 4) is None
    quoted = bytes(44) + REQUEST6
    assert read_answer6(b"\x01\x03\0\0" + quoted, ROUTER6, 7, 3) == (ROUTER6, "address unreachable from fd00::1")
    assert read_answer6(b"\x03\0\0\0" + quoted, ROUTER6, 7, 3) == (ROUTER6, "time exceeded from fd00::1")
    assert read_answer6(b"\x01\x03\0\0" + quoted, ROUTER6, 8, 3) is None
    assert read_answer6(REQUEST6, ROUTER6, 7, 3) is None and read_answer6(b"\x87" + bytes(40), ROUTER6, 0, 0) is None


@given(st.binary(max_size=120))
def test_any_octets_are_survived(packet: bytes) -> None:
    read_answer(packet, 7, 3)
    read_answer6(packet, ROUTER6, 7, 3)


@given(st.binary(max_size=60))
def test_any_octets_in_an_error_are_survived(rest: bytes) -> None:
    read_answer(icmp(3, 1, rest), 7, 3)


def test_answers_are_true_or_false() -> None:
    assert PingReply(True) and not PingReply(False)
    assert ProbeReply(Verdict.OPEN) and not ProbeReply(Verdict.CLOSED)
