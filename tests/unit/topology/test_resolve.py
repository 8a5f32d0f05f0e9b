"""What is left out of a topology is derived, and everything ends up spelled out."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from vnet.addresses import parse_mac
from vnet.errors import TopologyError
from vnet.topology import parse_topology, resolve
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.topology.addressing import FIRST_ALLOTTED_VID, MacAllotter, allot_vids, first_free, free_range
from vnet.topology.model import Dhcp, Guest, Network, Nic, Router, Topology
from vnet.topology.resolve_adapter import read_choice
from vnet.topology.resolved import PortRef, ResolvedTopology
from vnet.units import HOUR, SECOND

SMALL = """
name: small
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests: {a: {nics: [lan]}, b: {nics: [lan]}}
"""


def small(**changes: str) -> ResolvedTopology:
    text = SMALL
    for old, new in changes.items():
        text = text.replace(old, new)
    return parse_topology(text)


def test_a_minimal_lab_is_complete() -> None:
    lab = small()
    assert lab.warnings == ()
    assert (lab.name, lab.profile, lab.source) == ("small", "vnet", "<text>")
    network = lab.networks["lan"]
    assert (network.vid, network.subnet, network.adapter.kind) == (FIRST_ALLOTTED_VID, IPv4Network("10.0.0.0/24"), "none")
    switch = lab.switches["switch"]
    assert [port.name for port in switch.ports] == ["a:eth0", "b:eth0", "lan:dhcp"]
    assert (switch.ageing, switch.fdb_size, switch.mtu, switch.priority, switch.stp) == (
        300 * SECOND,
        8192,
        9000,
        32768,
        None,
    )
    nic = lab.guests["a"].interfaces[0]
    assert (nic.name, nic.network, nic.dhcp, nic.mtu, nic.port) == ("eth0", "lan", "client", 1500, PortRef("switch", 1))
    assert nic.cable.ideal
    assert nic.mac[:3] == bytes.fromhex("525400")


def test_dhcp_with_nothing_given() -> None:
    scope = small().networks["lan"].dhcp
    assert scope is not None
    assert (scope.server, scope.gateway) == (IPv4Address("10.0.0.1"), None)
    assert (scope.range_start, scope.range_end) == (IPv4Address("10.0.0.16"), IPv4Address("10.0.0.254"))
    assert (scope.lease, scope.renew, scope.rebind) == (36 * HOUR, 18 * HOUR, 27 * HOUR), "VS-52"
    assert (scope.dns, scope.wins, scope.domain, dict(scope.reservations)) == ((), (), None, {})
    assert scope.netmask == IPv4Address("255.255.255.0")


def test_dhcp_keeps_clear_of_everybody() -> None:
    lab = parse_topology("""
name: lab
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
routers: {r: {interfaces: {lan: 10.0.0.1}}}
guests:
  low: {nics: [{network: lan, address: 10.0.0.20}]}
  high: {nics: [{network: lan, address: 10.0.0.200}]}
""")
    scope = lab.networks["lan"].dhcp
    assert scope is not None
    assert (scope.gateway, scope.server) == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    assert (scope.range_start, scope.range_end) == (IPv4Address("10.0.0.21"), IPv4Address("10.0.0.199"))


def test_times_follow_the_lease_in_whole_seconds() -> None:
    scope = small(**{"dhcp: {}": "dhcp: {lease: 15s}"}).networks["lan"].dhcp
    assert scope is not None
    assert (scope.lease, scope.renew, scope.rebind) == (15 * SECOND, 7 * SECOND, 11 * SECOND)


def test_reservations_by_guest_and_by_mac() -> None:
    scope = small(**{"dhcp: {}": 'dhcp: {reservations: {a: 10.0.0.9, "00-03-FF-00-00-27": 10.0.0.99}}'}).networks["lan"].dhcp
    assert scope is not None
    mac = small().guests["a"].interfaces[0].mac
    assert dict(scope.reservations) == {
        mac: IPv4Address("10.0.0.9"),
        parse_mac("00:03:ff:00:00:27"): IPv4Address("10.0.0.99"),
    }


def test_free_range_takes_the_longest_run_and_the_first_of_equals() -> None:
    subnet = IPv4Network("10.0.0.0/24")
    assert free_range(subnet, []) == (subnet[16], subnet[254])
    assert free_range(subnet, [subnet[135]]) == (subnet[16], subnet[134]), "119 addresses on either side"
    assert free_range(subnet, [subnet[134]]) == (subnet[135], subnet[254])
    assert free_range(subnet, subnet.hosts()) is None
    assert free_range(IPv4Network("10.0.0.0/30"), []) == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    assert free_range(IPv4Network("10.0.0.0/27"), []) == (IPv4Address("10.0.0.16"), IPv4Address("10.0.0.30"))


def test_first_free_steps_over_the_range_at_once() -> None:
    huge = IPv4Network("10.0.0.0/8")
    assert first_free(huge, {huge[1]}, (huge[2], huge[2**24 - 3])) == huge[2**24 - 2]
    assert first_free(IPv4Network("10.0.0.0/31"), {IPv4Address("10.0.0.0"), IPv4Address("10.0.0.1")}, None) is None


def test_vids_are_allotted_in_order_and_around_taken_ones() -> None:
    assert allot_vids(["a", "b", "c"], [102]) == {"a": 101, "b": 103, "c": 104}
    everybody = allot_vids([str(n) for n in range(5000)], [1])
    assert len(everybody) == 4093
    assert len(set(everybody.values())) == 4093
    lab = parse_topology("""
