"""Giving networks of simulated labs another way out, and what must not happen then: to files, to others, to the machine."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology
from vnet.wire import pcap, pcapng


def topology(a: str = "none", b: str = "none", more: str = "") -> ResolvedTopology:
    return parse_topology(
        f"""
name: two
networks:
  a: {{subnet: 10.0.0.0/24, adapter: {a} {more}}}
  b: {{subnet: 10.0.1.0/24, adapter: {b}}}
guests:
  x: {{nics: [{{network: a, address: [10.0.0.1/24, 10.0.0.9/24]}}]}}
  y: {{nics: [{{network: b, address: 10.0.1.5/24}}]}}
""",
        source="two",
    )


def machine(lab: vnet.Lab) -> dict[str, tuple[str, ...]]:
    """The interfaces of the machine that are up, with their addresses."""
    return {
        each.name: tuple(str(address) for address in each.addresses)
        for each in lab.guests["host"].interfaces()
        if each.up or each.addresses
    }


async def noise(lab: vnet.Lab) -> int:
    await lab.ping("x", "10.0.0.77", timeout=5)
    return len(lab.events)


async def noise_elsewhere(lab: vnet.Lab, path: str) -> str:
    """Record into the same file once more, in the branch, and into one of the branch's own."""
    a = lab.networks["a"]
    await a.rebind("none")
    await a.rebind(f"{{pcap: {{record: {path}}}}}")
    await lab.ping("x", "10.0.0.77", timeout=5)
    await a.rebind(f"{{pcap: {{record: {path}.own}}}}")
    await lab.ping("x", "10.0.0.77", timeout=5)
    await a.rebind("none")
    return a.state


def test_branches_leave_the_record_file_to_the_original(tmp_path: Path) -> None:
    file = tmp_path / "out"

    async def main(branches: bool) -> None:
        async with vnet.open_lab(topology(f"{{pcap: {{record: {file}}}}}")) as lab:
            await lab.ping("x", "10.0.0.66", timeout=2)
            if branches:
                await lab.branch(noise)
                assert await lab.branch(noise_elsewhere, str(file)) == "internal"
                with await lab.snapshot() as kept:
                    await kept.run(noise)
            await lab.ping("x", "10.0.0.66", timeout=2)

    vnet.simulate(main, False)
    alone = file.read_bytes()
    vnet.simulate(main, True)
    assert file.read_bytes() == alone
    assert len(list(pcapng.read(alone))) > 2
    own = list(pcapng.read(Path(f"{file}.own").read_bytes()))
    assert {packet.frame[38:42] for packet in own} >= {bytes((10, 0, 0, 77))}


@pytest.mark.parametrize("by", ["file", "rebind"])
def test_the_machine_takes_no_address_of_a_guest_that_has_several(by: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology("loopback" if by == "file" else "none")) as lab:
            for _ in range(2):
                if by == "rebind":
                    await lab.networks["a"].rebind("none")
                    await lab.networks["a"].rebind("loopback")
                assert lab.guests["host"].address == IPv4Address("10.0.0.2")

    vnet.simulate(main)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("10.9.9.9/24", "10.9.9.9 is outside 10.0.0.0/24"),
        ("10.0.0.0", "names the network"),
        ("10.0.0.255", "is the broadcast address"),
        ("10.0.0.9", "10.0.0.9 belongs to x:eth0 already"),
        ("10.0.0.2", "10.0.0.2 belongs to the DHCP server already"),
        ("10.0.0.150", "is in the DHCP range 10.0.0.100-10.0.0.199"),
    ],
)
def test_an_address_of_the_machine_that_cannot_be(address: str, told: str) -> None:
    dhcp = ", dhcp: {server: 10.0.0.2, range: 10.0.0.100-10.0.0.199}"

    async def main() -> None:
        async with vnet.open_lab(topology("loopback", more=dhcp)) as lab:
            with pytest.raises(UsageError, match=told):
                await lab.networks["a"].rebind(f"{{loopback: {{address: {address}}}}}")
            assert machine(lab) == {"vn-a": ("10.0.0.3/24",)}

    vnet.simulate(main)


