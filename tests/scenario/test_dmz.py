"""S2: a DMZ. The Internet reaches the web server and nothing else, the DMZ does not reach the inside, the inside does."""

import pytest
import trio

from vnet.guests.base import Verdict

BOX = "topologies/infrastructure-in-a-box.yaml"
PASSED = (Verdict.OPEN, Verdict.CLOSED)
"""The far host itself answered, if only to refuse: everything between let the probe pass."""
OUTSIDE = "203.0.113.2"


@pytest.mark.vnet(BOX)
async def test_the_internet_reaches_the_web_server_by_its_forward(lab):
    reply = await lab.guests["customer"].tcp_probe(OUTSIDE, 80)
    assert reply.verdict in PASSED
    (flow,) = lab.routers["perimeter"].flows()
    assert (flow.from_network, flow.to_network) == ("internet", "dmz")
    assert flow.destination == "203.0.113.2:80" and flow.translated.endswith("172.17.1.26:80")


@pytest.mark.vnet(BOX)
@pytest.mark.parametrize("port", [22, 81, 3389])
async def test_other_ports_are_shut(lab, port):
    assert (await lab.guests["customer"].tcp_probe(OUTSIDE, port)).verdict is Verdict.SILENT
    assert any(event.kind == "refused" for event in lab.events if event.node == "perimeter")


@pytest.mark.vnet(BOX)
@pytest.mark.parametrize("target", ["web", "mail", "dc", "user1"])
async def test_who_knows_the_private_networks_gets_no_further(lab, target):
    # The intruder routes the private networks to the firewall; only what the forwards allow passes.
    assert (await lab.guests["intruder"].tcp_probe(target, 22)).verdict is Verdict.SILENT
    assert not (await lab.ping("intruder", target)).ok


@pytest.mark.vnet(BOX)
async def test_the_dmz_does_not_reach_the_inside_but_its_replies_do(lab):
    for target in ("dc", "files", "user1", "pc1"):
        assert not (await lab.ping("web", target)).ok
        assert (await lab.guests["web"].tcp_probe(lab.resolve(target), 445)).verdict is Verdict.SILENT
    for source in ("dc", "user1", "pc1"):
        assert (await lab.ping(source, "web")).ok
        assert (await lab.guests[source].tcp_probe("web", 80)).verdict in PASSED
    assert not (await lab.ping("web", "dc")).ok, "a reply that passed must not leave a way in"


@pytest.mark.vnet(BOX)
async def test_outside_sees_only_the_firewall_s_address(lab):
    seen = []
    socket = lab.guests["customer"].host.udp_bind(5000, on_datagram=lambda payload, source: seen.append(source))
    for guest in ("dc", "user1", "pc1", "pc2"):
        lab.guests[guest].host.udp_bind(7000, on_datagram=lambda payload, source: None).send_to(
            b"who am I", (lab.resolve("customer").packed, 5000)
        )
    await trio.sleep(1)  # everybody has found the gateway by then
    socket.close()
    assert {address for address, _ in seen} == {bytes((203, 0, 113, 2))}
    assert len({port for _, port in seen}) == 4, "four guests with one source port have four mappings"
