"""pcapng: what the writer writes, dpkt and our reader read; damage ends in WireError."""

from __future__ import annotations

import contextlib
import io
import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire import pcapng
from vnet.wire.pcapng import Direction, Interface, Packet, Reader, Writer

FRAME = bytes(range(61))


def example() -> bytes:
    writer = Writer()
    return b"".join((
        writer.header(),
        writer.interface("web:eth0"),
        writer.interface("core:2", "the trunk"),
        writer.packet(0, 1_500_000_000, FRAME, Direction.INBOUND),
        writer.packet(1, 1_500_000_001, FRAME[:60], Direction.OUTBOUND, comment="why"),
        writer.statistics(1, 1_500_000_002, 7, 5),
    ))  # fmt: skip


def test_reads_back_what_was_written() -> None:
    web, core = Interface("web:eth0"), Interface("core:2", "the trunk")
    assert pcapng.read(example()) == [
        Packet(web, 1_500_000_000, FRAME, 61, Direction.INBOUND),
        Packet(core, 1_500_000_001, FRAME[:60], 60, Direction.OUTBOUND, ("why",)),
    ]


def test_blocks_are_as_the_draft_draws_them() -> None:
    writer = Writer()
    header = writer.header()
    assert header[:28] == bytes.fromhex("0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0400")
    assert header[28:] == b"vnet" + bytes(4) + bytes.fromhex("28000000")
    interface = writer.interface("a:1")
    assert interface == bytes.fromhex(
        "01000000 28000000 0100 0000 00000000  0200 0300 613a3100  0900 0100 09000000  00000000  28000000"
    )
    packet = writer.packet(0, 1 << 32 | 5, b"\xab" * 6, Direction.OUTBOUND)
    assert packet == bytes.fromhex(
        "06000000 34000000 00000000 01000000 05000000 06000000 06000000 abababababab0000 02000400 02000000 00000000 34000000"
    )


def test_the_epoch_moves_every_instant() -> None:
    writer = Writer(epoch=1_700_000_000 * 10**9)
    data = writer.header() + writer.interface("a:1") + writer.packet(0, 7, FRAME)
    assert pcapng.read(data)[0].instant == 1_700_000_000_000_000_007


def test_dpkt_agrees() -> None:
    packets = list(dpkt.pcapng.Reader(io.BytesIO(example())))
    # dpkt applies the first interface's resolution to all, and returns float seconds
    assert [(round(float(when) * 10**9), data) for when, data in packets] == [
        (1_500_000_000, FRAME),
        (1_500_000_001, FRAME[:60]),
    ]


def test_statistics_are_read_from_the_end() -> None:
    data = example()
    assert pcapng.closing_statistics(data) == [(1, 7, 5)]
    more = data + Writer().statistics(2, 5, 1 << 40, 0)
    assert pcapng.closing_statistics(more) == [(1, 7, 5), (2, 1 << 40, 0)]
    assert pcapng.closing_statistics(more[-60:]) == [(2, 1 << 40, 0)]
    assert pcapng.closing_statistics(data[:-1]) == pcapng.closing_statistics(b"") == []


@given(
    frames=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**63), st.binary(max_size=80), st.sampled_from(Direction))),
    cut=st.integers(1, 50),
)
def test_any_frames_in_pieces_of_any_size(frames: list[tuple[int, int, bytes, Direction]], cut: int) -> None:
    data = pcapng.write(["a:1", "b:1", "c:1"], frames)
    assert data == pcapng.write(["a:1", "b:1", "c:1"], frames)
    reader = Reader()
    packets = [packet for start in range(0, len(data), cut) for packet in reader.feed(data[start : start + cut])]
    reader.close()
    assert [(p.interface.name, p.instant, p.frame, p.direction) for p in packets] == [
        ("abc"[number] + ":1", when, frame, direction) for number, when, frame, direction in frames
    ]


