"""What a VLAN bridge puts on the wire, byte for byte (IEEE 802.1Q-2018, clauses 6.9, 8.6 and 9)."""

from __future__ import annotations

import pytest
from switch_bed import BROADCAST, Bed, frame, mac, tag

from vnet.switch.vlan import Admit, VlanConfig, access, trunk

ALL_PRIORITIES = [(pcp, dei) for pcp in range(8) for dei in (0, 1)]


def test_untagged_frames_get_the_pvid_of_their_port() -> None:
    bed = Bed(access(10), access(20), trunk(), access(10))
    plain = frame(BROADCAST, mac(1))
    assert bed.send(1, plain) == {3: [frame(BROADCAST, mac(1), tag(10))], 4: [plain]}
    plain = frame(BROADCAST, mac(2))
    assert bed.send(2, plain) == {3: [frame(BROADCAST, mac(2), tag(20))]}


@pytest.mark.parametrize(("pcp", "dei"), ALL_PRIORITIES)
def test_tagged_egress_keeps_priority_and_drop_eligibility(pcp: int, dei: int) -> None:
    bed = Bed(trunk(), trunk(), access(7))
    tagged = frame(BROADCAST, mac(1), tag(7, pcp, dei))
    assert bed.send(1, tagged) == {2: [tagged], 3: [frame(BROADCAST, mac(1))]}


@pytest.mark.parametrize(("pcp", "dei"), ALL_PRIORITIES)
def test_priority_tagged_frames_on_an_access_port(pcp: int, dei: int) -> None:
    bed = Bed(access(7), trunk(), access(7))
    out = bed.send(1, frame(BROADCAST, mac(1), tag(0, pcp, dei)))
    assert out == {2: [frame(BROADCAST, mac(1), tag(7, pcp, dei))], 3: [frame(BROADCAST, mac(1))]}


@pytest.mark.parametrize(("pcp", "dei"), ALL_PRIORITIES)
def test_priority_tagged_frames_on_a_trunk_take_its_native_vlan(pcp: int, dei: int) -> None:
    bed = Bed(trunk(native=9), trunk(), trunk(native=9), access(9), access(8))
    out = bed.send(1, frame(BROADCAST, mac(1), tag(0, pcp, dei)))
    plain = frame(BROADCAST, mac(1))
    assert out == {2: [frame(BROADCAST, mac(1), tag(9, pcp, dei))], 3: [plain], 4: [plain]}


def test_priority_tagged_frames_need_a_native_vlan() -> None:
    bed = Bed(trunk(), trunk())
    assert bed.send(1, frame(BROADCAST, mac(1), tag(0, 5))) == {}
    assert bed.drops(1) == {"frame-type": 1}


def test_the_native_vlan_may_arrive_tagged_and_leaves_untagged() -> None:
    bed = Bed(trunk(native=9), trunk(native=9))
    out = bed.send(1, frame(BROADCAST, mac(1), tag(9, 3)))
    assert out == {2: [frame(BROADCAST, mac(1))]}
    assert bed.send(1, frame(BROADCAST, mac(1))) == {2: [frame(BROADCAST, mac(1))]}


def test_a_trunk_without_native_vlan_refuses_untagged_frames() -> None:
    bed = Bed(trunk(frozenset((1, 2))), access(1), trunk())
    assert bed.send(1, frame(BROADCAST, mac(1))) == {}
    assert bed.drops(1) == {"frame-type": 1}


@pytest.mark.parametrize("vid", [1, 10, 11, 4094])
def test_an_access_port_refuses_tagged_frames_even_of_its_own_vlan(vid: int) -> None:
    bed = Bed(access(10), access(10), trunk())
    assert bed.send(1, frame(BROADCAST, mac(1), tag(vid))) == {}
    assert bed.drops(1) == {"frame-type": 1}
    assert bed.switch.fdb.count == 0


def test_a_port_may_refuse_untagged_frames_though_it_has_a_pvid() -> None:
    picky = VlanConfig(5, frozenset((5,)), frozenset((5,)), Admit.TAGGED)
    bed = Bed(picky, access(5))
    assert bed.send(1, frame(BROADCAST, mac(1))) == {}
    assert bed.send(1, frame(BROADCAST, mac(1), tag(0, 1))) == {}
    assert bed.send(1, frame(BROADCAST, mac(1), tag(5))) == {2: [frame(BROADCAST, mac(1))]}


@pytest.mark.parametrize("config", [access(1), trunk(), trunk(native=1)])
@pytest.mark.parametrize("pcp", [0, 7])
def test_vid_4095_is_dropped_everywhere(config: VlanConfig, pcp: int) -> None:
    bed = Bed(config, trunk(), access(1))
    assert bed.send(1, frame(BROADCAST, mac(1), tag(4095, pcp))) == {}
    assert bed.drops(1) == {"reserved-vid": 1}


