"""VXLAN and GENEVE headers: as the standards draw them, and any octets."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire.tunnels import MAX_VNI, geneve_header, read_geneve, read_vxlan, vxlan_header

FRAME = bytes(14)


def test_the_headers_are_those_of_the_standards() -> None:
    """RFC 7348, section 5; RFC 8926, section 3.4."""
    assert vxlan_header(0x123456) == bytes.fromhex("08000000 12345600")
    assert geneve_header(0x123456) == bytes.fromhex("00006558 12345600")


@given(st.integers(0, MAX_VNI))
def test_what_is_written_is_read(vni: int) -> None:
    assert read_vxlan(vxlan_header(vni) + FRAME) == (vni, 8)
    assert read_geneve(geneve_header(vni) + FRAME) == (vni, 8)


def test_geneve_options_are_read_over() -> None:
    assert read_geneve(bytes.fromhex("02006558 00000700") + bytes(8) + FRAME) == (7, 16)


@pytest.mark.parametrize(
    "header",
    [
        "40006558 00000700",  # version 1
        "00800000 00000700",  # a control message
        "00406558 00000700",  # an option that must be understood
        "00000800 00000700",  # IPv4 inside
        "3f006558 00000700",  # options beyond the end
    ],
)
def test_geneve_that_is_not_for_us(header: str) -> None:
    with pytest.raises(WireError):
        read_geneve(bytes.fromhex(header) + FRAME)


def test_vxlan_without_a_number() -> None:
    with pytest.raises(WireError):
        read_vxlan(bytes(8) + FRAME)


@given(st.binary(max_size=80))
def test_any_octets(datagram: bytes) -> None:
    for read in (read_vxlan, read_geneve):
        with contextlib.suppress(WireError):
            vni, start = read(datagram)
            assert 0 <= vni <= MAX_VNI and len(datagram) - start >= 14
