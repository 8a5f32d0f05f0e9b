"""Frames of every sort into every kind of port, from both sides: nothing is raised, everything is counted, all is bounded.

The lab has each kind of port there is. A test throws ``FRAMES`` frames (the environment variable VNET_FUZZ_FRAMES sets
another number, VNET_FUZZ_SEED another seed), watches what the ports see, and asks at the end whether the counters of
switches, links and nodes say the same, whether every table kept its bound, and whether everybody still reaches whom they
should.
"""

from __future__ import annotations

import os
from typing import final

import pytest
import trio
from draws import Ends, Place
from frames import FrameSource
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packets import BROADCAST
from watch import LabWatch, check_bounds, hosts

import vnet
from vnet.ports import NO_OFFLOAD, Handler, Port
from vnet.runtime.lab import Lab
from vnet.topology import parse_topology
from vnet.topology.reachability import expected
from vnet.units import MICROSECOND, SECOND

FRAMES = int(os.environ.get("VNET_FUZZ_FRAMES", "100000"))
SEED = int(os.environ.get("VNET_FUZZ_SEED", "20261123"))
LAB = """
name: every-port
networks:
  outside: {subnet: 203.0.113.0/24}
  dmz: {vlan: 20, subnet: 172.17.1.0/24, dhcp: {gateway: 172.17.1.1, server: 172.17.1.2, reservations: {web: 172.17.1.26}}}
  office: {vlan: 16, subnet: 10.20.100.0/24, dhcp: {server: 10.20.100.2, gateway: 10.20.100.1}}
  branch: {vlan: 30, subnet: 10.30.0.0/24}
routers:
  perimeter:                                 # NAT, firewall, forwards, hairpinning
    interfaces: {outside: 203.0.113.2/24, dmz: 172.17.1.1/24, office: 10.20.100.1/24}
    default_gateway: 203.0.113.3               # and that one's is this: packets for nobody go to and fro
    nat:
      outside: outside
      inside: [dmz, office]
      hairpin: true
      forwards: [{protocol: tcp, port: 80, to: "172.17.1.26:80"}, {protocol: udp, port: 53, to: "172.17.1.26:5353"}]
    firewall:
      policy: reject
      allow: [{from: [dmz, office], to: outside}, {from: office, to: dmz}, {from: outside, to: dmz, protocol: tcp, port: 80}]
  plain:                                     # routing and nothing else
    interfaces: {outside: 203.0.113.3/24, branch: 10.30.0.1/24}
    default_gateway: 203.0.113.2
switches:
  core: {fdb_size: 512}
  middle: {mtu: 1500, fdb_size: 256, ageing: 60s}
  edge: {}
links:
  - {between: [core, middle], trunk: all, native: 1, latency: 1ms, rate: 100mbit, loss: 1%}
  - {between: [middle, edge], trunk: [dmz, office, 99]}
guests:
  isp: {nics: [{network: outside, address: 203.0.113.1/24, gateway: none}]}
  customer: {nics: [{network: outside, address: 203.0.113.50/24, gateway: 203.0.113.3}]}
  web: {nics: [dmz]}
  mail: {nics: [{network: dmz, address: 172.17.1.27/24, gateway: 172.17.1.1, mtu: 9000}]}
  dc: {switch: middle, nics: [{network: office, address: 10.20.100.25/24, gateway: 10.20.100.1}]}
  pc: {switch: edge, nics: [office]}
  far: {switch: edge, nics: [{network: office, rate: 10mbit, latency: 5ms, loss: 2%}]}
  inside: {switch: edge, kind: namespace, nics: [{network: office, dhcp: vnet}]}
  till: {nics: [{network: branch, address: 10.30.0.16/24, gateway: 10.30.0.1}]}
  two: {nics: [{network: branch, address: 10.30.0.17/24}, {network: dmz, address: 172.17.1.28/24, gateway: none}]}
  probe: {switch: edge, nics: [{trunk: [16, 20], native: 16}]}
  tagged: {nics: [{trunk: [20, 30]}]}
  every: {nics: [{trunk: all, native: 1}]}
  vlans: {nics: [{trunk: [16, 20], vlans: {office: {}, 20: {address: 172.17.1.30/24, ipv6: link-local}}}]}
  bonded: {nics: [{trunk: [16, 20], native: 16, bond: {members: [core, middle]}, vlans: {20: 172.17.1.31/24}}]}
  asking:
    nics:
      - network: office
        address: 10.20.100.32/24
        bond: {members: [middle, edge], arp_interval: 60s, arp_ip_target: 10.20.100.25, arp_validate: all}
"""


