"""What Wireshark finds in captures of a live lab: no malformed frame, no bad checksum, and everything that happened.

Linux hands over super-frames and unfinished checksums; a capture must show the frames as a wire would carry them.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio
from live_labs import EXTERNAL, INNER, PC, SITE, WEB, WWW, guest, live, named, needs, program, run, web_server

import vnet
from vnet.adapters import netns
from vnet.runtime.sinks import FileSink

pytestmark = needs("tshark", "curl", "ping", "traceroute", "iperf3", "udhcpc")

LAB = (
    SITE.replace(
        "subnet: 10.20.100.0/24}",
        "subnet: 10.20.100.0/24, dhcp: {range: 10.20.100.128-10.20.100.130, server: 10.20.100.2, dns: [10.20.100.25],"
        " wins: [10.20.100.26], domain: office.example,"
        " reservations: {late: 10.20.100.140}}}",
    )
    + """
  late: {switch: edge, kind: namespace, nics: [office]}
  phone: {nics: [office]}
"""
)

PROTOCOLS = ("ip", "tcp", "udp", "icmp")
PREFERENCES = [f"-o{name}.check_checksum:TRUE" for name in ("ip", "tcp", "udp")]
MANY_PORTS = ["-otcp.analyze_sequence_numbers:FALSE", "-oip.defragment:FALSE", "--disable-protocol", "http"]
"""For a capture of many ports, where a frame is seen at all that it passes: that is no retransmission, and fragments must
not be put together with what is left of others (Wireshark's key for them is VID and ID, one exclusive or the other)."""
DHCP_OPTIONS = {
    "subnet_mask": "255.255.255.0", "router": INNER, "domain_name_server": "10.20.100.25", "domain_name": "office.example",
    "netbios_over_tcpip_name_server": "10.20.100.26", "ip_address_lease_time": "129600", "renewal_time_value": "64800",
    "rebinding_time_value": "97200", "dhcp_server_id": "10.20.100.2",
}  # fmt: skip
FIELDS = [
    "frame.number", "frame.interface_name", "frame.len", "vlan.id", "ip.src", "ip.dst", "ip.reassembled.length",
    "icmp.type", "_ws.malformed", "_ws.expert.severity", "_ws.expert.message", "tcp.len", "tcp.srcport",
    "dhcp.option.dhcp", "dhcp.ip.your", "dhcp.hw.mac_addr", *(f"dhcp.option.{name}" for name in DHCP_OPTIONS),
    *(f"{name}.checksum.status" for name in PROTOCOLS), "_ws.col.Info",
]  # fmt: skip
BAD, GOOD, ERROR = "0", "1", 0x00800000

Row = dict[str, list[str]]
"""The fields of a frame, each with all its values: outer headers first, then what is quoted within."""


async def shark(file: Path, *options: str) -> list[Row]:
    """Dissect a capture, every checksum looked at."""
    words = [word for field in FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), *PREFERENCES, *options, "-T", "fields", *words]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    return [{name: value.split(",") if value else [] for name, value in zip(FIELDS, row, strict=True)} for row in rows]


def assert_clean(rows: list[Row]) -> None:
    """No error of any sort; every checksum is there and right.

    But transport checksums that Linux quotes when a port is closed: it got them unfinished, and quotes them so.
    """
    for row in rows:
        quotes = row["icmp.type"][:1] == ["3"]
        assert not row["_ws.malformed"] and (quotes or all(int(each, 0) < ERROR for each in row["_ws.expert.severity"])), row
        for name in PROTOCOLS:
            status = row[f"{name}.checksum.status"]
            assert (quotes and name in ("tcp", "udp")) or BAD not in status, row


def passed(rows: list[Row], port: str) -> list[Row]:
    return [row for row in rows if row["frame.interface_name"] == [port]]


