"""What tshark reads in the segments that an emulated host and Linux exchange: what they agree on, and no error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.interop.live_labs import guest, live, needs, program, run, until
from tests.tcp_bed import marked
from vnet.ports import Handler
from vnet.runtime.sinks import FileSink
from vnet.stack.tcp import Ecn, State, TcpConnection

pytestmark = [*needs("tshark"), pytest.mark.trio]

OURS, LINUX = "10.77.0.1", "10.77.0.2"
LINUX_PACKED = bytes((10, 77, 0, 2))
TOPOLOGY = """
name: NAME
networks:
  n: {vlan: 10, subnet: 10.77.0.0/24}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 1ms, loss: LOSS}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: 10.77.0.1/24}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: 10.77.0.2/24}]}
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
server = socket.create_server(("{LINUX}", 7070))
print("listening", flush=True)
talk(server.accept()[0])
"""
CONNECT = TALK + f'\ntalk(socket.create_connection(("{OURS}", 9090), 10))\n'

FIELDS = [
    "ip.src", "tcp.flags.syn", "tcp.flags.ack", "tcp.len", "tcp.options.mss_val", "tcp.options.wscale.shift",
    "tcp.options.sack_perm", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr", "tcp.options.sack_le",
    "tcp.flags.ece", "tcp.flags.cwr", "ip.dsfield.ecn",
    "ip.checksum.status", "tcp.checksum.status", "_ws.malformed", "_ws.expert.severity",
]  # fmt: skip
PREFERENCES = ["-oip.check_checksum:TRUE", "-otcp.check_checksum:TRUE", "-otcp.analyze_sequence_numbers:FALSE"]
GOOD, ERROR = "1", 0x00800000
SET = ("1", "True")
"""How versions of tshark write a flag."""

Row = dict[str, str]


async def segments(file: Path) -> list[Row]:
    """Dissect the TCP segments of a capture, every checksum looked at; none is malformed, bad or an error to Wireshark."""
    words = [word for field in FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), *PREFERENCES, "-Y", "tcp", "-T", "fields", *words]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    rows = [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in done.stdout.decode().splitlines()]
    for row in rows:
        assert (row["ip.checksum.status"], row["tcp.checksum.status"], row["_ws.malformed"]) == (GOOD, GOOD, ""), row
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


def mark_some(handler: Handler) -> Handler:
    """Mark every tenth frame with data whose sender allows it, as a congested router does."""
    count = 0

    def mark(frame: bytes, offload: bytes) -> None:
        nonlocal count
        if frame[12:14] == b"\x08\x00" and frame[15] & 3:
            count += 1
            frame = marked(frame) if count % 10 == 0 else frame
        handler(frame, offload)

    return mark


@pytest.fixture(params=["client", "server"])
def role(request: pytest.FixtureRequest) -> str:
    """What the emulated host is."""
    return str(request.param)


async def captured(file: Path, role: str, loss: str, *, marks: bool = False) -> list[Row]:
    """Exchange data with Linux over a link with loss, and dissect what passed the emulated host's port."""
    async with live(TOPOLOGY.replace("LOSS", loss)) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        if marks:
            host.tcp.settings.ecn = Ecn.REQUEST
            await run(linux, "sysctl", "-q", "-w", "net.ipv4.tcp_ecn=1")
            host.interfaces["eth0"].port.gate(mark_some, mark_some)
        capture = lab.captures.start(FileSink(file), ["emulated"])
        if role == "client":
            async with program(linux, sys.executable, "-c", SERVE, ready="listening") as server:
                connection = host.tcp.connect(LINUX_PACKED, 7070)
                await exchange(connection).wait()
                await server.says(f"got {SIZE}")
        else:
            listener = host.tcp.listen(9090)
            taken: list[tuple[TcpConnection, trio.Event]] = []
            listener.on_ready = lambda: taken.extend((each, exchange(each)) for each in iter(listener.accept, None))
            assert await run(linux, sys.executable, "-c", CONNECT) == f"got {SIZE}\n"
            ((connection, done),) = taken
            await done.wait()
        await until(lambda: connection.unsent == 0, "all is acknowledged")
        assert connection.error is None
        capture.finish()
        assert (capture.failure, capture.dropped) == (None, 0)
    return await segments(file)


async def test_what_is_negotiated(tmp_path: Path, role: str) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, "0%")
    syns = [row for row in rows if row["tcp.flags.syn"] in SET]
    client, server = (OURS, LINUX) if role == "client" else (LINUX, OURS)
    assert [row["ip.src"] for row in syns] == [client, server], "one SYN each: nothing was lost"
    for row in syns:
        assert row["tcp.options.mss_val"] == "1460"
        assert row["tcp.options.sack_perm"] and row["tcp.options.timestamp.tsval"]
        assert 1 <= int(row["tcp.options.wscale.shift"]) <= 14
    assert syns[1]["tcp.options.timestamp.tsecr"] == syns[0]["tcp.options.timestamp.tsval"]
    assert all(row["tcp.options.timestamp.tsval"] for row in rows), "RFC 7323, 3.2: in every segment"
    assert not any(row["tcp.options.sack_le"] for row in rows)
    for source in (OURS, LINUX):
        sizes = [int(row["tcp.len"]) for row in rows if row["ip.src"] == source]
        assert (sum(sizes), max(sizes)) == (SIZE, 1448)


async def test_selective_acknowledgments_both_ways(tmp_path: Path, role: str) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, "2%")
    for source in (OURS, LINUX):
        blocks = [row["tcp.options.sack_le"].split(",") for row in rows if row["ip.src"] == source]
        named = [each for each in blocks if each != [""]]
        assert len(named) > 10 and max(map(len, named)) <= 4, source


async def test_explicit_congestion_notification_both_ways(tmp_path: Path, role: str) -> None:
    rows = await captured(tmp_path / "c.pcapng", role, "0%", marks=True)
    both = [(row["tcp.flags.ece"] in SET, row["tcp.flags.cwr"] in SET) for row in rows if row["tcp.flags.syn"] in SET]
    assert both == [(True, True), (True, False)], "asked for by the client, agreed to by the server"
    later = [row for row in rows if row["tcp.flags.syn"] not in SET]
    assert {row["ip.dsfield.ecn"] for row in rows if row not in later or not int(row["tcp.len"])} == {"0"}
    for source, peer in ((OURS, LINUX), (LINUX, OURS)):
        data = [row for row in later if row["ip.src"] == source and int(row["tcp.len"])]
        assert {row["ip.dsfield.ecn"] for row in data} == ({"2"} if source == OURS else {"2", "3"}), "marked behind our port"
        echoes = [row for row in later if row["ip.src"] == peer and row["tcp.flags.ece"] in SET]
        reductions = [row for row in data if row["tcp.flags.cwr"] in SET]
        assert echoes and reductions, source
