"""Super-frames cross the switch whole, and their header follows the tag."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from switch_bed import BROADCAST, Bed, frame, mac, tag

from vnet.ports import NO_OFFLOAD
from vnet.switch.vlan import access, trunk
from vnet.wire.virtio_net import GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, Offload, encode


def tcp_super(payload: int, *tags: bytes, gso_size: int = 1448) -> tuple[bytes, bytes]:
    """Make an IPv4/TCP super-frame; only the offsets matter here."""
    ip = b"\x45\x00" + bytes(18)
    tcp = bytes(12) + b"\x80\x10" + bytes(18)
    octets = frame(BROADCAST, mac(1), *tags, rest=b"\x08\x00" + ip + tcp + bytes(payload))
    start = 34 + 4 * len(tags)
    return octets, encode(Offload(NEEDS_CSUM, GSO_TCPV4, start + 32, gso_size, start, 16))


def offloads(bed: Bed) -> dict[int, bytes]:
    return {number: received[0][1] for number, received in sorted(bed.log.items())}


def test_a_super_frame_passes_whole_and_its_offsets_move_with_the_tag() -> None:
    bed = Bed(access(5), access(5), trunk())
    plain, offload = tcp_super(60_000)
    tagged, tagged_offload = tcp_super(60_000, tag(5))
    assert bed.send(1, plain, offload) == {2: [plain], 3: [tagged]}
    assert offloads(bed) == {2: offload, 3: tagged_offload}
    assert bed.send(3, tagged, tagged_offload) == {1: [plain], 2: [plain]}
    assert offloads(bed) == {1: offload, 2: offload}


def test_a_retagged_super_frame_keeps_its_offsets() -> None:
    bed = Bed(access(5), trunk())
    priority, offload = tcp_super(30_000, tag(0, 6))
    out, _ = tcp_super(30_000, tag(5, 6))
    assert bed.send(1, priority, offload) == {2: [out]}
    assert offloads(bed) == {2: offload}


def test_a_pending_checksum_moves_with_the_tag() -> None:
    bed = Bed(access(5), trunk())
    octets = frame(BROADCAST, mac(1))
    bed.send(1, octets, encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 34, 6)))
    assert offloads(bed) == {2: encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 38, 6))}


def test_what_counts_for_the_size_is_each_frame_cut_from_it() -> None:
    bed = Bed(access(5), trunk(), max_frame=1514)
    assert bed.send(1, *tcp_super(60_000, gso_size=1448)) != {}
    assert bed.send(1, *tcp_super(60_000, gso_size=1449)) == {}
    assert bed.send(1, *tcp_super(1448, gso_size=9000)) != {}, "the only frame cut from it is short"
    assert bed.drops(1) == {"oversize": 1}


def test_octets_count_as_they_cross() -> None:
    bed = Bed(access(5), access(5), trunk())
    octets, offload = tcp_super(60_000)
    bed.send(1, octets, offload)
    assert bed.counters(1) == (1, len(octets), 0, 0)
    assert bed.counters(2) == (0, 0, 1, len(octets))
    assert bed.counters(3) == (0, 0, 1, len(octets) + 4)


def test_a_header_that_cannot_move_is_dropped_where_it_would_have_to() -> None:
    bed = Bed(trunk(), access(5), trunk(), access(5))
    octets = frame(BROADCAST, mac(1), tag(5))
    lie = encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 2, 6))
    assert bed.send(1, octets, lie) == {3: [octets]}
    assert bed.drops(1) == {"malformed-offload": 1}
    assert bed.counters(2)[2:] == bed.counters(4)[2:] == (0, 0)
    assert bed.counters(3)[2:] == (1, len(octets))
    honest = encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 38, 6))
    assert set(bed.send(1, octets, honest)) == {2, 3, 4}
    assert bed.counters(2)[2:] == (1, len(octets) - 4)
    far = encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 0xFFFE, 6))
    assert set(bed.send(2, frame(BROADCAST, mac(2)), far)) == {4}


headers = st.one_of(
    st.just(NO_OFFLOAD),
    st.binary(min_size=10, max_size=10),
    st.builds(
        lambda *fields: encode(Offload(*fields)),
        st.integers(0, 3), st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x85, 0xFF]), st.integers(0, 70),
        st.sampled_from([0, 1, 8, 60, 65535]), st.integers(0, 90), st.integers(0, 20),
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=100), headers, st.booleans()), max_size=30))
def test_no_octets_and_no_header_upset_the_switch(script: list[tuple[int, bytes, bytes, bool]]) -> None:
    bed = Bed(access(5), trunk(), trunk(native=5), access(6), max_frame=80)
    out: dict[int, list[int]] = {number: [] for number in range(1, 5)}
    arrived = {number: [0, 0] for number in range(1, 5)}
    for number, octets, header, whole in script:
        if whole:  # a good beginning, so that lies get as far as they can
            octets = frame(BROADCAST, mac(number), tag(5)) if number in (2, 3) else frame(BROADCAST, mac(number))
        arrived[number][0] += 1
        arrived[number][1] += len(octets)
        for port, frames in bed.send(number, octets, header).items():
            out[port].extend(len(sent) for sent in frames)
    assert not any(bed.switch.ports[number].port.unsent for number in out)
    for number in out:
        assert bed.counters(number) == (*arrived[number], len(out[number]), sum(out[number]))
    assert bed.send(1, frame(BROADCAST, mac(7))) != {}, "it still forwards"


def test_udp_super_frames_too() -> None:
    bed = Bed(access(5), trunk())
    octets = frame(BROADCAST, mac(1), rest=b"\x08\x00" + bytes(20 + 8 + 40_000))
    bed.send(1, octets, encode(Offload(NEEDS_CSUM, GSO_UDP_L4, 42, 1472, 34, 6)))
    assert offloads(bed) == {2: encode(Offload(NEEDS_CSUM, GSO_UDP_L4, 46, 1472, 38, 6))}