@pytest.mark.parametrize("inner", [tag(30, 6, 1), tag(0), tag(4095), tag(30, tpid=0x88A8)])
def test_only_the_outer_of_two_tags_counts(inner: bytes) -> None:
    bed = Bed(trunk(), trunk(), access(20), access(30))
    double = frame(BROADCAST, mac(1), tag(20, 2), inner)
    assert bed.send(1, double) == {2: [double], 3: [frame(BROADCAST, mac(1), inner)]}


def test_a_tag_inside_a_priority_tag_is_payload() -> None:
    bed = Bed(access(20), trunk(), access(20))
    out = bed.send(1, frame(BROADCAST, mac(1), tag(0, 4), tag(30)))
    assert out == {2: [frame(BROADCAST, mac(1), tag(20, 4), tag(30))], 3: [frame(BROADCAST, mac(1), tag(30))]}


def test_an_s_tag_is_an_ethertype_like_any_other() -> None:
    bed = Bed(access(20), trunk(), access(20), trunk(native=20))
    stagged = frame(BROADCAST, mac(1), tag(30, 3, tpid=0x88A8))
    assert bed.send(1, stagged) == {
        2: [frame(BROADCAST, mac(1), tag(20), tag(30, 3, tpid=0x88A8))], 3: [stagged], 4: [stagged],
    }  # fmt: skip
    assert bed.send(2, stagged) == {}
    assert bed.drops(2) == {"frame-type": 1}


def test_ingress_filtering_drops_what_the_port_is_no_member_of() -> None:
    bed = Bed(trunk(frozenset((10, 20))), trunk())
    assert bed.send(1, frame(BROADCAST, mac(1), tag(30))) == {}
    assert bed.drops(1) == {"ingress-filter": 1}
    assert bed.switch.fdb.count == 0, "nothing is learned from a frame that was filtered"
    assert bed.send(1, frame(BROADCAST, mac(1), tag(20))) == {2: [frame(BROADCAST, mac(1), tag(20))]}


def test_egress_follows_the_member_set() -> None:
    bed = Bed(trunk(), trunk(frozenset((10,))), trunk(frozenset((20,)), native=10), access(20))
    assert bed.send(1, frame(BROADCAST, mac(1), tag(10))) == {
        2: [frame(BROADCAST, mac(1), tag(10))],
        3: [frame(BROADCAST, mac(1))],
    }
    assert bed.send(1, frame(BROADCAST, mac(1), tag(20))) == {
        3: [frame(BROADCAST, mac(1), tag(20))],
        4: [frame(BROADCAST, mac(1))],
    }


def test_several_vlans_may_leave_one_port_untagged() -> None:
    hybrid = VlanConfig(1, frozenset((1, 2, 3)), frozenset((1, 2)), Admit.ALL)
    bed = Bed(trunk(), hybrid)
    for vid, out in ((1, ()), (2, ()), (3, (tag(3, 1),))):
        assert bed.send(1, frame(BROADCAST, mac(1), tag(vid, 1))) == {2: [frame(BROADCAST, mac(1), *out)]}


@pytest.mark.parametrize("last", range(16))
def test_reserved_group_addresses_stay_on_their_link(last: int) -> None:
    bed = Bed(access(1), access(1), trunk())
    reserved = b"\x01\x80\xc2\x00\x00" + bytes((last,))
    assert bed.send(1, frame(reserved, mac(1))) == {}
    assert bed.drops(1) == {"reserved-address": 1}
    assert bed.send(3, frame(reserved, mac(1), tag(1))) == {}


@pytest.mark.parametrize("group", ["0180c2000010", "0180c20000ff", "0180c2000100", "01005e0000fb", "333300000001"])
def test_other_groups_are_flooded(group: str) -> None:
    bed = Bed(access(1), access(1), access(2), access(1))
    plain = frame(bytes.fromhex(group), mac(1))
    assert bed.send(1, plain) == {2: [plain], 4: [plain]}


@pytest.mark.parametrize("source", ["010000000000", "ffffffffffff", "01005e000001", "000000000000"])
def test_no_station_sends_from_a_group_or_from_zero(source: str) -> None:
    bed = Bed(access(1), access(1))
    assert bed.send(1, frame(BROADCAST, bytes.fromhex(source))) == {}
    assert bed.drops(1) == {"bad-source": 1}
    assert bed.switch.fdb.count == 0


