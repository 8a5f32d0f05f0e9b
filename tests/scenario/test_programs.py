"""Programs that the topology starts on its guests: what they measure, and that none of them can end the lab."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import trio

import vnet
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.lab import Lab
from vnet.runtime.programs import MOST_RESTARTS
from vnet.runtime.sinks import MemorySink
from vnet.runtime.views import show
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology

LOSSY = """
name: lossy
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  web: {nics: [{network: lan, address: 10.0.0.1, rate: 100mbit, latency: 5ms, loss: 5%}], run: [sink, iperf3, echo]}
  pc:
    nics: [{network: lan, address: 10.0.0.2}]
    run:
      - {traffic: {to: web, rate: 500/s, duration: 20s}}
      - {traffic: {to: web, pattern: poisson, rate: 500/s, size: 200, duration: 20s}}
      - {traffic: {to: web, pattern: onoff, rate: 1mbit, size: 500, duration: 20s, protocol: tcp}}
      - {traffic: {to: web, pattern: request, rate: 20/s, duration: 20s}}
      - {iperf3_client: {to: web, udp: true, bitrate: 1mbit, time: 20s, block: 500}}
"""


@pytest.mark.vnet(LOSSY)
async def test_a_lossy_cable_shows_in_all_numbers(lab: Lab) -> None:
    """5 % one way: of 10,000 messages 500 get lost, give or take 22; a request is lost on either of two ways."""
    await lab.wait_programs()
    constant, poisson, onoff, request, iperf3 = lab.guests["pc"].results
    assert constant["sent"] == 10_000 and constant["loss"] == pytest.approx(0.05, abs=0.008)
    assert (
        constant["delay_p50_s"] == pytest.approx(0.005 + 578 * 8 / 100e6) and constant["delay_max_s"] < 0.05
    )  # with preamble, FCS and gap
    assert constant["throughput_bps"] == pytest.approx(500 * 512 * 8 * 0.95, rel=0.02)
    assert poisson["sent"] == pytest.approx(10_000, abs=400) and poisson["loss"] == pytest.approx(0.05, abs=0.008)
    assert onoff["lost"] == 0 and onoff["received"] > 1000 and onoff["delay_p50_s"] < 0.01 < 0.1 < onoff["delay_max_s"]
    assert request["loss"] == pytest.approx(1 - 0.95**2, abs=0.05) and request["delay_p50_s"] > 0.01
    assert iperf3["datagrams"] == pytest.approx(5000, abs=1) and iperf3["loss"] == pytest.approx(0.05, abs=0.011)
    flows = [row for row in lab.guests["web"].results if row["program"] == "sink"]
    assert flows[0].keys() == {
        "program", "received", "received_octets", "duplicates", "reordered", "first_sent_s", "last_arrival_s",
        "delay_p50_s", "delay_p90_s", "delay_p99_s", "delay_max_s",
    }  # fmt: skip
    assert 0 < flows[0]["first_sent_s"] < flows[0]["last_arrival_s"] <= lab.now
    assert constant["duration_s"] == pytest.approx(20, rel=0.01) and 0 < iperf3["jitter_s"] < 1 < iperf3["duration_s"]
    assert sorted(row["received"] for row in flows)[-2:] == sorted([constant["received"], poisson["received"]])
    assert not [event for event in lab.events if event.kind == "program-failed"]


def run_once(seed: int) -> tuple[str, str, bytes]:
    async def main() -> tuple[str, str, bytes]:
        async with vnet.open_lab(parse_topology(LOSSY.replace("20s", "2s"))) as lab:
            sink = MemorySink()
            with_capture = lab.captures.start(sink)
            await lab.wait_programs()
            with_capture.finish()
            return json.dumps(show(lab, "guests")), lab.events.to_lines(), sink.octets()

    return vnet.simulate(main, seed=seed)


def test_one_seed_is_one_result() -> None:
    first = run_once(3)
    assert first == run_once(3)
    assert first != run_once(4)


FILES = """
name: files
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  web: {nics: [lan], run: [{http: {folder: www}}, {dns: {names: {www.example: 10.0.0.80}}}]}
  pc: {nics: [lan], run: [{traffic: {to: old, rate: 10/s, count: 5}}]}
  old: {kind: namespace, nics: [lan], run: [sink]}