async def everything(lab: vnet.Lab, directory: Path) -> None:
    """Do all that programs do in a lab, a little of each."""
    pc, www, web, late = (guest(lab, name) for name in ("pc", "www", "web", "late"))
    options = [word for code in (1, 3, 6, 15, 44, 51, 58, 59) for word in ("-O", str(code))]
    await run(late, "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true", *options)
    await lab.guests["phone"].dhcp()
    for size in ("0", "56", "1472", "1473", "20000"):
        await run(pc, "ping", "-c", "1", "-W", "5", "-s", size, WWW)
        await run(pc, "ping", "-c", "1", "-W", "5", "-s", size, WEB)
    assert (await lab.guests["phone"].ping(WWW, size=5000)).ok
    await run(pc, "traceroute", "-n", "-w", "1", WWW)
    await run(pc, "traceroute", "-n", "-w", "1", "-I", WWW)
    (directory / "part").write_bytes(random.Random(3).randbytes(100_000))
    curl = ("curl", "-sS", "-o", "/dev/null", "--max-time", "20")
    async with web_server(www, directory), web_server(pc, directory):
        await run(pc, *curl, f"http://{WWW}/part")
        await run(www, *curl, f"http://{EXTERNAL}:8080/part")
        await run(web, *curl, f"http://{EXTERNAL}:8080/part")  # hairpinning
        await run(pc, *curl, f"http://{WWW}:81/", status=7)  # a reset
    for extra in (["-u", "-l", "100"], ["-u", "-l", "1400"], ["-u", "-l", "4000"], ["-P", "2"]):
        async with program(www, "iperf3", "-s", "-1", "--forceflush", ready="listening"):
            await run(pc, "iperf3", "-c", WWW, "-n", "20K", *extra)


@pytest.mark.trio
async def test_a_capture_of_everything(tmp_path: Path) -> None:
    async with live(LAB) as lab:
        whole = lab.captures.start(FileSink(tmp_path / "whole"), ["*:*"])
        alone = lab.captures.start(FileSink(tmp_path / "alone"), ["pc"])
        await everything(lab, tmp_path)
        mac = lab.guests["late"].interfaces()[0].mac
        whole.finish()
        alone.finish()
        assert (whole.failure, whole.dropped, alone.failure, alone.dropped) == (None, 0, None, 0)
    rows = await shark(tmp_path / "whole", *MANY_PORTS)
    assert len(rows) == whole.recorded
    assert_clean(rows)
    seen = Counter(name for row in rows for name in PROTOCOLS if GOOD in row[f"{name}.checksum.status"])
    assert all(seen[name] > 100 for name in PROTOCOLS), seen
    assert max(int(row["frame.len"][0]) for row in rows) <= 1518, "super-frames are cut in captures"
    assert {"pc:eth0", "www:eth0", "perimeter:internet", "inner:office", "late:eth0", "phone:eth0", "core:inner:office"} <= {
        row["frame.interface_name"][0] for row in rows
    }

    tagged = Counter((*row["frame.interface_name"], *row["vlan.id"]) for row in rows if row["vlan.id"])
    assert set(tagged) == {("core:edge", "16"), ("edge:core", "16")}
    assert all(row["vlan.id"] for row in [*passed(rows, "core:edge"), *passed(rows, "edge:core")])
    check_dhcp([row for row in passed(rows, "late:eth0") if row["dhcp.hw.mac_addr"][:1] == [mac.hex(":")]])

    outside = {row["ip.src"][0] for row in passed(rows, "www:eth0") if row["ip.src"]}
    assert outside == {WWW, EXTERNAL}, "no inside address shows outside"

    # one port by itself, with all of Wireshark's own bookkeeping: it misses nothing
    rows = await shark(tmp_path / "alone")
    assert len(rows) == alone.recorded > 500
    assert_clean(rows)
    whole_again = Counter(length for row in rows for length in row["ip.reassembled.length"])
    assert whole_again["20008"] == 4 and whole_again["4008"] >= 5, "pings both ways, and datagrams, from their pieces"
    assert not any(gap in row["_ws.col.Info"][0] for row in rows for gap in ("not captured", "unseen"))


