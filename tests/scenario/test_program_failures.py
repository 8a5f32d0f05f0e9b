"""Programs whose guests crash and come back, services that meet each other, and functions that do odd things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

import vnet
from vnet.guests.emulated import EmulatedGuest
from vnet.programs.iperf3_protocol import UDP_GREETING
from vnet.runtime.sinks import MemorySink
from vnet.runtime.views import show
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology
from vnet.wire import pcapng, udp
from vnet.wire.pcapng import Direction

PAIR = """
name: pair
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  srv: {nics: [{network: lan, address: 10.0.0.1, latency: 1ms}], run: [SERVER]}
  pc: {nics: [{network: lan, address: 10.0.0.2}], run: [CLIENT]}
"""


def pair(server: str, client: str = "") -> ResolvedTopology:
    return parse_topology(PAIR.replace("SERVER", server).replace("CLIENT", client))


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ("sink", "{traffic: {to: srv, rate: 100/s, duration: 5s}}"),
        ("sink", "{traffic: {to: srv, pattern: request, duration: 5s}}"),
        ("iperf3", "{iperf3_client: {to: srv, udp: true, bitrate: 1mbit, time: 5s, block: 500}}"),
    ],
)
def test_a_crash_ends_the_generator_of_its_guest(server: str, client: str) -> None:
    """A socket that was closed is no error of the network, after which one tries again: time would stand still."""

    async def main() -> str:
        async with vnet.open_lab(pair(server, client)) as lab:
            await trio.sleep(1)
            lab.faults.crash("pc")
            await trio.sleep(100)
            return lab.guests["pc"].programs[0].state

    assert vnet.simulate(main) == "failed"


@pytest.mark.parametrize("server", ["echo", "sink", "iperf3", "{dns: {names: {}}}"])
def test_a_lab_may_end_right_after_a_crash(server: str) -> None:
    """While the servers of the guest find their sockets closed, they are cancelled as well."""

    async def main() -> None:
        async with vnet.open_lab(pair(server)) as lab:
            await trio.sleep(1)
            lab.faults.crash("srv")

    vnet.simulate(main)


@pytest.mark.parametrize(
    ("source", "echoes"), [(7, False), (4007, False), (19, False), (1023, False), (5353, False), (1024, True), (50000, True)]
)
def test_services_do_not_answer_each_other(source: int, echoes: bool) -> None:
    """One forged datagram between them would go to and fro for ever, over ideal cables without any time passing."""
    server, client = "echo", "{echo: {port: 4007}}, {dns: {port: 5353, names: {}}}"

    async def main() -> list[Direction]:
        async with vnet.open_lab(pair(server, client)) as lab:
            sink = MemorySink()
            lab.captures.start(sink, ["pc"])
            data = b"round and round"
            sender = lab.guests["pc"]
            assert isinstance(sender, EmulatedGuest)
            srv, pc = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
            sender.host.send_ipv4(srv, 17, udp.build(pc, srv, source, 7, data), source=pc)
            await trio.sleep(1)
            return [
                packet.direction for packet in pcapng.read(sink.octets()) if packet.frame[23] == 17 and data in packet.frame
            ]

    sent = [Direction.OUTBOUND]
    assert vnet.simulate(main) == ([*sent, Direction.INBOUND] if echoes else sent)


def test_a_server_outlives_two_restarts_of_its_guest_at_one_instant() -> None:
    async def ask() -> bytes:
        async with await trio.open_tcp_stream("srv", 7) as stream:
            await stream.send_all(b"still there?")
            return bytes(await stream.receive_some())

    async def main() -> bytes:
        async with vnet.open_lab(pair("echo")) as lab:
            await trio.sleep(10)
            lab.faults.restart("srv")
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            lab.faults.restart("srv")
            await trio.sleep(10)
            pc = lab.guests["pc"]
            assert isinstance(pc, EmulatedGuest)
            return await pc.run(ask)

    assert vnet.simulate(main) == b"still there?"


ODD = """
import sys
import trio


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