def test_a_name_belongs_to_one_network() -> None:
    async def main() -> None:
        async with vnet.open_lab(topology()) as lab:
            a, b = lab.networks["a"], lab.networks["b"]
            await a.rebind("{loopback: {name: v0}}")
            await b.rebind("loopback")
            with pytest.raises(UsageError, match="the interface v0 is that of network 'a' already"):
                await b.rebind("{loopback: {name: v0}}")
            assert machine(lab) == {"v0": ("10.0.0.2/24",), "vn-b": ("10.0.1.1/24",)}
            await a.rebind("none")
            await b.rebind("{loopback: {name: v0}}")
            assert machine(lab) == {"v0": ("10.0.1.1/24",)}
            assert (await lab.ping("y", "10.0.1.1")).ok and not (await lab.ping("x", "10.0.0.2", timeout=1)).ok
            ports = len(lab.ports)
            for _ in range(3):
                await b.rebind("none")
                await a.rebind("{loopback: {name: v0}}")
                assert machine(lab) == {"v0": ("10.0.0.2/24",)}
                assert (await lab.ping("x", "10.0.0.2")).ok
                await a.rebind("none")
                await b.rebind("{loopback: {name: v0}}")
                assert (await lab.ping("y", "10.0.1.1")).ok
            assert len(lab.ports) == ports

    vnet.simulate(main)


def test_the_machine_gets_the_new_address_and_mac() -> None:
    async def main() -> None:
        async with vnet.open_lab(topology()) as lab:
            a = lab.networks["a"]
            for last in (50, 51, 52):
                await a.rebind(f"{{loopback: {{name: v0, address: 10.0.0.{last}, mac: 02:00:00:00:00:{last}}}}}")
                assert machine(lab) == {"v0": (f"10.0.0.{last}/24",)}
                assert (await lab.ping("x", f"10.0.0.{last}")).ok
                host = lab.guests["host"]
                assert isinstance(host, EmulatedGuest) and host.interfaces()[0].mac == bytes.fromhex(f"0200000000{last}")
                assert lab.topology.guests["host"].interfaces[0].addresses == (IPv4Interface(f"10.0.0.{last}/24"),)

    vnet.simulate(main)


def test_rebinding_for_ever_makes_no_more_ports() -> None:
    async def main() -> list[tuple[int, ...]]:
        sizes = []
        async with vnet.open_lab(topology("loopback", "loopback")) as lab:
            for number in range(20):
                await lab.networks["a"].rebind(f"{{loopback: {{name: v{number}}}}}")
                assert machine(lab)[f"v{number}"] == ("10.0.0.2/24",)
                assert (await lab.ping("x", "10.0.0.2")).ok and (await lab.ping("y", "10.0.1.1")).ok
                assert f"host:v{number}" in lab.ports
                ports = sum(len(switch.ports) for switch in lab.switches.values())
                interfaces = lab.topology.guests["host"].interfaces
                sizes.append((ports, len(lab.ports), len(lab.links), len(lab.guests["host"].interfaces()), len(interfaces)))
        return sizes

    assert len(set(vnet.simulate(main))) == 1


def test_a_machine_that_crashed_gets_the_cable_alone_until_it_starts_again() -> None:
    async def main() -> None:
        async with vnet.open_lab(topology("{loopback: {name: v0}}")) as lab:
            a = lab.networks["a"]
            for new in ("{loopback: {name: v1}}", "{loopback: {name: v1, address: 10.0.0.20}}"):
                fault = lab.faults.crash("host")
                await a.rebind(new)
                assert not (await lab.ping("x", "10.0.0.2", timeout=1)).ok
                assert [address for each in lab.guests["host"].interfaces() for address in each.addresses] == []
                fault.heal()
                address = "10.0.0.20" if "20" in new else "10.0.0.2"
                assert machine(lab) == {"v1": (f"{address}/24",)}
                assert (await lab.ping("x", address)).ok
            fault = lab.faults.crash("host")
            await a.rebind("none")
            fault.heal()
            assert machine(lab) == {}
            await a.rebind(new)
            assert machine(lab) == {"v1": ("10.0.0.20/24",)} and (await lab.ping("x", "10.0.0.20")).ok

    vnet.simulate(main)


