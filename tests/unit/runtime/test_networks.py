"""The ways out of a simulated lab's networks: the emulated machine, and changing them under traffic."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.change import change
from vnet.testing import Invariants
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology
from vnet.units import SECOND
from vnet.wire import pcap, pcapng
from vnet.wire.arp import request_frame

TOPOLOGY = parse_topology(
    """
name: share
networks:
  office: {subnet: 10.10.10.0/24, adapter: {loopback: {address: 10.10.10.2}}}
  lab: {subnet: 10.10.20.0/24}
guests:
  a: {nics: [{network: office, address: 10.10.10.5}]}
  b: {nics: [{network: office, address: 10.10.10.6}]}
  c: {nics: [{network: lab, address: 10.10.20.5}]}
""",
    source="share",
)


async def reached(lab: vnet.Lab) -> set[tuple[str, str]]:
    return {pair for pair, reply in (await lab.ping_all()).items() if reply.ok}


def test_the_machine_is_a_guest_on_its_loopback_networks() -> None:
    async def main() -> set[tuple[str, str]]:
        async with vnet.open_lab(TOPOLOGY) as lab:
            assert lab.networks["office"].state == "up" and lab.networks["lab"].state == "internal"
            return await reached(lab)

    office = {"a", "b", "host"}
    assert vnet.simulate(main) == {(one, other) for one in office for other in office if one != other}


def test_a_rebound_network_keeps_its_guests_together() -> None:
    """VS-14: cut off by none, and the machine is back with loopback; guests notice nothing."""

    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            with Invariants(lab) as watch:
                both = {("a", "b"), ("b", "a")}
                await lab.networks["office"].rebind("none")
                assert await reached(lab) == both
                watch.check()
                await lab.networks["office"].rebind("{loopback: {address: 10.10.10.2}}")
                assert len(await reached(lab)) == 6
                watch.check()
                await lab.networks["lab"].rebind("loopback")
                assert (await lab.ping("c", "10.10.20.1")).ok
                machine = lab.guests["host"]
                assert isinstance(machine, EmulatedGuest)
                assert (await machine.tcp_probe("c", 80)).verdict is vnet.Verdict.CLOSED
                assert (await lab.ping("host", "c")).ok and (await lab.ping("host", "a")).ok
                lab.faults.isolate("host")
                assert await reached(lab) == both

    vnet.simulate(main)


def test_a_connection_outlives_the_change() -> None:
    async def main() -> bytes:
        async with vnet.open_lab(TOPOLOGY) as lab, trio.open_nursery() as nursery:
            a, b = lab.guests["a"], lab.guests["b"]
            assert isinstance(a, EmulatedGuest) and isinstance(b, EmulatedGuest)

            async def echo(stream: trio.SocketStream) -> None:
                async for piece in stream:
                    await stream.send_all(piece)

            await nursery.start(b.serve_tcp, echo, 7)
            stream = await a.open_tcp_stream("b", 7)
            await stream.send_all(b"be")
            for adapter in ("none", "loopback", "none"):
                await lab.networks["office"].rebind(adapter)
            await stream.send_all(b"fore")
            got = b""
            while len(got) < 6:
                got += await stream.receive_some()
            nursery.cancel_scope.cancel()
            return got

    assert vnet.simulate(main) == b"before"


def test_it_is_noted_and_shown() -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            answer = await change(lab, "network.lab", ["adapter={loopback: {address: 10.10.20.9/24, name: lo9}}"])
            assert answer == {"network": "lab", "adapter": "loopback lo9 10.10.20.9/24", "state": "up"}
            event = list(lab.events)[-1]
            assert (event.kind, event.fields["old"], event.fields["new"]) == ("rebind", "none", "loopback lo9 10.10.20.9/24")
            assert lab.guests["host"].interfaces()[1].name == "lo9"

    vnet.simulate(main)


@pytest.mark.parametrize(
    ("target", "setting", "told"),
    [
        ("network.offise", "adapter=none", "did you mean 'office'"),
        ("network.office", "adapter=briged", "'briged' is not one of: "),
        ("network.office", "adapter={loopback: {address: nowhere}}", "is not an IP address"),
        ("network.office", "adapter={loopback: {nam: x}}", "'nam' is not a key of a loopback adapter; did you mean 'name'?"),
        ("network.office", "adapter=[", "network office: "),
        ("network.office", "adapter=", "network office: "),
        ("network.office", "vlan=3", "there is no setting 'vlan'"),
    ],
)
def test_what_cannot_be_is_refused(target: str, setting: str, told: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            before = lab.topology
            with pytest.raises(UsageError) as caught:
                await change(lab, target, [setting])
            assert told in str(caught.value)
            assert lab.topology == before

    vnet.simulate(main)


def test_rebinding_makes_the_same_run_twice() -> None:
    async def main() -> list[object]:
        async with vnet.open_lab(TOPOLOGY) as lab:
            await lab.networks["office"].rebind("none")
            await lab.networks["lab"].rebind("loopback")
            await lab.ping_all()
            return [(event.instant, event.node, event.kind) for event in lab.events]

    assert vnet.simulate(main, seed=3) == vnet.simulate(main, seed=3)


def test_an_outward_adapter_is_an_open_end() -> None:
    topology: ResolvedTopology = parse_topology(
        "name: out\nnetworks: {wan: {subnet: 10.0.0.0/24, adapter: user}}\nguests: {a: {nics: [wan]}}", source="out"
    )

    async def main() -> str:
        async with vnet.open_lab(topology) as lab:
            return lab.networks["wan"].state

    assert vnet.simulate(main) == "open end"


def test_the_derived_address_is_free() -> None:
    topology = parse_topology(
        """
