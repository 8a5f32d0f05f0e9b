"""The adapters ``tap`` and ``fd`` on a machine that is a namespace: made, attached, inherited, refused, and what is left."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from machine import Machine
from rig import needs

pytestmark = [pytest.mark.real, needs("ping")]

LAB = """
name: NAME
networks:
  lan: {subnet: 10.1.0.0/24, adapter: ADAPTER}
guests:
  a: {nics: [{network: lan, address: 10.1.0.5/24}]}
"""
INHERIT = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"given", FLAGS))
os.dup2(fd, 9, inheritable=True)
os.execv(sys.executable, [sys.executable, "-m", "vnet", "up", sys.argv[1]])
"""
TAP, NO_PI, VNET_HDR = 0x0002, 0x1000, 0x4000


def reaches(host: Machine, device: str) -> bool:
    """Give the machine an address on the device, and ping the guest."""
    host.run("ip", "addr", "replace", "10.1.0.1/24", "dev", device)
    return host.run("ping", "-c", "3", "-i", "0.5", "-W", "2", "10.1.0.5", check=False).returncode == 0


def test_a_device_that_is_not_there_is_made_and_goes_with_the_lab(host: Machine) -> None:
    before = host.interfaces()
    lab = host.up(LAB.replace("ADAPTER", "{tap: tap0}"))
    assert host.interfaces() - before == {"tap0"} and reaches(host, "tap0")
    host.run("ip", "link", "set", "tap0", "down")
    assert not reaches(host, "tap0")
    lab.kill()
    lab.wait()
    assert host.interfaces() == before


def test_a_device_that_is_there_is_attached_and_left_as_it_was(host: Machine) -> None:
    host.run("ip", "tuntap", "add", "mine", "mode", "tap")
    host.run("ip", "link", "set", "mine", "mtu", "1400", "address", "02:00:00:00:00:99", "up")
    host.up(LAB.replace("ADAPTER", "{tap: mine}"))
    assert reaches(host, "mine")
    assert host.run("ping", "-c", "1", "-W", "2", "-s", "1372", "-M", "do", "10.1.0.5", check=False).returncode == 0
    host.vnet("set", host.name, "network.lan", "adapter=none")
    (link,) = json.loads(host.run("ip", "-json", "link", "show", "mine").stdout)
    assert (link["mtu"], link["address"]) == (1400, "02:00:00:00:00:99") and "LOWER_UP" not in link["flags"]
    host.vnet("set", host.name, "network.lan", "adapter={tap: mine}")
    assert reaches(host, "mine")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            ("ip", "link", "add", "odd", "type", "veth", "peer", "name", "far"),
            "interface odd is no TAP device that can be attached",
        ),
        (("ip", "tuntap", "add", "odd", "mode", "tun"), "interface odd is no TAP device that can be attached"),
    ],
)
def test_what_is_no_tap_device_is_refused(host: Machine, command: tuple[str, ...], told: str) -> None:
    host.run(*command)
    host.up(LAB.replace("ADAPTER", "none"))
    done = host.vnet("set", host.name, "network.lan", "adapter={tap: odd}", check=False)
    assert done.returncode == 1 and told in done.stderr
    done = host.vnet("set", host.name, "network.lan", "adapter={fd: 77}", check=False)
    assert done.returncode == 1 and "file descriptor 77 is not open" in done.stderr


def launch(host: Machine, flags: int) -> subprocess.Popen[str]:
    file = host.directory / "inherit.yaml"
    file.write_text(LAB.replace("ADAPTER", "{fd: 9}").replace("NAME", host.name))
    argv = host.argv(sys.executable, "-c", INHERIT.replace("FLAGS", str(flags)), str(file))
    environment = {"VNET_RUN_DIR": str(host.directory / "run"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_descriptor_is_inherited(host: Machine) -> None:
    with launch(host, TAP | NO_PI | VNET_HDR) as lab:
        try:
            assert lab.stdout is not None and any(line.strip() == "ready" for line in lab.stdout)
            host.run("ip", "link", "set", "given", "up")
            assert reaches(host, "given")
            host.vnet("set", host.name, "network.lan", "adapter=none")
            assert not reaches(host, "given") and "given" in host.interfaces()  # whoever opened it still has it
            host.vnet("set", host.name, "network.lan", "adapter={fd: 9}")
            assert reaches(host, "given")
        finally:
            lab.terminate()
    assert "given" not in host.interfaces()


def test_a_descriptor_without_headers_is_refused(host: Machine) -> None:
    with launch(host, TAP | NO_PI) as lab:
        assert lab.stdout is not None
        assert "without IFF_TAP, IFF_NO_PI or IFF_VNET_HDR: set all three" in lab.stdout.read()
    assert lab.returncode == 1