name: lab
networks: {a: , b: {vlan: 101}, c: }
switches: {x: , y: }
links: [{between: [x, y], trunk: [102-110, a], native: 111}]
guests: {g: {nics: [a, b, c]}}
""")
    assert {name: network.vid for name, network in lab.networks.items()} == {"a": 112, "b": 101, "c": 113}


def test_mac_addresses_are_derived_from_names_alone() -> None:
    first = small().guests["a"].interfaces[0].mac
    assert first == small().guests["a"].interfaces[0].mac
    moved = parse_topology(SMALL.replace("guests: {", "guests: {z: {nics: [lan]}, "))
    assert moved.guests["a"].interfaces[0].mac == first, "another guest does not move anybody's address"
    assert small(small="other").guests["a"].interfaces[0].mac != first


def test_mac_collisions_are_resolved_the_same_way_every_time() -> None:
    oui = bytes.fromhex("525400")
    wanted = MacAllotter("lab", oui, []).derive("a", "eth0")
    second = MacAllotter("lab", oui, [wanted]).derive("a", "eth0")
    assert second != wanted
    assert second == MacAllotter("lab", oui, [wanted]).derive("a", "eth0")
    many = MacAllotter("lab", oui, [])
    assert len({many.derive(str(n), "eth0") for n in range(6000)}) == 6000


@pytest.mark.parametrize(
    ("profile", "oui"),
    [
        ("vnet", "525400"),
        ("virtual-server-2005r2", "0003ff"),
        ("virtual-pc", "0003ff"),
        ("vmware", "000c29"),
        ("xen", "00163e"),
    ],
)
def test_profiles_have_their_own_addresses(profile: str, oui: str) -> None:
    assert small(**{"name: small": f"name: small\nprofile: {profile}"}).guests["a"].interfaces[0].mac[:3].hex() == oui


def test_a_static_guest_finds_the_only_router() -> None:
    text = """
name: lab
networks: {lan: {subnet: 10.0.0.0/24}}
routers: {r: {interfaces: {lan: 10.0.0.1}}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.9}]}
  b: {nics: [{network: lan, address: 10.0.0.8/24, gateway: none}]}
"""
    lab = parse_topology(text)
    assert lab.guests["a"].gateway == lab.guests["a"].interfaces[0].gateway == IPv4Address("10.0.0.1")
    assert lab.guests["a"].interfaces[0].addresses == (IPv4Interface("10.0.0.9/24"),)
    assert lab.guests["b"].gateway is None
    two = parse_topology(text.replace("routers: {", "routers: {s: {interfaces: {lan: 10.0.0.2}}, "))
    assert two.guests["a"].gateway is None, "which of the two?"


def test_a_guest_has_one_default_gateway() -> None:
    lab = parse_topology("""
name: lab
networks: {a: {subnet: 10.0.0.0/24}, b: {subnet: 10.0.1.0/24}}
routers: {r: {interfaces: {a: 10.0.0.1, b: 10.0.1.1}}}
guests:
  first: {nics: [{network: a, address: 10.0.0.5}, {network: b, address: 10.0.1.5}]}
  second: {nics: [{network: a, address: 10.0.0.6}, {network: b, address: 10.0.1.6, gateway: 10.0.1.1}]}
  own: {nics: [{network: a, address: 10.0.0.7}, {network: b, address: 10.0.1.7}], gateway: 10.0.1.1}
