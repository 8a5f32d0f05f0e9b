"""What tshark reads in the segments that an emulated host and Linux exchange: what they agree on, and no error."""

from __future__ import annotations

import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import trio

from tests.interop.live_labs import guest, live, needs, program, run, until
from tests.tcp_bed import V4, V6
from vnet.ports import Handler
from vnet.runtime.sinks import FileSink
from vnet.stack.tcp import Ecn, State, TcpConnection

pytestmark = [*needs("tshark"), pytest.mark.trio]


class OverIpv4(NamedTuple):
    """What differs between the IP versions."""

    ours: str = "10.77.0.1"
    linux: str = "10.77.0.2"
    family: str = "AF_INET"
    source: str = "ip.src"
    ecn: str = "ip.dsfield.ecn"
    mss: int = 1460

    def mark(self, frame: bytes) -> bytes:
        return V4.marked(frame) if frame[12:14] == V4.kind and V4.ecn(frame) else frame


class OverIpv6(OverIpv4):
    def mark(self, frame: bytes) -> bytes:
        return V6.marked(frame) if frame[12:14] == V6.kind and V6.ecn(frame) else frame


IPV4 = OverIpv4()
IPV6 = OverIpv6("fd00:77::1", "fd00:77::2", "AF_INET6", "ipv6.src", "ipv6.tclass.ecn", 1440)
TOPOLOGY = """
name: NAME
networks:
  n: {vlan: 10, subnet: 10.77.0.0/24}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 1ms, loss: LOSS}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: [10.77.0.1/24, "fd00:77::1/64"]}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: [10.77.0.2/24, "fd00:77::2/64"]}]}
"""
SIZE = 2_000_000
TALK = f"""
import socket, threading
def talk(s):
    s.settimeout(20)
    def send():
        s.sendall(bytes({SIZE}))
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    count = 0
    while piece := s.recv(1 << 20):
        count += len(piece)
    sender.join()
    print("got", count, flush=True)
"""
SERVE = f"""{TALK}
server = socket.create_server(("LINUX", 7070), family=socket.FAMILY)
print("listening", flush=True)
talk(server.accept()[0])
"""
CONNECT = TALK + '\ntalk(socket.create_connection(("OURS", 9090), 10))\n'

FIELDS = [
    "ip.src", "ipv6.src", "tcp.flags.syn", "tcp.flags.ack", "tcp.len", "tcp.options.mss_val", "tcp.options.wscale.shift",
    "tcp.options.sack_perm", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr", "tcp.options.sack_le",
    "tcp.flags.ece", "tcp.flags.cwr", "ip.dsfield.ecn", "ipv6.tclass.ecn",
    "ip.checksum.status", "tcp.checksum.status", "_ws.malformed", "_ws.expert.severity",
]  # fmt: skip
PREFERENCES = ["-oip.check_checksum:TRUE", "-otcp.check_checksum:TRUE", "-otcp.analyze_sequence_numbers:FALSE"]
GOOD, ERROR = "1", 0x00800000
SET = ("1", "True")
"""How versions of tshark write a flag."""

Row = dict[str, str]


async def segments(file: Path, version: OverIpv4) -> list[Row]:
    """Dissect the TCP segments of a capture, every checksum looked at; none is malformed, bad or an error to Wireshark."""
    words = [word for field in FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), *PREFERENCES, "-Y", "tcp", "-T", "fields", *words]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    rows = [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in done.stdout.decode().splitlines()]
    for row in rows:
        assert (row["tcp.checksum.status"], row["_ws.malformed"]) == (GOOD, ""), row
        assert row["ip.checksum.status"] == (GOOD if version is IPV4 else ""), row
        assert all(int(each, 0) < ERROR for each in row["_ws.expert.severity"].split(",") if each), row
    return rows


def exchange(connection: TcpConnection) -> trio.Event:
    """Send SIZE octets and a FIN, take what comes; the event is set at the end of the stream."""
    left, done = SIZE, trio.Event()

    def work() -> None:
        nonlocal left
        while left and connection.room:
            left -= connection.send(bytes(min(left, connection.room)))
        if not left:
            connection.shutdown()
        connection.receive(1 << 21)
        if connection.at_end or connection.state is State.CLOSED:
            done.set()

    connection.on_change = work
    work()
    return done


def mark_some(version: OverIpv4, handler: Handler) -> Handler:
    """Mark every tenth frame with data whose sender allows it, as a congested router does."""
    count = 0

    def mark(frame: bytes, offload: bytes) -> None:
        nonlocal count
        found = version.mark(frame)
        if found is not frame:
            count += 1
            frame = found if count % 10 == 0 else frame
        handler(frame, offload)

    return mark