def test_a_known_station_gets_its_frames_alone_and_in_its_own_form() -> None:
    bed = Bed(access(1), access(1), trunk())
    bed.learn(2, 2)
    bed.learn(3, 3, tag(1))
    plain = frame(mac(2), mac(1))
    assert bed.send(1, plain) == {2: [plain]}
    assert bed.send(1, frame(mac(3), mac(1))) == {3: [frame(mac(3), mac(1), tag(1))]}
    assert bed.send(3, frame(mac(2), mac(3), tag(1, 7))) == {2: [frame(mac(2), mac(3))]}


def test_a_frame_is_never_sent_back() -> None:
    bed = Bed(access(1), access(1))
    bed.learn(1, 1)
    assert bed.send(1, frame(mac(1), mac(2))) == {}
    assert bed.drops(1) == {"same-port": 1}


def test_learning_is_per_vlan() -> None:
    bed = Bed(access(10), access(20), access(10), access(20), trunk())
    bed.learn(1, 1)
    bed.learn(2, 1)  # the same address in another VLAN is another entry
    to_one = frame(mac(1), mac(9))
    assert bed.send(3, to_one) == {1: [to_one]}
    assert bed.send(4, to_one) == {2: [to_one]}
    assert bed.send(5, frame(mac(1), mac(8), tag(10))) == {1: [frame(mac(1), mac(8))]}
    assert bed.switch.fdb.lookup(10, mac(1)).port == 1  # type: ignore[union-attr]
    assert bed.switch.fdb.lookup(20, mac(1)).port == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("octets", [0, 1, 6, 12, 13])
def test_frames_shorter_than_a_header_are_runts(octets: int) -> None:
    bed = Bed(access(1), access(1))
    assert bed.send(1, frame(BROADCAST, mac(1))[:octets]) == {}
    assert bed.drops(1) == {"runt": 1}
    assert bed.counters(1)[:2] == (1, octets)


def test_a_header_alone_is_a_frame() -> None:
    bed = Bed(access(1), access(1), trunk())
    header = frame(BROADCAST, mac(1), rest=b"\x08\x06")
    assert bed.send(1, header) == {2: [header], 3: [frame(BROADCAST, mac(1), tag(1), rest=b"\x08\x06")]}


@pytest.mark.parametrize("octets", [14, 15, 16, 17])
def test_a_frame_cut_off_in_its_tag_is_a_runt(octets: int) -> None:
    bed = Bed(trunk(), trunk())
    tagged = frame(BROADCAST, mac(1), tag(5), rest=b"\x08\x00")
    assert len(tagged) == 18
    assert bed.send(1, tagged[:octets]) == {}
    assert bed.drops(1) == {"runt": 1}
    assert bed.send(1, tagged) == {2: [tagged]}


def test_a_runt_does_not_stand_for_the_frames_that_begin_like_it() -> None:
    bed = Bed(access(1), access(1))
    good = frame(BROADCAST, mac(1), tag(0, 6))
    for octets in range(18):
        assert bed.send(1, good[:octets]) == {}
    assert bed.send(1, good) == {2: [frame(BROADCAST, mac(1))]}
    assert bed.send(1, frame(BROADCAST, mac(1), tag(1))) == {}
    assert bed.drops(1) == {"runt": 18, "frame-type": 1}


@pytest.mark.parametrize("config", [access(1), trunk(native=1)])
def test_the_largest_frame(config: VlanConfig) -> None:
    bed = Bed(config, trunk(), access(1))
    largest = frame(BROADCAST, mac(1), rest=b"\x08\x00" + bytes(9216 - 14))
    assert len(largest) == 9216
    tagged = largest[:12] + tag(1) + largest[12:]
    assert bed.send(1, largest) == {2: [tagged], 3: [largest]}
    assert bed.send(1, largest + b"\0") == {}
    assert bed.drops(1) == {"oversize": 1}
    assert bed.send(2, tagged) == {1: [largest], 3: [largest]}
    assert bed.send(2, tagged + b"\0") == {}
    assert bed.drops(2) == {"oversize": 1}


def test_a_priority_tag_does_not_count_for_the_size() -> None:
    bed = Bed(access(1), access(1), max_frame=64)
    longest = frame(BROADCAST, mac(1), tag(0, 1), rest=bytes(52))
    assert len(longest) == 68
    assert bed.send(1, longest) == {2: [longest[:12] + longest[16:]]}
    assert bed.send(1, longest + b"\0") == {}
    assert bed.send(1, frame(BROADCAST, mac(1), rest=b"\x08\0" + bytes(51))) == {}


def test_nothing_is_learned_from_a_frame_that_is_too_long() -> None:
    bed = Bed(access(1), access(1), max_frame=64)
    assert bed.send(1, frame(BROADCAST, mac(1), rest=bytes(53))) == {}
    assert bed.switch.fdb.count == 0
    assert bed.counters(1) == (1, 65, 0, 0)