""")
    gateways = {name: [i.gateway for i in guest.interfaces] for name, guest in lab.guests.items()}
    b = IPv4Address("10.0.1.1")
    assert gateways == {"first": [IPv4Address("10.0.0.1"), None], "second": [None, b], "own": [None, b]}
    assert [guest.gateway for guest in lab.guests.values()] == [IPv4Address("10.0.0.1"), b, b]


def test_who_uses_dhcp() -> None:
    lab = parse_topology("""
name: lab
networks: {served: {subnet: 10.0.0.0/24, dhcp: {}}, bare: }
guests:
  plain: {nics: [served, bare, {network: served, dhcp: false}, {network: served, address: 10.0.0.5}]}
  space: {kind: namespace, nics: [served, {network: served, dhcp: vnet}, {network: served, dhcp: true}]}
""")
    assert [interface.dhcp for interface in lab.guests["plain"].interfaces] == ["client", None, None, None]
    assert [interface.dhcp for interface in lab.guests["space"].interfaces] == [None, "vnet", None]
    assert lab.guests["space"].namespace == "lab-space"
    assert lab.guests["plain"].namespace is None


def test_a_topology_built_in_python() -> None:
    structs = Topology(
        name="small",
        networks={"lan": Network(subnet="10.0.0.0/24", dhcp=Dhcp())},
        guests={"a": Guest(nics=["lan"]), "b": Guest(nics=[Nic(network="lan")])},
    )
    plain = {
        "name": "small",
        "networks": {"lan": {"subnet": IPv4Network("10.0.0.0/24"), "dhcp": {}}},
        "guests": {"a": {"nics": ("lan",)}, "b": {"nics": ["lan"]}},
    }
    assert resolve(structs) == resolve(plain) == resolve(plain, source=None)
    assert resolve(structs, source="<text>") == small()


def test_mistakes_in_python_name_the_path() -> None:
    model = Topology(
        name="lab",
        networks={"my net": Network(vlan="16")},  # type: ignore[arg-type]
        routers={"r": Router(interfaces={"my net": "ten"})},
        guests={"a": Guest(nics=[Nic(network="lan")])},
    )
    with pytest.raises(TopologyError) as caught:
        resolve(model)
    assert str(caught.value).splitlines() == [
        "networks['my net'].vlan: expected a whole number, got the text '16'",
        "routers.r.interfaces['my net']: 'ten' is not an IP address with a prefix length; write one such as 172.17.1.27/24",
        "guests.a.nics[0].network: there is no network 'lan'; known: my net",
    ]


def test_a_bad_item_does_not_shift_the_blame() -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology("name: lab\nnetworks: {lan: }\nguests:\n  a:\n    nics:\n      - 3\n      - lam\n", "f")
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [(6, "wrong-type"), (7, "unknown-network")]


def test_the_same_in_every_process() -> None:
    script = "import sys; from vnet.topology import load_topology; print([load_topology(name) for name in sys.argv[1:]])"
    from pathlib import Path

    files = sorted(str(path) for path in (Path(__file__).parents[3] / "topologies").glob("*.yaml"))
    said = {
        subprocess.run(
            [sys.executable, "-c", script, *files],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(said) == 1
    assert len(said.pop()) > 10_000


def test_a_thousand_guests_resolve_in_linear_time() -> None:
    guests = {f"g{n}": {"nics": ["lan"]} for n in range(1000)}
    lab = resolve({"name": "lab", "networks": {"lan": {"subnet": "10.0.0.0/16", "dhcp": {}}}, "guests": guests})
    assert len(lab.switches["switch"].ports) == 1001
    assert len({interface.mac for _, interface in lab.endpoints()}) == 1000


def test_who_speaks_ipv6() -> None:
    lab = parse_topology("""
name: lab
networks: {a: {subnet: 10.0.0.0/24, dhcp: {}}, b: {}}
routers: {r: {interfaces: {a: 10.0.0.1}}}
guests:
  both: {nics: [{network: a, address: ["2001:db8::5/64", 10.0.0.5]}]}
  mixed: {nics: [{network: a, address: "2001:db8::6/64", dhcp: true}], routes: [{to: 10.9.0.0/16, via: 10.0.0.1}]}
  six: {nics: [{network: a, address: "2001:db8::7/64"}]}
  local: {nics: [{network: b, ipv6: link-local}]}
  auto: {nics: [{network: b, ipv6: auto}]}
  four: {nics: [a]}
