"""What a thousand hosts cost: the bounds of the project, with room for slow machines."""

from __future__ import annotations

import gc
import tracemalloc
from ipaddress import IPv4Interface, IPv4Network

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.stack.host import Host

HOSTS = 1000
OCTETS_A_HOST = 8 * 1024


def test_a_host_takes_less_than_8_kib():
    timeline, streams = Timeline(), RandomStreams(1)
    addresses = [IPv4Interface((0x0A000000 + number, 16)) for number in range(1, HOSTS + 1)]
    networks = [address.network for address in addresses]  # the topology has both anyway
    default = IPv4Network("0.0.0.0/0")

    def build(number):
        name = f"h{number}"
        host = Host(name, timeline, lambda purpose: streams.stream(name, purpose))
        interface = host.add_interface("eth0", b"\x52\x54\x00\x00" + number.to_bytes(2, "big"))
        interface.add_address(addresses[number])
        host.routes.add(default, b"\x0a\x00\x00\x01", interface)
        return host

    build(0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        hosts = [build(number) for number in range(HOSTS)]
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(hosts) == HOSTS and len(networks) == HOSTS
    assert used < HOSTS * OCTETS_A_HOST
