"""Snapshots of who reaches whom, and what differs between two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import pytest

import vnet
from vnet.cli.probe import print_matrix
from vnet.errors import UsageError
from vnet.runtime.lab import Lab
from vnet.runtime.matrix import Reachability, measure
from vnet.runtime.views import Row

ROOMS = vnet.parse_topology("""
name: rooms
networks: {lan: {vlan: 10, subnet: 10.0.0.0/24}, dmz: {vlan: 20, subnet: 10.0.1.0/24}}
routers: {gate: {interfaces: {lan: 10.0.0.254/24, dmz: 10.0.1.254/24},
                 firewall: {policy: drop, allow: [{from: lan, to: dmz, protocol: tcp, port: 80},
                                                  {from: lan, to: dmz, protocol: icmp}]}}}
guests:
  pc: {nics: [{network: lan, address: 10.0.0.1/24, gateway: 10.0.0.254}]}
  web: {nics: [{network: dmz, address: 10.0.1.1/24, gateway: 10.0.1.254}]}
""")


def run(body: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            await body(lab)

    vnet.simulate(main)


def test_what_changed_is_told_in_words() -> None:
    async def body(lab: Lab) -> None:
        before = await lab.reachability()
        assert before["pc", "web"] and not before["web", "pc"] and before.pairs == {("pc", "web")}
        assert before.unexpected == ()
        assert not before.compare(await lab.reachability())
        lab.links["web:eth0"].up = False
        after = await lab.reachability()
        assert after.unexpected == (("pc", "web"),)
        diff = before.compare(after)
        assert diff and list(diff.lost) == [("pc", "web")] and not diff.gained
        head, line = str(diff).splitlines()
        assert head.startswith("icmp, 0.000 s to ") and head.endswith(": 1 change")
        assert line.startswith("- pc no longer reaches web: ") and len(line) > 30
        back = after.compare(before)
        assert str(back).splitlines()[1:] == ["+ pc now reaches web"]

    run(body)


def test_ports_are_probed_and_not_mixed_with_others() -> None:
    async def body(lab: Lab) -> None:
        web, other = await lab.reachability("tcp", 80), await lab.reachability("tcp", 81)
        assert web["pc", "web"] and not other["pc", "web"]
        with pytest.raises(UsageError, match="tcp/80 and one of tcp/81"):
            web.compare(other)
        with pytest.raises(UsageError, match=r"no protocol .* as in reachability\('tcp', 80\)"):
            await lab.reachability("sctp")
        with pytest.raises(UsageError, match=r"tcp needs a port, as in reachability\('tcp', 80\)"):
            await lab.reachability("tcp")

    run(body)


REJECTING = vnet.parse_topology("""
name: rejecting
networks: {lan: {vlan: 10, subnet: 10.0.0.0/24}, dmz: {vlan: 20, subnet: 10.0.1.0/24}, out: {vlan: 30, subnet: 10.0.2.0/24}}
routers:
  gate: {interfaces: {lan: 10.0.0.254/24, out: 10.0.2.254/24}, default_gateway: 10.0.2.253,
         nat: {outside: out, inside: [lan]}}
  wall: {interfaces: {dmz: 10.0.1.254/24, out: 10.0.2.253/24},
         firewall: {policy: reject, allow: [{from: out, to: dmz, protocol: tcp, port: 80}]}}
guests:
  pc: {nics: [{network: lan, address: 10.0.0.1/24, gateway: 10.0.0.254}]}
  web: {nics: [{network: dmz, address: 10.0.1.1/24, gateway: 10.0.1.254}], run: [{echo: {port: 8080}}]}
""")


@pytest.mark.parametrize(("port", "allowed"), [(80, True), (81, False), (8080, False)])
def test_what_a_firewall_refuses_was_not_reached(port: int, allowed: bool) -> None:
    """The resets look alike at the prober, before and behind a NAT; only who sent them differs."""

    async def main() -> tuple[Reachability, vnet.Verdict]:
        async with vnet.open_lab(REJECTING) as lab:
            probe = await lab.guests["pc"].tcp_probe("10.0.1.1", port)
            return await lab.reachability("tcp", port), probe.verdict

    matrix, verdict = vnet.simulate(main)
    assert verdict is vnet.Verdict.CLOSED and matrix.unexpected == ()
    assert matrix["pc", "web"] is allowed and not matrix["web", "pc"]
    assert matrix.details["pc", "web"] == ("refused" if allowed else "refused on the way, not by web")


def test_it_reads_as_a_table() -> None:
    matrix = Reachability("icmp", 1.5, {("pc", "web"): True, ("web", "pc"): False}, {("pc", "web"): "", ("web", "pc"): "no"})
    assert str(matrix).splitlines() == [
        "icmp at 1.500 s, from (row) to (column)",
        "    pc web",
        "pc  .   +",
        "web -   .",
    ]
    with pytest.raises(UsageError, match="the guests are pc, web"):
        matrix["pc", "mail"]


def test_pairs_that_only_one_knows_are_told() -> None:
    one = Reachability("icmp", 0, {("a", "b"): True}, {("a", "b"): ""})
    two = Reachability("icmp", 1, {("a", "c"): True}, {("a", "c"): ""})
    assert str(one.compare(two)).splitlines()[1:] == ["? a to b was not probed after", "? a to c was not probed before"]
    assert str(one.compare(one)) == "icmp, 0.000 s to 0.000 s: no change"


SIX = vnet.parse_topology("""
name: six
networks: {six: {subnet: "2001:db8::/64"}, lan: {vlan: 10, subnet: 10.0.0.0/24}}
guests:
  a: {nics: [{network: six, address: "2001:db8::1"}]}
  b: {nics: [{network: six, address: "2001:db8::2"}]}
  old: {nics: [{network: lan, address: 10.0.0.1/24}]}
  new: {nics: [{network: lan, address: 10.0.0.2/24}]}
