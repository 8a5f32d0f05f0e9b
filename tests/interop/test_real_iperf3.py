"""Our iperf3 against iperf3 itself on the loopback, in both roles: it is content, and both say the same."""

from __future__ import annotations

import json
import subprocess
from functools import partial

import pytest
import trio
import trio.testing
from live_labs import needs

from vnet.errors import PeerError
from vnet.fabric.rng import RandomStreams
from vnet.programs.iperf3_client import Iperf3Options, run_client
from vnet.programs.iperf3_result import Iperf3Result
from vnet.programs.iperf3_server import serve

pytestmark = needs("iperf3")

HOST = "127.0.0.1"
LIMIT = 60
DRAWS = RandomStreams(1).stream("tests", "iperf3")


async def free_port() -> int:
    with trio.socket.socket() as probe:
        await probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def real_client(*options: str) -> tuple[dict, list[Iperf3Result]]:
    """Run ``iperf3 -c`` against our server; return its report and what the server saw."""
    seen: list[Iperf3Result] = []
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await free_port()

            async def run(task_status: trio.TaskStatus[object]) -> None:
                await serve(port, host=HOST, on_result=seen.append, task_status=task_status)

            await nursery.start(run)
            command = ["iperf3", "-J", "-c", HOST, "-p", str(port), *options]
            done = await trio.run_process(command, capture_stdout=True, check=False)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    report = json.loads(done.stdout)
    assert done.returncode == 0, report  # with -J even for a test that failed
    return report, seen


async def real_server(options: Iperf3Options) -> tuple[Iperf3Result, dict]:
    """Run our client against ``iperf3 -s -1``; return what it saw and the server's report."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await free_port()
            command = ["iperf3", "-J", "-s", "-1", "-B", HOST, "-p", str(port)]
            output: list[subprocess.CompletedProcess[bytes]] = []

            async def run() -> None:
                output.append(await trio.run_process(command, capture_stdout=True, check=False))

            nursery.start_soon(run)
            while True:
                try:
                    result = await run_client(HOST, port, options, randomness=DRAWS)
                except OSError:
                    await trio.sleep(0.02)  # it does not listen yet
                else:
                    break
    report = json.loads(output[0].stdout)
    assert output[0].returncode == 0 and "error" not in report, report
    return result, report


@pytest.mark.trio
@pytest.mark.parametrize(
    "options", ["-t1", "-t1 -P4", "-t1 -R", "-t1 -R -P4", "-n20M", "-n20M -R", "-t1 -b20M -l9000", "-t1 -O1 -P2"]
)
async def test_a_real_client_over_tcp(options: str) -> None:
    report, (result,) = await real_client(*options.split())
    ending = report["end"]
    assert "error" not in report
    assert result.streams == len(ending["streams"]) == (4 if "P4" in options else 2 if "P2" in options else 1)
    assert result.sent_octets == ending["sum_sent"]["bytes"] > 0
    assert result.received_octets == ending["sum_received"]["bytes"] > 0
    if "-O" not in options:  # what is on its way at that moment is left out by the sender, counted by the receiver
        assert result.received_octets <= result.sent_octets + 4 * 128 * 1024
    if "-n" in options:
        assert result.sent_octets >= 20 * 2**20
    if "-b" in options:
        assert result.sent_bps == pytest.approx(20e6, rel=0.1)
    if "-t" in options:
        assert result.seconds == pytest.approx(1, abs=0.3)


@pytest.mark.trio
@pytest.mark.parametrize(
    "options",
    ["-t1 -b2M", "-t1 -b2M -l1000 -P3", "-t1 -b2M -R", "-t1 -b2M -R -P3", "-t1 -b2M --udp-counters-64bit", "-n100K -b5M"],
)
async def test_a_real_client_over_udp(options: str) -> None:
    report, (result,) = await real_client("-u", *options.split())
    assert "error" not in report
    total = report["end"]["sum"]
    assert result.datagrams == pytest.approx(total["packets"], abs=5)
    assert result.lost == total["lost_packets"] == 0
    assert total["jitter_ms"] < 50 and result.jitter < 0.05
    if "-t" in options:
        assert result.sent_octets == pytest.approx(250_000 * (3 if "P3" in options else 1), rel=0.1)
    else:
        assert result.sent_octets >= 100 * 1024


@pytest.mark.trio
async def test_a_real_client_understands_a_refusal() -> None:
    report, seen = await real_client("-t1", "--bidir")
    assert "not implemented" in report["error"] and not seen


@pytest.mark.trio
@pytest.mark.parametrize(
    "options",
    [
        Iperf3Options(time=1), Iperf3Options(time=1, parallel=4), Iperf3Options(time=1, reverse=True, parallel=2),
        Iperf3Options(octets=20_000_000), Iperf3Options(octets=20_000_000, reverse=True),
        Iperf3Options(time=1, bitrate=20e6, block=9000), Iperf3Options(time=1, omit=1),
    ],
)  # fmt: skip
async def test_a_real_server_over_tcp(options: Iperf3Options) -> None:
    result, report = await real_server(options)
    assert result.streams == options.parallel and result.received_octets > 0
    assert options.omit or result.received_octets <= result.sent_octets + 4 * 128 * 1024
    ours = result.sent_octets if options.reverse else result.received_octets
    assert report["end"]["sum_sent" if options.reverse else "sum_received"]["bytes"] == ours
    if options.octets:
        assert result.sent_octets >= options.octets
    if options.bitrate:
        assert result.sent_bps == pytest.approx(options.bitrate, rel=0.1)


@pytest.mark.trio
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("parallel", [1, 3])
async def test_a_real_server_over_udp(reverse: bool, parallel: int) -> None:
    result, report = await real_server(
        Iperf3Options(time=1, udp=True, bitrate=2e6, block=1000, parallel=parallel, reverse=reverse)
    )
    assert result.sent_octets == pytest.approx(250_000 * parallel, rel=0.1)
    assert result.datagrams == pytest.approx(250 * parallel, rel=0.1) and result.lost == 0
    assert report["end"]["sum"]["lost_packets"] == 0 and result.jitter < 0.05


@pytest.mark.trio
async def test_a_busy_real_server_denies() -> None:
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port = await free_port()
            command = ["iperf3", "-s", "-B", HOST, "-p", str(port)]
            nursery.start_soon(partial(trio.run_process, command, capture_stdout=True, check=False))
            long = Iperf3Options(time=2, bitrate=1e6)
            await trio.sleep(0.5)
            nursery.start_soon(partial(run_client, HOST, port, long, randomness=DRAWS))
            await trio.sleep(0.5)
            with pytest.raises(PeerError, match="busy"):
                await run_client(HOST, port, randomness=DRAWS)
            nursery.cancel_scope.cancel()
