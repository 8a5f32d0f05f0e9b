"""IPv6 headers, ICMPv6, neighbor discovery and MLD, with scapy as the second opinion."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import inet6
from scapy.layers.inet import UDP
from scapy.packet import Raw

from vnet.errors import WireError
from vnet.wire import icmpv6, ipv6, mld, ndp, udp
from vnet.wire.ipv6 import FragmentHeader, Ipv6, text

A, B = IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8:1::2").packed
LINK = IPv6Address("fe80::5054:ff:fe00:1").packed
u3, u8, u16, u20, u32 = (st.integers(0, 2**bits - 1) for bits in (3, 8, 16, 20, 32))
addresses = st.binary(min_size=16, max_size=16)
unicast = addresses.filter(lambda address: address[0] != 0xFF)
macs = st.binary(min_size=6, max_size=6)


def scapy_octets(layer) -> bytes:
    return bytes(layer)


@given(
    st.builds(Ipv6, source=addresses, destination=addresses, next_header=u8, hop_limit=u8, traffic_class=u8, flow_label=u20),
    st.binary(max_size=100),
)
def test_header_round_trip(header, payload):
    octets = header.encode(len(payload)) + payload
    assert ipv6.decode(octets) == (header, payload)
    assert ipv6.decode(octets + b"padding") == (header, payload)
    theirs = inet6.IPv6(octets[:40])
    assert (theirs.src, theirs.dst) == (text(header.source), text(header.destination))
    assert (theirs.nh, theirs.hlim, theirs.tc, theirs.fl, theirs.plen) == (
        header.next_header, header.hop_limit, header.traffic_class, header.flow_label, len(payload),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("octets", "fault"),
    [(b"", "cut off"), (bytes(39), "cut off"), (bytes(40), "not an IPv6"), (b"\x60\0\0\0\0\1" + bytes(34), "length")],
)
def test_bad_headers(octets, fault):
    with pytest.raises(WireError, match=fault):
        ipv6.decode(octets)


def chain(*layers) -> bytes:
    packet = inet6.IPv6(src=text(A), dst=text(B))
    for layer in layers:
        packet /= layer
    return scapy_octets(packet)


def test_walks_the_headers_that_scapy_writes():
    hop, destination = inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()]), inet6.IPv6ExtHdrDestOpt()
    packet = chain(hop, destination, inet6.IPv6ExtHdrRouting(segleft=0, addresses=["2001:db8::9"]), UDP(sport=1, dport=2))
    found = ipv6.walk(packet)
    assert (found.protocol, found.problem) == (17, None)
    assert packet[found.offset : found.offset + 4] == b"\0\1\0\2" and packet[found.named_at] == 17


@pytest.mark.parametrize(
    ("layers", "code", "silent", "even_group"),
    [
        ([inet6.IPv6ExtHdrDestOpt(options=[inet6.HBHOptUnknown(otype=0x1E, optdata=b"x")])], None, False, False),
        ([inet6.IPv6ExtHdrDestOpt(options=[inet6.HBHOptUnknown(otype=0x5E, optdata=b"x")])], 2, True, False),
        ([inet6.IPv6ExtHdrDestOpt(options=[inet6.HBHOptUnknown(otype=0x9E, optdata=b"x")])], 2, False, True),
        ([inet6.IPv6ExtHdrDestOpt(options=[inet6.HBHOptUnknown(otype=0xDE, optdata=b"x")])], 2, False, False),
        ([inet6.IPv6ExtHdrRouting(segleft=1, addresses=["2001:db8::9"])], 0, False, False),
        ([inet6.IPv6ExtHdrDestOpt(), inet6.IPv6ExtHdrHopByHop()], 1, False, False),
    ],
)
def test_what_a_packet_is_dropped_for(layers, code, silent, even_group):
    packet = chain(*layers, UDP())
    found = ipv6.walk(packet)
    assert (found.problem, found.silent, found.even_group) == (code, silent, even_group)
    if code == 2:
        assert packet[found.pointer] & 0x1F == 0x1E, "the pointer is at the option"
    elif code == 1:
        assert packet[found.pointer] == 0
    elif code == 0:
        assert found.pointer == 42, "the type of the routing header"


def test_the_chain_is_bounded():
    header = bytes((60, 0, 1, 4, 0, 0, 0, 0))
    packet = Ipv6(source=A, destination=B, next_header=60).encode(8 * 8) + header * 7 + bytes((17,)) + header[1:]
    assert ipv6.walk(packet).protocol == 17
    with pytest.raises(WireError, match="more than 8"):
        ipv6.walk(Ipv6(source=A, destination=B, next_header=60).encode(9 * 8) + header * 9)
    with pytest.raises(WireError, match="options"):
        ipv6.walk(Ipv6(source=A, destination=B, next_header=60).encode(48) + bytes((17, 5)) + bytes(46))
    for end in range(41, 48):
        with pytest.raises(WireError, match="cut off"):
            ipv6.walk((Ipv6(source=A, destination=B, next_header=60).encode(8) + header)[:end])


@given(st.binary(max_size=200), u8)
def test_any_octets_behind_a_header(octets, kind):
    packet = Ipv6(source=A, destination=B, next_header=kind).encode(len(octets)) + octets
    try:
        found = ipv6.walk(packet)
    except WireError:
        return
    assert 40 <= found.offset <= len(packet) and found.pointer < len(packet)


@given(st.integers(1280, 2000), st.binary(min_size=1, max_size=6000), u32)
def test_fragments_cover_the_packet_exactly(mtu, payload, ident):
    packet = Ipv6(source=A, destination=B, next_header=17, traffic_class=3, flow_label=5).encode(len(payload)) + payload
    parts = ipv6.fragment(packet, mtu, ident)
    if len(packet) <= mtu:
        assert parts == [packet]
        return
    joined = b""
    for part in parts:
        assert len(part) <= mtu
        head, body = ipv6.decode(part)
        assert head == Ipv6(source=A, destination=B, next_header=44, traffic_class=3, flow_label=5)
        fragment = ipv6.decode_fragment(part, 40)
        assert fragment == FragmentHeader(17, len(joined), part is not parts[-1], ident)
        theirs = inet6.IPv6(part)[inet6.IPv6ExtHdrFragment]
        assert (theirs.nh, theirs.offset * 8, theirs.m, theirs.id) == (17, fragment.offset, fragment.more, ident)
        joined += body[8:]
    assert joined == payload


def test_addresses():
    mac = bytes.fromhex("525400000001")
    assert text(ipv6.link_local(mac)) == "fe80::5054:ff:fe00:1"
    assert text(ipv6.solicited_node(A)) == "ff02::1:ff00:1"
    scopes = {
        "::1": 2,
        "fe80::1": 2,
        "ff02::1": 2,
        "ff05::1": 5,
        "fec0::1": 5,
        "fd00::1": 14,
        "2001:db8::1": 14,
        "ff0e::1": 14,
    }
    assert {name: ipv6.scope(IPv6Address(name).packed) for name in scopes} == scopes
    assert not ipv6.may_be_source(IPv6Address("ff02::1").packed) and not ipv6.may_be_source(IPv6Address("::1").packed)


@given(addresses, addresses, u8, u8, u32, st.binary(max_size=100))
def test_icmpv6_round_trip(source, destination, kind, code, rest, body):
    octets = icmpv6.build(source, destination, kind, code, rest, body)
    message = icmpv6.decode(octets, source, destination)
    assert message == icmpv6.Icmpv6(kind, code, rest, body) and message.encode(source, destination) == octets
    assert isinstance(icmpv6.describe(kind, code), str) and message.is_error == (kind < 128)


def test_scapy_computes_the_same_checksums():
    theirs = inet6.IPv6(src=text(A), dst=text(B)) / inet6.ICMPv6EchoRequest(id=7, seq=9, data=b"odd")
    ours = Ipv6(source=A, destination=B, next_header=58).encode(11)
    assert ours + icmpv6.build(A, B, icmpv6.ECHO_REQUEST, 0, 7 << 16 | 9, b"odd") == scapy_octets(theirs)
    theirs = inet6.IPv6(src=text(A), dst=text(B)) / UDP(sport=5, dport=6) / Raw(b"datagram!")
    ours = Ipv6(source=A, destination=B, next_header=17).encode(17)
    assert ours + udp.build(A, B, 5, 6, b"datagram!") == scapy_octets(theirs)


def test_a_wrong_checksum():
    octets = icmpv6.build(A, B, 128, 0, 1, b"x")
    with pytest.raises(WireError, match="checksum"):
        icmpv6.decode(octets[:-1] + b"y", A, B)
    assert icmpv6.decode(octets[:-1] + b"y", A, B, verify=False).body == b"y"
    with pytest.raises(WireError, match="cut off"):
        icmpv6.decode(octets[:7], A, B)


options = st.builds(
    ndp.Options,
    source_mac=st.none() | macs,
    target_mac=st.none() | macs,
    mtu=st.none() | u32,
    prefixes=st.lists(
        st.builds(ndp.Prefix, addresses, st.integers(0, 128), st.booleans(), st.booleans(), u32, u32), max_size=3
    ).map(tuple),
    dns=st.lists(st.builds(ndp.DnsServers, st.lists(addresses, min_size=1, max_size=3).map(tuple), u32), max_size=2).map(
        tuple
    ),
    others=st.lists(st.tuples(st.integers(200, 255), st.sampled_from([bytes(6), bytes(range(14))])), max_size=2).map(tuple),
)
messages = st.one_of(
    st.builds(ndp.RouterSolicitation, options),
    st.builds(
        ndp.RouterAdvertisement, hop_limit=u8, managed=st.booleans(), other=st.booleans(), lifetime=u16, reachable=u32,
        retransmit=u32, options=options,
    ),
    st.builds(ndp.NeighborSolicitation, unicast, options),
    st.builds(ndp.NeighborAdvertisement, unicast, st.booleans(), st.booleans(), st.booleans(), options),
    st.builds(ndp.Redirect, st.just(LINK), unicast, options),
)  # fmt: skip


@given(messages)
def test_neighbor_discovery_round_trip(message):
    assert ndp.decode(ndp.encode(message), LINK, B, 255) == message
    with pytest.raises(WireError, match="router"):
        ndp.decode(ndp.encode(message), LINK, B, 254)


@given(st.sampled_from([133, 134, 135, 136, 137]), st.binary(max_size=120), u32, unicast)
def test_neighbor_discovery_of_any_octets(kind, body, rest, source):
    try:
        ndp.decode(icmpv6.Icmpv6(kind, 0, rest, body), source, B, 255)
    except WireError:
        return


def test_neighbor_discovery_as_scapy_writes_and_reads_it():
    mac = "52:54:00:00:00:01"
    advert = (
        inet6.ICMPv6ND_RA(chlim=64, M=1, O=1, routerlifetime=1800, reachabletime=5, retranstimer=6)
        / inet6.ICMPv6NDOptSrcLLAddr(lladdr=mac)
        / inet6.ICMPv6NDOptMTU(mtu=1400)
        / inet6.ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64, L=1, A=1, validlifetime=100, preferredlifetime=50)
        / inet6.ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=300)
    )
    packet = scapy_octets(inet6.IPv6(src=text(LINK), dst="ff02::1", hlim=255) / advert)
    found = ndp.decode(icmpv6.decode(packet[40:], packet[8:24], packet[24:40]), packet[8:24], packet[24:40], 255)
    assert found == ndp.RouterAdvertisement(
        hop_limit=64, managed=True, other=True, lifetime=1800, reachable=5, retransmit=6,
        options=ndp.Options(
            source_mac=bytes.fromhex("525400000001"), mtu=1400,
            prefixes=(ndp.Prefix(IPv6Address("2001:db8::").packed, 64, True, True, 100, 50),),
            dns=(ndp.DnsServers((IPv6Address("2001:db8::53").packed,), 300),),
        ),
    )  # fmt: skip
    answer = ndp.NeighborAdvertisement(A, False, True, True, ndp.Options(target_mac=bytes.fromhex("525400000001")))
    theirs = inet6.IPv6(Ipv6(source=A, destination=B, next_header=58).encode(32) + ndp.encode(answer).encode(A, B))
    assert (theirs.tgt, theirs.R, theirs.S, theirs.O, theirs.lladdr) == (text(A), 0, 1, 1, mac)


@pytest.mark.parametrize(
    ("message", "source", "destination"),
    [
        (ndp.NeighborSolicitation(A), ipv6.ANY, A),
        (ndp.NeighborSolicitation(A, ndp.Options(source_mac=bytes(6))), ipv6.ANY, ipv6.solicited_node(A)),
        (ndp.RouterSolicitation(ndp.Options(source_mac=bytes(6))), ipv6.ANY, ipv6.ALL_ROUTERS),
        (ndp.NeighborSolicitation(ipv6.ALL_NODES), LINK, B),
        (ndp.NeighborAdvertisement(A, solicited=True), LINK, ipv6.ALL_NODES),
        (ndp.RouterAdvertisement(), A, ipv6.ALL_NODES),
        (ndp.Redirect(LINK, B), A, B),
        (ndp.Redirect(A, B), LINK, B),
        (ndp.Redirect(LINK, ipv6.ALL_NODES), LINK, B),
    ],
)
def test_messages_that_must_be_ignored(message, source, destination):
    with pytest.raises(WireError):
        ndp.decode(ndp.encode(message), source, destination, 255)


def test_an_option_of_length_zero_spoils_the_message():
    message = ndp.encode(ndp.NeighborSolicitation(A))
    with pytest.raises(WireError, match="option"):
        ndp.decode(icmpv6.Icmpv6(message.kind, 0, 0, message.body + bytes(8)), LINK, B, 255)
    with pytest.raises(WireError, match="code"):
        ndp.decode(icmpv6.Icmpv6(message.kind, 1, 0, message.body), LINK, B, 255)


records = st.lists(
    st.builds(
        mld.Record,
        u8,
        addresses,
        st.lists(addresses, max_size=3).map(tuple),
        st.sampled_from([b"", b"four", b"and eight"[:8]]),
    ),
    max_size=5,
).map(tuple)


@given(records)
def test_mld_report_round_trip(found):
    message = mld.Report(found).encode()
    assert mld.decode_report(message) == mld.Report(found)
    if found:
        with pytest.raises(WireError):
            mld.decode_report(icmpv6.Icmpv6(143, 0, message.rest, message.body[:-1]))


@given(addresses, st.integers(0, 8387584), st.lists(addresses, max_size=3).map(tuple), u3, st.integers(0, 31744))
def test_mld_query_round_trip(group, maximum, sources, robustness, interval):
    query = mld.Query(group=group, max_response=maximum, sources=sources, robustness=robustness, interval=interval)
    found = mld.decode_query(query.encode())
    assert (found.group, found.sources, found.robustness, found.version) == (group, sources, robustness, 2)
    assert maximum * 0.999 - 8 <= found.max_response <= maximum
    assert interval * 0.93 - 8 <= found.interval <= interval


def test_mld_as_scapy_writes_and_reads_it():
    theirs = inet6.ICMPv6MLQuery2(mladdr="ff02::1:3", mrd=1000, QRV=3, QQIC=60, sources=["2001:db8::9"])
    packet = scapy_octets(inet6.IPv6(src=text(LINK), dst="ff02::1", hlim=1) / theirs)
    found = ipv6.walk(packet)  # scapy adds the router alert by itself or not: either way is fine
    message = icmpv6.decode(packet[found.offset :], packet[8:24], packet[24:40])
    group = IPv6Address("ff02::1:3").packed
    nine = (IPv6Address("2001:db8::9").packed,)
    assert mld.decode_query(message) == mld.Query(group=group, max_response=1000, sources=nine, robustness=3, interval=60)
    assert mld.decode_query(icmpv6.Icmpv6(130, 0, 1000 << 16, bytes(16))).version == 1
    report = mld.packet(LINK, ipv6.ALL_MLDV2_ROUTERS, mld.Report((mld.Record(mld.TO_EXCLUDE, group),)).encode())
    read = inet6.IPv6(report)
    assert read.hlim == 1 and isinstance(read.payload, inet6.IPv6ExtHdrHopByHop)
    assert any(isinstance(each, inet6.RouterAlert) for each in read.payload.options)
    theirs = read[inet6.ICMPv6MLReport2]
    assert (theirs.records_number, theirs.records[0].rtype, theirs.records[0].dst) == (1, 4, "ff02::1:3")
    assert ipv6.walk(report).protocol == 58


@given(st.binary(max_size=100), u32)
def test_mld_of_any_octets(body, rest):
    for read in (mld.decode_query, mld.decode_report):
        try:
            read(icmpv6.Icmpv6(0, 0, rest, body))
        except WireError:
            continue
