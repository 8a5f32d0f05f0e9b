"""What becomes of the user adapter's keys for IPv6."""

from __future__ import annotations

import pytest

from vnet.errors import TopologyError
from vnet.topology import parse_topology
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.topology.resolve_adapter import read_choice


def test_a_user_adapter_passes_ipv6_with_an_address_of_its_own() -> None:
    topology = parse_topology(
        """
name: lab
networks:
  out:
    subnet: 10.0.2.0/24
    adapter:
      user:
        ipv6: "fd00:2::1"
        host: [10.0.2.99, "fd00:2::99"]
        source: "2001:db8::7"
        routes: {"fd00:9::/48": "fd00:2::7", 10.9.0.0/16: 10.0.2.7}
        forwards:
          - {listen: "[::1]:8080", to: "six:80"}
          - {listen: "8081", to: "[fd00:2::8]:81"}
          - {listen: "8082", to: "both:82"}
  auto: {subnet: 10.0.3.0/24, adapter: {user: {ipv6: auto}}}
  other: {subnet: 10.0.4.0/24, adapter: {user: {ipv6: auto}}}
  none: {subnet: 10.0.5.0/24, adapter: user}
guests:
  six: {nics: [{network: out, address: "fd00:2::6/64", gateway: "fd00:2::1"}]}
  both: {nics: [{network: out, address: [10.0.2.9/24, "fd00:2::9/64"]}]}
"""
    )
    spec = topology.networks["out"].adapter
    assert isinstance(spec, UserSpec)
    assert str(spec.address6) == "fd00:2::1/64" and "and fd00:2::1/64" in spec.describe()
    assert (str(spec.host), str(spec.host6), spec.source, str(spec.source6)) == (
        "10.0.2.99", "fd00:2::99", None, "2001:db8::7",
    )  # fmt: skip
    assert [(str(prefix), str(hop)) for prefix, hop in spec.routes] == [
        ("fd00:9::/48", "fd00:2::7"), ("10.9.0.0/16", "10.0.2.7"),
    ]  # fmt: skip
    assert [str(forward) for forward in spec.forwards] == [
        "tcp [::1]:8080 to [fd00:2::6]:80", "tcp 127.0.0.1:8081 to [fd00:2::8]:81", "tcp 127.0.0.1:8082 to 10.0.2.9:82",
    ]  # fmt: skip
    made = [topology.networks[name].adapter for name in ("auto", "other", "none")]
    assert all(isinstance(each, UserSpec) for each in made)
    one, two, none = (each.address6 for each in made if isinstance(each, UserSpec))
    assert none is None and one is not None and two is not None and one.network != two.network
    assert all(each.ip.packed[0] == 0xFD and each.ip.packed[6:] == bytes(9) + b"\x01" for each in (one, two))
    again = read_choice(topology, topology.networks["auto"], "{user: {ipv6: auto}}")
    assert again == made[0], "the prefix is the same in each run"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ('ipv6: "fd00:6::1%eth0/64"', "leave %eth0 out"),
        ('ipv6: "fd00:6::1/64", host: "fd00:6::5%x"', "leave %x out"),
        ('ipv6: "fd00:6::1/64", host: "fd00:6::"', "cannot be an alias"),
        ("host: 127.0.0.1", "cannot be an alias"),
        ("host: 0.0.0.0", "cannot be an alias"),
        ("host: 224.0.0.1", "cannot be an alias"),
        ("host: 255.255.255.255", "cannot be an alias"),
        ("host: 10.0.2.255", "cannot be an alias"),
        ("source: 224.0.0.1", "cannot be a source"),
        ("source: 0.0.0.0", "cannot be a source"),
        ('ipv6: auto, source: "fe80::1"', "cannot be a source"),
        ('ipv6: auto, source: "ff02::1"', "cannot be a source"),
        ('ipv6: auto, source: "::ffff:192.0.2.1"', "cannot be a source"),
        ('forwards: [{listen: "8080", to: "127.0.0.1:80"}]', "no address of a guest"),
        ('forwards: [{listen: "8080", to: "0.0.0.0:80"}]', "no address of a guest"),
        ('forwards: [{listen: "8080", to: "255.255.255.255:80"}]', "no address of a guest"),
        ('forwards: [{listen: "8080", to: "10.0.2.1:80"}]', "no address of a guest"),
        ('host: 10.0.2.99, forwards: [{listen: "8080", to: "10.0.2.99:8080"}]', "no address of a guest"),
        ('ipv6: "fd00:6::1/64", forwards: [{listen: "8080", to: "[fd00:6::1]:80"}]', "no address of a guest"),
        ('ipv6: "fd00:6::1/64", forwards: [{listen: "8080", to: "[fd00:6::5%x]:80"}]', "no address of a guest"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_meant_is_refused_with_its_line(key: str, said: str) -> None:
    """One that never works, or leads back to the machine: a forward to its own alias would take its connections for ever."""
    text = f"name: lab\nnetworks:\n  out:\n    subnet: 10.0.2.0/24\n    adapter: {{user: {{{key}}}}}\n"
    with pytest.raises(TopologyError, match=rf"(?s):5:\d+: .*{said}"):
        parse_topology(text)


def test_a_socket_of_the_machine_may_name_an_interface() -> None:
    """Servers that routers advertise have link-local addresses, which mean nothing without (RFC 4007, section 11)."""
    text = 'name: lab\nnetworks:\n  out: {subnet: 10.0.2.0/24, adapter: {user: {dns: ["fe80::1%eth0"]}}}\n'
    spec = parse_topology(text).networks["out"].adapter
    assert isinstance(spec, UserSpec) and str(spec.dns[0]) == "fe80::1%eth0"