def place_of(lab: Lab) -> Place:
    """Tell the source of frames who is there, and how they reach each other."""
    interfaces = [interface for host in hosts(lab) for interface in host.interfaces.values()]
    macs = {interface.address: interface.mac for interface in interfaces if interface.address is not None}
    talks: list[Ends] = []
    for interface in interfaces:
        for other in macs:
            route = interface.host.routes.lookup(other, interface)
            if interface.address is not None and route is not None and other != interface.address:
                talks.append((macs[route.gateway or other], interface.mac, interface.address, other))
    stations = [(interface.mac, interface.address or b"\x0a\x14\x64\xfd") for interface in interfaces]
    more = ("10.20.100.255", "172.17.1.255", "203.0.113.255", "203.0.113.2", "10.20.100.200", "172.17.1.99", "10.30.0.99")
    return Place(stations, [bytes(map(int, text.split("."))) for text in more], (1, 16, 20, 30, 99, 77), talks)


@final
class Thrower:
    """Throws frames into all ports of a lab, out of events of its timeline; lab time goes on in small steps and leaps."""

    def __init__(self, lab: Lab, watch: LabWatch, source: FrameSource) -> None:
        self.lab = lab
        self.watch = watch
        self.source = source
        self.done = trio.Event()
        self.thrown: dict[str, int] = {}
        self._left = 0
        # as if it arrived from the cable, and as if the node sent it into the cable
        self._places: list[tuple[Port, bool]] = [(port, out) for port in lab.ports.values() for out in (False, True)]
        self._homes = {
            i.mac: (i.port if i.nics is None else next(iter(i.nics.ports.values())), True)
            for host in hosts(lab) for i in host.interfaces.values() if i.parent is None
        }  # fmt: skip

    async def throw(self, count: int) -> None:
        """Throw *count* frames."""
        self._left = count
        self._step()
        await self.done.wait()

    def _step(self) -> None:
        source, timeline = self.source, self.lab.timeline
        for _ in range(1 + source.below(4)):
            frame, offload = source.draw()
            place = self._homes.get(frame[6:12]) if source.below(2) else None
            port, out = place or source.one(self._places)
            handler: Handler = port.send if out else port.receive
            if out and port.name.split(":")[0] in self.lab.switches:
                self.watch.note_thrown(port, len(frame))
            handler(frame, offload)
            key = f"{'out of' if out else 'into'} {port.name}"
            self.thrown[key] = self.thrown.get(key, 0) + 1
            self._left -= 1
        if self._left <= 0:
            self.done.set()
            return
        gap = source.below(100) * MICROSECOND if source.below(200) else source.below(20) * SECOND
        timeline.at(timeline.now + gap, self._step)


async def reachability(lab: Lab) -> dict[tuple[str, str], bool]:
    """Measure who reaches whom."""
    return {pair: reply.ok for pair, reply in (await lab.ping_all()).items()}


async def settle(lab: Lab) -> None:
    """Let everything run out that frames can have started: 36 h leases and their renewals, 124 min of NAT, quarantines."""
    await trio.sleep(40 * 3600)


