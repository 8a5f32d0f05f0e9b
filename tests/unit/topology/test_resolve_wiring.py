"""What a topology resolves to between its nodes: ports, VLANs, links, NAT and firewalls."""

from __future__ import annotations

from ipaddress import IPv4Network

from vnet.topology import parse_topology
from vnet.topology.describe import cable_text
from vnet.topology.resolved import ALL_VLANS, PortRef
from vnet.units import MILLISECOND, MINUTE, SECOND


def test_port_vlans() -> None:
    lab = parse_topology("""
name: lab
networks: {lan: {vlan: 16}, dmz: {vlan: 20}}
switches: {a: , b: , c: , d: }
links:
  - {between: [a, b], trunk: all, native: 1, latency: 1ms, rate: 1gbit, loss: 0.1%, queue: 64KiB}
  - {between: [b, c], trunk: [lan, 20]}
  - {between: [c, d], vlan: lan}
guests:
  pc: {nics: [lan]}
  t1: {switch: b, nics: [{trunk: [16], native: dmz}]}
""")
    ports = {str(PortRef(switch.name, port.number)): port for switch in lab.switches.values() for port in switch.ports}
    trunk, tagged, access, pc, t1 = (ports[name] for name in ("a:1", "b:2", "c:2", "a:2", "b:3"))
    assert (trunk.pvid, trunk.members, trunk.untagged, trunk.admit) == (1, ALL_VLANS, (1,), "all")
    assert (tagged.pvid, tagged.members, tagged.untagged, tagged.admit) == (None, (16, 20), (), "tagged")
    assert (access.pvid, access.members, access.untagged, access.admit) == (16, (16,), (16,), "untagged")
    assert (pc.pvid, pc.members, pc.untagged, pc.admit, pc.name) == (16, (16,), (16,), "untagged", "pc:eth0")
    assert (t1.pvid, t1.members, t1.untagged, t1.admit) == (20, (16, 20), (20,), "all")
    link = lab.links[0]
    assert (link.name, link.a, link.b) == ("a-b", PortRef("a", 1), PortRef("b", 1))
    assert link.cable.rate == 10**9
    assert (link.cable.latency, link.cable.loss, link.cable.queue) == (MILLISECOND, 0.001, 65536)
    assert lab.guests["t1"].interfaces[0].network is None


def test_impairments_of_links_and_nics() -> None:
    lab = parse_topology("""
name: lab
networks: {lan: {subnet: 10.0.0.0/24}}
switches: {a: , b: }
links: [{between: [a, b], latency: 1ms, delay_variation: 2ms, reordering: 1%, duplication: 0.02, corruption: 3%}]
guests:
  pc: {nics: [{network: lan, corruption: 100%}]}
  plain: {nics: [{network: lan, queue: 3000, rate: 1mbit}, {network: lan, delay_variation: 0s, duplication: 0}]}
""")
    cable = lab.links[0].cable
    assert (cable.delay_variation, cable.reordering) == (2 * MILLISECOND, 0.01)
    assert (cable.duplication, cable.corruption) == (0.02, 0.03)
    assert cable_text(cable) == "1ms, up to 2ms more, 1% reordering, 2% duplication, 3% corruption"
    nics = [nic.cable for guest in ("pc", "plain") for nic in lab.guests[guest].interfaces]
    assert [nic.ideal for nic in nics] == [False, False, True]


