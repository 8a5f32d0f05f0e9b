"""``vnet up``: virtual time, the foreground, detached; and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnet.errors import LabError
from vnet.runtime import client
from vnet.runtime.places import place_of
from vnet.wire import pcapng

if TYPE_CHECKING:
    from .conftest import Run

DHCP = """\
name: leased
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests: {a: {nics: [lan]}, b: {nics: [{network: lan, address: 10.0.0.9/24}]}}
"""


@pytest.fixture
def leased(tmp_path: Path) -> Path:
    path = tmp_path / "leased.yaml"
    path.write_text(DHCP)
    return path


def test_simulate_until_all_are_up(run: Run, leased: Path) -> None:
    status, out, err = run("up", leased, "--simulate")
    assert status == 0
    assert out.splitlines()[-1] == "ready"
    assert "1 of 239 leased" in out
    assert f"simulating {leased}, seed 0, until all are up" in err


def test_the_words_may_come_in_any_order(run: Run, leased: Path) -> None:
    assert run("up", "--simulate", leased).out == run("up", leased, "--simulate").out
    assert run("up", "--simulate", "10s", leased).out == run("up", leased, "--simulate", "10s").out


ODD = """\
name: odd
networks: {lan: {subnet: 10.0.0.0/24}}
guests: {a: {nics: [{network: lan, address: 10.0.0.1/24, gateway: 10.0.0.9}]}}
"""


@pytest.mark.parametrize("options", [("--simulate",), ("--detach", "--emulate")])
def test_warnings_are_told_once(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(ODD)
    (warning,) = [line for line in run("check", path).out.splitlines() if "warning:" in line]
    assert "10.0.0.9" in warning
    try:
        status, out, err = run("up", path, "--json", *options)
    finally:
        run("down", "odd")
    assert status == 0 and err.count("warning:") == 1 and warning in err
    (problem,) = json.loads(out)["problems"]
    assert (problem["severity"], problem["line"]) == ("warning", 3) and "10.0.0.9" in problem["text"]


def test_a_simulation_is_the_same_every_time(run: Run, leased: Path, tmp_path: Path) -> None:
    """In two processes with different hash seeds: captures and event logs agree to the octet; another seed does not."""
    files = []
    for hash_seed in ("1", "2"):
        capture, events = tmp_path / f"{hash_seed}.pcapng", tmp_path / f"{hash_seed}.jsonl"
        subprocess.run(
            [sys.executable, "-m", "vnet", "up", leased, "--simulate", "40h", "--seed=7", f"--capture={capture}",
             f"--events={events}"],
            check=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        files.append((capture.read_bytes(), events.read_bytes()))
    assert files[0] == files[1]
    other = tmp_path / "other.pcapng"
    assert run("up", leased, "--simulate", "40h", "--seed=8", f"--capture={other}").status == 0
    assert files[0][0] != other.read_bytes()
    packets = pcapng.read(files[0][0])
    assert 18 * 3600 < packets[-1].instant / 1e9 <= 40 * 3600  # the client renewed
    assert json.loads(files[0][1].splitlines()[0])["instant"] == 0


def test_simulate_as_json(run: Run, leased: Path) -> None:
    data = json.loads(run("up", leased, "--simulate", "1h", "--seed", 3, "--json").out)
    assert (data["name"], data["seed"], data["time_s"], data["live"], data["ready"]) == ("leased", 3, 3600.0, False, True)
    assert data["guests"][1]["interfaces"][0]["addresses"] == ["10.0.0.9/24"]
    assert data["guests"][0]["interfaces"][0]["dhcp"] == "bound"


def test_leases_outlive_the_lab(run: Run, leased: Path, tmp_path: Path) -> None:
    first = run("up", leased, "--simulate", "--state", tmp_path / "state")
    second = run("up", leased, "--simulate", "--state", tmp_path / "state", "--seed", 5)
    assert first.status == second.status == 0
    assert first.out == second.out


def test_a_topology_that_is_wrong(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nguests: {a: {nics: [lan]}}\n")
    for extra in (("--simulate",), (), ("--detach",)):
        status, out, err = run("up", path, *extra)
        assert (status, out) == (1, "")
        assert f"{path}:2:" in err


def test_files_that_cannot_be_written(run: Run, leased: Path, tmp_path: Path) -> None:
    for option in ("--capture", "--events"):
        status, out, err = run("up", leased, "--simulate", option, tmp_path / "no" / "x")
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].startswith("vnet: cannot write ")


def test_a_client_that_gets_no_address(run: Run, leased: Path) -> None:
    status, out, err = run("up", leased, "--simulate", "--timeout", 0.001)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == "vnet: no address after 0.001 s: a"


def start(topology: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "vnet", "up", topology], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            return process
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_nothing_is_left(run: Run, topology: Path, number: signal.Signals) -> None:
    process = start(topology)
    place = place_of("tiny")
    assert place.is_running() and place.control.is_socket()
    assert place.control.stat().st_mode & 0o777 == 0o600
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in err and "rror" not in err
    assert not place.directory.exists()


def test_detached(run: Run, topology: Path, tmp_path: Path) -> None:
    status, out, err = run("up", topology, "--detach", "--capture", tmp_path / "x.pcapng")
    assert status == 0, err
    assert out.splitlines()[-1] == "ready"
    place = place_of("tiny")
    assert place.is_running() and place.log.exists()
    assert run("ping", "tiny", "a", "c").status == 0
    again = run("up", topology, "--detach")
    assert again.status == 2
    assert "vnet down tiny ends it" in again.err
    assert run("down", "tiny").status == 0
    assert not place.directory.exists()
    assert len(pcapng.read((tmp_path / "x.pcapng").read_bytes())) >= 4


def test_two_labs_run_side_by_side(run: Run, topology: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(topology.read_text().replace("name: tiny", "name: other"))
    for path in (topology, other):
        assert run("up", path, "--detach").status == 0
    assert [row["name"] for row in json.loads(run("ls", "--json").out)] == ["other", "tiny"]
    for name in ("tiny", "other"):
        assert run("ping", name, "a", "c").status == 0
    assert run("down", "--all").out == "other: ended\ntiny: ended\n"


def test_down_cleans_up_after_a_lab_that_was_killed(run: Run, topology: Path) -> None:
    process = start(topology)
    process.kill()
    process.communicate()
    assert "dead" in run("ls").out
    assert "vnet down tiny removes what it left" in run("show", "tiny").err
    assert run("down", "tiny") == (0, "tiny: was dead; nothing of it is left\n", "")
    assert not place_of("tiny").directory.exists()


def test_down_ends_a_lab_that_does_not_listen(run: Run, topology: Path) -> None:
    process = start(topology)
    place_of("tiny").control.unlink()
    assert run("show", "tiny").status == 1
    assert run("ls").out.splitlines()[1].startswith("tiny  no commands")
    assert run("down", "tiny").status == 0
    assert process.wait(5) == 0


def test_down_all_spares_the_labs_that_a_program_runs(run: Run, topology: Path, tmp_path: Path) -> None:
    process = start(topology)
    own = tmp_path / "own.yaml"
    code = f"import trio, vnet\nasync def main():\n    async with vnet.open_lab({str(own)!r}, emulate=True):\n"
    code += "        print('open', flush=True)\n        await trio.sleep_forever()\ntrio.run(main)"
    own.write_text(topology.read_text().replace("name: tiny", "name: own"))
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None and program.stdout.readline() == "open\n"
        status, out, err = run("down", "--all")
        assert (status, out) == (0, "tiny: ended\n") and "own: left alone" in err
        assert process.wait(5) == 0 and program.poll() is None
        assert run("down", "own").out == "own: ended\n"
        assert program.wait(5) == -signal.SIGTERM
        assert not place_of("own").directory.exists()
    finally:
        program.kill()
        program.communicate()


def test_down_does_not_wait_for_an_answer_without_end(run: Run, topology: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.05)
    process = start(topology)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LabError, match="does not end"):
        client.end_lab(place_of("tiny"), grace=0.1)
    process.send_signal(signal.SIGCONT)
    assert process.wait(5) == 0


def test_a_signal_while_it_starts(run: Run, leased: Path) -> None:
    """DHCP takes seconds of real time; a signal in between ends the lab before it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vnet", "up", leased], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting for the addresses of a" in line:
            break
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert time.monotonic() - started < 5
    assert "Traceback" not in err
    assert not place_of("leased").directory.exists()


