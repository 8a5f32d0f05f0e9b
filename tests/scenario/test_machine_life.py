"""S36: the life of virtual machines with traffic running, in virtual time (VS-82, VS-84).

The same is done with QEMU, as far as real time allows, in tests/system/test_qemu_guests.py.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.stand_in import StandIn
from vnet.runtime.change import change
from vnet.runtime.filter import compile_filter
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink
from vnet.topology import parse_topology
from vnet.wire.pcapng import read

ROOM = """
name: machine-room
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 36h}}}
guests:
  user: {nics: [{network: lan, address: 10.0.0.250/24}], run: [sink]}
  vm:
    kind: qemu
    nics: [lan]
    run: [echo, {traffic: {to: user, pattern: poisson, rate: 16kbit, size: 200, protocol: udp, duration: 2h}}]
"""
STAGGERED = """
name: staggered
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  files2: {kind: qemu, nics: [lan], start_order: 2, start_delay: 45s, run: [echo], stop_action: shutdown}
  files1: {kind: qemu, nics: [lan], start_order: 2, start_delay: 30s, run: [echo], stop_action: save}
  dc: {kind: qemu, nics: [lan], start_order: 1, run: [echo]}
  spare: {kind: qemu, nics: [lan], start_action: never, run: [echo]}
  user: {nics: [{network: lan, address: 10.0.0.250/24}]}