def test_ports_and_endpoints_agree() -> None:
    lab = parse_topology("""
name: lab
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}, switch: b}, dmz: {subnet: 10.0.1.0/24}}
switches: {a: , b: }
links: [{between: [a, b]}]
routers: {r: {switch: b, interfaces: {lan: 10.0.0.1, dmz: {address: 10.0.1.1, switch: a}}}}
guests: {g: {switch: b, nics: [lan, {network: dmz, switch: a}]}}
""")
    seen = set()
    for node, interface in lab.endpoints():
        port = lab.switch_port(interface.port)
        assert (port.node, port.interface, port.name) == (node, interface.name, f"{node}:{interface.name}")
        seen.add(interface.port)
    assert [str(interface.port) for _, interface in lab.endpoints()] == ["b:3", "a:3", "b:2", "a:2"]
    scope = lab.networks["lan"].dhcp
    assert scope is not None
    assert str(scope.port) == "b:4"
    seen |= {scope.port} | {end for link in lab.links for end in (link.a, link.b)}
    everything = {PortRef(switch.name, port.number) for switch in lab.switches.values() for port in switch.ports}
    assert seen == everything
    for switch in lab.switches.values():
        assert [port.number for port in switch.ports] == list(range(1, len(switch.ports) + 1))
        assert len({port.name for port in switch.ports}) == len(switch.ports)


def test_parallel_links_have_names_of_their_own() -> None:
    lab = parse_topology("""
name: lab
networks: {x: {vlan: 5}, y: {vlan: 6}}
switches: {a: , b: }
links: [{between: [a, b], vlan: 5}, {between: [b, a], vlan: 6}]
guests: {g: {nics: [x, y]}, h: {switch: b, nics: [x, y]}}
""")
    assert [link.name for link in lab.links] == ["a-b", "b-a#2"]
    assert [port.name for port in lab.switches["a"].ports][:2] == ["b", "b#2"]


def test_nat_and_firewall() -> None:
    lab = parse_topology("""
name: lab
networks:
  out: {subnet: 203.0.113.0/24}
  dmz: {subnet: 172.17.1.0/24, dhcp: {reservations: {web: 172.17.1.26}}}
  far: {subnet: 10.9.0.0/24}
routers:
  edge:
    interfaces: {out: 203.0.113.2, dmz: 172.17.1.1}
    routes: [{to: 10.0.0.0/8, via: 172.17.1.254}]
    nat:
      outside: out
      inside: [far]
      hairpin: false
      forwards: [{port: 8080, to: "10.9.0.5:80"}, {protocol: udp, port: 53, to: 10.9.0.5}]
      timeouts: {udp: 30s}
    firewall:
      policy: reject
      allow:
        - {from: out, to: [dmz], protocol: tcp, port: [80, 8000-8010, "443"], destination: web}
        - {source: [far, 192.0.2.0/24]}
        - {}
  inner: {interfaces: {dmz: 172.17.1.254, far: 10.9.0.1}, default_gateway: 172.17.1.1}
guests: {web: {nics: [dmz]}, db: {nics: [{network: far, address: 10.9.0.5}]}}
""")
    edge = lab.routers["edge"]
    assert edge.nat is not None
    assert edge.firewall is not None
    assert (edge.nat.outside, edge.nat.inside, edge.nat.sources) == ("out", ("dmz",), (IPv4Network("10.9.0.0/24"),))
    assert [(f.protocol, f.port, str(f.address), f.to_port) for f in edge.nat.forwards] == [
        ("tcp", 8080, "10.9.0.5", 80),
        ("udp", 53, "10.9.0.5", 53),
    ]
    assert not edge.nat.hairpin
    timeouts = edge.nat.timeouts
    assert (timeouts.udp, timeouts.tcp_established) == (30 * SECOND, 124 * MINUTE)
    assert (timeouts.tcp_transitory, timeouts.icmp) == (4 * MINUTE, 60 * SECOND)
    assert edge.firewall.policy == "reject"
    web, sources, everything = edge.firewall.allow
    assert (web.from_networks, web.to_networks, web.protocol) == (("out",), ("dmz",), "tcp")
    assert web.ports == ((80, 80), (8000, 8010), (443, 443))
    assert web.destinations == (IPv4Network("172.17.1.26/32"),)
    assert sources.sources == (IPv4Network("10.9.0.0/24"), IPv4Network("192.0.2.0/24"))
    assert (everything.from_networks, everything.protocol, everything.ports, everything.sources) == ((), "any", (), ())
