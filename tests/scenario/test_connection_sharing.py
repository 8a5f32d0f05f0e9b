"""S7: Internet connection sharing. Guests get out and back, nobody gets in, two guests may use one port at the same time."""

import pytest
import trio

from vnet.guests.base import Verdict
from vnet.units import SECOND

TOPOLOGY = """
name: sharing
networks:
  internet: {subnet: 203.0.113.0/24}
  private: {subnet: 192.168.0.0/24, dhcp: {}}
routers:
  sharer:
    interfaces: {internet: 203.0.113.2/24, private: 192.168.0.1/24}
    nat: {outside: internet, inside: [private], forwards: [{protocol: tcp, port: 8080, to: "192.168.0.10:80"}]}
guests:
  server: {nics: [{network: internet, address: 203.0.113.80/24, gateway: none}]}
  neighbor: {nics: [{network: internet, address: 203.0.113.66/24, gateway: 203.0.113.2}]}
  one: {nics: [private]}
  two: {nics: [private]}
  fixed: {nics: [{network: private, address: 192.168.0.10/24}]}
"""


class Echo:
    """A UDP service that answers whoever asks, and remembers who that was."""

    def __init__(self, guest, port):
        self.peers = []
        self.socket = guest.host.udp_bind(port, on_datagram=self.answer)

    def answer(self, payload, peer):
        self.peers.append(peer)
        self.socket.send_to(payload.upper(), peer)


@pytest.mark.vnet(TOPOLOGY)
async def test_guests_get_out_and_their_answers_back(lab):
    echo = Echo(lab.guests["server"], 7)
    for guest in ("one", "two"):
        assert (await lab.ping(guest, "server")).ok
        assert (await lab.guests[guest].udp_probe("server", 7)).verdict is Verdict.OPEN
        assert (await lab.guests[guest].tcp_probe("server", 81)).verdict is Verdict.CLOSED
    assert {address for address, _ in echo.peers} == {bytes((203, 0, 113, 2))}


@pytest.mark.vnet(TOPOLOGY)
async def test_two_guests_with_one_port_are_told_apart(lab):
    echo = Echo(lab.guests["server"], 7)
    inboxes = {}
    for guest in ("one", "two"):
        inboxes[guest] = []
        socket = lab.guests[guest].host.udp_bind(
            4000, on_datagram=lambda payload, _, box=inboxes[guest]: box.append(payload)
        )
        socket.send_to(guest.encode(), (bytes((203, 0, 113, 80)), 7))
    await trio.sleep(1)
    assert inboxes == {"one": [b"ONE"], "two": [b"TWO"]}
    assert len({port for _, port in echo.peers}) == 2
    assert 4000 in {port for _, port in echo.peers}, "the first one keeps its port"


@pytest.mark.vnet(TOPOLOGY)
async def test_nobody_gets_in_uninvited(lab):
    for target in ("one", "two", "fixed"):
        assert not (await lab.ping("neighbor", target)).ok
        assert (await lab.guests["neighbor"].tcp_probe(target, 80)).verdict is Verdict.SILENT
    assert (await lab.guests["neighbor"].tcp_probe("203.0.113.2", 80)).verdict is not Verdict.OPEN


@pytest.mark.vnet(TOPOLOGY)
async def test_a_port_forward_lets_in_what_it_names(lab):
    assert (await lab.guests["neighbor"].tcp_probe("203.0.113.2", 8080)).verdict is Verdict.CLOSED  # the guest refused it
    assert (await lab.guests["one"].tcp_probe("203.0.113.2", 8080)).verdict is Verdict.CLOSED  # hairpinning


@pytest.mark.vnet(TOPOLOGY)
async def test_a_mapping_lives_for_its_timeout_and_not_longer(lab):
    echo = Echo(lab.guests["server"], 7)
    inbox = []
    socket = lab.guests["one"].host.udp_bind(4000, on_datagram=lambda payload, peer: inbox.append(payload))
    socket.send_to(b"hello", (bytes((203, 0, 113, 80)), 7))
    await trio.sleep(299)
    echo.socket.send_to(b"in time", echo.peers[0])
    await trio.sleep(1)
    socket.send_to(b"again", (bytes((203, 0, 113, 80)), 7))
    await trio.sleep(1)
    before = list(inbox)
    await trio.sleep(301)
    echo.socket.send_to(b"too late", echo.peers[0])
    await trio.sleep(1)
    assert before == [b"HELLO", b"in time", b"AGAIN"]
    assert inbox == before
    assert lab.routers["sharer"].nat_table() == []
    assert lab.timeline.now > 600 * SECOND
