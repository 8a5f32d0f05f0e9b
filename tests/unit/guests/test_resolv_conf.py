from __future__ import annotations

from pathlib import Path

from vnet.guests.namespace import NamespaceGuest
from vnet.runtime.live import _nic
from vnet.topology import parse_topology

LAB = """
name: lab
networks: {lan: {subnet: "2001:db8:5::/64"}, old: {subnet: 10.92.0.0/24}}
guests:
  t:
    kind: namespace
    nics: [{network: lan, address: "2001:db8:5::2/64"}, {network: old, address: 10.92.0.2/24}]
    dns: ["2001:db8:5::53", 10.92.0.53, "fe80::53"]
    search: [example.org]
"""


def test_ipv6_servers_are_in_a_linux_guests_resolv_conf(tmp_path: Path) -> None:
    """In the order of the topology; a link-local one is on the first NIC's link (resolv.conf(5): with a scope)."""
    topology = parse_topology(LAB)
    guest = topology.guests["t"]
    nics = [_nic(topology, guest, nic, first=number == 0) for number, nic in enumerate(guest.interfaces)]
    made = NamespaceGuest("t", "lab-t", nics, directory=str(tmp_path))
    made._write_resolv_conf()
    assert Path(made.resolv_conf).read_text().splitlines() == [
        "search example.org", "nameserver 2001:db8:5::53", "nameserver 10.92.0.53", "nameserver fe80::53%eth0",
    ]  # fmt: skip
