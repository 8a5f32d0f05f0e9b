"""The command line with namespace guests and real programs, as root: exec, captures of super-frames, death and clean-up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAME = f"vtcli{os.getpid()}"
TOPOLOGY = f"""\
name: {NAME}
networks: {{lan: {{subnet: 10.77.0.0/24}}}}
guests:
  x: {{kind: namespace, nics: [{{network: lan, address: 10.77.0.1/24}}]}}
  y: {{kind: namespace, nics: [{{network: lan, address: 10.77.0.2/24}}]}}
"""
SERVER = """
import socket
listening = socket.create_server(("10.77.0.2", 7777))
print("listening", flush=True)
connection, _ = listening.accept()
octets = 0
while data := connection.recv(1 << 20):
    octets += len(data)
print(octets)
"""
CLIENT = """
import socket
connection = socket.create_connection(("10.77.0.2", 7777))
connection.sendall(bytes(3_000_000))
"""


def vnet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vnet", *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vnet", *(str(each) for each in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def namespaces() -> list[str]:
    return [name for name in os.listdir("/run/netns") if name.startswith(NAME)] if os.path.isdir("/run/netns") else []


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    path = tmp_path / "lab.yaml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture
def lab(topology: Path) -> Iterator[str]:
    result = vnet("up", topology, "--detach")
    assert result.returncode == 0, result.stderr
    yield NAME
    result = vnet("down", NAME)
    assert result.returncode == 0, result.stderr
    assert namespaces() == []


def test_exec_passes_output_input_and_status(lab: str) -> None:
    result = vnet("exec", lab, "x", "--", "ip", "-json", "addr", "show", "eth0")
    assert json.loads(result.stdout)[0]["addr_info"][0]["local"] == "10.77.0.1"
    assert vnet("exec", lab, "x", "--", "sh", "-c", "exit 7").returncode == 7
    assert vnet("exec", lab, "x", "ping", "-c1", "-W1", "10.77.0.2").returncode == 0
    missing = vnet("exec", lab, "x", "--", "no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "vnet: no-such-program: command not found\n")
    assert vnet("exec", lab, "z", "--", "ls").returncode == 2


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_super_frames_are_captured_as_ordinary_frames(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    server = started("exec", lab, "y", "--", sys.executable, "-c", SERVER)
    assert server.stdout is not None and server.stdout.readline() == "listening\n"
    capture = started("capture", lab, "x", "-w", file)
    assert capture.stderr is not None and capture.stderr.readline() == "capturing x:eth0; Ctrl-C ends it\n"
    assert vnet("exec", lab, "x", "--", sys.executable, "-c", CLIENT).returncode == 0
    assert server.communicate(timeout=20)[0] == "3000000\n"
    capture.send_signal(signal.SIGINT)
    verdict = capture.communicate(timeout=20)[1]
    assert "more came faster" not in verdict
    fields = [
        "frame.len",
        "tcp.checksum.status",
        "ip.checksum.status",
        "_ws.malformed",
        "tcp.len",
        "frame.packet_flags_direction",
    ]
    command = [
        "tshark",
        "-n",
        "-r",
        str(file),
        "-o",
        "tcp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
        "-T",
        "fields",
    ]
    output = subprocess.run(
        [*command, *(part for field in fields for part in ("-e", field)), "-Y", "tcp"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    rows = [line.split("\t") for line in output.splitlines()]
    assert max(int(row[0]) for row in rows) == 1514
    assert {tuple(row[1:4]) for row in rows} == {("1", "1", "")}
    assert sum(int(row[4]) for row in rows if int(row[5], 0) == 2) >= 3_000_000


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_a_pipe_into_tshark(lab: str) -> None:
    script = f"{sys.executable} -m vnet capture {lab} x --filter icmp --count 4 | tshark -n -i - -T fields -e icmp.type"
    pipe = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert pipe.stderr is not None
    while "capturing x:eth0" not in pipe.stderr.readline():
        pass
    assert vnet("ping", lab, "x", "y", "-c", 2, "-i", 0.05).returncode == 0
    assert pipe.communicate(timeout=20)[0].split() == ["8", "0", "8", "0"]


def test_ping_and_pingall(lab: str) -> None:
    assert vnet("pingall", lab).returncode == 0
    closed = vnet("pingall", lab, "--protocol", "tcp", "--port", 9)
    assert "tcp port 9: 2 of 2 pairs reached, just as the rules say" in closed.stdout


def test_kill_9_and_down(topology: Path) -> None:
    process = started("up", topology)
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    assert sorted(namespaces()) == [f"{NAME}-x", f"{NAME}-y"]
    process.kill()
    process.communicate()
    assert len(namespaces()) == 2
    (row,) = json.loads(vnet("ls", "--json").stdout)
    assert (row["state"], row["left_behind"] >= 2) == ("dead", True)
    result = vnet("down", NAME)
    assert result.returncode == 0
    assert f"removed namespace /run/netns/{NAME}-x" in result.stdout
    assert namespaces() == []
    assert json.loads(vnet("ls", "--json").stdout) == []