"""


def machine(lab: Lab, name: str = "vm") -> StandIn:
    guest = lab.guests[name]
    assert isinstance(guest, StandIn)
    return guest


def user(lab: Lab) -> EmulatedGuest:
    guest = lab.guests["user"]
    assert isinstance(guest, EmulatedGuest)
    return guest


def times(lab: Lab, kind: str) -> dict[str, float]:
    return {event.node: event.instant / 1e9 for event in lab.events if event.kind == kind}


class Talk:
    """Somebody who sends a line every second to a machine that echoes it, over one connection."""

    def __init__(self) -> None:
        self.back = b""
        self.sent = 0
        self.ended = ""

    async def run(self, lab: Lab) -> None:
        stream = await user(lab).open_tcp_stream("vm", 7)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, stream, nursery.cancel_scope)
            while True:
                await stream.send_all(b"%04d\n" % self.sent)
                self.sent += 1
                await trio.sleep(1)

    async def _hear(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for piece in stream:
                self.back += piece
            self.ended = "closed"
        except trio.BrokenResourceError as error:
            self.ended = str(error.__cause__)
        scope.cancel()

    @property
    def lines(self) -> int:
        assert self.back == b"".join(b"%04d\n" % number for number in range(len(self.back) // 5)), "all, in order, once"
        return len(self.back) // 5


async def live_a_life(lab: Lab) -> tuple[bytes, str]:
    """Pause, save, restore and reset a machine with a connection open and datagrams under way; return capture and log."""
    await lab.wait_up()
    vm, talk, sink = machine(lab), Talk(), MemorySink()
    address = vm.address
    capture = lab.captures.start(sink)
    received = user(lab).programs[0]

    def datagrams() -> int:
        return sum(int(row["received"] or 0) for row in received.results)

    def said_since(instant: float) -> int:
        mac = vm.interfaces()[0].mac
        return sum(1 for each in read(sink.octets()) if each.instant >= instant * 1e9 and each.frame[6:12] == mac)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run, lab)
        await lab.advance(10.5)
        assert talk.lines == 11 and datagrams() > 50

        for down, up in (("pause", "resume"), ("save", "restore"), ("save", "start")):
            assert (await change(lab, "vm", [down]))["state"] in ("paused", "saved")
            began, heard, lines = lab.now, datagrams(), talk.lines
            await lab.advance(60)
            assert (datagrams(), talk.lines, said_since(began + 1e-6)) == (heard, lines, 0), f"{down}: it says nothing"
            with pytest.raises(UsageError, match="cannot pause vm: it is"):
                await vm.pause()
            assert (await change(lab, "vm", [up]))["state"] == "running"
            await lab.advance(70)  # time enough for the peer's retransmission timer, which has backed off (RFC 6298, 5.5)
            assert talk.lines >= talk.sent - 1, f"{up}: what was said meanwhile has come"
            assert 0 < datagrams() - heard < 10 * 70 * 1.5, f"{up}: at its rate, and not all that it missed"
            assert vm.address == address and talk.ended == ""

        counted, began = datagrams(), lab.now
        await change(lab, "vm", ["reset"])
        assert vm.address is None, "all that it knew is forgotten"
        await lab.advance(20)
        assert "reset by peer" in talk.ended.lower()
        assert vm.address == address, "its lease is where it was, on the server"
        assert [program.state for program in vm.programs] == ["running", "running"]
        assert datagrams() > counted and times(lab, "dhcp-renewed")["lan:dhcp"] >= began
        stream = await user(lab).open_tcp_stream("vm", 7)
        await stream.send_all(b"again")
        assert await stream.receive_some() == b"again"
        await stream.aclose()
        nursery.cancel_scope.cancel()
    capture.finish()
    return sink.octets(), lab.events.to_lines()


async def in_machine_room() -> tuple[bytes, str]:
    async with vnet.open_lab(parse_topology(ROOM)) as lab:
        return await live_a_life(lab)


@pytest.mark.vnet(ROOM)
async def test_a_life_with_an_open_connection(lab: Lab) -> None:
    await live_a_life(lab)


def test_one_seed_gives_one_life_to_the_octet() -> None:
    octets, events = vnet.simulate(in_machine_room, seed=5)
    other, _ = vnet.simulate(in_machine_room, seed=6)
    assert other != octets
    program = (
        f"import sys, vnet; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_machine_life as life\n"
        "import hashlib\n"
        "print(*(hashlib.sha256(each).hexdigest() for each in"
        " (lambda octets, events: (octets, events.encode()))(*vnet.simulate(life.in_machine_room, seed=5))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split() == [hashlib.sha256(each).hexdigest() for each in (octets, events.encode())]


def test_machines_start_in_their_order_each_after_its_delay() -> None:
    async def main() -> None:
        async with vnet.open_lab(parse_topology(STAGGERED)) as lab:
            assert [machine(lab, name).state.value for name in ("dc", "files1", "files2")] == [
                "running",
                "stopped",
                "stopped",
            ]
            assert not (await lab.ping("user", "10.0.0.17")).ok
            await lab.wait_up(20)
            started = times(lab, "vm-started")
            assert (started, list(started)) == ({"dc": 0, "files2": 45, "files1": 75}, ["dc", "files2", "files1"])
            assert machine(lab, "spare").state.value == "stopped" and machine(lab, "spare").address is None
            bound = times(lab, "dhcp-lease")
            assert 0 <= bound["dc"] < 45 <= bound["files2"] < 75 <= bound["files1"] < 90, "each asks as it starts"
            await change(lab, "spare", ["start"])
            await lab.guests["spare"].dhcp()
            for name in ("dc", "files1", "files2", "spare"):
                async with await user(lab).open_tcp_stream(name, 7) as stream:
                    await stream.send_all(b"up")
                    assert await stream.receive_some() == b"up"

    vnet.simulate(main)


def test_who_starts_a_machine_by_hand_is_faster_than_its_delay() -> None:
    async def main() -> None:
        async with vnet.open_lab(parse_topology(STAGGERED)) as lab:
            await machine(lab, "files1").start()
            await lab.advance(200)
            assert [event.node for event in lab.events if event.kind == "vm-started"] == ["dc", "files1", "files2"]

    vnet.simulate(main)


def test_machines_end_with_their_lab_as_the_file_says() -> None:
    """By the power button, so that connections are closed; saved, without a word; by the switch, without a word."""

    async def main() -> tuple[dict[str, str], dict[str, int]]:
        sink = MemorySink()
        async with vnet.open_lab(parse_topology(STAGGERED)) as lab:
            await lab.wait_up(300)
            capture = lab.captures.start(sink, ["user:eth0"], compile_filter("tcp src port 7"))
            streams = {}
            for name in ("dc", "files1", "files2"):
                streams[name] = await user(lab).open_tcp_stream(name, 7)
                await streams[name].send_all(b"hello")
                await streams[name].receive_some()
            hosts = {lab.resolve(name).packed: name for name in streams}
            before = len(read(sink.octets()))
        capture.finish()
        ends = {event.node: f"{event.kind} {event.fields.get('by')}" for event in lab.events if event.kind.startswith("vm-")}
        farewells = dict.fromkeys(streams, 0)
        for each in read(sink.octets())[before:]:
            farewells[hosts[each.frame[26:30]]] += 1
        return ends, farewells

    ends, farewells = vnet.simulate(main)
    assert ends == {"dc": "vm-stopped lab", "files1": "vm-saved None", "files2": "vm-stopped guest"}
    assert farewells["dc"] == farewells["files1"] == 0 < farewells["files2"]
