"""The commands that speak with a running lab: a live one, of emulated guests, in a thread of this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnet.runtime.client import RemoteCapture
from vnet.runtime.views import VIEWS
from vnet.wire import pcapng

if TYPE_CHECKING:
    from .conftest import LabThread, Run


def test_ls(run: Run, lab: LabThread) -> None:
    status, out, _ = run("ls")
    assert status == 0
    assert out.splitlines()[1].split()[:3] == ["tiny", "running", "live"]
    (row,) = json.loads(run("ls", "--json").out)
    assert (row["name"], row["state"], row["guests"], row["networks"]) == ("tiny", "running", 3, 3)


def test_ping(run: Run, lab: LabThread) -> None:
    status, out, err = run("ping", "tiny", "a", "b", "-c", 2, "-i", 0)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["reply from 10.0.0.2: seq 1", "reply from 10.0.0.2: seq 2"]
    assert lines[2].startswith("a to b: 2 sent, 2 received, 0% lost, rtt min/avg/max ")
    data = json.loads(run("ping", "tiny", "a", "10.0.1.3", "--json").out)
    assert (data["received"], data["replies"][0]["from"]) == (1, "10.0.1.3")
    assert 0 < data["rtt_min_s"] < 1


def test_ping_without_an_answer(run: Run, lab: LabThread) -> None:
    status, out, _ = run("ping", "tiny", "c", "a", "-W", 0.05)
    assert status == 1
    assert out == "seq 1: no answer\nc to a: 1 sent, 0 received, 100% lost\n"


def test_unknown_names_are_wrong_use(run: Run, lab: LabThread) -> None:
    assert run("ping", "tiny", "x", "a").status == 2
    assert run("ping", "tiny", "a", "x").status == 2
    assert "did you mean 'tiny'?" in run("ping", "tny", "a", "b").err


def test_pingall(run: Run, lab: LabThread) -> None:
    status, out, _ = run("pingall", "tiny", "-W", 0.2)
    assert (status, out) == (
        0,
        "FROM \\ TO  A    B    C\n"
        "a               yes  yes\n"
        "b          yes       yes\n"
        "c          -    -\n"
        "\n"
        "FROM  TO   RULES ALLOW  MEASURED  WHY\n"
        "lan   lan  2 of 2       2 of 2    same network\n"
        "lan   far  2 of 2       2 of 2    through r\n"
        "far   lan  0 of 2       0 of 2    firewall of r: no rule allows far to lan\n"
        "icmp: 4 of 6 pairs reached, just as the rules say\n",
    )
    assert run("set", "tiny", "b:eth0", "down").status == 0
    status, out, _ = run("pingall", "tiny", "-W", 0.2, "-p", "tcp", "--port", 80)
    assert status == 1
    assert "tcp port 80: 1 of 6 pairs reached, 3 differ from what the rules say" in out
    assert "a > b: not reached" in out and "but the rules say: same network" in out
    data = json.loads(run("pingall", "tiny", "-W", 0.2, "--json").out)
    assert data["differences"] == 3
    assert data["matrix"][0] | {"detail": ""} == {
        "from": "a", "to": "b", "from_network": "lan", "to_network": "lan", "reached": False, "detail": "",
        "rtt_s": None, "expected": True, "reason": "same network", "through": [], "agrees": False,
    }  # fmt: skip


@pytest.mark.parametrize("what", sorted(VIEWS))
def test_show_everything(run: Run, lab: LabThread, what: str) -> None:
    run("ping", "tiny", "a", "c")
    rows = json.loads(run("show", "tiny", what, "--json").out)
    status, out, err = run("show", "tiny", what)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1 + len(rows)
    assert rows or what in ("leases", "nat", "programs")


def test_show_says_what_is(run: Run, lab: LabThread) -> None:
    run("ping", "tiny", "a", "b")
    entries = json.loads(run("show", "tiny", "fdb", "--json").out)
    assert {(each["switch"], each["vlan"], each["owner"], each["peer"]) for each in entries} >= {
        ("core", 10, "a:eth0", "a:eth0"), ("core", 10, "b:eth0", "edge"), ("edge", 10, "a:eth0", "core"),
    }  # fmt: skip
    (ports,) = [each for each in json.loads(run("show", "tiny", "ports", "--json").out) if each["name"] == "core:a:eth0"]
    assert (ports["state"], ports["mode"], ports["pvid"], ports["untagged"], ports["tagged"]) == (
        "up",
        "access",
        10,
        [10],
        [],
    )
    assert ports["rx_frames"] >= 2
    overview = json.loads(run("show", "tiny", "--json").out)
    assert set(overview) == {"networks", "guests", "leases"}
    assert overview["networks"][2]["dhcp"]["pool"] == 239


def test_set_a_link(run: Run, lab: LabThread) -> None:
    assert run("ping", "tiny", "a", "b").status == 0  # they know each other's MAC: asking again takes a second
    assert run("set", "tiny", "core-edge", "loss=100%").status == 0
    assert run("ping", "tiny", "a", "b", "-W", 0.05).status == 1
    line = run("set", "tiny", "edge,core", "loss=0", "latency=5ms", "rate=10mbit").out
    assert line == "link core-edge, state up, rate_bps 10000000, latency_s 0.005, loss 0.0, queue_octets 262144\n"
    data = json.loads(run("ping", "tiny", "a", "b", "--json").out)
    assert data["rtt_min_s"] >= 0.01


def test_set_impairments(run: Run, lab: LabThread) -> None:
    given = ("delay_variation=3ms", "reordering=1%", "duplication=100%", "corruption=0.5%")
    line = run("set", "tiny", "core-edge", "latency=5ms", *given).out
    told = "queue_octets 262144, delay_variation_s 0.003, reordering 0.01, duplication 1.0, corruption 0.005\n"
    assert line.endswith(told)
    run("ping", "tiny", "a", "b")
    (row,) = [row for row in json.loads(run("show", "tiny", "links", "--json").out) if row["name"] == "core-edge"]
    assert [row[key] for key in ("delay_variation_s", "reordering", "duplication", "corruption")] == [0.003, 0.01, 1, 0.005]
    assert row["altered"][0]["duplicated"] > 0
    table = run("show", "tiny", "links").out
    assert "up to 3ms more, reordering 0.01, duplication 1, corruption 0.005" in table
    assert "duplicated " in table
    assert run("set", "tiny", "core-edge", "corruption=2").status == 2
    assert run("set", "tiny", "core-edge", "delay_variation=0s", "reordering=0", "duplication=0", "corruption=0").status == 0
    assert "up to" not in run("show", "tiny", "links").out


def test_set_a_port(run: Run, lab: LabThread) -> None:
    assert run("ping", "tiny", "a", "b").status == 0  # they know each other's MAC: asking again takes a second
    data = json.loads(run("set", "tiny", "core:1", "down", "--json").out)
    assert data == {"port": "core:1", "name": "core:edge", "state": "disabled"}
    assert run("ping", "tiny", "a", "b", "-W", 0.05).status == 1
    assert run("set", "tiny", "core:edge", "up").out == "port core:1, name core:edge, state up\n"
    assert run("ping", "tiny", "a", "b").status == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("core-egde", "down"), "there is no link or port 'core-egde'; did you mean 'core-edge'?"),
        (("core-edge", "losss=5%"), "there is no setting 'losss' here; did you mean 'loss'?"),
        (("core-edge", "loss=500%"), "'500%' is not a ratio"),
        (("core-edge", "latency=5"), "'5' is not a duration"),
        (("core-edge", "rate=0"), "'0' is not a rate"),
        (("core-edge", "sideways"), "'sideways' is no setting: write KEY=VALUE"),
        (("core-edge", "state=sideways"), "'sideways' is no state: write up or down"),
        (("core:1", "loss=5%"), "there is no setting 'loss' here; there are: state"),
        (("core:99", "down"), "there is no link or port 'core:99'"),
        (("r", "down"), "'r' has several links: r:lan, r:far; name one of them"),
    ],
)
def test_set_refuses(run: Run, lab: LabThread, settings: tuple[str, ...], text: str) -> None:
    status, out, err = run("set", "tiny", *settings)
    assert (status, out) == (2, "")
    assert text in err
    assert len(err.splitlines()) == 1


def test_set_is_all_or_nothing(run: Run, lab: LabThread) -> None:
    assert run("set", "tiny", "core-edge", "loss=100%", "latency=x").status == 2
    assert run("ping", "tiny", "a", "b").status == 0


def test_flush(run: Run, lab: LabThread) -> None:
    run("ping", "tiny", "a", "b")
    before = len(json.loads(run("show", "tiny", "fdb", "--json").out))
    counts = json.loads(run("flush", "tiny", "fdb", "--json").out)
    assert sum(counts.values()) == before > 0
    assert run("flush", "tiny", "fdb", "edge").out == "edge: 0 entries removed\n"
    assert run("flush", "tiny", "leases").out == "pool: 0 entries removed\n"
    assert run("flush", "tiny", "nat").status == 0
    assert "there is no switch 'x'; there are: core, edge" in run("flush", "tiny", "fdb", "x").err


def test_exec_needs_a_namespace_guest(run: Run, lab: LabThread) -> None:
    status, _, err = run("exec", "tiny", "a", "--", "ls")
    assert (status, err) == (2, "vnet: a is an emulated guest and runs no programs; this lab has no namespace guests\n")


def pinging(lab: LabThread, run: Run) -> threading.Thread:
    """Ping until the lab has a capture no more."""
    from vnet.runtime.client import call
    from vnet.runtime.places import place_of

    def ping() -> None:
        assert lab.lab is not None
        deadline = time.monotonic() + 10
        while not lab.lab.captures.running and time.monotonic() < deadline:
            time.sleep(0.002)
        while lab.lab.captures.running and time.monotonic() < deadline:
            call(place_of("tiny"), "ping", {"guest": "a", "target": "b"})

    thread = threading.Thread(target=ping)
    thread.start()
    return thread


def test_capture_to_a_file(run: Run, lab: LabThread, tmp_path: Path) -> None:
    traffic = pinging(lab, run)
    status, out, err = run("capture", "tiny", "a", "core:1", "-w", tmp_path / "x.pcapng", "--filter", "icmp", "--count", 4)
    traffic.join()
    assert (status, out) == (0, "")
    assert err == "capturing core:edge, a:eth0; Ctrl-C ends it\n4 frames\n"
    packets = pcapng.read((tmp_path / "x.pcapng").read_bytes())
    assert {packet.interface.name for packet in packets} == {"core:edge", "a:eth0"}
    assert abs(packets[0].instant / 1e9 - time.time()) < 60


def test_capture_as_lines(run: Run, lab: LabThread) -> None:
    traffic = pinging(lab, run)
    status, out, _ = run("capture", "tiny", "a:*", "--text", "-f", "icmp", "-c", 2)
    traffic.join()
    assert status == 0
    lines = [line.partition(" ")[2] for line in out.splitlines()]
    a, b = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
    assert lines[0].startswith(f"a:eth0 out {a} > {b}, IPv4 10.0.0.1 > 10.0.0.2, ICMP echo request")
    assert lines[1].startswith(f"a:eth0 in  {b} > {a}, IPv4 10.0.0.2 > 10.0.0.1, ICMP echo reply")


def test_capture_ends_with_the_lab(run: Run, lab: LabThread, tmp_path: Path) -> None:
    def end() -> None:
        assert lab.lab is not None
        while not lab.lab.captures.running:
            time.sleep(0.002)
        lab.end()

    ender = threading.Thread(target=end)
    ender.start()
    status, _, err = run("capture", "tiny", "-w", tmp_path / "x.pcapng")
    ender.join()
    assert status == 0
    assert err.splitlines()[-1] == "0 frames"
    assert pcapng.read((tmp_path / "x.pcapng").read_bytes()) == []


def test_ctrl_c_ends_a_capture_and_its_file_is_whole(run: Run, lab: LabThread, tmp_path: Path) -> None:
    traffic = pinging(lab, run)
    process = subprocess.Popen(
        [sys.executable, "-m", "vnet", "capture", "tiny", "a", "-w", tmp_path / "x.pcapng"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert lab.lab is not None
    while not lab.lab.captures.running or lab.lab.captures.running[0].recorded < 4:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    traffic.join()
    assert process.returncode == 0
    data = (tmp_path / "x.pcapng").read_bytes()
    assert err.splitlines()[-1] == f"{len(pcapng.read(data))} frames"
    assert pcapng.closing_statistics(data)[0][1] >= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_reading_and_writing_loses_nothing(
    run: Run, lab: LabThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    pieces = RemoteCapture.pieces
    sent = []

    def interrupted(capture: RemoteCapture) -> Iterator[bytes]:
        for piece in pieces(capture):
            if not sent:
                os.kill(os.getpid(), number)
            sent.append(piece)
            yield piece

    before = signal.getsignal(number)
    monkeypatch.setattr(RemoteCapture, "pieces", interrupted)
    assert run("capture", "tiny", "a", "-w", tmp_path / "x.pcapng").status == 0
    assert (tmp_path / "x.pcapng").read_bytes() == b"".join(sent)
    assert len(pcapng.closing_statistics(sent[-1])) == 1
    assert signal.getsignal(number) == before


def test_a_capture_ends_with_its_reader(lab: LabThread) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vnet", "capture", "tiny", "a", "-w", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert lab.lab is not None
    assert process.stdout is not None
    process.stdout.read(4)
    process.stdout.close()  # no frame is under way that could tell
    process.wait(timeout=10)


def test_capture_of_what_is_not_there(run: Run, lab: LabThread, tmp_path: Path) -> None:
    assert "no port is called 'zzz'" in run("capture", "tiny", "zzz", "-w", tmp_path / "x").err
    assert run("capture", "tiny", "-w", tmp_path / "no" / "x").status == 2


def test_down(run: Run, lab: LabThread) -> None:
    assert run("down", "tiny") == (0, "tiny: ended\n", "")
    assert json.loads(run("ls", "--json").out) == []
    assert run("down", "tiny").status == 2
    assert run("down", "--all") == (0, "", "")
