"""The DHCP server in the fabric: frames in and out, group commit, ARP for its address, conflicts."""

from ipaddress import IPv4Interface

import pytest
from dhcp_bed import Bed, config, request

from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD
from vnet.services.dhcp.binding import Binding, BindingState
from vnet.units import HOUR, MINUTE, SECOND
from vnet.wire import arp, dhcpv4, ipv4, udp
from vnet.wire.dhcpv4_frame import dhcp_frame

SMALL = config("10.0.0.0/24", "10.0.0.10", "10.0.0.99", "10.0.0.2", "10.0.0.1")
MAC = b"\x02\0\0\0\0\1"


class RecordingStore:
    def __init__(self, bindings=()):
        self.bindings = bindings
        self.batches = []
        self.failing = False

    def load(self):
        return self.bindings

    def record(self, changes):
        if self.failing:
            raise HostError("no space left")
        self.batches.append(list(changes))


class Station:
    """A bare port on the hub that hears everything."""

    def __init__(self, bed):
        self.bed = bed
        self.heard = []
        self.interface = bed.host("station", MAC)
        self.interface.port._handler = lambda frame, offload: self.heard.append(frame)
        self.interface.port.hook()
        bed.plug(self.interface.port)

    def send(self, frame, offload=NO_OFFLOAD):
        self.interface.port.send(frame, offload)

    def say(self, message, to=b"\xff" * 6, source=bytes(4), destination=b"\xff" * 4):
        self.send(dhcp_frame(to, message.chaddr, source, destination, 68, 67, dhcpv4.encode(message)))

    def replies(self):
        return [dhcpv4.decode(frame[42:]) for frame in self.heard if frame[36:38] == b"\0\x44"]


@pytest.fixture
def bed():
    return Bed()


@pytest.fixture
def store():
    return RecordingStore()


@pytest.fixture
def node(bed, store):
    return bed.server(SMALL, store)


@pytest.fixture
def station(bed, node):
    return Station(bed)


def requests(count):
    return [
        request(dhcpv4.REQUEST, b"\x02\0\0\0\1" + bytes((n,)), options={54: b"\x0a\0\0\2", 50: bytes((10, 0, 0, 10 + n))})
        for n in range(count)
    ]


def test_requests_of_one_instant_are_one_batch(bed, node, store, station):
    for message in requests(20):
        station.say(message)
    bed.run(SECOND)
    assert [len(batch) for batch in store.batches] == [20]
    assert {reply.message_type for reply in station.replies()} == {dhcpv4.ACK} and len(station.replies()) == 20


def test_nothing_is_sent_before_it_is_recorded(bed, node, store, station):
    replies_at_commit = []
    record = store.record
    store.record = lambda changes: (replies_at_commit.append(len(station.replies())), record(changes))
    station.say(requests(1)[0])
    bed.run(SECOND)
    assert replies_at_commit == [0] and len(station.replies()) == 1


def test_what_cannot_be_recorded_is_not_promised(bed, node, store, station):
    store.failing = True
    station.say(requests(1)[0])
    bed.run(SECOND)
    assert station.replies() == [] and node.counters["not-stored"] == 1
    assert bed.of("dhcp-store-failed") == [{"error": "no space left", "changes": 1}]
    store.failing = False
    station.say(requests(1)[0])
    bed.run(SECOND)
    assert len(station.replies()) == 1, "the client asks again"


def test_offers_are_not_recorded(bed, node, store, station):
    station.say(request(dhcpv4.DISCOVER, MAC))
    bed.run(SECOND)
    assert store.batches == [] and station.replies()[0].message_type == dhcpv4.OFFER


def test_replies_as_frames(bed, node, station):
    station.say(request(dhcpv4.DISCOVER, MAC))
    station.say(request(dhcpv4.DISCOVER, MAC, flags=dhcpv4.BROADCAST_FLAG))
    bed.run(SECOND)
    unicast, broadcast = [frame for frame in station.heard if frame[36:38] == b"\0\x44"]
    assert unicast[:12] == MAC + node.interface.mac and unicast[26:34] == b"\x0a\0\0\2\x0a\0\0\x0a"
    assert broadcast[:6] == b"\xff" * 6 and broadcast[30:34] == b"\xff" * 4


def test_the_server_answers_arp_and_ping(bed, node):
    """VS-55."""
    pc = bed.host("pc")
    pc.add_address(IPv4Interface("10.0.0.200/24"))
    bed.plug(pc.port)
    results = []
    pc.host.ping(b"\x0a\0\0\2", on_result=results.append)
    bed.run(2 * SECOND)
    assert len(results) == 1 and pc.neighbors.entries[b"\x0a\0\0\2"].mac == node.interface.mac
    assert any(frame[23] == 1 and frame[34] == 0 and frame[6:12] == node.interface.mac for frame in bed.frames)


def test_messages_in_fragments_or_with_ip_options_are_taken(bed, node, station):
    payload = dhcpv4.encode(request(dhcpv4.DISCOVER, MAC, options={12: b"a" * 700}))
    datagram = udp.build(b"\x0a\0\0\xc8", b"\xff" * 4, 68, 67, payload)
    packet = ipv4.build(b"\x0a\0\0\xc8", b"\xff" * 4, 17, len(datagram), ident=9) + datagram
    for part in ipv4.fragment(packet, 576):
        station.send(b"\xff" * 6 + MAC + b"\x08\x00" + part)
    bed.run(SECOND)
    assert node.counters["offer"] == 1 and node.counters["malformed"] == 0


