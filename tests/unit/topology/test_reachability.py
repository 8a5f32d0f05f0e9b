"""What the rules say, before anybody measures it."""

from __future__ import annotations

from pathlib import Path

from vnet.topology import load_topology, parse_topology
from vnet.topology.reachability import Expectation, expected

FOLDER = Path(__file__).parents[3] / "topologies"
INTERNET, DMZ, OFFICE = ("isp", "customer", "intruder"), ("web", "mail"), ("dc", "files", "user1", "user2", "pc1", "pc2")

ROUTED = """
name: lab
networks: {a: {subnet: 10.0.1.0/24}, b: {subnet: 10.0.2.0/24}, c: {subnet: 10.0.3.0/24}}
routers: {r: {interfaces: {a: 10.0.1.1, b: 10.0.2.1}FIREWALL}}
guests:
  x: {nics: [{network: a, address: 10.0.1.5}]}
  y: {nics: [{network: b, address: 10.0.2.5GATEWAY}]}
  z: {nics: [{network: c, address: 10.0.3.5}]}
  n: {nics: [a]}
"""


def routed(firewall: str = "", gateway: str = "", **probe: object) -> dict[tuple[str, str], Expectation]:
    text = ROUTED.replace("FIREWALL", f", firewall: {{{firewall}}}" if firewall else "").replace("GATEWAY", gateway)
    return expected(parse_topology(text), **probe)  # type: ignore[arg-type]


def test_the_infrastructure_in_a_box() -> None:
    verdicts = expected(load_topology(FOLDER / "infrastructure-in-a-box.yaml"))
    zones = {name: zone for zone, names in enumerate((INTERNET, DMZ, OFFICE)) for name in names}
    assert len(verdicts) == 11 * 10
    for (source, target), verdict in verdicts.items():
        assert verdict.allowed == (zones[source] >= zones[target]), f"{source} to {target}: {verdict}"
        assert len(verdict.through) <= abs(zones[source] - zones[target])
    assert verdicts["user1", "customer"] == Expectation(
        True, "through inner and perimeter, as 203.0.113.2", ("inner", "perimeter")
    )
    assert verdicts["web", "dc"].reason == "firewall of inner: no rule allows dmz to office"
    assert verdicts["intruder", "web"].reason == "NAT of perimeter: unsolicited"
    assert verdicts["customer", "web"].reason == "customer has no route to 172.17.1.26"
    assert verdicts["dc", "files"].reason == "same network"


def test_port_forwards_of_the_infrastructure_in_a_box() -> None:
    lab = load_topology(FOLDER / "infrastructure-in-a-box.yaml")
    for protocol, port, server in (("tcp", 80, "web"), ("tcp", 443, "web"), ("udp", 443, "web"), ("tcp", 25, "mail")):
        verdicts = expected(lab, protocol, port)  # type: ignore[arg-type]
        reached = {target for (source, target), verdict in verdicts.items() if source == "customer" and verdict.allowed}
        assert reached == {server, "isp", "intruder"}
        assert verdicts["customer", server].reason == f"port {port} of perimeter (203.0.113.2) is forwarded"
        assert verdicts["user1", server].allowed
        assert verdicts["customer", "dc"].allowed is False
    assert expected(lab, "tcp", 25)["mail", "customer"].allowed
    assert not expected(lab, "tcp", 25)["web", "customer"].allowed


def test_plain_routing() -> None:
    verdicts = routed()
    assert verdicts["x", "y"] == Expectation(True, "through r", ("r",))
    assert verdicts["x", "z"].reason == "r has no route to 10.0.3.5"
    assert verdicts["z", "x"].reason == "z has no route to 10.0.1.5"
    assert verdicts["x", "n"].reason == verdicts["n", "x"].reason == "n has no address"


def test_without_a_way_back_there_is_no_answer() -> None:
    verdicts = routed(gateway=", gateway: none")
    assert verdicts["x", "y"] == Expectation(False, "y has no route to 10.0.1.5", ("r",))
    lost = routed(gateway=", gateway: 10.0.2.77")
    assert lost["x", "y"].reason == "the reply is lost: nobody on b has 10.0.2.77"
    assert lost["y", "x"].reason == "nobody on b has 10.0.2.77"