name: derived
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}, adapter: loopback}}
routers: {gate: {interfaces: {lan: 10.0.0.1/24}}}
guests: {a: {nics: [lan]}}
""",
        source="derived",
    )

    async def main() -> tuple[object, bool]:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            return lab.guests["host"].address, (await lab.ping("a", "host")).ok

    assert vnet.simulate(main) == (IPv4Address("10.0.0.3"), True)


def test_a_capture_is_replayed_and_recorded(tmp_path: Path) -> None:
    """A ping from beyond, recorded elsewhere, is answered; the answer is in the new file, at the same distances in time."""
    asking = request_frame(bytes.fromhex("020000000001"), bytes((10, 0, 0, 9)), bytes((10, 0, 0, 5)))
    (tmp_path / "in.pcap").write_bytes(pcap.write([(1000, asking), (1000 + SECOND, b"short"), (1000 + 3 * SECOND, asking)]))
    files = f"replay: {tmp_path}/in.pcap, record: {tmp_path}/out"
    topology = parse_topology(
        f"""
name: replay
networks:
  lan: {{subnet: 10.0.0.0/24, adapter: {{pcap: {{{files}, start: 2s, speed: 2}}}}}}
guests: {{a: {{nics: [{{network: lan, address: 10.0.0.5/24}}]}}}}
""",
        source="replay",
    )

    async def main() -> dict[str, object]:
        async with vnet.open_lab(topology) as lab:
            assert lab.networks["lan"].state == "up"
            await trio.sleep(10)
            return lab.networks["lan"].details

    for _ in range(2):
        assert vnet.simulate(main) == {"replayed": 3, "frames": 3, "drops": {"unusable": 1}}
        packets = pcapng.read((tmp_path / "out").read_bytes())
        seen = [(packet.instant / SECOND, packet.direction) for packet in packets if packet.frame[6:7] != b"x"]
        inbound, outbound = pcapng.Direction.INBOUND, pcapng.Direction.OUTBOUND
        assert [each for each in seen if each[0] >= 2] == [(2, inbound), (2, outbound), (3.5, inbound), (3.5, outbound)]


@pytest.mark.parametrize("content", [None, b"no capture", pcap.header()[:10]])
def test_a_file_that_cannot_be_replayed(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "in").write_bytes(content)

    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            with pytest.raises(HostError, match=r"cannot replay .*/in: "):
                await lab.networks["lab"].rebind(f"{{pcap: {tmp_path}/in}}")
            assert lab.networks["lab"].state == "internal"

    vnet.simulate(main)


def test_a_link_that_flaps_does_not_come_back_when_its_network_is_rebound() -> None:
    """The machine is off the network for good; the fault is over, and what follows gets its own cable."""

    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            office = lab.networks["office"]
            kept = lab.links["host:vn-office"]
            fault = lab.faults.flap("host:vn-office", times=5, period="2s")
            await office.rebind("none")
            await trio.sleep(1.5)
            assert not (await lab.ping("a", "10.10.10.2", timeout=1)).ok
            await trio.sleep(1)
            assert not fault.active
            await office.rebind("{loopback: {address: 10.10.10.2}}")
            kept.up = False
            with pytest.raises(UsageError, match="was unplugged"):
                kept.up = True
            await trio.sleep(8)
            assert (await lab.ping("a", "10.10.10.2")).ok

    vnet.simulate(main)
