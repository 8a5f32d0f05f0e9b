"""Real iperf3 in a namespace against ours on an emulated guest, across a switch, in both roles."""

from __future__ import annotations

import json

import pytest
import trio
from live_labs import guest, live, needs, until

from vnet.fabric.rng import RandomStreams
from vnet.guests.emulated import EmulatedGuest
from vnet.programs.iperf3_client import Iperf3Options, run_client
from vnet.runtime.lab import Lab

pytestmark = needs("iperf3")

LAB = """
name: NAME
networks: {lan: {subnet: 10.1.0.0/24}}
guests:
  ours: {nics: [{network: lan, address: 10.1.0.1/24}], run: [iperf3]}
  linux: {kind: namespace, nics: [{network: lan, address: 10.1.0.2/24}]}
"""


def ours(lab: Lab) -> EmulatedGuest:
    found = lab.guests["ours"]
    assert isinstance(found, EmulatedGuest)
    return found


@pytest.mark.trio
@pytest.mark.parametrize("options", ["-t2", "-t2 -R", "-t1 -P3", "-n5M", "-t1 -u -b2M", "-t1 -u -b2M -R"])
async def test_a_real_client(options: str) -> None:
    with trio.fail_after(60):
        async with live(LAB) as lab:
            linux = guest(lab, "linux")
            done = await linux.exec("iperf3", "-J", "-c", "10.1.0.1", *options.split())
            report = json.loads(done.output)
            assert done.status == 0 and "error" not in report, report
            await until(lambda: bool(lab.guests["ours"].results), "the server's own result")
            (row,) = lab.guests["ours"].results
            ending = report["end"]
            if "-u" in options:
                assert ending["sum"]["packets"] == pytest.approx(row["datagrams"], abs=5)
                assert row["sent_bps"] == pytest.approx(2e6, rel=0.15) and row["loss"] < 0.05
            else:
                assert row["received_octets"] == ending["sum_received"]["bytes"] > 0
                assert row["sent_octets"] == ending["sum_sent"]["bytes"] >= row["received_octets"]


@pytest.mark.trio
@pytest.mark.parametrize(
    "options",
    [
        Iperf3Options(time=2), Iperf3Options(time=2, reverse=True), Iperf3Options(octets=5_000_000, parallel=2),
        Iperf3Options(time=1, udp=True, bitrate=2e6, block=1000), Iperf3Options(time=1, udp=True, bitrate=2e6, reverse=True),
    ],
)  # fmt: skip
async def test_a_real_server(options: Iperf3Options) -> None:
    with trio.fail_after(60):
        async with live(LAB) as lab:
            linux = guest(lab, "linux")
            reports: list[dict] = []

            async def serve() -> None:
                done = await linux.exec("iperf3", "-J", "-s", "-1")
                assert done.status == 0
                reports.append(json.loads(done.output))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                draws = RandomStreams(1).stream("ours", "iperf3")
                while True:
                    try:
                        result = await ours(lab).run(lambda: run_client("linux", 5201, options, randomness=draws))
                    except OSError:
                        await trio.sleep(0.05)  # it does not listen yet
                    else:
                        break
            assert "error" not in reports[0], reports[0]
            assert result.received_octets > 0 and result.loss < 0.05
            if options.udp:
                assert result.sent_bps == pytest.approx(2e6, rel=0.15)
            if options.octets:
                assert result.sent_octets >= options.octets