async def leave(guest):
    sys.exit(3)


async def leave_together(guest):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave, guest)
        nursery.start_soon(leave, guest)


async def speechless(guest):
    raise Unspeakable


async def unprintable(guest):
    return {1: object()}


async def numbered(guest):
    return {1: "one"}
"""


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("leave", "SystemExit: 3"),
        ("leave_together", "SystemExit: 3"),
        ("speechless", "Unspeakable: its text cannot be told: ValueError"),
        (
            "unprintable",
            "UsageError: it returned a mapping that cannot be JSON: Object of type object is not JSON serializable",
        ),
        ("numbered", "UsageError: it returned a mapping with keys that are no texts"),
    ],
)
def test_an_odd_function_fails_and_harms_nobody(function: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    (tmp_path / "lab.yaml").write_text(PAIR.replace("SERVER", "echo").replace("CLIENT", f"'odd:{function}'"))

    async def main() -> tuple[str, str]:
        async with vnet.open_lab(tmp_path / "lab.yaml") as lab:
            await trio.sleep(1)
            assert await lab.ping("pc", "srv")
            json.dumps(show(lab, "guests"))
            found = lab.guests["pc"].programs[0]
            return found.state, found.error

    assert vnet.simulate(main) == ("failed", error)


def test_whoever_waits_for_programs_hears_of_failures() -> None:
    async def main() -> None:
        async with vnet.open_lab(pair("{http: {folder: /nowhere}}", "{traffic: {to: srv, rate: 10/s, count: 1}}")) as lab:
            await lab.wait_programs(check=False)
            await lab.wait_programs()

    with pytest.raises(vnet.LabError) as caught:
        vnet.simulate(main)
    assert "http on srv: UsageError: there is no folder /nowhere; traffic on pc: PeerError: no traffic sink" in str(
        caught.value
    )


def test_the_error_of_a_connection_says_why() -> None:
    async def main() -> str:
        async with vnet.open_lab(pair("echo", "{iperf3_client: {to: srv}}")) as lab:
            await lab.wait_programs(check=False)
            return lab.guests["pc"].programs[0].error

    error = vnet.simulate(main)
    assert error.startswith("OSError: all attempts to connect to srv:5201 failed (ConnectionRefusedError: "), error


def test_a_greeting_that_cannot_be_answered_harms_no_iperf3_test() -> None:
    """Of UDP, from source port 0, while a test waits for its streams."""

    async def main() -> tuple[str, object]:
        client = "{iperf3_client: {to: srv, udp: true, bitrate: 1mbit, time: 1s, block: 500}}"
        async with vnet.open_lab(pair("iperf3", client)) as lab:
            sender = lab.guests["pc"]
            assert isinstance(sender, EmulatedGuest)
            srv, pc = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
            for _ in range(100):
                sender.host.send_ipv4(srv, 17, udp.build(pc, srv, 0, 5201, UDP_GREETING), source=pc)
                await trio.sleep(0.0005)
            await lab.wait_programs(check=False)
            found = sender.programs[0]
            return found.error, [row["lost"] for row in found.results]

    assert vnet.simulate(main) == ("", [0])


def test_a_sink_does_not_forget_what_came_before_a_restart() -> None:
    """Lost is what came while the guest was down, and nothing else."""

    async def main() -> tuple[object, object]:
        async with vnet.open_lab(pair("sink", "{traffic: {to: srv, rate: 100/s, duration: 5s}}")) as lab:
            await trio.sleep(1)
            crash = lab.faults.crash("srv")
            await trio.sleep(1)
            crash.heal()
            await lab.wait_programs()
            (row,) = lab.guests["pc"].results
            (flow,) = lab.guests["srv"].results
            return row["received"], flow["received"]

    received, counted = vnet.simulate(main)
    assert received == counted == pytest.approx(400, abs=2)