@pytest.fixture(params=["client", "server"])
def role(request: pytest.FixtureRequest) -> str:
    """What the emulated host is."""
    return str(request.param)


@pytest.fixture(params=[IPV4, IPV6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> OverIpv4:
    """Over which IP version they talk."""
    return cast(OverIpv4, request.param)


async def captured(file: Path, role: str, version: OverIpv4, loss: str, *, marks: bool = False) -> list[Row]:
    """Exchange data with Linux over a link with loss, and dissect what passed the emulated host's port."""
    serve = SERVE.replace("LINUX", version.linux).replace("FAMILY", version.family)
    async with live(TOPOLOGY.replace("LOSS", loss)) as lab:
        await lab.wait_up()
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        if marks:
            host.tcp.settings.ecn = Ecn.REQUEST
            await run(linux, "sysctl", "-q", "-w", "net.ipv4.tcp_ecn=1")
            host.interfaces["eth0"].port.gate(partial(mark_some, version), partial(mark_some, version))
        capture = lab.captures.start(FileSink(file), ["emulated"])
        if role == "client":
            async with program(linux, sys.executable, "-c", serve, ready="listening") as server:
                connection = host.tcp.connect(ip_address(version.linux).packed, 7070)
                await exchange(connection).wait()
                await server.says(f"got {SIZE}")
        else:
            listener = host.tcp.listen(9090, both=True)
            taken: list[tuple[TcpConnection, trio.Event]] = []
            listener.on_ready = lambda: taken.extend((each, exchange(each)) for each in iter(listener.accept, None))
            assert await run(linux, sys.executable, "-c", CONNECT.replace("OURS", version.ours)) == f"got {SIZE}\n"
            ((connection, done),) = taken
            await done.wait()
        await until(lambda: connection.unsent == 0, "all is acknowledged")
        assert connection.error is None
        capture.finish()
        assert (capture.failure, capture.dropped) == (None, 0)
    return await segments(file, version)


async def test_what_is_negotiated(tmp_path: Path, role: str, version: OverIpv4) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, version, "0%")
    syns = [row for row in rows if row["tcp.flags.syn"] in SET]
    client, server = (version.ours, version.linux) if role == "client" else (version.linux, version.ours)
    assert [row[version.source] for row in syns] == [client, server], "one SYN each: nothing was lost"
    for row in syns:
        assert row["tcp.options.mss_val"] == str(version.mss)
        assert row["tcp.options.sack_perm"] and row["tcp.options.timestamp.tsval"]
        assert 1 <= int(row["tcp.options.wscale.shift"]) <= 14
    assert syns[1]["tcp.options.timestamp.tsecr"] == syns[0]["tcp.options.timestamp.tsval"]
    assert all(row["tcp.options.timestamp.tsval"] for row in rows), "RFC 7323, 3.2: in every segment"
    assert not any(row["tcp.options.sack_le"] for row in rows)
    for source in (version.ours, version.linux):
        sizes = [int(row["tcp.len"]) for row in rows if row[version.source] == source]
        assert (sum(sizes), max(sizes)) == (SIZE, version.mss - 12)


async def test_selective_acknowledgments_both_ways(tmp_path: Path, role: str, version: OverIpv4) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, version, "2%")
    for source in (version.ours, version.linux):
        blocks = [row["tcp.options.sack_le"].split(",") for row in rows if row[version.source] == source]
        named = [each for each in blocks if each != [""]]
        assert len(named) > 10 and max(map(len, named)) <= 4, source


async def test_explicit_congestion_notification_both_ways(tmp_path: Path, role: str, version: OverIpv4) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, version, "0%", marks=True)
    both = [(row["tcp.flags.ece"] in SET, row["tcp.flags.cwr"] in SET) for row in rows if row["tcp.flags.syn"] in SET]
    assert both == [(True, True), (True, False)], "asked for by the client, agreed to by the server"
    later = [row for row in rows if row["tcp.flags.syn"] not in SET]
    assert {row[version.ecn] for row in rows if row not in later or not int(row["tcp.len"])} == {"0"}
    for source, peer in ((version.ours, version.linux), (version.linux, version.ours)):
        data = [row for row in later if row[version.source] == source and int(row["tcp.len"])]
        again = [row for row in data if row[version.ecn] == "0"]
        assert len(again) < len(data) / 20, "what is sent again is not to be marked (RFC 3168, 6.1.5)"
        marks = {row[version.ecn] for row in data} - {"0"}
        assert marks == ({"2"} if source == version.ours else {"2", "3"}), "marked behind our port"
        echoes = [row for row in later if row[version.source] == peer and row["tcp.flags.ece"] in SET]
        reductions = [row for row in data if row["tcp.flags.cwr"] in SET]
        assert echoes and reductions, source
