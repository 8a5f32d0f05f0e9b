"""From the plain data of a topology to the configurations that switches, NAT and firewalls take."""

from __future__ import annotations

from ipaddress import IPv4Network

from vnet.services.firewall.conntrack import Timeouts
from vnet.services.firewall.rules import AllowRule, FirewallConfig
from vnet.services.nat.translator import NatConfig, PortForward
from vnet.switch.vlan import Admit, VlanConfig
from vnet.topology.resolved import ALL_VLANS, ResolvedFirewall, ResolvedNat, ResolvedSwitchPort


def vlan_config(port: ResolvedSwitchPort) -> VlanConfig:
    """Say which VLANs a switch port carries, and how."""
    members = None if port.members == ALL_VLANS else frozenset(port.members)
    return VlanConfig(port.pvid, members, frozenset(port.untagged), Admit(port.admit))


def nat_config(nat: ResolvedNat) -> NatConfig:
    """Say what a router translates."""
    return NatConfig(
        outside=nat.outside,
        inside=nat.inside,
        sources=nat.sources,
        forwards=tuple(
            PortForward(protocol=each.protocol, port=each.port, address=each.address, to_port=each.to_port)
            for each in nat.forwards
        ),
        hairpin=nat.hairpin,
        timeouts=Timeouts(
            udp=nat.timeouts.udp,
            tcp_established=nat.timeouts.tcp_established,
            tcp_transitory=nat.timeouts.tcp_transitory,
            icmp=nat.timeouts.icmp,
        ),
    )


def firewall_config(firewall: ResolvedFirewall) -> FirewallConfig:
    """Say what a router lets pass."""
    return FirewallConfig(
        policy=firewall.policy,
        allow=tuple(
            AllowRule(
                from_networks=rule.from_networks,
                to_networks=rule.to_networks,
                protocol=rule.protocol,
                ports=rule.ports,
                sources=tuple(each for each in rule.sources if isinstance(each, IPv4Network)),
                destinations=tuple(each for each in rule.destinations if isinstance(each, IPv4Network)),
            )
            for rule in firewall.allow
        ),
    )