def block(order: str, kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "ticks", "instant"),
    [(6, 3, 3000), (9, 3, 3), (12, 3000, 3), (0, 3, 3_000_000_000), (0x80 | 10, 512, 500_000_000)],
)
def test_byte_orders_and_resolutions(order: str, resolution: int, ticks: int, instant: int) -> None:
    section = block(order, pcapng.SECTION_HEADER, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    options = struct.pack(order + "HHB3x", 9, 1, resolution) + struct.pack(order + "HHq", 14, 8, 2)
    interface = block(order, pcapng.INTERFACE_DESCRIPTION, struct.pack(order + "HHI", 1, 0, 0) + options)
    packet = block(order, pcapng.ENHANCED_PACKET, struct.pack(order + "IIIII", 0, 0, ticks, 3, 9) + b"abc\0")
    simple = block(order, pcapng.SIMPLE_PACKET, struct.pack(order + "I", 4) + b"abcd")
    unknown = block(order, 0x0BAD, b"....")
    packets = pcapng.read(section + interface + unknown + packet + simple)
    assert [(p.instant, p.frame, p.length) for p in packets] == [(instant + 2 * 10**9, b"abc", 9), (0, b"abcd", 4)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("declared", "octets"), [(0, 0), (4, 4), (32, 4), (2, 2), (16, 2), (255, 31)])
def test_the_length_of_the_fcs_is_read_in_octets_and_in_bits(order: str, declared: int, octets: int) -> None:
    def flags(word: int) -> bytes:
        return struct.pack(order + "HHI", 2, 4, word)

    section = block(order, pcapng.SECTION_HEADER, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    fcslen = struct.pack(order + "HHB3x", 13, 1, declared)
    interface = block(order, pcapng.INTERFACE_DESCRIPTION, struct.pack(order + "HHI", 1, 0, 0) + fcslen)
    packet = struct.pack(order + "IIIII", 0, 0, 0, 4, 4) + b"abcd"
    bodies = [packet, packet + flags(1 | 6 << 5), packet + flags(2)]  # the second has its own, which overrides (4.3.1)
    simple = block(order, pcapng.SIMPLE_PACKET, struct.pack(order + "I", 4) + b"abcd")
    packets = pcapng.read(
        section + interface + b"".join(block(order, pcapng.ENHANCED_PACKET, body) for body in bodies) + simple
    )
    assert packets[0].interface.fcs_octets == octets
    assert [each.fcs_octets for each in packets] == [octets, 6, octets, octets]
    assert [each.direction for each in packets] == [0, Direction.INBOUND, Direction.OUTBOUND, 0]


def test_a_new_section_begins_its_interfaces_anew() -> None:
    assert [packet.interface.name for packet in pcapng.read(example() + example())] == ["web:eth0", "core:2"] * 2


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[4:], "does not begin with a section header"),
        (lambda data: data[:8] + b"oops" + data[12:], "byte-order magic"),
        (lambda data: data[:-2], "ends inside a block"),
        (lambda data: data[:36] + b"\x99" + data[37:], "two lengths"),
        (lambda data: data[:4] + struct.pack("<I", 13) + data[8:], "cannot have 13"),
        (lambda data: data[:4] + struct.pack("<I", 1 << 30) + data[8:], "cannot have 1073741824"),
        (lambda data: data[:12] + b"\x02" + data[13:], "version 2"),
        (lambda data: data[:40] + Writer().packet(0, 0, FRAME), "never described"),
    ],
)
def test_damage_is_named(damage: object, text: str) -> None:
    assert callable(damage)
    with pytest.raises(WireError, match=text):
        pcapng.read(damage(example()))


@given(st.integers(0, len(example()) - 1), st.binary(min_size=1, max_size=8))
def test_overwritten_octets_never_raise_anything_but_wire_error(position: int, octets: bytes) -> None:
    data = example()
    damaged = data[:position] + octets + data[position + len(octets) :]
    try:
        for packet in pcapng.read(damaged):
            assert len(packet.frame) <= len(damaged)
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_arbitrary_octets_never_raise_anything_but_wire_error(octets: bytes) -> None:
    with contextlib.suppress(WireError):
        pcapng.read(Writer().header() + octets)