def test_a_refused_rebind_leaves_recording_and_replay_alone(tmp_path: Path) -> None:
    frame = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
    (tmp_path / "in").write_bytes(pcap.write([(second * 10**9, frame) for second in range(4)]))
    out = tmp_path / "out"

    async def main() -> None:
        async with vnet.open_lab(topology(f"{{pcap: {{replay: {tmp_path}/in, record: {out}}}}}")) as lab:
            a = lab.networks["a"]
            await trio.sleep(1.5)
            for wrong in (f"{tmp_path}/none", f"{{replay: {tmp_path}/none, record: {out}}}"):
                with pytest.raises(HostError):
                    await a.rebind(f"{{pcap: {wrong}}}")
            with pytest.raises(UsageError):
                await a.rebind('{pcap: "a\\0b"}')
            assert a.state == "up"
            await trio.sleep(3)
            assert a.details["replayed"] == 4
            assert not [event for event in lab.events if event.kind == "rebind"]

    vnet.simulate(main)
    assert [packet.instant for packet in pcapng.read(out.read_bytes()) if packet.frame == frame] == [
        second * 10**9 for second in range(4)
    ]


def test_whatever_goes_wrong_with_the_new_way_out_the_old_one_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> object:
        raise OverflowError("no adapter thought of this")

    async def main() -> None:
        async with vnet.open_lab(topology("loopback", f"{{pcap: {{record: {tmp_path}/b}}}}")) as lab:
            monkeypatch.setattr("vnet.runtime.ways.open_adapter", fail)
            for name in ("a", "b"):
                with pytest.raises(OverflowError):
                    await lab.networks[name].rebind(f"{{pcap: {{record: {tmp_path}/c}}}}")
                assert lab.networks[name].state == "up"
            assert (await lab.ping("x", "10.0.0.2")).ok

    vnet.simulate(main)


def test_an_ended_lab_is_not_rebound(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("precious")

    async def main() -> None:
        async with vnet.open_lab(topology()) as lab:
            pass
        with pytest.raises(UsageError, match="lab two has ended"):
            await lab.networks["a"].rebind(f"{{pcap: {{record: {file}}}}}")

    before = len(os.listdir("/proc/self/fd"))
    vnet.simulate(main)
    assert file.read_text() == "precious" and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_counted_and_keeps_nothing_open(tmp_path: Path) -> None:
    async def main() -> None:
        full = "{pcap: {record: /dev/full}}"
        async with vnet.open_lab(topology(full, f"{{pcap: {{record: {tmp_path}/b}}}}")) as lab:
            await lab.ping("x", "10.0.0.66", timeout=1)
            await lab.networks["a"].rebind("none")
            await lab.networks["a"].rebind(full)
            await lab.ping("x", "10.0.0.66", timeout=1)

    before = len(os.listdir("/proc/self/fd"))
    vnet.simulate(main)
    assert len(os.listdir("/proc/self/fd")) == before
    assert pcapng.read((tmp_path / "b").read_bytes()) is not None


def test_one_adapter_that_cannot_be_closed_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = []

    def close(self: object) -> None:
        closed.append(self)
        raise OSError("cannot be closed")

    monkeypatch.setattr("vnet.adapters.pcap_file.PcapAdapter.close", close)

    async def main() -> None:
        async with vnet.open_lab(topology(*(f"{{pcap: {{record: {tmp_path}/{name}}}}}" for name in "ab"))):
            pass

    with pytest.raises(OSError, match="cannot be closed"):
        vnet.simulate(main)
    assert len(closed) == 2


@pytest.mark.parametrize("key", ["record", "replay"])
def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path: Path, key: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    async def main() -> None:
        async with vnet.open_lab(topology()) as lab:
            with pytest.raises(HostError, match="it is no file"):
                await lab.networks["a"].rebind(f"{{pcap: {{{key}: {tmp_path}/pipe}}}}")

    vnet.simulate(main)


def test_two_networks_record_into_two_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology(f"{{pcap: {{record: {tmp_path}/out}}}}")) as lab:
            with pytest.raises(UsageError, match="network 'a' records into .* already"):
                await lab.networks["b"].rebind(f"{{pcap: {{record: {tmp_path}/./out}}}}")

    vnet.simulate(main)