def test_programs_that_fail_are_told(run: Run, tmp_path: Path) -> None:
    """Those that fail at once, and those that fail later."""
    path = tmp_path / "failing.yaml"
    path.write_text(
        DHCP.replace("{a: {nics: [lan]}", "{a: {nics: [lan], run: [{iperf3_client: {to: b}}]}").replace(
            "9/24}]", "9/24}], run: [{http: {folder: nowhere}}]"
        )
    )
    status, out, err = run("up", path, "--simulate", "10s")
    assert (status, out.splitlines()[-1]) == (1, "ready")
    assert err.splitlines()[-1].endswith("but 2 of 2 programs failed: iperf3_client on a, http on b")
    assert "b: program http failed: UsageError: there is no folder" in err
    assert "a: program iperf3_client failed: " in err
    failed = [line.split(maxsplit=3) for line in out.splitlines() if " failed " in line]
    assert [line[:3] for line in failed] == [["a", "iperf3_client", "failed"], ["b", "http", "failed"]]
    assert failed[1][3].startswith("UsageError: there is no folder")


def test_what_programs_measured_is_printed(run: Run, tmp_path: Path) -> None:
    """A line for each result, with what JSON has in full."""
    path = tmp_path / "measuring.yaml"
    traffic = "{traffic: {to: b, rate: 10/s, count: 20}}"
    path.write_text(
        DHCP.replace("{a: {nics: [lan]}", f"{{a: {{nics: [lan], run: [{traffic}, {traffic}]}}").replace(
            "9/24}]", "9/24}], run: [echo, sink]"
        )
    )
    status, out, err = run("up", path, "--simulate", "1min")
    assert status == 0 and "failed" not in err
    lines = out[out.index("GUEST  PROGRAM") :].splitlines()
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["a", "traffic", "done"], ["a", "traffic", "done"], ["b", "echo", "running"], ["b", "sink", "running"],
    ]  # fmt: skip
    assert " to=b pattern=cbr sent=20 received=20 " in lines[1]
    rows = json.loads(run("up", path, "--simulate", "1min", "--json").out)["programs"]
    assert rows[0]["guest"] == "a" and rows[0]["results"][0]["received"] == 20
