"""What people break on purpose: DHCP, a cluster, a cable, one server after the other. Short, to be copied."""

import pytest
import trio

from vnet import Verdict

HOUR = 3600
OFFICE = """
name: office
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 1h}}}
switches: {left: {}, right: {}}
links: [{between: [left, right], trunk: all}]
guests:
  one: {switch: left, nics: [{network: lan, address: 10.0.0.1/24}]}
  two: {switch: right, nics: [{network: lan, address: 10.0.0.3/24}]}
  pc: {switch: right, nics: [lan]}
"""


async def keep_leading(guest, peer, leads):
    """Lead while the peer, who comes first, is not heard for three seconds: a cluster without a quorum."""
    async with await guest.open_udp_socket(694) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(beat, socket, peer)
        while True:
            with trio.move_on_after(3) as silence:
                await socket.receive()
            leads[guest.name] = silence.cancelled_caught or guest.name == "one"


async def beat(socket, peer):
    while True:
        await socket.send_to(b"alive", (peer, 694))
        await trio.sleep(1)


@pytest.mark.vnet(OFFICE)
async def test_a_split_cluster_has_two_leaders_until_it_is_healed(lab):
    leads, one, two = {}, lab.guests["one"], lab.guests["two"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_leading, one, two.address, leads)
        nursery.start_soon(keep_leading, two, one.address, leads)
        await trio.sleep(10)
        assert leads == {"one": True, "two": False}
        with lab.faults.partition("one", "two"):
            await trio.sleep(10)
            assert leads == {"one": True, "two": True}, "split brain"
            assert (await lab.ping("pc", "one")).ok and (await lab.ping("pc", "two")).ok
        await trio.sleep(10)
        assert leads == {"one": True, "two": False}
        nursery.cancel_scope.cancel()


@pytest.mark.vnet(OFFICE)
async def test_a_short_dhcp_outage_is_not_noticed_and_a_long_one_is(lab):
    pc = lab.guests["pc"]
    with lab.faults.isolate("lan:dhcp"):
        await trio.sleep(HOUR / 3)
        assert (await lab.ping("one", "pc")).ok
        await trio.sleep(HOUR)
        assert pc.address is None
    await pc.dhcp(timeout=120)
    assert (await lab.ping("one", "pc")).ok


@pytest.mark.vnet(OFFICE)
async def test_a_rolling_restart_never_takes_both_away(lab):
    for number, guest in enumerate(("one", "two")):
        lab.at(10 * number + 1, lab.faults.crash, guest)
        lab.at(10 * number + 6, lab.faults.restart, guest)
    for _ in range(20):
        answers = [(await lab.ping("pc", target)).ok for target in ("one", "two")]
        assert any(answers)
        await trio.sleep(1)
    assert all(answers)


@pytest.mark.vnet(OFFICE)
async def test_a_flapping_cable_is_survived(lab):
    lab.faults.flap("left,right", times=20, period="500ms")
    await trio.sleep(11)
    assert (await lab.ping("pc", "one")).ok
    assert not lab.faults.active


@pytest.mark.vnet(OFFICE)
async def test_a_client_fails_over_within_a_second_and_comes_back(lab):
    servers = [await lab.guests[name].open_udp_socket(53) for name in ("one", "two")]

    async def serve(socket):
        while True:
            await socket.send_to(b"answer", (await socket.receive())[1])

    async def ask():
        for server in ("one", "two"):
            if (await lab.guests["pc"].udp_probe(lab.resolve(server), 53, timeout=0.5)).verdict is Verdict.OPEN:
                return server
        return None

    async with trio.open_nursery() as nursery:
        for socket in servers:
            nursery.start_soon(serve, socket)
        assert await ask() == "one"
        with lab.faults.isolate("one"):
            before = lab.now
            assert await ask() == "two" and lab.now < before + 1
        assert await ask() == "one"
        nursery.cancel_scope.cancel()
