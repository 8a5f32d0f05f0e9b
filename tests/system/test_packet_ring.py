"""The ring of a packet socket, on real interfaces: small and large frames in their order, and those that came too fast."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from machine import Machine
from outside import Outside, needs_switch
from rig import needs

pytestmark = [pytest.mark.real, needs("ping", "ethtool"), needs_switch]

RECEIVE = """
import json, socket, sys
from vnet.adapters.packet_ring import PacketRing

seen = []
ring = PacketRing(
    socket.if_nametoindex("eth1"), None, lambda frame, offload: seen.append(frame), promiscuous=True
)
print("ready", flush=True)
sys.stdin.readline()
before = -1
while before != (before := len(seen) + ring.drops["queue-full"]):
    ring.on_readable()
drops = dict(ring.drops)
sound = all(frame[18:] == frame[14:18] * ((len(frame) - 18) // 4) for frame in seen)
numbers = [int.from_bytes(frame[14:18], "big") for frame in seen]
print(json.dumps({"numbers": numbers, "sizes": [len(f) for f in seen], "drops": drops, "sound": sound}))
"""
SEND = """
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
out.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)
out.bind(("eth0", 0))
for number, size in enumerate(json.loads(sys.argv[1])):
    out.send(b"\\xff" * 6 + b"\\2" + bytes(5) + b"\\x88\\xb5" + number.to_bytes(4, "big") * ((size - 14) // 4))
""".replace("import socket", "import json, socket")


def pass_on(host: Machine, around: Outside, sizes: list[int]) -> dict[str, object]:
    peer = around.wire("eth1", "10.1.0.9/24")
    host.run("ip", "link", "set", "eth1", "mtu", "9000")
    peer.run("ip", "link", "set", "eth0", "mtu", "9000")
    with subprocess.Popen(
        host.argv(sys.executable, "-c", RECEIVE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        peer.run(sys.executable, "-c", SEND, json.dumps(sizes))
        told: dict[str, object] = json.loads(receiver.communicate("\n", timeout=30)[0])
        return told


def test_frames_of_all_sizes_come_whole_and_in_order(host: Machine, around: Outside) -> None:
    sizes = [62, 1514, 1970, 1974, 1986, 2046, 2050, 9014, 62, 5002] * 30
    told = pass_on(host, around, sizes)
    assert told["numbers"] == list(range(len(sizes))) and told["sizes"] == sizes and told["sound"]
    assert told["drops"] == {}


def test_what_came_too_fast_is_counted(host: Machine, around: Outside) -> None:
    told = pass_on(host, around, [62] * 5000)
    numbers = told["numbers"]
    assert isinstance(numbers, list) and numbers == list(range(4096))
    assert told["drops"] == {"overrun": 5000 - 4096}


def test_large_frames_beyond_their_queue_are_counted(host: Machine, around: Outside) -> None:
    told = pass_on(host, around, [9014] * 3000)
    numbers, drops = told["numbers"], told["drops"]
    assert isinstance(numbers, list) and isinstance(drops, dict)
    assert numbers == list(range(len(numbers))) and len(numbers) >= 500 and told["sound"]
    assert len(numbers) + sum(drops.values()) == 3000
