"""VLAN tags, the Ethernet header and the virtio-net header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1Q, Ether

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.wire import vlan
from vnet.wire.virtio_net import GSO_ECN, GSO_NONE, GSO_TCPV4, NEEDS_CSUM, Offload, decode, encode, is_super, shift

bodies = st.binary(min_size=14, max_size=60)


@given(bodies, st.integers(0, 4095), st.integers(0, 7), st.integers(0, 1))
def test_a_tag_goes_in_and_comes_out(frame: bytes, vid: int, pcp: int, dei: int) -> None:
    tagged = vlan.push(frame, vid, pcp, dei)
    assert vlan.is_tagged(tagged)
    assert len(tagged) == len(frame) + vlan.TAG_OCTETS
    assert vlan.tci(tagged) & vlan.VID_MASK == vid
    assert vlan.pop(tagged) == frame
    seen = Ether(tagged)[Dot1Q]
    assert (seen.vlan, seen.prio, seen.dei) == (vid, pcp, dei)


@given(st.binary(max_size=13))
def test_what_is_too_short_has_no_tag(frame: bytes) -> None:
    assert not vlan.is_tagged(frame)


fields = st.tuples(st.integers(0, 255), st.integers(0, 255), *[st.integers(0, 65535)] * 4)


@given(fields)
def test_virtio_headers_go_round(values: tuple[int, ...]) -> None:
    header = encode(Offload(*values))
    assert len(header) == 10
    assert decode(header) == values
    assert is_super(header) == (values[1] & 0x7F != 0)


def test_the_layout_is_that_of_the_kernel() -> None:
    assert encode(Offload(1, 4, 0x1234, 0x05A8, 34, 16)) == bytes.fromhex("010434 12a805 2200 1000".replace(" ", ""))
    assert decode(NO_OFFLOAD) == (0, 0, 0, 0, 0, 0)
    assert is_super(encode(Offload(1, GSO_TCPV4 | GSO_ECN, 0, 0, 0, 0)))
    assert not is_super(encode(Offload(1, GSO_NONE | GSO_ECN, 0, 0, 0, 0)))


@given(st.binary(max_size=12).filter(lambda header: len(header) != 10))
def test_a_header_of_another_size_is_an_error(header: bytes) -> None:
    with pytest.raises(WireError, match="10 octets"):
        decode(header)
    with pytest.raises(WireError):
        shift(header, 4)


@given(fields, st.sampled_from([-4, 0, 4]))
def test_offsets_move_or_the_lie_is_found(values: tuple[int, ...], octets: int) -> None:
    before = Offload(*values)
    start = before.csum_start + octets * (before.flags & NEEDS_CSUM)
    length = before.hdr_len + (octets if before.hdr_len else 0)
    if not (0 <= start <= 65535 and 0 <= length <= 65535):
        with pytest.raises(WireError):
            shift(encode(before), octets)
        return
    assert decode(shift(encode(before), octets)) == before._replace(csum_start=start, hdr_len=length)


def test_moving_there_and_back_changes_nothing() -> None:
    header = encode(Offload(NEEDS_CSUM, GSO_TCPV4, 66, 1448, 34, 16))
    assert decode(shift(header, 4)) == (NEEDS_CSUM, GSO_TCPV4, 70, 1448, 38, 16)
    assert shift(shift(header, 4), -4) == header
