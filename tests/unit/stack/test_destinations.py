"""In which order the addresses of a name are tried: the examples of RFC 6724, section 10.2, and what they leave out."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address

import pytest

from vnet.stack.destinations import by_preference
from vnet.units import SECOND


def host(lan, *sources):
    made = lan.host(1, None)
    interface = made.interfaces["eth0"]
    side = interface.enable_ipv6()
    for text in sources:
        if ":" in text:
            side.add_address(IPv6Interface(text))
        else:
            interface.add_address(IPv4Interface(text))
    made.routes.add(IPv4Network("0.0.0.0/0"), None, interface)
    side.node.routes.add(IPv6Network("::/0"), None, interface)
    lan.run(5 * SECOND)
    return made


def sort(made, *destinations):
    return [str(ip_address(each)) for each in by_preference(made, [ip_address(text).packed for text in destinations])]


@pytest.mark.parametrize(
    ("sources", "destinations"),
    [
        (["2001:db8:1::2/64", "169.254.13.78/16"], ["2001:db8:1::1", "198.51.100.121"]),  # scope
        (["198.51.100.117/24"], ["198.51.100.121", "2001:db8:1::1"]),  # scope: there is but a link-local source
        (["2001:db8:1::2/64", "10.1.2.4/24"], ["2001:db8:1::1", "10.1.2.3"]),  # precedence
        (["2001:db8:1::2/64"], ["fe80::1", "2001:db8:1::1"]),  # smaller scope
        (["2002:c633:6401::2/48", "fd00::2/64"], ["fd00::1", "2002:c633:6401::1"][::-1]),  # precedence
        (["2001:db8:1::2/64", "2002:c633:6401::2/48"], ["2001:db8:1::1", "2002:c633:6401::1"]),  # precedence
        (["fd00::2/64", "10.1.2.4/24"], ["10.1.2.3", "fd00::1"]),  # IPv4 before unique local addresses
        (["2002:c633:6401::2/48", "10.1.2.4/24"], ["10.1.2.3", "2001:db8:1::1"]),  # label
        (["2001:db8:1::2/64", "2001:db8:3f44::2/64"], ["2001:db8:3f44::1", "2001:db8:3ffe::1"]),  # longest prefix
    ],
)
def test_the_best_comes_first_whatever_the_server_s_order(lan, sources, destinations):
    made = host(lan, *sources)
    assert sort(made, *destinations) == destinations == sort(made, *reversed(destinations))


def test_equals_keep_their_order_and_each_is_there_once(lan):
    made = host(lan, "10.0.0.1/24")
    assert sort(made, "10.0.0.9", "192.0.2.1", "10.0.0.9") == ["10.0.0.9", "192.0.2.1"]
    assert sort(made, "192.0.2.1", "10.0.0.9") == ["192.0.2.1", "10.0.0.9"]


def test_what_cannot_be_reached_comes_last(lan):
    made = lan.host(1)
    assert made.ipv6 is None
    assert sort(made, "2001:db8::1", "10.0.0.9", "192.0.2.1", "::1") == ["::1", "10.0.0.9", "2001:db8::1", "192.0.2.1"]


def test_a_source_that_runs_out_puts_its_destination_behind(lan):
    made = host(lan, "2001:db8:1::2/64", "10.1.2.4/24")
    (own,) = [each for each in made.interfaces["eth0"].ipv6.addresses if each.origin.name == "STATIC"]
    own.preferred_until = lan.timeline.now
    own.settle(lan.timeline.now)
    assert sort(made, "2001:db8:1::1", "10.1.2.3") == ["10.1.2.3", "2001:db8:1::1"]
