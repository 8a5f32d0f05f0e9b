"""Two hundred labs up and down with every kind of adapter, and some that are killed: nothing is left of any of them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from machine import Machine
from rig import needs

pytestmark = [pytest.mark.real, needs("nsenter")]

ROUNDS = 200
KILLS = 12

SCRIPT = r'''
import json, os, random, sys
import trio
import vnet

NAME, FOLDER, ROUNDS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
KINDS = [
    "none", "loopback", "user", "{user: {ipv6: auto}}", "{bridge: nic0}", "{bridge: {nic: nic0, vlan: 16}}",
    "{bridge: {nic: nic0, mode: wifi}}",
    "{bridge: {nic: nic1, mode: macvtap}}", "{tap: tapout}", "{udp: {local: 127.0.0.1:5001, remote: 127.0.0.1:5002}}",
    "{vxlan: {vni: 7, local: 127.0.0.1, remote: 127.0.0.9}}", "{geneve: {vni: 7, local: 127.0.0.1, remote: 127.0.0.9}}",
    "{vde: {listen: %s/vde}}" % FOLDER, "{stream: {listen: vm.sock}}", "{stream: {connect: %s/nobody}}" % FOLDER,
    "{dgram: {local: %s/a, remote: %s/b}}" % (FOLDER, FOLDER), "{pcap: {record: %s/seen}}" % FOLDER,
]
TOPOLOGY = """
name: %s
networks:
  one: {subnet: 10.0.1.0/24, adapter: %s}
  two: {subnet: 10.0.2.0/24, dhcp: {}, adapter: %s}
guests:
  a: {nics: [{network: one, address: 10.0.1.5/24}]}
  b: {nics: [two]}
"""

def left():
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(path) for path in paths if os.path.lexists(path)]
    return sorted(name.split(":")[0] for name in names if not name.startswith("/proc"))  # sockets by kind, not by number

async def once(draw):
    first, second = draw.choice(KINDS), draw.choice(KINDS)
    if first == second and first not in ("none", "user"):
        second = "none"  # the same NIC, name or port twice is refused, and that is tested elsewhere
    if {"{bridge: nic0}", "{bridge: {nic: nic0, mode: wifi}}"} >= {first, second}:
        second = "none"
    topology = vnet.parse_topology(TOPOLOGY % (NAME, first, second), source="leaks")
    async with vnet.open_lab(topology, emulate=draw.random() < 0.3) as lab:
        await trio.sleep(0.01)
        for _ in range(draw.choice((0, 0, 1, 2))):
            wanted = draw.choice([kind for kind in KINDS if kind not in (first, second)])
            try:
                await lab.networks["one"].rebind(wanted)
            except vnet.HostError as error:
                print("refused:", wanted, error, file=sys.stderr)
        if draw.random() < 0.1:
            raise KeyError("the block fails")

async def main():
    draw = random.Random(SEED)
    before = None
    for number in range(ROUNDS):
        try:
            await once(draw)
        except KeyError:
            pass
        if number == 5:
            before = left()  # modules that are loaded late have their descriptors by now
    print(json.dumps({"before": before, "after": left()}))

trio.run(main)
'''


@pytest.fixture
def host(host: Machine) -> Machine:
    for number in range(2):
        host.run("ip", "link", "add", f"nic{number}", "type", "veth", "peer", "name", f"far{number}")
        host.run("ip", "link", "set", f"nic{number}", "up")
        host.run("ip", "link", "set", f"far{number}", "up")
    return host


def argv(host: Machine, rounds: int, seed: int) -> list[str]:
    return [sys.executable, "-c", SCRIPT, host.name, str(host.directory), str(rounds), str(seed)]


def files(host: Machine) -> list[str]:
    """List what lies about in the machine's folder, but for the capture that was asked for."""
    found = (str(path.relative_to(host.directory)) for path in host.directory.rglob("*") if path.name not in ("seen", "run"))
    return sorted(found)


def test_nothing_is_left_of_two_hundred_labs(host: Machine) -> None:
    before = host.interfaces()
    done = host.run(*argv(host, ROUNDS, 1), timeout=240)
    seen = json.loads(done.stdout)
    assert seen["after"] == seen["before"], done.stderr
    assert host.interfaces() == before
    assert files(host) == []


def test_nothing_is_left_of_labs_that_are_killed(host: Machine) -> None:
    before = host.interfaces()
    draw = random.Random(2)
    for number in range(KILLS):
        command = host.argv(*argv(host, 1000, 100 + number))
        lab = subprocess.Popen(command, env=host.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.4, 1.2))  # any instant will do
        lab.send_signal(signal.SIGKILL)
        lab.wait()
    host.vnet("down", host.name, check=False)
    assert host.interfaces() == before
    assert files(host) == []
    pattern = f"^{sys.executable} .*{host.name}"
    assert subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 1
