"""The neighbor cache: RFC 826, RFC 1122 section 2.3.2, the states of RFC 4861."""

from __future__ import annotations

import inspect

from vnet.addresses import BROADCAST
from vnet.ports import NO_OFFLOAD, REPORT_BURST, REPORT_WINDOW
from vnet.stack.neighbor import MAX_ENTRIES, MAX_QUEUE, MAX_QUEUED_OCTETS, State
from vnet.units import MINUTE, SECOND
from vnet.wire import arp, ipv4

ONE, TWO, THREE = (bytes((10, 0, 0, n)) for n in (1, 2, 3))
MAC1, MAC2, MAC3 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 2, 3))


def arps(frames):
    return [arp.decode(frame) for frame in frames if frame[12:14] == b"\x08\x06"]


def results(host, destination, **options):
    found = []
    host.ping(destination, on_result=found.append, **options)
    return found


def test_one_request_and_one_reply_resolve_an_address(lan):
    one, two = lan.host(1), lan.host(2)
    found = results(one, TWO)
    lan.run()
    assert found[0].ok
    request, reply = arps(lan.hub.frames)
    assert lan.hub.frames[0][:6] == BROADCAST
    assert request == arp.Arp(arp.REQUEST, MAC1, ONE, bytes(6), TWO)
    assert reply == arp.Arp(arp.REPLY, MAC2, TWO, MAC1, ONE)
    assert one.interfaces["eth0"].neighbors.entries[TWO].state is State.REACHABLE
    # the asked host learns the asker from the request (RFC 826), and may use it at once
    assert two.interfaces["eth0"].neighbors.entries[ONE].state is State.DELAY


def test_a_silent_address_is_asked_three_times_a_second_apart_then_given_up(lan):
    one = lan.host(1)
    found = results(one, TWO, timeout=10 * SECOND)
    lan.run(2_999_999_999)
    assert len(arps(lan.hub.frames)) == 3 and not found
    lan.run(1)
    assert found[0].error == "host unreachable" and found[0].rtt == 3 * SECOND
    assert one.interfaces["eth0"].neighbors.entries == {}
    assert one.drops == {"no-neighbor": 1}