def test_rules() -> None:
    one_way = routed("allow: [{from: a}]")
    assert one_way["x", "y"].allowed, "replies pass"
    assert one_way["y", "x"].reason == "firewall of r: no rule allows b to a"
    web = "allow: [{protocol: tcp, port: [80, 8000-8010], source: x, destination: 10.0.2.0/25}]"
    assert not routed(web)["x", "y"].allowed
    for port, passes in ((80, True), (8005, True), (81, False)):
        assert routed(web, protocol="tcp", port=port)["x", "y"].allowed == passes
        assert not routed(web, protocol="udp", port=port)["x", "y"].allowed
        assert not routed(web, protocol="tcp", port=port)["y", "x"].allowed
    assert routed("policy: accept")["y", "x"].allowed
    assert not routed("policy: reject")["y", "x"].allowed


def test_a_stateful_firewall_drops_replies_to_what_it_did_not_see() -> None:
    lab = parse_topology("""
name: lab
networks: {a: {subnet: 10.0.1.0/24}, b: {subnet: 10.0.2.0/24}}
routers:
  plain: {interfaces: {a: 10.0.1.1, b: 10.0.2.1}}
  fire: {interfaces: {a: 10.0.1.2, b: 10.0.2.2}, firewall: {allow: [{}]}}
guests:
  x: {nics: [{network: a, address: 10.0.1.5, gateway: 10.0.1.1}]}
  y: {nics: [{network: b, address: 10.0.2.5, gateway: 10.0.2.2}]}
""")
    verdicts = expected(lab)
    assert verdicts["x", "y"] == Expectation(
        False, "the reply comes by fire, whose firewall has not seen the request", ("plain",)
    )
    assert verdicts["y", "x"] == Expectation(True, "through fire", ("fire",))


def test_guests_do_not_forward_and_circles_end() -> None:
    lab = parse_topology("""
name: lab
networks: {a: {subnet: 10.0.1.0/24}, b: {subnet: 10.0.2.0/24}}
routers:
  r: {interfaces: {a: 10.0.1.1}, default_gateway: 10.0.1.2}
  s: {interfaces: {a: 10.0.1.2}, default_gateway: 10.0.1.1}
guests:
  x: {nics: [{network: a, address: 10.0.1.5, gateway: 10.0.1.6}]}
  w: {nics: [{network: a, address: 10.0.1.6, gateway: 10.0.1.1}]}
  y: {nics: [{network: b, address: 10.0.2.5, gateway: none}]}
""")
    verdicts = expected(lab)
    assert verdicts["x", "y"].reason == "w (10.0.1.6) does not forward"
    assert verdicts["w", "y"].reason == "the packet goes round in circles"


def test_an_exhausted_range_leaves_the_last_without_an_address() -> None:
    guests = ", ".join(f"c{n}: {{nics: [lan]}}" for n in range(4))
    lab = parse_topology(
        "name: lab\nnetworks: {lan: {subnet: 10.0.0.0/24, dhcp: {range: 10.0.0.16-10.0.0.18}}}\n"
        f"guests: {{{guests}}}\n"
    )
    verdicts = expected(lab)
    assert verdicts["c0", "c2"].allowed
    assert verdicts["c0", "c3"].reason == "c3 has no address"


def test_hairpinning_decides_whether_forwards_work_from_inside() -> None:
    text = """
name: lab
networks: {out: {subnet: 203.0.113.0/24}, lan: {subnet: 10.0.0.0/24}, dmz: {subnet: 10.0.1.0/24}}
routers:
  r:
    interfaces: {out: 203.0.113.2, lan: 10.0.0.1, dmz: 10.0.1.1}
    nat: {outside: out, inside: [lan, dmz], hairpin: HAIRPIN, forwards: [{port: 80, to: web}]}
    firewall: {allow: [{to: out}]}
guests:
  pc: {nics: [{network: lan, address: 10.0.0.5}]}
  web: {nics: [{network: dmz, address: 10.0.1.5}]}
"""
    assert expected(parse_topology(text.replace("HAIRPIN", "true")), "tcp", 80)["pc", "web"].allowed
    assert not expected(parse_topology(text.replace("HAIRPIN", "false")), "tcp", 80)["pc", "web"].allowed
