"""Linux guests of an ordinary user: namespaces in user namespaces, and those of running processes.

The tests are root and become somebody else. /dev/net/tun is often for root only, so each command runs in a mount
namespace of its own where it is for all, as most distributions have it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine
from rig import needs
from somebody import NOBODY, as_somebody

from vnet.adapters.resources import start_time

pytestmark = [pytest.mark.real, needs("ping", "iperf3", "udhcpc", "setpriv")]

LAB = """
name: NAME
networks:
  lan: {subnet: 10.9.0.0/24, dhcp: {}}
guests:
  a: {kind: namespace, nics: [{network: lan, address: 10.9.0.5/24}]}
  b: {kind: namespace, nics: [{network: lan, dhcp: vnet}]}
  c: {kind: namespace, nics: [lan]}
  e: {nics: [{network: lan, address: 10.9.0.7/24}], run: [iperf3]}
"""


class User(Machine):
    """An ordinary user on a machine, without any capability, for whom /dev/net/tun is open."""

    def argv(self, *words: str) -> list[str]:
        tun = f'mount --bind {self.directory}/tun /dev/net/tun && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", tun, "sh", *as_somebody(self.directory, *words)]


@pytest.fixture
def user() -> Iterator[User]:
    directory = Path("/tmp") / f"vt-user-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    os.mknod(directory / "tun", 0o020666, os.makedev(10, 200))
    (directory / "tun").chmod(0o666)
    made = User(directory)
    yield made
    made.close()
    assert not (directory / "run" / made.name).exists()
    shutil.rmtree(directory)


def children(pid: int) -> list[int]:
    text = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in text.split()]


def test_namespaces_without_root(user: User) -> None:
    lab = user.up(LAB)
    inside = user.vnet(
        "exec", user.name, "a", "--", "sh", "-c", "id -u; cat /proc/self/status | grep CapEff; ls /sys/class/net"
    )
    assert inside.stdout.split()[0] == "0" and "eth0" in inside.stdout and "wire" not in inside.stdout
    told = user.run("sh", "-c", "id -u; grep CapEff /proc/self/status").stdout.split()
    assert told == [str(NOBODY), "CapEff:", "0000000000000000"]
    assert "1 received" in user.vnet("exec", user.name, "a", "--", "ping", "-c", "1", "-W", "2", "10.9.0.7").stdout
    (address,) = json.loads(user.vnet("exec", user.name, "b", "--", "ip", "-json", "-4", "addr", "show", "eth0").stdout)
    assert address["addr_info"][0]["local"].startswith("10.9.0.")
    lease = "udhcpc -f -q -n -i eth0 -s /bin/true"
    assert "obtained" in user.vnet("exec", user.name, "c", "--", "sh", "-c", f"{lease} 2>&1").stdout
    assert user.vnet("ping", user.name, "a", "b").returncode == 0
    assert user.vnet("pingall", user.name, "--json", check=False).returncode in (0, 1)
    report = json.loads(user.vnet("exec", user.name, "a", "--", "iperf3", "-c", "10.9.0.7", "-n", "200M", "-J").stdout)
    assert report["end"]["sum_received"]["bytes"] >= 199_000_000
    resolv = user.vnet("exec", user.name, "b", "--", "cat", "/etc/resolv.conf").stdout
    assert resolv == "" or "nameserver" in resolv
    user.vnet("down", user.name)
    assert lab.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_namespaces_go_with_the_lab(user: User, number: signal.Signals) -> None:
    lab = user.up(LAB)
    holders = children(lab.pid)
    assert len(holders) == 3
    lab.send_signal(number)
    lab.wait(10)
    deadline = time.monotonic() + 10
    while any(start_time(pid) for pid in holders):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_device_it_says_what_to_do(user: User) -> None:
    (user.directory / "tun").chmod(0o600)
    with pytest.raises(AssertionError, match="/dev/net/tun may not be opened") as caught:
        user.up(LAB)
    assert "Traceback" not in str(caught.value)
    told = user.vnet("doctor").stdout
    assert told.rstrip().endswith("guests: no, for lack of /dev/net/tun (chmod 666 /dev/net/tun, as root)")
    assert "yes  user namespaces" in told


ATTACHED = """
name: NAME
networks:
  lan: {subnet: 10.9.0.0/24, dhcp: {}}