""")


def test_guests_of_ipv6_alone_are_judged_by_their_network() -> None:
    async def main() -> tuple[Reachability, dict[str, object]]:
        async with vnet.open_lab(SIX) as lab:
            matrix = await lab.reachability()
            lab.links["new:eth0"].up = lab.links["b:eth0"].up = False
            return matrix, await measure(lab, "icmp", None, 0.1)

    matrix, data = vnet.simulate(main)
    assert matrix.pairs == {("a", "b"), ("b", "a"), ("old", "new"), ("new", "old")}
    assert matrix.unexpected == () and matrix.details["a", "old"] == "a has no IPv4 address"
    assert data["differences"] == 4, "the cables that were cut"
    rows = {(row["from"], row["to"]): row for row in cast("list[Row]", data["matrix"])}
    assert rows["a", "b"]["expected"] is True and rows["a", "b"]["agrees"] is False
    assert rows["old", "a"] | {"rtt_s": 0} == {
        "from": "old", "to": "a", "from_network": "lan", "to_network": "six", "reached": False, "detail": "no route",
        "rtt_s": 0, "expected": False, "reason": "old has no IPv6 address", "through": [], "agrees": True,
    }  # fmt: skip


MANY_SIX = """
name: many
networks: {lan: {}, other: {}}
guests:
  a: {nics: [{network: lan, address: ["2001:db8::1/64", 10.0.0.1/24]}]}
  b: {nics: [{network: lan, address: "2001:db8::2/64"}]}
  narrow: {nics: [{network: lan, address: "2001:db8::3/126"}]}
  away: {nics: [{network: other, address: "2001:db8::4/64"}]}
  lost: {nics: [{network: lan, address: "2001:db8:9::5/64", gateway: "2001:db8:9::6"}]}
  hop: {nics: [{network: lan, address: "2001:db8:9::6/64"}]}
  two: {nics: [{network: lan, address: "2001:db8:a::7/64"}, {network: other, address: "2001:db8::7/64"}]}
  local: {nics: [{network: lan, ipv6: link-local}]}
  auto: {nics: [{network: lan, ipv6: auto}]}
  old: {nics: [{network: lan, address: 10.0.0.9/24}]}
"""


def test_what_the_file_says_of_ipv6_is_what_is_measured() -> None:
    topology = vnet.parse_topology(MANY_SIX)

    async def main(protocol: str, port: int | None) -> dict[str, object]:
        async with vnet.open_lab(topology) as lab:
            return await measure(lab, protocol, port, 5)

    for protocol, port in (("icmp", None), ("tcp", 80), ("udp", 80)):
        data = vnet.simulate(main, protocol, port)
        rows = {(str(row["from"]), str(row["to"])): row for row in cast("list[Row]", data["matrix"])}
        assert [(pair, row["reason"], row["detail"]) for pair, row in rows.items() if row["agrees"] is False] == []
        reached = {pair for pair, row in rows.items() if row["reached"]}
        assert reached == {
            (one, two) for pair in ("a b", "a narrow", "b narrow", "lost hop", "away two", "a old")
            for one, two in (pair.split(), pair.split()[::-1])
            if (one, two) not in {("b", "a"), ("narrow", "a"), ("away", "two")}
        }, "b and narrow have no IPv4, by which a is measured; away knows no way to the first address of two"  # fmt: skip
        reasons = {pair: row["reason"] for pair, row in rows.items()}
        assert reasons["a", "away"] == "nobody on lan has 2001:db8::4"
        assert reasons["lost", "b"] == "hop (2001:db8:9::6) does not forward"
        assert reasons["hop", "b"] == "hop has no route to 2001:db8::2"
        assert reasons["a", "local"] == "local has no IPv6 address but a link-local one"
        assert reasons["b", "old"] == "b has no IPv4 address"
        assert {pair for pair, row in rows.items() if row["expected"] is None} == {
            (other, "auto") for other in topology.guests if other != "auto"
        } | {("auto", other) for other in topology.guests if other not in ("a", "old", "auto", "local")}


def test_pingall_tells_what_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    topology = vnet.parse_topology("""
name: six
networks: {six: {subnet: "2001:db8::/64"}, lan: {vlan: 10, subnet: 10.0.0.0/24}}
guests:
  a: {nics: [{network: six, ipv6: auto}]}
  b: {nics: [{network: six, address: "2001:db8::2"}]}
  old: {nics: [{network: lan, address: 10.0.0.1/24}]}
  new: {nics: [{network: lan, address: 10.0.0.2/24}]}
""")

    async def main() -> dict[str, object]:
        async with vnet.open_lab(topology) as lab:
            return await measure(lab, "icmp", None, 0.1)

    print_matrix(vnet.simulate(main))
    out = capsys.readouterr().out
    assert out.endswith("icmp: 2 of 12 pairs reached, just as the rules say; 4 over IPv6 are not judged\n"), out
    assert "six   six  ?            0 of 2    what IPv6 routers advertise and namespaces forward is not known\n" in out
    assert "lan   lan  2 of 2       2 of 2    same network\n" in out
    assert out.splitlines()[1].split() == ["a", "no?", "-", "-"]
