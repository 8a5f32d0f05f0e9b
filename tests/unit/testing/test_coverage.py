"""What a run has exercised of its topology, kind by kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import vnet
from vnet.runtime.lab import Lab
from vnet.testing.coverage import Counts, exercised, merge, summary

BOX = vnet.parse_topology("""
name: box
networks:
  inside: {vlan: 10, subnet: 10.0.0.0/24, dhcp: {}}
  outside: {vlan: 20, subnet: 203.0.113.0/24}
  unused: {vlan: 30, subnet: 10.0.9.0/24}
routers:
  gate:
    interfaces: {inside: 10.0.0.1/24, outside: 203.0.113.1/24}
    nat:
      outside: outside
      inside: [inside]
      forwards: [{protocol: tcp, port: 80, to: "10.0.0.9:80"}, {protocol: udp, port: 53, to: "10.0.0.9:53"}]
    firewall: {policy: drop, allow: [{from: inside, to: outside}, {from: outside, to: inside}]}
switches: {left: {}, right: {}}
links: [{between: [left, right], trunk: all}]
guests:
  pc: {nics: [inside]}
  server: {nics: [{network: inside, address: 10.0.0.9/24, gateway: 10.0.0.1}]}
  far: {switch: right, nics: [{network: outside, address: 203.0.113.9/24}]}
""")


def counts(body: Callable[[Lab], Awaitable[object]]) -> Counts:
    async def main() -> Counts:
        async with vnet.open_lab(BOX) as lab:
            await body(lab)
            return exercised(lab)

    return vnet.simulate(main)


def covered(counted: dict[str, int]) -> set[str]:
    return {item for item, count in counted.items() if count}


async def nothing(lab: Lab) -> None:
    pass


def test_a_lab_that_did_nothing_has_covered_nothing_and_names_everything() -> None:
    found = counts(nothing)
    assert [len(found[kind]) for kind in ("networks", "links", "links cut")] == [3, 7, 7]
    assert set(found["firewall rules"]) == {"gate rule 1", "gate rule 2", "gate policy"}
    assert set(found["NAT"]) == {
        "gate outbound", "gate hairpin", "gate forward tcp/80", "gate forward udp/53", "gate unsolicited"
    }  # fmt: skip
    assert set(found["DHCP messages"]) == {
        f"inside {kind}" for kind in ("discover", "request", "decline", "release", "inform", "offer", "ack", "nak")
    }
    assert not any(covered(items) for items in found.values())


def test_what_is_done_is_counted_and_nothing_else() -> None:
    async def body(lab: Lab) -> None:
        await lab.wait_up()
        await lab.ping("pc", "far")
        lab.faults.flap("pc", times=2, period="1s")
        await lab.advance("20s")

    found = counts(body)
    assert covered(found["networks"]) == {"inside", "outside"}
    assert "left-right" in covered(found["links"])
    assert found["links cut"]["pc:eth0"] == 2 and covered(found["links cut"]) == {"pc:eth0"}
    assert found["firewall rules"] == {"gate rule 1": 1, "gate rule 2": 0, "gate policy": 0}
    assert covered(found["NAT"]) == {"gate outbound"}
    assert covered(found["DHCP messages"]) == {f"inside {kind}" for kind in ("discover", "offer", "request", "ack")}


@pytest.mark.parametrize(("source", "target", "port", "branch"), [
    ("far", "203.0.113.1", 80, "gate forward tcp/80"),
    ("pc", "203.0.113.1", 80, "gate hairpin"),
    ("server", "203.0.113.9", 80, "gate outbound"),
])  # fmt: skip
def test_each_branch_of_nat(source: str, target: str, port: int, branch: str) -> None:
    async def body(lab: Lab) -> None:
        await lab.wait_up()
        await lab.guests[source].tcp_probe(target, port)

    assert branch in covered(counts(body)["NAT"])


def test_unsolicited_packets_count_though_they_are_refused() -> None:
    async def body(lab: Lab) -> None:
        far = lab.guests["far"].host
        far.routes.add(BOX.networks["inside"].subnet, lab.resolve("203.0.113.1").packed)
        await lab.guests["far"].tcp_probe("10.0.0.9", 22)

    assert covered(counts(body)["NAT"]) == {"gate unsolicited"}


def test_tests_add_up_and_the_summary_names_what_is_missing() -> None:
    total: Counts = {}
    merge(total, {"links": {"a": 1, "b": 0}, "NAT": {}})
    merge(total, {"links": {"a": 2, "b": 0, "c": 0}})
    assert total["links"] == {"a": 3, "b": 0, "c": 0}
    assert summary(total) == ["links              1/3     never: b, c"]
    assert summary({"networks": {"x": 1}}) == ["networks           1/1"]
    many = {"links": {str(number): 0 for number in range(12)}}
    assert summary(many)[0].endswith("never: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more")


OPTIONS = """
name: options
networks:
  lan: {subnet: 10.0.0.0/24, dhcp: {gateway: 10.0.0.1, domain: lan.example}}
  bare: {subnet: 10.1.0.0/24, dhcp: {}}
guests: {a: {nics: [lan]}, b: {nics: [lan]}}
"""


def test_dhcp_options_are_told_by_who_wanted_and_got_them() -> None:
    """Each client asks twice, for an offer and for a lease; the other server has no clients and nothing to give."""

    async def main() -> Counts:
        async with vnet.open_lab(vnet.parse_topology(OPTIONS)) as lab:
            before = exercised(lab)["DHCP options"]
            assert set(before.values()) == {0} and set(before) == {
                f"lan {option} {what}" for option in ("router", "domain name") for what in ("asked for", "given")
            }
            await lab.wait_up()
            return exercised(lab)

    found = vnet.simulate(main)
    assert found["DHCP options"] == {
        "lan router asked for": 4, "lan router given": 4, "lan domain name asked for": 4, "lan domain name given": 4,
        "lan DNS servers asked for in vain": 4, "lan WINS servers asked for in vain": 4,
    }  # fmt: skip
    assert "DHCP options       6/6" in summary(found)
