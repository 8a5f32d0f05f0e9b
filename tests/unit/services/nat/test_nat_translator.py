from ipaddress import IPv4Address, IPv4Network

import pytest

from vnet.fabric.rng import RandomStreams
from vnet.services.nat.translator import Filtering, Mapping, NatConfig, PortForward, Translator

TCP, UDP, ICMP, GRE = 6, 17, 1, 47
A, B, WEB = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes((10, 0, 0, 80))
PEER, OTHER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
FORWARDS = (
    PortForward(protocol="tcp", port=8080, address=IPv4Address(WEB), to_port=80),
    PortForward(protocol="udp", port=9000, address=IPv4Address(WEB), to_port=7000, count=10),
)


def translator(**fields: object) -> Translator:
    config = NatConfig(outside="internet", inside=("office",), **fields)  # type: ignore[arg-type]
    return Translator(config, RandomStreams().stream("router", "nat"))


def outbound(nat: Translator, protocol: int, address: bytes, port: int, remote: bytes = PEER) -> Mapping:
    mapping = nat.outbound(protocol, address, port)
    assert isinstance(mapping, Mapping), mapping
    nat.use(mapping, remote)
    return mapping


def test_a_mapping_serves_every_remote_and_ends_with_the_last():
    nat = translator()
    first = outbound(nat, UDP, A, 5000)
    assert outbound(nat, UDP, A, 5000, OTHER) is first
    assert nat.inbound(UDP, first.external_port) is first
    nat.release(first, PEER)
    assert nat.outbound(UDP, A, 5000) is first
    nat.release(first, OTHER)
    assert len(nat) == 0
    assert nat.inbound(UDP, first.external_port) is None


def test_two_guests_with_one_port_get_two():
    nat = translator()
    a, b = outbound(nat, UDP, A, 5000), outbound(nat, UDP, B, 5000)
    assert a.external_port == 5000 != b.external_port
    assert b.external_port % 2 == 0
    assert outbound(nat, TCP, B, 5000).external_port == 5000  # each protocol has its own ports


def test_a_forward_works_in_both_directions():
    nat = translator(forwards=FORWARDS)
    inbound = nat.inbound(TCP, 8080)
    assert inbound is not None
    assert (inbound.address, inbound.port, inbound.forward) == (WEB, 80, True)
    assert nat.inbound(UDP, 8080) is None
    ranged = nat.inbound(UDP, 9009)
    assert ranged is not None
    assert ranged.port == 7009
    assert nat.inbound(UDP, 9010) is None
    assert outbound(nat, TCP, WEB, 80).external_port == 8080
    assert outbound(nat, UDP, WEB, 7003).external_port == 9003
    assert outbound(nat, TCP, A, 8080).external_port != 8080


def test_a_forward_outlives_its_connections():
    nat = translator(forwards=FORWARDS)
    mapping = nat.inbound(TCP, 8080)
    assert mapping is not None
    nat.use(mapping, PEER)
    assert nat.inbound(TCP, 8080) is mapping
    nat.release(mapping, PEER)
    assert len(nat) == 0
    again = nat.inbound(TCP, 8080)
    assert again is not None
    assert again.address == WEB


@pytest.mark.parametrize(
    ("filtering", "same", "other"),
    [("endpoint-independent", True, True), ("address-dependent", True, False), ("address-and-port-dependent", False, False)],
)
def test_filtering(filtering: Filtering, same: bool, other: bool):
    nat = translator(filtering=filtering, forwards=FORWARDS)
    mapping = outbound(nat, UDP, A, 5000)
    assert nat.admits(mapping, PEER) is same
    assert nat.admits(mapping, OTHER) is other
    forward = nat.inbound(TCP, 8080)
    assert forward is not None
    assert nat.admits(forward, OTHER)


def test_bounds_are_kept_and_named():
    nat = translator(max_mappings_per_host=3)
    mappings = [outbound(nat, UDP, A, port) for port in (1, 3, 5)]
    assert nat.outbound(UDP, A, 7) == "nat-host-limit"
    outbound(nat, UDP, B, 7)
    nat.release(mappings[0], PEER)
    outbound(nat, UDP, A, 7)
    assert nat.outbound(GRE, B, 0) == "nat-protocol"

    nat = translator()
    for port in range(1, 1024, 2):
        outbound(nat, UDP, A, port)
    assert nat.outbound(UDP, B, 1) == "nat-ports-exhausted"
    assert len(nat) == 512


def test_an_unused_mapping_is_discarded():
    nat = translator()
    mapping = nat.outbound(UDP, A, 5000)
    assert isinstance(mapping, Mapping)
    nat.discard(mapping)
    assert len(nat) == 0
    again = nat.outbound(UDP, B, 5000)
    assert isinstance(again, Mapping)
    assert again.external_port == 5000


def test_only_the_given_prefixes_are_translated():
    assert translator().translates(PEER)
    nat = translator(sources=(IPv4Network("10.0.0.0/30"),))
    assert nat.translates(A)
    assert not nat.translates(WEB)