def check_dhcp(messages: list[Row]) -> None:
    """DISCOVER, OFFER, REQUEST, ACK; and all options, as the dissector reads them."""
    assert [row["dhcp.option.dhcp"][0] for row in messages] == ["1", "2", "3", "5"]
    for answer in (messages[1], messages[3]):
        assert answer["dhcp.ip.your"] == ["10.20.100.140"]
        assert {name: answer[f"dhcp.option.{name}"] for name in DHCP_OPTIONS} == {
            name: [value] for name, value in DHCP_OPTIONS.items()
        }


@pytest.mark.trio
async def test_super_frames_pass_uncut_and_are_captured_cut(tmp_path: Path) -> None:
    """A capture changes nothing for the guests: TCP still crosses in super-frames, with no capture and with two."""
    (tmp_path / "part").write_bytes(bytes(1_000_000))
    fetch = ("curl", "-sS", "-o", "/dev/null", "--max-time", "20", f"http://{WWW}/part")
    async with live(SITE) as lab, web_server(guest(lab, "www"), tmp_path):
        core = lab.switches["core"]
        (port,) = (each for each in core.ports.values() if each.name == "www:eth0")
        captures = [lab.captures.start(FileSink(tmp_path / str(number)), ["www"]) for number in range(2)]
        for _ in range(3):
            before = port.rx_octets, port.rx_frames
            await run(guest(lab, "pc"), *fetch)
            core.fold()
            octets, frames = port.rx_octets - before[0], port.rx_frames - before[1]
            assert octets > 1_000_000 and octets / frames > 3000, "the mean frame is larger than a wire has"
            if captures:
                captures.pop().finish()
    for number, downloads in ((1, 1), (0, 2)):
        rows = await shark(tmp_path / str(number))
        assert_clean(rows)
        assert max(int(row["frame.len"][0]) for row in rows) == 1514
        assert sum(int(row["tcp.len"][0]) for row in rows if row["tcp.srcport"] == ["80"]) > downloads * 1_000_000


def test_vnet_capture_into_tshark(tmp_path: Path) -> None:
    """``vnet capture LAB pc www -w - | tshark -i -``, of a lab that ``vnet up`` runs."""
    file = tmp_path / "lab.yaml"
    file.write_text(named(SITE))
    name = file.read_text().split()[1]
    command = [sys.executable, "-m", "vnet"]

    def typed(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    typed("up", str(file), "--detach")
    with contextlib.ExitStack() as stack:
        stack.callback(typed, "down", name)

        def started(words: list[str], **options: object) -> subprocess.Popen[str]:
            process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **options))
            stack.callback(process.kill)
            return process

        capture = started(
            [*command, "capture", name, "pc", "www", "-w", "-", "--filter", "icmp", "--count", "40"], stderr=subprocess.PIPE
        )
        fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "ip.src", "-e", "ip.dst", "-e", "icmp.type"]
        dissector = started(["tshark", "-l", "-n", "-i", "-", *fields], stdin=capture.stdout, stderr=subprocess.DEVNULL)
        assert capture.stderr is not None and capture.stdout is not None and dissector.stdout is not None
        capture.stdout.close()  # the dissector has it
        assert capture.stderr.readline() == "capturing www:eth0, pc:eth0; Ctrl-C ends it\n"
        ten_times = f"for i in 0 1 2 3 4 5 6 7 8 9; do ping -q -c 1 -W 5 {WWW} || exit; done"
        assert typed("exec", name, "pc", "--", "sh", "-c", ten_times).count("1 received") == 10
        assert capture.wait(20) == 0
        seen = Counter(dissector.stdout.read().splitlines())
        assert seen == {
            f"pc:eth0\t{PC}\t{WWW}\t8": 10, f"www:eth0\t{EXTERNAL}\t{WWW}\t8": 10,
            f"www:eth0\t{WWW}\t{EXTERNAL}\t0": 10, f"pc:eth0\t{WWW}\t{PC}\t0": 10,
        }  # fmt: skip
    assert not netns.exists(f"{name}-pc")
