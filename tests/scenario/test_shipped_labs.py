"""Every topology that is shipped: it loads, builds, comes up, and everybody reaches exactly whom its rules say, for days."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

import vnet
from vnet.guests.base import Verdict
from vnet.runtime.lab import Lab
from vnet.topology import load_topology
from vnet.topology.reachability import expected

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
FILES = sorted(TOPOLOGIES.glob("*.yaml"))
BOX = TOPOLOGIES / "infrastructure-in-a-box.yaml"
PASSED = (Verdict.OPEN, Verdict.CLOSED)
"""The far host itself answered, if only to refuse: everything between let the probe pass."""
HOUR = 3600


async def measured(lab: Lab) -> dict[tuple[str, str], bool]:
    """Ping everybody from everybody; where a cable loses frames, up to five times."""
    reached = {pair: reply.ok for pair, reply in (await lab.ping_all()).items()}
    wanted = expected(lab.topology)
    if any(link.loss for link in lab.links.values()):
        for source, target in [pair for pair, ok in reached.items() if wanted[pair].allowed and not ok]:
            reached[source, target] = (await lab.ping(source, target, count=5)).ok
    return reached


def allowed(lab: Lab, **probe) -> dict[tuple[str, str], bool]:
    return {pair: verdict.allowed for pair, verdict in expected(lab.topology, **probe).items()}


def test_there_are_shipped_topologies():
    assert {"infrastructure-in-a-box", "office-in-a-box"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [0, 1])
def test_everybody_reaches_whom_the_rules_say(path, seed):
    async def main() -> None:
        async with vnet.open_lab(path) as lab:
            await lab.wait_up()
            assert await measured(lab) == allowed(lab)
            if any(network.dhcp for network in lab.topology.networks.values()):
                await trio.sleep(48 * HOUR)  # leases of 36 h are renewed, and everything else has expired
            else:
                await trio.sleep(HOUR / 2)
            assert await measured(lab) == allowed(lab)
            assert not [event for event in lab.events if event.kind in ("internal-error", "program-failed")]
            for guest in lab.guests.values():
                leased = [each for each in guest.interfaces() if each.dhcp]
                assert all(each.dhcp == "bound" and each.addresses for each in leased)

    vnet.simulate(main, seed=seed)


def test_the_expectations_are_not_all_of_one_kind():
    verdicts = [verdict.allowed for verdict in expected(load_topology(BOX)).values()]
    assert verdicts.count(True) > 10 and verdicts.count(False) > 10


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 80), ("tcp", 25), ("tcp", 443), ("tcp", 22), ("udp", 443)])
def test_the_infrastructure_in_a_box_by_port(protocol, port):
    """Probes of ports between all pairs; the servers behind NAT are also asked by their forwarded ports."""

    async def main() -> None:
        async with vnet.open_lab(BOX) as lab:
            await lab.wait_up()
            outside = next(
                a.ip for i in lab.topology.routers["perimeter"].interfaces for a in i.addresses if i.name == "internet"
            )
            forwards = lab.topology.routers["perimeter"].nat.forwards
            results: dict[tuple[str, str], bool] = {}

            async def ask(source: str, target: str) -> None:
                guest = lab.guests[source]
                probe = guest.tcp_probe if protocol == "tcp" else guest.udp_probe
                addresses = [lab.resolve(target)]
                if any((f.protocol, f.port, f.address) == (protocol, port, lab.resolve(target)) for f in forwards):
                    addresses.append(outside)
                verdicts = [(await probe(address, port)).verdict for address in addresses]
                results[source, target] = any(verdict in PASSED for verdict in verdicts)

            async with trio.open_nursery() as nursery:
                for source in lab.guests:
                    for target in lab.guests:
                        if source != target:
                            nursery.start_soon(ask, source, target)
            assert results == allowed(lab, protocol=protocol, port=port)

    vnet.simulate(main)


def test_the_infrastructure_in_a_box_has_a_name_server_and_a_page():
    """The firewall lets the office in, and the Internet by the forwarded port."""
    query = bytes.fromhex("0007 0100 0001 0000 0000 0000 03777777 03646d7a 076578616d706c65 00 0001 0001")

    async def get(lab: Lab, guest: str, address: object) -> bytes:
        async with await lab.guests[guest].open_tcp_stream(address, 80) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join([part async for part in stream])

    async def main() -> None:
        async with vnet.open_lab(BOX) as lab:
            await lab.wait_up()
            async with await lab.guests["user1"].open_udp_socket() as socket:
                await socket.send_to(query, (lab.resolve("dc"), 53))
                answer, _ = await socket.receive()
            address = IPv4Address(answer[-4:])
            assert address == lab.resolve("web")
            page = (TOPOLOGIES / "www" / "index.html").read_bytes()
            assert (await get(lab, "user1", address)).endswith(page)
            assert (await get(lab, "customer", "203.0.113.2")).endswith(page)

    vnet.simulate(main)
