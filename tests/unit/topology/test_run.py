from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from vnet.errors import TopologyError
from vnet.topology import load_topology, parse_topology
from vnet.topology.resolved_programs import (
    ResolvedProgram,
    RunDns,
    RunEcho,
    RunFunction,
    RunHttp,
    RunIperf3,
    RunIperf3Client,
    RunSink,
    RunTraffic,
)
from vnet.units import MILLISECOND, SECOND

LAB = """
name: lab
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  web: {nics: [lan], run: [sink, iperf3]}
  pc: {nics: [lan], run: [PROGRAM]}
"""


def program(text: str) -> ResolvedProgram:
    (found,) = parse_topology(LAB.replace("PROGRAM", text)).guests["pc"].run
    return found


def traffic(**given: object) -> RunTraffic:
    usual: dict = {
        "to": "web", "port": 9000, "pattern": "cbr", "protocol": "udp", "rate": 100.0, "size": 512, "reply": 512,
        "burst": SECOND, "pause": SECOND, "start": 0, "duration": None, "count": None,
    }  # fmt: skip
    return RunTraffic(**{**usual, **given})


def iperf3(**given: object) -> RunIperf3Client:
    usual: dict = {
        "to": "web", "port": 5201, "start": 0, "time": 10 * SECOND, "octets": None, "parallel": 1, "reverse": False,
        "udp": False, "bitrate": None, "block": None,
    }  # fmt: skip
    return RunIperf3Client(**{**usual, **given})


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("echo", RunEcho(port=7)),
        ("{echo: {port: 8}}", RunEcho(port=8)),
        ("iperf3", RunIperf3(port=5201)),
        ("sink", RunSink(port=9000)),
        ("{http: {folder: www}}", RunHttp(port=80, folder="www")),
        ("{http: {folder: /srv, port: 8080}}", RunHttp(port=8080, folder="/srv")),
        (
            "{dns: {names: {a.example: 10.0.0.1, b.example: [10.0.0.1, 'fd00::1']}, ttl: 5s}}",
            RunDns(
                port=53,
                names=(
                    ("a.example", (ip_address("10.0.0.1"),)),
                    ("b.example", (ip_address("10.0.0.1"), ip_address("fd00::1"))),
                ),
                ttl=5 * SECOND,
            ),
        ),
        ("my.package:serve", RunFunction(module="my.package", function="serve", folder=".")),
        ("{traffic: {to: web, rate: 100/s}}", traffic()),
        ("{traffic: {to: web, rate: 6/min, pattern: poisson}}", traffic(rate=0.1, pattern="poisson")),
        ("{traffic: {to: web, rate: 8mbit, size: 1000}}", traffic(rate=1000.0, size=1000)),
        ("{traffic: {to: web, pattern: bulk}}", traffic(pattern="bulk", protocol="tcp", rate=None, size=65536)),
        (
            "{traffic: {to: 10.0.0.7, pattern: request, protocol: tcp, reply: 4KiB, count: 9, start: 2s, duration: 1min}}",
            traffic(
                to="10.0.0.7", pattern="request", protocol="tcp", rate=None, reply=4096, count=9, start=2 * SECOND,
                duration=60 * SECOND,
            ),
        ),
        (
            "{traffic: {to: web, pattern: onoff, rate: 50/s, burst: 200ms, pause: 0s}}",
            traffic(pattern="onoff", rate=50.0, burst=200 * MILLISECOND, pause=0),
        ),
        ("{iperf3_client: {to: web}}", iperf3()),
        (
            "{iperf3_client: {to: web, time: 2s, parallel: 3, reverse: true, udp: true, bitrate: 5mbit, block: 1000}}",
            iperf3(time=2 * SECOND, parallel=3, reverse=True, udp=True, bitrate=5_000_000, block=1000),
        ),
        ("{iperf3_client: {to: web, octets: 1MB}}", iperf3(octets=1_000_000)),
    ],
)  # fmt: skip
def test_programs_are_spelled_out(text: str, resolved: ResolvedProgram) -> None:
    assert program(text) == resolved


def test_folders_begin_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(LAB.replace("PROGRAM", "{http: {folder: www}}, module:go"))
    assert load_topology(path).guests["pc"].run == (
        RunHttp(port=80, folder=str(tmp_path / "www")),
        RunFunction(module="module", function="go", folder=str(tmp_path)),
    )


def test_a_guest_without_programs_runs_none() -> None:
    assert parse_topology(LAB.replace("PROGRAM", "")).guests["pc"].run == ()


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("{dns: {names: {a.example: 10.0.0.1}, ttl: 24856d}}", "ttl", "24856d is more than DNS can say"),
        ("{dns: {names: {ü..x: 10.0.0.1}}}", "names", "'ü..x' has letters that no name on the wire has"),
        ("{iperf3_client: {to: web, time: 100000d}}", "time", "100000d is longer than iperf3 can test; the most is"),
        (
            "{traffic: {to: web, pattern: onoff, rate: 1/s, burst: 1ms, pause: 0s}}",
            "burst",
            "a burst of 1ms is shorter than the time between two messages; write 1s or more",
        ),
        ("{traffic: {to: web, pattern: onoff, rate: 0.5/s}}", "burst", "a burst of 1s is shorter"),
    ],
)
def test_what_no_program_can_do_is_found_before_it_runs(text: str, place: str, said: str) -> None:
    with pytest.raises(TopologyError) as caught:
        program(text)
    (problem,) = caught.value.problems
    assert place in problem.where and problem.text.startswith(said)