guests:
  box: {kind: attach, pid: PID, nics: [{network: lan, address: 10.9.0.8/24, name: lan0}, {network: lan, dhcp: vnet}]}
  e: {nics: [{network: lan, address: 10.9.0.7/24}], run: [iperf3]}
"""


def interfaces(host: Machine, pid: int) -> list[str]:
    user = ["-U", "--preserve-credentials"] if isinstance(host, User) else []
    done = host.run("nsenter", "-t", str(pid), *user, "-n", "ip", "-json", "link")
    return [each["ifname"] for each in json.loads(done.stdout)]


def attach(host: Machine, *inside: str) -> None:
    """Plug a process that runs into a lab, as a container would be, and take the lab away again."""
    box = subprocess.Popen(host.argv(*inside, "sh", "-c", "echo $$; exec sleep 1000"), stdout=subprocess.PIPE, text=True)
    try:
        assert box.stdout is not None
        pid = int(box.stdout.readline())
        before = interfaces(host, pid)
        host.up(ATTACHED.replace("PID", str(pid)))
        assert set(interfaces(host, pid)) - set(before) == {"lan0", "eth1"}
        assert "1 received" in host.vnet("exec", host.name, "box", "--", "ping", "-c", "1", "-W", "2", "10.9.0.7").stdout
        assert host.vnet("ping", host.name, "box", "e").returncode == 0
        host.vnet("down", host.name)
        deadline = time.monotonic() + 10
        while interfaces(host, pid) != before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        box.kill()
        box.wait()
        assert box.stdout is not None
        box.stdout.close()


def test_a_running_process_is_a_guest(host: Machine) -> None:
    attach(host, "unshare", "--net")


def test_a_running_process_of_an_ordinary_user(user: User) -> None:
    attach(user, "unshare", "--user", "--map-root-user", "--net")


def test_a_process_that_is_not_there(host: Machine) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    with pytest.raises(AssertionError, match="cannot join process"):
        host.up(ATTACHED.replace("PID", gone.stdout.strip()))


def test_the_namespace_of_a_process_that_ended_is_entered_and_no_other(host: Machine) -> None:
    """The process goes elsewhere, and then ends: what is entered is what was joined, and the end is told."""
    script = "read go; exec unshare --net sleep 1000"
    box = subprocess.Popen(host.argv("unshare", "--net", "sh", "-c", script), stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while host.run("readlink", f"/proc/{box.pid}/ns/net").stdout == host.run("readlink", "/proc/self/ns/net").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        host.up(ATTACHED.replace("PID", str(box.pid)))
        before = interfaces(host, box.pid)
        assert "lan0" in before and box.stdin is not None
        box.stdin.write(b"go\n")
        box.stdin.close()
        while "lan0" in interfaces(host, box.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "lan0" in host.vnet("exec", host.name, "box", "--", "ls", "/sys/class/net").stdout
    finally:
        box.kill()
        box.wait()
    while not host.show(host.name, "guests")[0]["problem"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert f"process {box.pid} has ended" in host.vnet("show", host.name, "guests").stdout
    assert "process-ended" in host.vnet("show", host.name, "events").stdout
    assert "lan0" in host.vnet("exec", host.name, "box", "--", "ls", "/sys/class/net").stdout
    assert host.vnet("ping", host.name, "box", "e").returncode == 0


def test_a_mount_namespace_of_its_own_hides_nothing_from_exec(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``ip netns exec``: what the lab mounts in /run/netns only the lab sees."""
    argv = host.argv

    def unshared(*words: str) -> list[str]:
        return argv("unshare", "--mount", "--propagation", "private", *words)

    with monkeypatch.context() as patch:
        patch.setattr(host, "argv", unshared)
        host.up(LAB)
    assert "eth0" in host.vnet("exec", host.name, "a", "--", "ls", "/sys/class/net").stdout


def test_a_holder_that_dies_is_shown(user: User) -> None:
    lab = user.up(LAB)
    for holder in children(lab.pid):
        os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not all(row["problem"] for row in user.show(user.name, "guests") if row["kind"] == "namespace"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for words in (("ping", user.name, "a", "e"), ("pingall", user.name), ("exec", user.name, "a", "--", "true")):
        told = user.vnet(*words, check=False)
        assert told.returncode in (1, 125) and "internal" not in told.stdout + told.stderr, told
    assert "the process that holds the namespace has ended" in user.vnet("ping", user.name, "a", "e", check=False).stdout
