"""Floods of one sort each: what a flood makes grow keeps its bound, the timeline among it, and the lab goes on."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest
import trio
from packets import BROADCAST, IPV4, TCP, UDP, icmp, ipv4, summed, udp
from test_every_port import LAB
from watch import check_bounds

import vnet
from vnet.ports import NO_OFFLOAD
from vnet.runtime.lab import Lab
from vnet.topology import parse_topology

FRAMES = 15_000
A_HEAP = 11_000
"""Events that may be scheduled at once: frames on their way, and what tables hold."""
ISP, ANY, ALL = bytes((203, 0, 113, 1)), bytes(4), b"\xff" * 4
Flood = Callable[[Lab, int], tuple[str, bytes]]


def stranger(number: int) -> bytes:
    return b"\x02" + pack("!IB", number, 0)


def from_dc(lab: Lab, destination: bytes, protocol: int, body: bytes, **fields: int) -> tuple[str, bytes]:
    """Send a packet from the domain controller by way of the router."""
    dc, gateway = lab.guests["dc"].host.interfaces["eth0"], lab.routers["perimeter"].interfaces["office"]
    packet = ipv4(dc.address, destination, protocol, body, **fields)
    return "dc:eth0", gateway.mac + dc.mac + IPV4 + packet


def arp_senders(lab: Lab, number: int) -> tuple[str, bytes]:
    gateway = lab.routers["perimeter"].interfaces["office"]
    mac, address = stranger(number), pack("!I", 0x0A146400 + number)
    packet = b"\0\x01\x08\0\x06\x04\0\x01" + mac + address + bytes(6) + gateway.address
    return "dc:eth0", gateway.mac + mac + b"\x08\x06" + packet


def source_addresses(lab: Lab, number: int) -> tuple[str, bytes]:
    return "dc:eth0", BROADCAST + stranger(number) + b"\x88\xb5" + bytes(46)


def unknown_destinations(lab: Lab, number: int) -> tuple[str, bytes]:
    return "dc:eth0", stranger(number) + lab.guests["dc"].host.interfaces["eth0"].mac + b"\x88\xb5" + bytes(46)


def moving_address(lab: Lab, number: int) -> tuple[str, bytes]:
    return ("dc:eth0", "pc:eth0")[number % 2], BROADCAST + stranger(7) + b"\x88\xb5" + bytes(46)


def udp_mappings(lab: Lab, number: int) -> tuple[str, bytes]:
    dc = lab.guests["dc"].host.interfaces["eth0"].address
    return from_dc(lab, ISP, UDP, udp(dc, ISP, 1024 + number % 60_000, 9, b"x"))


def syns(lab: Lab, number: int) -> tuple[str, bytes]:
    dc = lab.guests["dc"].host.interfaces["eth0"].address
    segment = pack("!HHIIBBHHH", 1024 + number % 60_000, number & 0xFFFF, 1, 0, 0x50, 2, 1, 0, 0)
    return from_dc(lab, ISP, TCP, summed(segment, 16, dc, ISP, TCP))


def scanned_addresses(lab: Lab, number: int) -> tuple[str, bytes]:
    return from_dc(lab, bytes((172, 17, 1, number % 254 + 1)), 1, icmp(pack("!BBHI", 8, 0, 0, number)))


def first_fragments(lab: Lab, number: int) -> tuple[str, bytes]:
    return from_dc(lab, ISP, UDP, bytes(1480), ident=number & 0xFFFF, word=0x2000)


def later_fragments(lab: Lab, number: int) -> tuple[str, bytes]:
    return from_dc(lab, ISP, UDP, bytes(1480), ident=number & 0xFFFF, word=0x2000 | 185)


def dhcp_clients(lab: Lab, number: int) -> tuple[str, bytes]:
    mac = stranger(number)
    message = pack(
        "!4BIHH4s4s4s4s16s64s128s4s", 1, 1, 6, 0, number, 0, 0x8000, ANY, ANY, ANY, ANY, mac + bytes(10), b"", b"",
        b"\x63\x82\x53\x63",
    ) + b"\x35\x01\x01\xff"  # fmt: skip
    return "dc:eth0", BROADCAST + mac + IPV4 + ipv4(ANY, ALL, UDP, udp(ANY, ALL, 68, 67, message))


@pytest.mark.parametrize(
    "flood",
    [
        arp_senders, source_addresses, unknown_destinations, moving_address, udp_mappings, syns, scanned_addresses,
        first_fragments, later_fragments, dhcp_clients,
    ],
)  # fmt: skip
def test_a_flood(flood: Flood) -> None:
    async def main() -> None:
        async with vnet.open_lab(parse_topology(LAB)) as lab:
            await lab.wait_up()
            for link in lab.links.values():
                link.loss = 0.0
            for number in range(FRAMES):
                port, frame = flood(lab, number)
                lab.ports[port].send(frame, NO_OFFLOAD)
                if number % 100 == 0:
                    await trio.sleep(0.01)
                    assert len(lab.timeline._heap) < A_HEAP
            check_bounds(lab)
            await trio.sleep(2 * 3600 + 600)
            check_bounds(lab)
            assert len(lab.timeline._heap) < 200, "what the flood made has run out"
            assert lab.routers["perimeter"].nat_table() == []
            assert (await lab.ping("dc", "isp")).ok and (await lab.ping("pc", "web")).ok

    vnet.simulate(main)