def test_requests_for_other_servers_and_stations_are_left_alone(bed, node, station):
    message = request(dhcpv4.REQUEST, MAC, ciaddr=b"\x0a\0\0\x0a")
    station.say(message, to=b"\x02\0\0\0\0\x77", destination=b"\x0a\0\0\2")
    station.say(message, to=node.interface.mac, destination=b"\x0a\0\0\x63")
    bed.run(SECOND)
    assert node.counters["received"] == 0 and station.replies() == []


def test_bad_octets_are_counted(bed, node, station):
    good = dhcp_frame(b"\xff" * 6, MAC, bytes(4), b"\xff" * 4, 68, 67, dhcpv4.encode(request(dhcpv4.DISCOVER, MAC)))
    station.send(good[:50] + b"\xff" + good[51:])
    station.send(dhcp_frame(b"\xff" * 6, MAC, bytes(4), b"\xff" * 4, 68, 67, b"nonsense"))
    bed.run(SECOND)
    assert node.counters["malformed"] == 2 and node.counters["received"] == 0


def test_only_those_who_are_served_are_answered(bed, node, station):
    """VS-57: a station behind an uplink."""
    node.serves = lambda mac: mac != MAC
    station.say(request(dhcpv4.DISCOVER, MAC))
    bed.run(SECOND)
    assert station.replies() == [] and node.counters["not-served"] == 1


def test_the_server_looks_whether_an_address_is_in_use(bed, node, station):
    station.say(request(dhcpv4.DISCOVER, MAC))
    bed.run(SECOND)
    probe = next(frame for frame in station.heard if frame[12:14] == b"\x08\x06" and frame[38:42] == b"\x0a\0\0\x0a")
    assert arp.decode(probe).is_probe
    station.send(arp.reply_frame(b"\x02\0\0\0\0\x63", b"\x0a\0\0\x0a", node.interface.mac, bytes(4)))
    bed.run(SECOND)
    assert bed.of("dhcp-conflict") == [{"address": "10.0.0.10", "mac": "02:00:00:00:00:63", "state": "offered"}]
    assert [each.state for each in node.bindings()] == [BindingState.DECLINED]


def test_pools_that_overlap_are_found_out(bed, store):
    """VS-58: the address that the other server gave out is logged, and not given out again."""
    bed.server(SMALL, name="physical")
    first = bed.client("first")
    bed.run()
    ours = bed.server(SMALL, store, name="ours")
    second = bed.client("second")
    bed.run(2 * MINUTE)
    assert first.lease.address != second.lease.address
    assert [each["address"] for each in bed.of("dhcp-conflict")] == ["10.0.0.10"] and ours.counters["conflict"] >= 1


def test_somebody_with_the_servers_address_is_reported(bed):
    squatter = bed.host("squatter")
    squatter.add_address(IPv4Interface("10.0.0.2/24"))
    bed.plug(squatter.port)
    bed.server(SMALL)
    bed.run(MINUTE)
    assert len(bed.of("dhcp-server-conflict")) == 1


@pytest.mark.parametrize("size", [0, 13, 14, 20, 37, 41, 42, 60])
def test_short_frames_do_no_harm(bed, node, station, size):
    whole = dhcp_frame(b"\xff" * 6, MAC, bytes(4), b"\xff" * 4, 68, 67, dhcpv4.encode(request(dhcpv4.DISCOVER, MAC)))
    for frame in (whole, arp.request_frame(MAC, b"\x0a\0\0\x0a", b"\x0a\0\0\2")):
        node.port.receive(frame[:size], NO_OFFLOAD)
        node.port.receive(frame[:size], b"\x01")
    bed.run(SECOND)
    assert node.counters["offer"] == 0


def test_bindings_from_the_store_are_used_and_expire(bed):
    old = Binding(b"\x0a\0\0\x32", b"\1" + MAC, MAC, BindingState.BOUND, HOUR, -HOUR, "pc")
    node = bed.server(SMALL, RecordingStore([old]))
    client = bed.client("pc", mac=MAC)
    bed.run()
    assert str(client.lease.address.ip) == "10.0.0.50"
    client.stop()
    bed.run(37 * HOUR)
    assert [each["address"] for each in bed.of("dhcp-expired")] == ["10.0.0.50"]
    assert bed.events[-1][0] == 36 * HOUR, "at once, and not when somebody asks next"
    assert node.bindings()[0].state is BindingState.EXPIRED


def test_flush_makes_clients_start_again(bed, node, store):
    client = bed.client("pc")
    bed.run()
    assert node.flush() == 1
    bed.run(SECOND)
    assert store.batches[-1][0].state is BindingState.FREE and node.bindings() == []
    client.renew()
    bed.run(MINUTE)
    assert bed.kinds()[4:7] == ["REQUEST", "NAK", "DISCOVER"] and client.lease is not None