def test_packets_wait_in_a_bounded_queue_and_the_oldest_gives_way(lan):
    one, two = lan.host(1), lan.host(2)
    got = []
    two.udp_bind(7, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(on_datagram=lambda payload, source: None)
    for number in range(MAX_QUEUE + 4):
        socket.send_to(b"%d" % number, (TWO, 7))
    lan.run()
    assert got == [b"%d" % number for number in range(4, MAX_QUEUE + 4)]
    assert one.drops == {"neighbor-queue-full": 4}


def test_header_is_there_exactly_while_a_packet_may_go_out(lan):
    one = lan.host(1)
    lan.host(2)
    interface, entry = one.next_hop(TWO)
    assert entry.header is None and entry.state is State.FAILED
    entry.send(bytes(20), NO_OFFLOAD)
    assert entry.header is None and entry.state is State.INCOMPLETE
    lan.run(0)
    assert entry.header == MAC2 + MAC1 + b"\x08\x00" and entry.state is State.REACHABLE
    lan.run(30 * SECOND)
    assert entry.header is None and entry.state is State.STALE
    lan.hub.take()
    entry.send(bytes(20), NO_OFFLOAD)
    assert entry.state is State.DELAY and entry.header == MAC2 + MAC1 + b"\x08\x00"
    assert lan.hub.take() == [entry.header + bytes(20)]
    lan.run(5 * SECOND)
    (probe, _) = lan.hub.take()
    assert probe[:6] == MAC2, "the probe goes to the neighbor alone"
    assert entry.state is State.REACHABLE
    lan.run(30 * SECOND)
    assert entry.state is State.STALE
    lan.run(10 * MINUTE)
    assert entry.state is State.FAILED and interface.neighbors.entries == {}


def test_a_forgotten_entry_that_somebody_still_holds_starts_anew(lan):
    one = lan.host(1)
    two = lan.host(2)
    interface, entry = one.next_hop(TWO)
    interface.neighbors.flush()
    entry.send(bytes(20), NO_OFFLOAD)
    assert interface.neighbors.entries[TWO] is entry
    interface.neighbors.flush()
    other = interface.neighbors.lookup(TWO)
    entry.send(bytes(20), NO_OFFLOAD)
    assert other.state is State.INCOMPLETE, "the entry in the cache does the work"
    lan.run(0)
    assert other.state is State.REACHABLE
    assert two.drops["ipv4-malformed"] >= 1, "the packet of zeros arrived"


def test_a_neighbor_that_vanished_is_noticed_while_it_is_in_use(lan):
    one = lan.host(1)
    lan.host(2)
    results(one, TWO)
    lan.run(31 * SECOND)
    lan.hub.filter = lambda frame: False
    found = results(one, TWO, timeout=20 * SECOND)
    lan.run(5 * SECOND + 2 * SECOND)
    assert [frame[:6] for frame in lan.hub.take() if frame[12:14] == b"\x08\x06"][-3:] == [MAC2] * 3
    lan.run(13 * SECOND)
    assert one.interfaces["eth0"].neighbors.entries == {}
    assert found[0].error == "no answer"


def test_what_waits_for_addresses_that_nobody_has_is_bounded(lan):
    one = lan.host(1)
    cache = one.interfaces["eth0"].neighbors
    for number in range(200):
        for _ in range(MAX_QUEUE + 1):
            one.interfaces["eth0"].neighbor(bytes((10, 0, 0, 50 + number))).send(bytes(60_000), NO_OFFLOAD)
    waiting = sum(len(packet) for entry in cache.entries.values() for packet, _ in entry._queue)
    assert MAX_QUEUED_OCTETS - 60_000 < waiting == cache.queued_octets <= MAX_QUEUED_OCTETS
    kept = waiting // 60_000
    assert one.drops == {"neighbor-queue-full": 200 * (MAX_QUEUE + 1) - kept}
    cache.entries[bytes((10, 0, 0, 50))].heard(MAC2, confirmed=True)
    assert cache.queued_octets == waiting - MAX_QUEUE * 60_000
    lan.run(4 * SECOND)
    assert cache.queued_octets == 0
    assert one.drops["no-neighbor"] == kept - MAX_QUEUE


def test_entries_that_give_way_to_each_other_do_so_one_after_the_other(lan):
    """The error about a packet that waited needs an entry, whose place is another's, whose packets come back, and so on."""
    one = lan.host(1, "10.0.0.1/8")
    interface = one.interfaces["eth0"]
    depths = []
    unresolved = one.on_unresolved

    def watch(*args):
        depths.append(len(inspect.stack(0)))
        unresolved(*args)

    one.on_unresolved = watch
    for number in range(MAX_ENTRIES + 1):
        source = bytes((10, 2)) + number.to_bytes(2, "big")
        packet = ipv4.build(source, TWO, 17, 8) + bytes(8)
        interface.neighbor(bytes((10, 1)) + number.to_bytes(2, "big")).send(packet, NO_OFFLOAD)
    lan.timeline.run_until(lan.timeline.now)
    assert len(depths) > 20, "one gave way to each error"
    assert max(depths) == min(depths)


def test_stations_that_claim_each_others_addresses_do_not_fill_the_event_log(lan):
    one = lan.host(1)
    moved = []
    one.interfaces["eth0"].on_conflict = lambda address, mac: moved.append(mac)
    one.interfaces["eth0"].neighbors.lookup(TWO).heard(MAC2, confirmed=True)
    for _ in range(50):
        for mac in (MAC3, MAC2):
            lan.inject(arp.request_frame(mac, TWO, TWO))
            lan.inject(arp.request_frame(mac, ONE, ONE))
    kinds = [kind for _, kind, _ in lan.events]
    assert len(kinds) == REPORT_BURST and set(kinds) == {"neighbor-moved", "address-conflict"}
    assert len(moved) == 100, "whoever must act on a conflict hears of each"
    lan.run(REPORT_WINDOW)
    lan.inject(arp.request_frame(MAC3, ONE, ONE))
    assert lan.events[-1][2]["not_reported"] == 200 - REPORT_BURST


def test_gratuitous_arp_updates_an_entry_but_makes_none(lan):
    one = lan.host(1)
    lan.host(2)
    results(one, TWO)
    lan.run()
    lan.hub.ports.pop()  # or the second host would defend its address
    lan.inject(arp.request_frame(MAC3, TWO, TWO))
    entries = one.interfaces["eth0"].neighbors.entries
    assert entries[TWO].mac == MAC3 and entries[TWO].state is State.STALE
    assert ("h1", "neighbor-moved") in [event[:2] for event in lan.events]
    lan.inject(arp.request_frame(MAC3, THREE, THREE))
    assert THREE not in entries


def test_a_reply_nobody_asked_for_makes_no_entry(lan):
    one = lan.host(1)
    lan.inject(arp.reply_frame(MAC3, THREE, MAC1, ONE))
    assert one.interfaces["eth0"].neighbors.entries == {}


def test_requests_for_others_are_ignored(lan):
    one = lan.host(1)
    assert lan.inject(arp.request_frame(MAC2, TWO, THREE)) == []
    assert one.interfaces["eth0"].ignored == 1 and one.drops == {}


def test_a_probe_for_our_address_is_answered(lan):
    lan.host(1)
    (reply,) = lan.inject(arp.request_frame(MAC3, bytes(4), ONE))
    assert arp.decode(reply) == arp.Arp(arp.REPLY, MAC1, ONE, MAC3, bytes(4))


def test_malformed_arp_is_counted(lan):
    one = lan.host(1)
    good = arp.request_frame(MAC3, THREE, ONE)
    lan.inject(good[:16] + b"\x86\xdd" + good[18:])  # not for IPv4
    lan.inject(good[:20] + b"\x00\x09" + good[22:])  # no such operation
    lan.inject(good[:22] + b"\xff" * 6 + good[28:])  # nobody is at the broadcast address
    assert one.drops == {"arp-malformed": 3}
    assert one.interfaces["eth0"].neighbors.entries == {}


def test_link_down_forgets_the_neighbors_and_fails_what_waits(lan):
    one = lan.host(1)
    lan.host(2)
    results(one, TWO)
    lan.run()
    found = results(one, THREE, timeout=10 * SECOND)
    one.interfaces["eth0"].port.set_carrier(False)
    assert one.interfaces["eth0"].neighbors.entries == {}
    lan.run(0)
    assert [result.error for result in found] == ["host unreachable"]
    assert lan.events[-1] == ("h1", "link", {"interface": "eth0", "up": False})


def test_the_cache_is_bounded(lan):
    one = lan.host(1, "10.0.0.1/8")
    for number in range(MAX_ENTRIES + 50):
        sender = b"\x0a\x01" + number.to_bytes(2, "big")
        one.interfaces["eth0"].receive(arp.request_frame(b"\x02\x00" + sender, sender, ONE), NO_OFFLOAD)
    interface = one.interfaces["eth0"]
    assert len(interface.neighbors.entries) == MAX_ENTRIES
    assert len(interface.watched) == MAX_ENTRIES + 1


def test_the_source_of_a_request_is_in_the_subnet_of_its_target(lan):
    from ipaddress import IPv4Interface

    one = lan.host(1)
    one.interfaces["eth0"].add_address(IPv4Interface("192.168.5.1/24"))
    results(one, bytes((192, 168, 5, 9)))
    assert arps(lan.hub.frames)[0].sender == bytes((192, 168, 5, 1))
