"""Translations against recomputation by scapy: whatever the packet, every checksum that was right stays right."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw
from scapy.utils import checksum

from vnet.services.firewall.conntrack import Connection, turned
from vnet.services.nat.rewrite import quoted_tuple, translate, translate_error, tuple_of
from vnet.wire.checksum import pseudo_header_sum

addresses = st.ip_addresses(v=4).map(lambda address: address.packed)
ports = st.integers(0, 65535)
payloads = st.binary(max_size=90)


def packed(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in numbers)


@st.composite
def connections(draw: st.DrawFn, protocol: int) -> Connection:
    """Any translation of source and destination at once."""
    query = protocol == 1
    original = draw(addresses) + draw(addresses) + packed(draw(ports), 0 if query else draw(ports))
    leaves = draw(addresses) + draw(addresses) + packed(draw(ports), 0 if query else draw(ports))
    return Connection(protocol, original, turned(leaves), "a", "b")


def dotted(address: bytes) -> str:
    return ".".join(map(str, address))


def build(protocol: int, tuple_: bytes, payload: bytes, options: bytes = b"", no_checksum: bool = False) -> bytes:
    source, target = int.from_bytes(tuple_[8:10], "big"), int.from_bytes(tuple_[10:12], "big")
    transport = {
        6: lambda: TCP(sport=source, dport=target, flags="PA", seq=7),
        17: lambda: UDP(sport=source, dport=target, **({"chksum": 0} if no_checksum else {})),
        1: lambda: ICMP(type=8, id=source, seq=3),
    }[protocol]()
    ip = IP(src=dotted(tuple_[:4]), dst=dotted(tuple_[4:8]), ttl=9, id=77)
    head = bytes(ip / transport / Raw(payload))
    if options:
        header = bytearray(head[:20] + options)
        header[0] = 0x40 | len(header) // 4
        header[2:4] = packed(len(header) + len(head) - 20)
        header[10:12] = b"\0\0"
        header[10:12] = packed(checksum(bytes(header)))
        return bytes(header) + head[20:]
    return head


def rebuilt(packet: bytes) -> bytes:
    """Let scapy fill in every checksum anew."""
    parsed = IP(packet)
    del parsed.chksum
    if UDP in parsed and parsed[UDP].chksum == 0:
        return bytes(parsed)
    if parsed.payload.name in ("TCP", "UDP", "ICMP"):
        del parsed.payload.chksum
    return bytes(parsed)


def same_checksums(got: bytes, expected: bytes) -> bool:
    """Compare; the two zeros of ones'-complement arithmetic are equal in a field."""
    return len(got) == len(expected) and all(
        got[i : i + 2] == expected[i : i + 2] or {got[i : i + 2], expected[i : i + 2]} == {b"\0\0", b"\xff\xff"}
        for i in range(0, len(got) - 1, 2)
    )


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    protocol=st.sampled_from([6, 17, 1]),
    payload=payloads,
    words=st.integers(0, 10),
    no_checksum=st.booleans(),
)
def test_translation_equals_recomputation(data, protocol, payload, words, no_checksum):
    connection = data.draw(connections(protocol))
    options = b"\x01" * (4 * words)
    for direction in (connection.original, connection.reply):
        if protocol == 1 and not direction.from_originator:
            continue
        packet = build(protocol, direction.arrives, payload, options, no_checksum)
        header_octets = 20 + len(options)
        assert tuple_of(packet, header_octets) == direction.arrives
        work = bytearray(packet)
        translate(work, header_octets, direction, first=True, partial=False)
        got = bytes(work)
        assert tuple_of(got, header_octets) == direction.leaves
        assert same_checksums(got, rebuilt(got))
        assert got[20:header_octets] == options
        assert got[header_octets + 8 + 12 * (protocol == 6) :] == payload
        if protocol == 17:
            assert (got[header_octets + 6 : header_octets + 8] == b"\0\0") == no_checksum
        # and back again: the other direction undoes it
        back = bytearray(got)
        mirror = Connection(protocol, direction.leaves, turned(direction.arrives), "a", "b").original
        translate(back, header_octets, mirror, first=True, partial=False)
        assert same_checksums(bytes(back), packet)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), protocol=st.sampled_from([6, 17]), payload=payloads)
def test_a_pending_checksum_keeps_its_pseudo_header_sum(data, protocol, payload):
    direction = data.draw(connections(protocol)).original
    work = bytearray(build(protocol, direction.arrives, payload))
    at = 20 + {6: 16, 17: 6}[protocol]
    work[at : at + 2] = packed(pseudo_header_sum(bytes(work[12:16]), bytes(work[16:20]), protocol, len(work) - 20))
    translate(work, 20, direction, first=True, partial=True)
    expected = pseudo_header_sum(direction.leaves[:4], direction.leaves[4:8], protocol, len(work) - 20)
    assert int.from_bytes(work[at : at + 2], "big") == expected


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), protocol=st.sampled_from([6, 17, 1]), payload=payloads, cut=st.integers(8, 100), router=addresses,
    kind=st.sampled_from([(3, 3), (3, 4), (11, 0), (12, 0)]),
)  # fmt: skip
def test_an_error_reaches_the_sender_about_the_packet_it_sent(data, protocol, payload, cut, router, kind):
    connection = data.draw(connections(protocol))
    sent = build(protocol, connection.original.arrives, payload)
    left = bytearray(sent)
    translate(left, 20, connection.original, first=True, partial=False)
    quote = bytes(left)[: 20 + cut]
    error = bytes(
        IP(src=dotted(router), dst=dotted(connection.original.leaves[:4])) / ICMP(type=kind[0], code=kind[1]) / Raw(quote)
    )
    found = quoted_tuple(error, 20)
    direction = connection.reply
    assert found == direction.arrives
    work = bytearray(error)
    translate_error(work, 20, direction)
    got = bytes(work)
    assert got[28:] == sent[: 20 + cut] or same_checksums(
        got[28:], sent[: 20 + cut] + bytes(len(got) - 28 - len(sent[: 20 + cut]))
    )
    parsed = IP(got)
    assert parsed.dst == dotted(connection.original.arrives[:4])
    hidden = direction.arrives[:4] != direction.leaves[:4]
    assert parsed.src == (dotted(direction.leaves[:4]) if hidden else dotted(router))
    assert same_checksums(got, rebuilt(got))


@given(st.binary(max_size=120))
def test_no_octets_raise(octets):
    header = b"\x45" + octets[:19].ljust(19, b"\0")
    packet = header + octets[19:]
    tuple_of(packet, 20)
    found = quoted_tuple(packet, 20)
    assert found is None or len(found) == 12


def test_an_error_with_a_wrong_checksum_is_nobodys():
    inner = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2))
    error = bytes(IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3, code=3) / Raw(inner))
    assert quoted_tuple(error, 20) == bytes((192, 0, 2, 2, 192, 0, 2, 1)) + packed(2, 1)
    assert quoted_tuple(error[:22] + b"\x12\x34" + error[24:], 20) is None