def test_a_replay_is_without_fcs_and_without_frames_that_were_cut(tmp_path: Path) -> None:
    frame = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
    head = bytearray(pcap.header())
    head[20:24] = (1 | 1 << 26 | 2 << 28).to_bytes(4, "little")  # Ethernet, the FCS is there, in two units of 16 bits
    cut = bytearray(pcap.record(2, frame[:20]))
    cut[12:16] = (64).to_bytes(4, "little")
    (tmp_path / "in").write_bytes(head + pcap.record(1, frame + b"FCS!") + cut)
    assert replayed(tmp_path) == ([frame], {"cut": 1})


@pytest.mark.parametrize("octets", [0, 4])
def test_a_replay_of_pcapng_is_without_fcs(tmp_path: Path, octets: int) -> None:
    """One interface says that its frames have one, and one of its frames has it not."""
    frame = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
    writer = pcapng.Writer()
    interface = bytearray(writer.interface("e"))
    at = interface.index(b"\x09\0\1\0")
    interface[at:at] = bytes((13, 0, 1, 0, octets, 0, 0, 0))
    interface[4:8] = interface[-4:] = len(interface).to_bytes(4, "little")
    blocks = [writer.header(), interface, writer.packet(0, 1, frame + b"FCS!"[:octets]), writer.packet(0, 2, b"")]
    (tmp_path / "in").write_bytes(b"".join(blocks))
    assert replayed(tmp_path) == ([frame], {"unusable": 1})


def replayed(tmp_path: Path) -> tuple[list[bytes], object]:
    """Replay the file "in"; return the frames that came of it, and what was dropped."""

    async def main() -> object:
        files = f"{{pcap: {{replay: {tmp_path}/in, record: {tmp_path}/out}}}}"
        async with vnet.open_lab(topology(files)) as lab:
            await trio.sleep(1)
            return lab.networks["a"].details["drops"]

    drops = vnet.simulate(main)
    packets = pcapng.read((tmp_path / "out").read_bytes())
    return [packet.frame for packet in packets if packet.direction is pcapng.Direction.INBOUND], drops


def test_two_networks_that_ask_at_once_do_not_get_the_same_file(tmp_path: Path) -> None:
    refused: list[str] = []

    async def rebind(lab: vnet.Lab, name: str) -> None:
        try:
            await lab.networks[name].rebind(f"{{pcap: {{record: {tmp_path}/out}}}}")
        except UsageError as error:
            refused.append(str(error))

    async def main() -> list[str]:
        async with vnet.open_lab(topology()) as lab:
            async with trio.open_nursery() as nursery:
                for name in "ab":
                    nursery.start_soon(rebind, lab, name)
            return sorted(network.state for network in lab.networks.values())

    assert vnet.simulate(main) == ["internal", "up"]
    assert len(refused) == 1 and "already" in refused[0]


def test_an_interface_of_the_machine_that_is_taken_away_takes_everything_along() -> None:
    async def main() -> None:
        async with vnet.open_lab(topology("{loopback: {name: v0, address: [10.0.0.20, 'fd00::20/64']}}")) as lab:
            guest = lab.guests["host"]
            assert isinstance(guest, EmulatedGuest)
            host, old = guest.host, guest.host.interfaces["v0"]
            host.groups.join(old, bytes((239, 1, 2, 3)))
            await lab.networks["a"].rebind("{loopback: {name: v1, address: [10.0.0.20, 'fd00::20/64']}}")
            assert host.ipv6 is not None and host.groups.groups(old) == ()
            assert [route for table in (host.routes, host.ipv6.routes) for route in table if route.interface is old] == []
            assert list(host.interfaces) == ["v1"] and set(host.local.values()) == {host.interfaces["v1"]}
            assert set(host.ipv6.local.values()) <= {host.interfaces["v1"].ipv6}
            assert (await lab.ping("x", "10.0.0.20")).ok
            await trio.sleep(60)

    vnet.simulate(main)