""")
    nics = {name: guest.interfaces[0] for name, guest in lab.guests.items()}
    assert [name for name, nic in nics.items() if nic.has_ipv6] == ["both", "mixed", "six", "local", "auto"]
    assert [(nic.ipv6, nic.dhcp) for nic in nics.values()] == [
        (None, None), (None, "client"), (None, None), ("link-local", None), ("auto", None), (None, "client"),
    ]  # fmt: skip
    assert lab.guests["both"].gateway == IPv4Address("10.0.0.1") and lab.guests["six"].gateway is None


def test_vlans_in_python_may_have_numbers_as_keys() -> None:
    topology = resolve({
        "name": "lab",
        "networks": {"lan": {"vlan": 16, "subnet": "10.0.0.0/24"}},
        "guests": {"a": {"nics": [{"trunk": [16], "vlans": {16: "10.0.0.1"}}]}},
    })  # fmt: skip
    parent, sub = topology.guests["a"].interfaces
    assert (sub.name, sub.parent, sub.vid, sub.network, sub.mac) == ("eth0.16", "eth0", 16, "lan", parent.mac)
    assert [cable.name for _, _, cable in topology.cables()] == ["eth0"]
    assert sub.port == parent.port and sub.mtu == parent.mtu


def test_servers_and_domains_of_a_guest() -> None:
    lab = parse_topology(
        "{name: d, networks: {n: {subnet: 10.0.0.0/24}}, guests: {g: {nics: [{network: n, address: 10.0.0.1}],"
        ' dns: [10.0.0.53, "fd00::53"], search: [office.example., lab]}, h: {nics: [{network: n, address: 10.0.0.2}]}}}'
    )
    assert [str(each) for each in lab.guests["g"].dns] == ["10.0.0.53", "fd00::53"]
    assert lab.guests["g"].search == ("office.example", "lab")
    assert lab.guests["h"].dns == lab.guests["h"].search == ()


def test_a_user_adapter_is_the_gateway_that_nodes_name_and_knows_guests_with_reservations() -> None:
    topology = parse_topology(
        """
name: lab
networks:
  out:
    subnet: 10.0.2.0/24
    dhcp: {reservations: {web: 10.0.2.40}}
    adapter:
      user:
        forwards: [{listen: "8080", to: "web:80"}, {listen: "[::1]:8081", to: "10.0.2.9:81", protocol: udp}]
  told: {subnet: 10.0.3.0/24, dhcp: {gateway: 10.0.3.200}, adapter: user}
  stated: {subnet: 10.0.4.0/24, dhcp: {}, adapter: {user: {address: 10.0.4.254}}}
  named: {subnet: 10.0.5.0/24, adapter: user}
  routed: {subnet: 10.0.6.0/24, dhcp: {}, adapter: user}
  free: {subnet: 10.0.7.0/24, adapter: user}
routers: {gate: {interfaces: {routed: 10.0.6.1/24}}}
guests:
  web: {nics: [out]}
  pc:
    nics:
      - {network: named, address: 10.0.5.9/24, gateway: 10.0.5.99}
      - {network: free, address: 10.0.7.1}
"""
    )
    networks = topology.networks
    adapters = {name: network.adapter.describe() for name, network in networks.items()}
    assert adapters == {
        "out": "user 10.0.2.1/24 with 2 forwards", "told": "user 10.0.3.200/24", "stated": "user 10.0.4.254/24",
        "named": "user 10.0.5.99/24", "routed": "user 10.0.6.3/24", "free": "user 10.0.7.2/24",
    }  # fmt: skip
    spec = networks["out"].adapter
    assert isinstance(spec, UserSpec)
    assert [str(forward) for forward in spec.forwards] == [
        "tcp 127.0.0.1:8080 to 10.0.2.40:80", "udp [::1]:8081 to 10.0.2.9:81",
    ]  # fmt: skip
    told = {name: (str(n.dhcp.gateway), [str(each) for each in n.dhcp.dns]) for name, n in networks.items() if n.dhcp}
    assert told == {
        "out": ("10.0.2.1", ["10.0.2.1"]), "told": ("10.0.3.200", ["10.0.3.200"]), "stated": ("10.0.4.254", ["10.0.4.254"]),
        "routed": ("10.0.6.1", []),
    }  # fmt: skip
    again = read_choice(topology, networks["out"], "{user: {forwards: [{listen: '8080', to: 'web:80'}]}}")
    assert isinstance(again, UserSpec) and again.forwards == spec.forwards[:1] and again.mac == spec.mac