async def fuzz(count: int, seed: int) -> Thrower:
    async with vnet.open_lab(parse_topology(LAB)) as lab:
        await lab.wait_up()
        await trio.sleep(60)
        wanted = {pair: verdict.allowed for pair, verdict in expected(lab.topology).items()}
        losses = {name: link.loss for name, link in lab.links.items() if link.loss}
        for name in losses:
            lab.links[name].loss = 0.0
        assert await reachability(lab) == wanted
        for name, loss in losses.items():
            lab.links[name].loss = loss
        await trio.sleep(60)
        watch = LabWatch(lab)
        thrower = Thrower(lab, watch, FrameSource(seed, place_of(lab)))
        for _ in range(10):
            thrower.done = trio.Event()
            await thrower.throw(count // 10)
            check_bounds(lab)
        await trio.sleep(60)
        watch.check_counters()
        assert all(node.exact > 100 for node in watch.nodes.values()), "every node had frames to account for"
        await settle(lab)
        assert not [event for event in lab.events if event.kind == "internal-error"]
        check_bounds(lab)
        watch.check_counters()
        for name in losses:  # or a ping may get lost, by right
            lab.links[name].loss = 0.0
        assert await reachability(lab) == wanted
        assert lab.routers["perimeter"].forwarded > 100
        return thrower


def test_every_kind_of_frame_into_every_kind_of_port():
    thrower = vnet.simulate(fuzz, FRAMES, SEED)
    assert sum(thrower.thrown.values()) >= FRAMES
    assert min(thrower.thrown.values()) > FRAMES // 300, "every port, both ways"
    assert min(thrower.source.kinds.values()) > FRAMES // 1000, "every kind of frame"


def test_a_seed_repeats_its_run():
    def run() -> tuple[str, dict[str, int]]:
        async def main() -> tuple[str, dict[str, int]]:
            async with vnet.open_lab(parse_topology(LAB)) as lab:
                await lab.wait_up()
                thrower = Thrower(lab, LabWatch(lab), FrameSource(5, place_of(lab)))
                await thrower.throw(3_000)
                await trio.sleep(100)
                counters: dict[str, int] = {}
                for host in hosts(lab):
                    counters |= {f"{host.name} {reason}": count for reason, count in host.drops.items()}
                return lab.events.to_lines(), counters

        return vnet.simulate(main, seed=3)

    events, counters = run()
    assert len(events) > 1_000
    assert run() == (events, counters)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1000), st.booleans(), st.binary(max_size=200),
            st.sampled_from((b"", b"\x08\x00\x45", b"\x08\x06")),
            st.one_of(st.just(NO_OFFLOAD), st.binary(min_size=10, max_size=10)),
        ), max_size=60,
    )
)  # fmt: skip
def test_any_octets_into_any_port(cases):
    async def main() -> None:
        async with vnet.open_lab(parse_topology(LAB)) as lab:
            await lab.wait_up()
            await trio.sleep(10)
            ports = list(lab.ports.values())
            watch = LabWatch(lab)
            for number, out, octets, kind, offload in cases:
                port = ports[number % len(ports)]
                stations = place_of(lab).stations
                frame = octets
                if kind:
                    mac, _ = stations[number % len(stations)]
                    frame = (mac if number % 3 else BROADCAST) + b"\x02" + octets[:5].ljust(5) + kind + octets
                if out and port.name.split(":")[0] in lab.switches:
                    watch.note_thrown(port, len(frame))
                (port.send if out else port.receive)(frame, offload)
            await trio.sleep(5)
            check_bounds(lab)
            for switch in watch.switches.values():
                ports_by_number = switch.switch.ports.items()
                switch.check({n: watch.thrown[p.port.name] for n, p in ports_by_number if p.port.name in watch.thrown})
            await trio.sleep(2 * 3600)
            assert (await lab.ping("dc", "isp")).ok or (await lab.ping("dc", "isp")).ok or (await lab.ping("dc", "isp")).ok

    vnet.simulate(main)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_while_cables_are_cut_and_ports_change(seed):
    """Frames on their way when a link is cut, ports switched off, VLANs, loss and rates changed: still nothing is raised."""

    async def main() -> None:
        async with vnet.open_lab(parse_topology(LAB)) as lab:
            await lab.wait_up()
            source = FrameSource(seed, place_of(lab))
            links, switches = list(lab.links.values()), list(lab.switches.values())
            settings_of = {link.name: (link.rate, link.latency, link.loss) for link in links}
            for _ in range(150):
                ports = list(lab.ports.values())
                for _ in range(20):
                    port = source.one(ports)
                    (port.send if source.below(2) else port.receive)(*source.draw())
                link, switch = source.one(links), source.one(switches)
                number = source.one(list(switch.ports))
                chance = source.below(8)
                if chance == 0:
                    link.up = not link.up
                elif chance == 1:
                    link.rate, link.loss = source.one((None, 1000, 10**9)), source.one((0.0, 0.5, 1.0))
                elif chance == 2:
                    link.latency = source.one((0, 1, SECOND))
                elif chance == 3:
                    switch.set_enabled(number, not switch.ports[number].enabled)
                elif chance == 4:
                    switch.flush()
                elif chance == 5:
                    switch.add_static(source.one((1, 16, 20)), b"\x02" + bytes(5), number)
                elif chance == 6:
                    source.one(list(lab.routers.values())).flush()
                else:
                    source.one(list(lab.dhcp.values())).flush()
                await trio.sleep(source.below(100) / 1000)
                check_bounds(lab)
            for link in links:
                link.up = True
                link.rate, link.latency, link.loss = settings_of[link.name][0], settings_of[link.name][1], 0.0
            for switch in switches:
                for number in switch.ports:
                    switch.set_enabled(number, True)
                switch.remove_entry(1, b"\x02" + bytes(5))
            await settle(lab)
            wanted = {pair: verdict.allowed for pair, verdict in expected(lab.topology).items()}
            assert await reachability(lab) == wanted

    vnet.simulate(main, seed=seed)