"""


def test_files_and_names_for_guests_with_leases(tmp_path: Path) -> None:
    """And a guest of kind namespace is emulated in a simulation, programs and all."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("<p>hello")
    (tmp_path / "files.yaml").write_text(FILES)

    async def ask() -> tuple[str, bytes]:
        async with httpx.AsyncClient() as client:
            page = (await client.get("http://web/")).text
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket:
            query = bytes.fromhex("0007 0100 0001 0000 0000 0000 03777777 076578616d706c65 00 0001 0001")
            await socket.sendto(query, ("web", 53))
            return page, await socket.recv(512)

    async def main() -> None:
        async with vnet.open_lab(tmp_path / "files.yaml") as lab:
            await lab.wait_up()
            pc = lab.guests["pc"]
            assert isinstance(pc, EmulatedGuest)
            page, answer = await pc.run(ask)
            assert page == "<p>hello" and answer[-4:] == bytes((10, 0, 0, 80))
            await lab.wait_programs()
            assert pc.results[0]["received"] == 5

    vnet.simulate(main)


BROKEN = """
name: broken
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  web:
    nics: [{network: lan, address: 10.0.0.1}]
    run: [{http: {folder: nowhere}}, echo, "programs_of_a_test:serve"]
  pc:
    nics: [{network: lan, address: 10.0.0.2}]
    run:
      - "programs_of_a_test:measure"
      - "programs_of_a_test:in_vain"
      - "programs_of_a_test:not_async"
      - "programs_of_a_test:absent"
      - "no_such_module_anywhere:main"
      - {iperf3_client: {to: 10.0.0.1}}
      - {traffic: {to: 10.0.0.99, rate: 10/s, count: 3}}
"""

PROGRAMS = """
import trio


async def shout(stream):
    async for part in stream:
        await stream.send_all(part.upper())


async def serve(guest):
    await trio.serve_tcp(shout, 1234)


async def measure(guest):
    async with await trio.open_tcp_stream("web", 1234) as stream:
        await stream.send_all(b"hello")
        return {"heard": (await stream.receive_some()).decode(), "by": guest.name}


async def in_vain(guest):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.open_tcp_stream, "web", 4321)


def not_async(guest):
    pass
"""


def test_what_fails_is_an_event_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    (tmp_path / "programs_of_a_test.py").write_text(PROGRAMS)

    async def main() -> None:
        async with vnet.open_lab(tmp_path / "broken.yaml") as lab:
            with trio.move_on_after(100):
                await lab.guests["pc"].programs[-1].ended.wait()
            assert await lab.ping("pc", "web")
            states = {each.name: each.state for each in lab.guests["pc"].programs}
            assert list(states.values()) == ["done", "failed", "failed", "failed", "failed", "failed", "failed"]
            assert lab.guests["pc"].results == [{"program": "programs_of_a_test:measure", "heard": "HELLO", "by": "pc"}]
            assert [each.state for each in lab.guests["web"].programs] == ["failed", "running", "running"]
            failed = {str(e.fields["program"]): str(e.fields["error"]) for e in lab.events if e.kind == "program-failed"}
            assert failed["http"] == f"UsageError: there is no folder {tmp_path / 'nowhere'}"
            assert failed["programs_of_a_test:in_vain"].startswith("OSError")
            assert "no async function" in failed["programs_of_a_test:not_async"]
            assert "no function" in failed["programs_of_a_test:absent"]
            assert failed["no_such_module_anywhere:main"].startswith("ModuleNotFoundError")
            assert failed["iperf3_client"].startswith("OSError")
            assert failed["traffic"].startswith("PeerError: no traffic sink")
            (row,) = [row for row in show(lab, "guests") if row["name"] == "web"]
            assert json.dumps(row["programs"]).count('"state": "running"') == 2

    vnet.simulate(main)


