"""Classic pcap: round trips, dpkt's reader and writer as the judge, damage."""

from __future__ import annotations

import contextlib
import io

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire import pcap


@given(st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(max_size=90))))
def test_reads_back_what_was_written(frames: list[tuple[int, bytes]]) -> None:
    capture = pcap.read(pcap.write(frames))
    assert capture.linktype == pcap.LINKTYPE_ETHERNET
    assert [(record.instant, record.frame) for record in capture.records] == frames
    assert all(record.length == len(record.frame) for record in capture.records)


def test_dpkt_reads_it() -> None:
    data = pcap.write([(1_000_000_001, b"abc"), (2_500_000_000, b"")])
    packets = [(float(when), frame) for when, frame in dpkt.pcap.Reader(io.BytesIO(data))]
    assert packets == [
        (1.000000001, b"abc"),
        (2.5, b""),
    ]


@pytest.mark.parametrize("nano", [False, True])
def test_reads_what_dpkt_wrote(nano: bool) -> None:
    file = io.BytesIO()
    writer = dpkt.pcap.Writer(file, nano=nano)
    writer.writepkt(b"abcdef", 3.25)
    assert pcap.read(file.getvalue()).records == (pcap.Record(3_250_000_000, b"abcdef", 6),)


def test_reads_big_endian_microseconds() -> None:
    data = bytes.fromhex("a1b2c3d4 0002 0004 00000000 00000000 0000ffff 00000001  00000002 00000003 00000001 00000005 aa")
    assert pcap.read(data) == pcap.Capture(1, (pcap.Record(2_000_003_000, b"\xaa", 5),))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "magic"),
        (pcap.header()[:20], "header is cut"),
        (pcap.write([(0, b"abc")])[:-1], "record is cut"),
        (pcap.write([(0, b"abc")])[:-5], "record header is cut"),
        (pcap.header() + b"\0" * 8 + b"\xff\xff\xff\x7f" + b"\0" * 4, "cannot have"),
    ],
)
def test_damage_is_named(data: bytes, text: str) -> None:
    with pytest.raises(WireError, match=text):
        pcap.read(data)


@given(st.binary(max_size=100))
def test_arbitrary_octets_never_raise_anything_but_wire_error(octets: bytes) -> None:
    with contextlib.suppress(WireError):
        pcap.read(pcap.header() + octets)
