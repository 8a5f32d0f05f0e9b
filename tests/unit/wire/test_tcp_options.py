"""TCP options: octets as dpkt reads them, and whatever octets a peer sends."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire.tcp_options import NO_OPTIONS, TcpOptions, decode, peek_timestamps, stamped

word = st.integers(0, 2**32 - 1)
options = st.builds(
    TcpOptions,
    mss=st.none() | st.integers(0, 0xFFFF), window_scale=st.none() | st.integers(0, 14), sack_permitted=st.booleans(),
    timestamps=st.none() | st.tuples(word, word), sack=st.lists(st.tuples(word, word), max_size=4).map(tuple),
)  # fmt: skip


@given(options)
def test_what_is_written_is_read(some):
    try:
        octets = some.encode()
    except WireError:
        assert some.sack
        return
    assert len(octets) % 4 == 0 and len(octets) <= 40
    assert decode(octets) == some


def test_they_are_as_another_implementation_reads_them():
    octets = TcpOptions(mss=1460, window_scale=7, sack_permitted=True, timestamps=(1, 2)).encode()
    known = [(kind, value) for kind, value in dpkt.tcp.parse_opts(octets) if kind != dpkt.tcp.TCP_OPT_NOP]
    assert known == [
        (dpkt.tcp.TCP_OPT_MSS, b"\x05\xb4"), (dpkt.tcp.TCP_OPT_WSCALE, b"\x07"), (dpkt.tcp.TCP_OPT_SACKOK, b""),
        (dpkt.tcp.TCP_OPT_TIMESTAMP, b"\0\0\0\1\0\0\0\2"),
    ]  # fmt: skip


def test_other_kinds_are_skipped_and_the_end_ends():
    assert decode(b"\xfe\x04ab\x02\x04\x05\xb4\x00\x03\x03\x07") == TcpOptions(mss=1460)


@pytest.mark.parametrize("bad", [b"\x03", b"\x03\x00", b"\x03\x01", b"\x03\x09\x01", b"\x08\x0a\0\0"])
def test_a_length_that_cannot_be_ends_the_reading(bad):
    assert decode(b"\x02\x04\x05\xb4" + bad) == TcpOptions(mss=1460)


@pytest.mark.parametrize("odd", [b"\x02\x03\x05", b"\x03\x04\x01\x01", b"\x08\x04ab", b"\x05\x06abcd", b"\x04\x03a"])
def test_a_known_kind_of_a_wrong_length_is_skipped(odd):
    assert decode(odd + b"\x03\x03\xff") == TcpOptions(window_scale=14)


@given(st.binary(max_size=60))
def test_any_octets_can_be_read(octets):
    assert len(decode(octets).sack) <= 7


def test_the_short_way_for_timestamps():
    assert peek_timestamps(stamped(5, 6)) == (5, 6) == decode(stamped(5, 6)).timestamps
    assert peek_timestamps(stamped(5, 6) + b"\1\1\1\0") is None
    assert peek_timestamps(b"") is None
    assert decode(b"") == NO_OPTIONS
