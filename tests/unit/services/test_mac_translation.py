"""Many stations behind one MAC address: ARP, IPv4, IPv6 and DHCP both ways, and what does not pass."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.ports import NO_OFFLOAD
from vnet.services.mac_translation import AGEING_TIME, MOST_STATIONS, MacTranslation
from vnet.units import SECOND
from vnet.wire import arp, checksum, virtio_net
from vnet.wire.dhcpv4_frame import IP_BROADCAST, dhcp_frame, dhcp_payload

NIC = bytes.fromhex("02aa00000001")
A, B, PEER = (bytes.fromhex(text) for text in ("020000000001", "020000000002", "520000000009"))
BROADCAST = b"\xff" * 6
IP_A, IP_B, IP_PEER = (IPv4Address(text).packed for text in ("10.0.0.1", "10.0.0.2", "10.0.0.9"))
V6_A, V6_PEER = (IPv6Address(text).packed for text in ("fe80::1", "fe80::9"))


def ipv4(to: bytes, source_mac: bytes, source: bytes, destination: bytes) -> bytes:
    return to + source_mac + b"\x08\0" + bytes.fromhex("4500001c000000004001") + b"\0\0" + source + destination + bytes(8)


def ipv6(to: bytes, source_mac: bytes, source: bytes, destination: bytes, message: bytes = b"", after: int = 59) -> bytes:
    head = b"\x60\0\0\0" + len(message).to_bytes(2, "big") + bytes((after, 255))
    return to + source_mac + b"\x86\xdd" + head + source + destination + message


def icmpv6(source: bytes, destination: bytes, message: bytes) -> bytes:
    pseudo = checksum.pseudo_header_sum(source, destination, 58, len(message))
    return message[:2] + checksum.checksum(message, pseudo).to_bytes(2, "big") + message[4:]


def is_sound(frame: bytes) -> bool:
    message = frame[54:]
    return checksum.is_valid(message, checksum.pseudo_header_sum(frame[22:38], frame[38:54], 58, len(message)))


@pytest.fixture
def air() -> MacTranslation:
    made = MacTranslation(NIC)
    for mac, address in ((A, IP_A), (B, IP_B)):
        assert made.outbound(arp.request_frame(mac, address, IP_PEER), NO_OFFLOAD, 0) == arp.request_frame(
            NIC, address, IP_PEER
        )
    return made


def test_answers_find_their_station(air: MacTranslation) -> None:
    for mac, address in ((A, IP_A), (B, IP_B)):
        answer = arp.reply_frame(PEER, IP_PEER, NIC, address)
        assert air.inbound(answer, 1) == arp.reply_frame(PEER, IP_PEER, mac, address)
        packet = ipv4(NIC, PEER, IP_PEER, address)
        assert air.inbound(packet, 1) == mac + packet[6:]


def test_an_arp_reply_of_a_station_names_the_nic(air: MacTranslation) -> None:
    assert air.outbound(arp.reply_frame(A, IP_A, PEER, IP_PEER), NO_OFFLOAD, 1) == arp.reply_frame(NIC, IP_A, PEER, IP_PEER)


def test_broadcasts_pass_and_those_that_come_back_do_not(air: MacTranslation) -> None:
    asked = arp.request_frame(PEER, IP_PEER, IP_A)
    assert air.inbound(asked, 1) == asked
    assert air.inbound(arp.request_frame(NIC, IP_A, IP_PEER), 1) is None
    assert air.drops == {"echo": 1}


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(NIC, PEER, IP_PEER, IPv4Address("10.0.0.77").packed),
        arp.reply_frame(PEER, IP_PEER, NIC, IPv4Address("10.0.0.77").packed),
        ipv6(NIC, PEER, V6_PEER, V6_A),
        NIC + PEER + b"\x88\xb5" + bytes(46),
        NIC + PEER + b"\x08\0" + bytes(3),
        NIC + PEER + b"\x08\x06" + bytes(3),
        NIC + PEER + b"\x86\xdd" + bytes(3),
        NIC + PEER + b"\x08",
    ],
)
def test_what_is_for_no_station_ends_here(air: MacTranslation, frame: bytes) -> None:
    assert air.inbound(frame, 1) is None and air.drops == {"no-station": 1}


def test_other_protocols_leave_with_the_nic_s_address(air: MacTranslation) -> None:
    frame = PEER + A + b"\x88\xb5" + bytes(46)
    assert air.outbound(frame, NO_OFFLOAD, 1) == PEER + NIC + frame[12:]
    assert air.outbound(PEER + A + b"\x08\x06\0", NO_OFFLOAD, 1) == PEER + NIC + b"\x08\x06\0"


def test_announcements_by_rarp_end_here(air: MacTranslation) -> None:
    assert air.outbound(arp.rarp_frame(A), NO_OFFLOAD, 1) is None and air.drops == {"announcement": 1}


@pytest.mark.parametrize("source", ["0.0.0.0", "255.255.255.255", "224.0.0.5"])
def test_nobody_has_such_addresses(source: str) -> None:
    air = MacTranslation(NIC)
    air.outbound(ipv4(PEER, A, IPv4Address(source).packed, IP_PEER), NO_OFFLOAD, 0)
    air.outbound(ipv6(PEER, A, bytes(16), V6_PEER), NO_OFFLOAD, 0)
    assert len(air) == 0


@pytest.mark.parametrize("pending", [False, True])
def test_dhcp_clients_ask_for_broadcasts(pending: bool) -> None:
    payload = bytes((1, 1, 6, 0)) + bytes(24) + A + bytes(202) + bytes.fromhex("63825363350101ff")
    frame = dhcp_frame(BROADCAST, A, bytes(4), IP_BROADCAST, 68, 67, payload)
    sent = MacTranslation(NIC).outbound(frame, virtio_net.UDP_CHECKSUM if pending else NO_OFFLOAD, 0)
    assert sent is not None and sent[6:12] == NIC
    assert dhcp_payload(sent, virtio_net.UDP_CHECKSUM if pending else NO_OFFLOAD) == payload[:10] + b"\x80" + payload[11:]
    assert (sent[40:42] == frame[40:42]) is pending  # the sum of addresses and length is still to be completed


def test_a_server_that_answers_by_unicast_is_understood() -> None:
    payload = bytes((2, 1, 6, 0)) + bytes(24) + A + bytes(202)
    answer = dhcp_frame(NIC, PEER, IP_PEER, IP_A, 67, 68, payload)
    assert MacTranslation(NIC).inbound(answer, 0) == A + answer[6:]
    group = answer[:70] + b"\x01" + answer[71:]
    assert MacTranslation(NIC).inbound(group, 0) is None


@pytest.mark.parametrize(("kind", "fixed", "option"), [(133, 8, 1), (134, 16, 1), (135, 24, 1), (136, 24, 2), (137, 40, 2)])
def test_neighbor_discovery_names_the_nic(kind: int, fixed: int, option: int) -> None:
    air = MacTranslation(NIC)
    other = bytes((5, 1)) + bytes(6)
    message = icmpv6(V6_A, V6_PEER, bytes((kind, 0, 0, 0)) + bytes(fixed - 4) + other + bytes((option, 1)) + A)
    frame = ipv6(PEER, A, V6_A, V6_PEER, message, 58)
    sent = air.outbound(frame, NO_OFFLOAD, 0)
    assert (
        sent is not None and is_sound(sent) and sent.endswith(other + bytes((option, 1)) + NIC) and len(sent) == len(frame)
    )
    back = ipv6(NIC, PEER, V6_PEER, V6_A)
    assert air.inbound(back, 1) == A + back[6:]


@pytest.mark.parametrize("options", [b"\x01", b"\x01\x00" + bytes(6), b"\x01\x01\x02", b"\x07\xff" + bytes(6), b""])
def test_broken_options_are_left_alone(options: bytes) -> None:
    frame = ipv6(PEER, A, V6_A, V6_PEER, bytes((135, 0, 0, 0)) + bytes(20) + options, 58)
    assert MacTranslation(NIC).outbound(frame, NO_OFFLOAD, 0) == PEER + NIC + frame[12:]


def test_a_silent_station_is_forgotten(air: MacTranslation) -> None:
    packet = ipv4(NIC, PEER, IP_PEER, IP_A)
    assert air.inbound(packet, AGEING_TIME) is not None
    air.outbound(ipv4(PEER, A, IP_A, IP_PEER), NO_OFFLOAD, AGEING_TIME)
    assert air.inbound(packet, AGEING_TIME + SECOND) is not None
    assert air.inbound(ipv4(NIC, PEER, IP_PEER, IP_B), AGEING_TIME + SECOND) is None and len(air) == 1


def test_a_station_that_takes_another_s_address_gets_its_packets(air: MacTranslation) -> None:
    air.outbound(arp.request_frame(B, IP_A, IP_A), NO_OFFLOAD, 1)
    packet = ipv4(NIC, PEER, IP_PEER, IP_A)
    assert air.inbound(packet, 1) == B + packet[6:]


def test_when_there_are_too_many_the_longest_silent_gives_way(air: MacTranslation) -> None:
    for number in range(MOST_STATIONS - 2):
        air.outbound(ipv4(PEER, A, (0x0A010000 + number).to_bytes(4, "big"), IP_PEER), NO_OFFLOAD, SECOND)
    later = 100 * SECOND
    air.outbound(ipv4(PEER, A, IP_A, IP_PEER), NO_OFFLOAD, later)
    air.outbound(ipv4(PEER, A, IPv4Address("10.9.9.9").packed, IP_PEER), NO_OFFLOAD, later)
    assert len(air) == MOST_STATIONS
    assert air.inbound(ipv4(NIC, PEER, IP_PEER, IP_B), later) is None
    assert air.inbound(ipv4(NIC, PEER, IP_PEER, IP_A), later) is not None


@given(
    st.binary(min_size=14, max_size=200), st.sampled_from([b"\x08\0", b"\x08\x06", b"\x86\xdd", b"\x80\x35", b"\x88\xb5"])
)
def test_whatever_comes_raises_nothing_and_keeps_its_length(octets: bytes, kind: bytes) -> None:
    air = MacTranslation(NIC)
    frame = PEER + octets[:6] + kind + octets[14:]
    sent = air.outbound(frame, NO_OFFLOAD, 0)
    assert sent is None or (len(sent) == len(frame) and sent[6:12] == NIC)
    came = air.inbound(NIC + frame[6:], 0)
    assert came is None or len(came) == len(frame)