def test_a_server_begins_anew_when_its_sockets_were_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a crash of the guest; but not again and again at one instant."""
    ends = [1.0, 2.0, *[0.0] * (MOST_RESTARTS + 1)]
    begun: list[float] = []

    async def serve(port: int, *, services: object, task_status: trio.TaskStatus[int]) -> None:
        begun.append(trio.current_time())
        task_status.started(port)
        await trio.sleep(ends.pop(0))
        raise trio.ClosedResourceError

    monkeypatch.setattr("vnet.programs.echo.serve", serve)

    async def main() -> list[str]:
        text = "{name: lab, networks: {lan: }, guests: {pc: {nics: [lan], run: [echo]}}}"
        async with vnet.open_lab(parse_topology(text)) as lab:
            await lab.guests["pc"].programs[0].ended.wait()
            return [event.kind for event in lab.events if event.kind.startswith("program")]

    assert vnet.simulate(main) == ["program-restarted"] * (2 + MOST_RESTARTS) + ["program-failed"]
    assert begun == [0.0, 1.0, 3.0, *[3.0] * MOST_RESTARTS]


@pytest.mark.parametrize(
    "program",
    [
        "{traffic: {to: web, pattern: bulk}}",
        "{traffic: {to: web, pattern: request}}",
        "{iperf3_client: {to: web}}",
        "{iperf3_client: {to: web, reverse: true}}",
        "{iperf3_client: {to: web, octets: 1MB}}",
    ],
)
def test_traffic_that_nothing_holds_back_does_not_stop_the_lab(program: str) -> None:
    """Over ideal cables no time passes, so what ends by time never would."""
    text = LOSSY.replace("rate: 100mbit, latency: 5ms, loss: 5%", "")
    text = text[: text.index("    run:\n")] + f"    run: [{program}]\n"

    async def main() -> tuple[str, str]:
        async with vnet.open_lab(parse_topology(text)) as lab:
            await lab.wait_programs(check=False)
            assert await lab.ping("pc", "web")
            found = lab.guests["pc"].programs[0]
            return found.state, found.error

    state, error = vnet.simulate(main)
    if "octets" in program:
        assert state == "done"
    else:
        assert state == "failed"
        assert "nothing holds this traffic back" in error or "reverse" in program and "closed" in error


def test_two_labs_may_have_modules_of_one_name(tmp_path: Path) -> None:
    """Even of a name that Python has itself."""

    async def main(folder: Path) -> object:
        async with vnet.open_lab(folder / "lab.yaml") as lab:
            await lab.wait_programs()
            return lab.guests["pc"].results[0]["from"]

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "json.py").write_text(f"async def go(guest):\n    return {{'from': {name!r}}}\n")
        (tmp_path / name / "lab.yaml").write_text(
            "{name: lab, networks: {lan: {subnet: 10.0.0.0/24}},"
            " guests: {pc: {nics: [{network: lan, address: 10.0.0.1}], run: ['json:go']}}}"
        )
        assert vnet.simulate(main, tmp_path / name) == name


def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async def main() -> None:
        async with vnet.open_lab(parse_topology(LOSSY)):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        vnet.simulate(main)


@pytest.fixture
def with_namespace() -> ResolvedTopology:
    return parse_topology("{name: vtrun, networks: {lan: }, guests: {pc: {kind: namespace, nics: [lan], run: [echo]}}}")


@pytest.mark.trio
async def test_a_live_lab_refuses_programs_for_namespaces(
    with_namespace: ResolvedTopology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path))
    with pytest.raises(vnet.HostError, match="guest pc: run is for emulated guests"):
        async with vnet.open_lab(with_namespace):
            pass


@pytest.mark.trio
async def test_an_emulated_live_lab_runs_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("vnet.programs.traffic.RESPONSE_TIMEOUT", 0.1)  # one of ten first requests gets lost
    text = LOSSY.replace("20s", "1s").replace("name: lossy", "name: vtrun").replace("  web: {", "  web: {kind: namespace, ")
    with trio.fail_after(20):
        async with vnet.open_lab(parse_topology(text), emulate=True) as lab:
            await lab.wait_programs()
            assert [row["program"] for row in lab.guests["pc"].results] == ["traffic"] * 4 + ["iperf3_client"]
            assert all(row["received"] for row in lab.guests["pc"].results[:4])
