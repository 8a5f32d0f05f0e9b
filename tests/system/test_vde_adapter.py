"""VDE: plugged into a vde_switch, and as a switch that vde_plug plugs into."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Machine
from rig import needs
from waiting import wait_until

from vnet.adapters.vde_wire import ADDRESS, MAGIC, NEW_PORT, REQUEST, VERSION
from vnet.wire.arp import request_frame

pytestmark = [pytest.mark.real, needs("ping", "vde_switch", "vde_plug", "dpipe")]

LAB = """
name: NAME
networks:
  lan: {subnet: 10.9.0.0/24, adapter: {vde: ADAPTER}}
guests:
  a: {nics: [{network: lan, address: ADDRESS/24}], run: [iperf3]}
"""


def lab(adapter: str, address: str = "10.9.0.5") -> str:
    return LAB.replace("ADAPTER", adapter).replace("ADDRESS", address)


@pytest.fixture
def start(host: Machine) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a program that ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(host.argv(*words), stdin=subprocess.PIPE, stdout=quiet, stderr=quiet))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def reaches(host: Machine, address: str) -> bool:
    return host.run("ping", "-c", "2", "-i", "0.2", "-W", "2", address, check=False).returncode == 0


def switch_with_a_tap(host: Machine, start: Callable[..., subprocess.Popen[bytes]], folder: Path) -> subprocess.Popen[bytes]:
    process = start("vde_switch", "-sock", str(folder), "-tap", "tap0")
    wait_until(lambda: "tap0" in host.interfaces() and (folder / "ctl").exists(), "vde_switch")
    host.run("ip", "addr", "replace", "10.9.0.9/24", "dev", "tap0")
    host.run("ip", "link", "set", "tap0", "up")
    return process


def test_plugged_into_a_switch(host: Machine, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    folder = tmp_path / "vde"
    switch = switch_with_a_tap(host, start, folder)
    host.up(lab(str(folder)))
    assert reaches(host, "10.9.0.5")
    assert host.run("iperf3", "-c", "10.9.0.5", "-n", "10M").returncode == 0
    switch.kill()
    switch.wait()
    state = "unbound: the vde_switch at"
    wait_until(lambda: str(host.show(host.name, "networks")[0]["state"]).startswith(state), "end of the switch")
    (folder / "ctl").unlink(missing_ok=True)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    switch_with_a_tap(host, start, folder)
    wait_until(lambda: host.show(host.name, "networks")[0]["state"] == "up", "switch that came back")
    assert reaches(host, "10.9.0.5")


def test_no_switch_is_an_error(host: Machine, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no vde_switch at"):
        host.up(lab(str(tmp_path / "nothing")))


def test_the_lab_is_a_switch(host: Machine, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """A vde_switch with a TAP is joined to the lab by two plugs, as people join switches; then the cable is cut."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    running = host.up(lab(f"{{listen: {ours}}}"))
    switch_with_a_tap(host, start, theirs)
    cable = start("dpipe", "vde_plug", str(ours), "=", "vde_plug", str(theirs))
    wait_until(lambda: host.show(host.name, "networks")[0]["details"]["clients"] == 1, "client")
    assert reaches(host, "10.9.0.5")
    subprocess.run(["pkill", "-P", str(cable.pid)], check=False)
    cable.kill()
    wait_until(lambda: host.show(host.name, "networks")[0]["details"]["clients"] == 0, "end of the client")
    host.vnet("down", host.name)
    assert running.wait(10) == 0
    assert not ours.exists()


def test_two_labs(host: Machine, tmp_path: Path) -> None:
    """One is the switch, the other plugs in; after a kill the directory is used again."""
    folder = tmp_path / "ours"
    first = host.up(lab(f"{{listen: {folder}}}"))
    name = host.name
    host.name = f"vt{secrets.token_hex(3)}"  # the other lab's; the namespace is the same
    try:
        second = host.directory / "second.yaml"
        second.write_text(lab(str(folder), "10.9.0.6").replace("NAME", host.name))
        command = ["vnet", "up", str(second), "--detach"]
    finally:
        lab_name, host.name = host.name, name
    host.vnet(*command[1:])
    try:
        assert host.vnet("ping", lab_name, "a", "10.9.0.5").returncode == 0
        first.kill()
        first.wait()
        host.up(lab(f"{{listen: {folder}}}"))
        wait_until(lambda: host.vnet("ping", lab_name, "a", "10.9.0.5", check=False).returncode == 0, "way back")
    finally:
        host.vnet("down", lab_name, check=False)


def test_nonsense_at_the_control_socket(host: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    host.up(lab(f"{{listen: {folder}}}"))

    def say(words: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(10)
            control.connect(str(folder / "ctl"))
            control.sendall(words)
            return control.recv(200)

    nobody = REQUEST.pack(MAGIC, VERSION, NEW_PORT, socket.AF_UNIX, b"/nowhere/to/be/found")
    for words in (b"x", os.urandom(200), REQUEST.pack(1, 3, 0, 1, b"/x"), REQUEST.pack(MAGIC, VERSION, 9, 1, b"/x"), nobody):
        assert say(words) == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.bind(str(tmp_path / "mine"))
        mine.settimeout(10)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.connect(str(folder / "ctl"))
            path = str(tmp_path / "mine").encode()
            control.sendall(REQUEST.pack(MAGIC, VERSION, NEW_PORT, socket.AF_UNIX, path) + b"a test")
            _, where = ADDRESS.unpack(control.recv(ADDRESS.size))
            mine.connect(where.split(b"\0")[0])
            for frame in (b"", b"x", os.urandom(13), os.urandom(30_000)):
                mine.send(frame)
            mine.send(request_frame(bytes.fromhex("020000000001"), bytes((10, 9, 0, 9)), bytes((10, 9, 0, 5))))
            while True:
                answer = mine.recv(2000)
                if answer[12:14] == b"\x08\x06" and answer[20:22] == b"\0\2":
                    break
    (row,) = host.show(host.name, "networks")
    assert row["details"]["drops"] == {"bad-request": 5, "malformed": 4}
