"""VLAN sub-interfaces of a host: tags on the way out and in, what is dropped, super-frames, carrier, IPv6."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from tests.unit.stack.conftest import Hub, Lan
from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.units import MILLISECOND, SECOND
from vnet.wire import ipv6, ndp, vlan
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import NEEDS_CSUM, TCP_CHECKSUM, UDP_CHECKSUM, decode, is_super, shift

MAC1, MAC2 = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")


def tagged(lan: Lan, number: int, *vids: int) -> tuple[Host, list[Interface]]:
    """Make host h1 or h2 on the hub with sub-interfaces, 10.VID.0.NUMBER/24 on each."""
    host = lan.host(number)
    subs = [host.add_vlan(host.interfaces["eth0"], vid) for vid in vids]
    for vid, sub in zip(vids, subs, strict=True):
        sub.add_address(IPv4Interface(f"10.{vid}.0.{number}/24"))
    return host, subs


def ping(lan: Lan, host: Host, address: str) -> bool:
    answers: list[bool] = []
    host.ping(IPv4Interface(address).ip.packed, on_result=lambda result: answers.append(result.ok), timeout=SECOND)
    lan.run(2 * SECOND)
    return answers == [True]


def test_each_vlan_is_a_network_of_its_own(lan: Lan) -> None:
    one, _ = tagged(lan, 1, 16, 20)
    tagged(lan, 2, 16, 30)
    assert ping(lan, one, "10.16.0.2")
    frames = lan.hub.take()
    assert frames and all(vlan.is_tagged(frame) and vlan.tci(frame) == 16 for frame in frames), "PCP and DEI are 0"
    assert {frame[6:12] for frame in frames} == {MAC1, MAC2}, "a sub-interface has its parent's MAC address"
    assert ping(lan, one, "10.0.0.2"), "untagged, by the parent"
    assert not any(vlan.is_tagged(frame) for frame in lan.hub.take())
    assert not ping(lan, one, "10.20.0.2")
    assert not ping(lan, one, "10.30.0.2")


def test_names_vids_and_stacking_are_checked(lan: Lan) -> None:
    host, (sub,) = tagged(lan, 1, 16)
    parent = host.interfaces["eth0"]
    assert (sub.name, sub.mac, sub.mtu, sub.port.name) == ("eth0.16", parent.mac, 1500, "h1:eth0.16")
    for vid in (0, 4095, 16):
        with pytest.raises(UsageError, match=str(vid)):
            host.add_vlan(parent, vid, f"v{vid}")
    with pytest.raises(UsageError, match="eth0 already"):
        host.add_vlan(parent, 17, "eth0")
    with pytest.raises(UsageError, match="sub-interface"):
        host.add_vlan(sub, 18)
    assert host.add_vlan(parent, 17, "voice").name == "voice", "a refused one left nothing behind"


def test_priority_tagged_frames_are_the_parents_own(lan: Lan) -> None:
    """VID 0 says nothing but the priority (IEEE 802.1Q-2018, 6.9.1), with or without sub-interfaces."""
    lan.host(1)
    two, _ = tagged(lan, 2, 16)
    assert ping(lan, two, "10.0.0.1")
    request = next(frame for frame in lan.hub.take() if frame[12:14] == b"\x08\x00" and frame[:6] == MAC1)
    answers = lan.inject(vlan.push(request, 0, pcp=5))
    assert len(answers) == 1 and answers[0][12:14] == b"\x08\x00" and answers[0][:6] == MAC2


@pytest.mark.parametrize(("tags", "reason"), [
    ("8100 0010 8100 0014", "vlan-stacked"),
    ("8100 0010 88a8 0014", "vlan-stacked"),
    ("8100 0000 8100 0010", "vlan-stacked"),
    ("8100 0011", "vlan-unknown"),
    ("8100 0fff", "vlan-unknown"),
    ("88a8 0010", "ethertype"),
])  # fmt: skip
def test_other_tags_are_dropped_and_counted(lan: Lan, tags: str, reason: str) -> None:
    host, (sub,) = tagged(lan, 1, 16)
    assert lan.inject(MAC1 + MAC2 + bytes.fromhex(tags) + b"\x08\x00" + bytes(46)) == []
    assert host.drops == {reason: 1}
    assert sub.ignored == 0


@pytest.mark.parametrize("octets", range(12, 18))
def test_a_frame_cut_off_within_its_tag_is_short(lan: Lan, octets: int) -> None:
    host, _ = tagged(lan, 1, 16)
    lan.inject((MAC1 + MAC2 + bytes.fromhex("8100001008004500"))[:octets])
    assert host.drops == {"short-frame": 1}


def test_offsets_that_do_not_reach_behind_the_tag_are_malformed(lan: Lan) -> None:
    host, _ = tagged(lan, 1, 16)
    frame = MAC1 + MAC2 + bytes.fromhex("810000100800") + bytes(46)
    for offload in (b"\x01" + bytes(5) + b"\x03\x00\x10\x00", b"\x01", bytes(11)):
        lan.inject(frame, offload)
    assert host.drops == {"offload-malformed": 3}


def test_offsets_move_with_the_tag(lan: Lan) -> None:
    """A datagram whose checksum is pending leaves with offsets behind the tag, and takes the short way in at the far end."""
    one, _ = tagged(lan, 1, 16)
    two, (sub,) = tagged(lan, 2, 16)
    offloads: list[bytes] = []
    cable = lan.hub.ports[0]
    cable.hook(tx=lambda send: lambda frame, offload: (offloads.append(offload), send(frame, offload))[1])
    inner: list[bytes] = []
    sub.port.hook(rx=lambda take: lambda frame, offload: (inner.append(offload), take(frame, offload))[1])
    got: list[bytes] = []
    two.udp_bind(7, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(on_datagram=lambda payload, source: None)
    for text in (b"one", b"two"):
        assert socket.send_to(text, (bytes((10, 16, 0, 2)), 7)) is None
        lan.run(100 * MILLISECOND)
    assert got == [b"one", b"two"]
    assert shift(UDP_CHECKSUM, 4) in offloads and UDP_CHECKSUM not in offloads
    assert UDP_CHECKSUM in inner


def test_super_frames_cross_with_their_tag(lan: Lan) -> None:
    one, _ = tagged(lan, 1, 16)
    two, _ = tagged(lan, 2, 16)
    sent: list[tuple[bytes, bytes]] = []
    lan.hub.ports[0].hook(tx=lambda send: lambda frame, offload: (sent.append((frame, offload)), send(frame, offload))[1])
    accepted = []
    listener = two.tcp.listen(80)
    listener.on_ready = lambda: accepted.append(listener.accept())
    connection = one.tcp.connect(bytes((10, 16, 0, 2)), 80)
    lan.run(100 * MILLISECOND)
    (server,) = accepted
    data = bytes(range(256)) * 400
    assert connection.send(data) > 60000
    received = b""
    for _ in range(20):
        lan.run(50 * MILLISECOND)
        received += server.receive(1 << 20) or b""
    assert data.startswith(received) and len(received) > 60000
    supers = [(frame, offload) for frame, offload in sent if is_super(offload)]
    assert supers, "bulk goes in super-frames"
    for frame, offload in supers:
        header = decode(offload)
        assert (header.csum_start, header.flags & NEEDS_CSUM) == (14 + 4 + 20, NEEDS_CSUM)
        assert header.hdr_len >= 14 + 4 + 40
        for part in complete(frame, offload):
            assert vlan.tci(part) == 16 and len(part) <= 1518
    assert one.drops == two.drops == {}
    assert TCP_CHECKSUM not in {offload for _, offload in sent}


def test_the_carrier_follows_the_parents(lan: Lan) -> None:
    host, (sub,) = tagged(lan, 1, 16)
    cable = host.interfaces["eth0"].port
    assert sub.up
    news: list[bool] = []
    sub.on_link = news.append
    cable.set_carrier(False)
    assert not sub.up and not ping(lan, host, "10.16.0.2")
    cable.set_carrier(True)
    assert sub.up and news == [False, True]
    later = host.add_vlan(host.interfaces["eth0"], 20)
    assert later.up
    cable.set_carrier(False)
    assert not host.add_vlan(host.interfaces["eth0"], 21).up, "nor does one that is made meanwhile"


def test_link_local_addresses_are_each_interfaces_own(lan: Lan) -> None:
    """Parent and sub-interface make the same link-local address of their MAC address; both answer at it."""
    hosts = [tagged(lan, number, 16) for number in (1, 2)]
    for number, (host, (sub,)) in enumerate(hosts, 1):
        host.interfaces["eth0"].enable_ipv6()
        sub.enable_ipv6().add_address(IPv6Interface(f"2001:db8:16::{number}/64"))
    lan.run(4 * SECOND)
    (one, (sub1,)), (two, (sub2,)) = hosts
    assert sub1.ipv6 is not None and sub2.ipv6 is not None
    shared = sub2.ipv6.usable_addresses()[-1].ip.packed
    parent = two.interfaces["eth0"].ipv6
    assert parent is not None and parent.usable_addresses()[-1].ip.packed == shared
    answers: list[bool] = []
    note = lambda result: answers.append(result.ok)  # noqa: E731 - a callback
    one.ping(IPv6Interface("2001:db8:16::2/64").ip.packed, on_result=note)
    one.ping(shared, on_result=note)  # by the first interface: untagged
    lan.run(2 * SECOND)
    assert answers == [True, True]
    lan.hub.take()
    assert sub1.ipv6.neighbor(shared).mac in (None, MAC2)
    two.interfaces["eth0"].ipv6.remove_address(shared)
    assert two.use_ipv6().local[shared] is sub2.ipv6, "it is still an address of the host"


def test_a_sub_interface_configures_itself_by_the_routers_of_its_vlan(lan: Lan) -> None:
    host, (sub,) = tagged(lan, 1, 16)
    for interface in (host.interfaces["eth0"], sub):
        interface.enable_ipv6().configure_itself()
    lan.run(3 * SECOND)
    asked = [
        frame for frame in lan.hub.take() if b"\x86\xdd" in frame[12:18] and b"\x3a\xff" in frame and 133 in frame[54:59]
    ]
    assert {vlan.is_tagged(frame) for frame in asked} == {False, True}, "router solicitations in both networks"
    prefix = ndp.Prefix(IPv6Interface("2001:db8:16::/64").ip.packed, 64, valid=86400, preferred=14400)
    router = ipv6.link_local(MAC2)
    message = ndp.RouterAdvertisement(options=ndp.Options(source_mac=MAC2, prefixes=(prefix,)), lifetime=1800)
    octets = ndp.encode(message).encode(router, ipv6.ALL_NODES)
    head = ipv6.build(router, ipv6.ALL_NODES, 58, len(octets), hop_limit=255)
    lan.inject(vlan.push(bytes.fromhex("333300000001") + MAC2 + b"\x86\xdd" + head + octets, 16))
    lan.run(3 * SECOND)
    assert sub.ipv6 is not None and host.ipv6 is not None
    assert str(sub.ipv6.usable_addresses()[0]) == "2001:db8:16:0:5054:ff:fe00:1/64"
    parent = host.interfaces["eth0"].ipv6
    assert parent is not None and len(parent.usable_addresses()) == 1, "only its link-local address"
    assert {route.interface.name for route in host.ipv6.routes} == {"eth0.16"}


def test_broadcasts_leave_by_the_first_interface_with_an_address(lan: Lan) -> None:
    host = lan.host(1, None)
    for vid in (16, 20):
        host.add_vlan(host.interfaces["eth0"], vid).add_address(IPv4Interface(f"10.{vid}.0.1/24"))
    socket = host.udp_bind(on_datagram=lambda payload, source: None)
    for group in ("255.255.255.255", "239.1.2.3", "10.20.0.255"):
        assert socket.send_to(b"hello", (IPv4Interface(group).ip.packed, 9)) is None
    lan.run(10 * MILLISECOND)
    assert [vlan.tci(frame) for frame in lan.hub.take()] == [16, 16, 20]


def test_without_a_cable_what_is_sent_is_the_parents_unsent(lan: Lan) -> None:
    hub = Hub(lan.timeline)
    host = lan.host(1, hub=hub)
    sub = host.add_vlan(host.interfaces["eth0"], 16)
    host.interfaces["eth0"].port.unplug()
    sub.port.send(MAC2 + MAC1 + b"\x08\x00" + bytes(46), NO_OFFLOAD)
    assert host.interfaces["eth0"].port.unsent == 1
    assert hub.take() == []
