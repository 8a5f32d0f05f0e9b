"""Two namespaces joined TAP to TAP: real programs talk, and offloads cross whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig import ADDRESS_2, make_guests, needs, pair, running

from vnet.guests.base import Verdict
from vnet.guests.namespace import NamespaceGuest
from vnet.ports import NO_OFFLOAD, Handler, Port
from vnet.wire import virtio_net

pytestmark = [pytest.mark.real, needs()]


def watch(port: Port) -> list[tuple[int, bytes]]:
    """Note the length and the header of each frame that leaves the port."""
    seen: list[tuple[int, bytes]] = []

    def tx(outlet: Handler) -> Handler:
        def note(frame: bytes, offload: bytes) -> None:
            seen.append((len(frame), offload))
            outlet(frame, offload)

        return note

    port.hook(tx=tx)
    return seen


@contextmanager
def program(guest: NamespaceGuest, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        guest.exec_argv(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(guest: NamespaceGuest, *command: str) -> str:
    done = subprocess.run(guest.exec_argv(command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


PYTHON = [sys.executable, "-c"]
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.77.0.2", 7)); s.settimeout(10)
print("ready", flush=True)
count = total = 0
while total < int(sys.argv[1]):
    data, who = s.recvfrom(65536); count += 1; total += len(data); s.sendto(data[:1], who)
print(count, total)
"""
UDP_SEGMENTS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("10.77.0.2", 7))
s.sendto(b"x", ("10.77.0.2", 7)); s.recv(10)
s.setsockopt(17, 103, 1000)  # SOL_UDP, UDP_SEGMENT
s.send(bytes(20_000))
"""


@pytest.mark.trio
async def test_ping_sees_the_other_and_nothing_else(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, right):
        reply = await left.ping("10.77.0.2", count=3)
        assert reply.ok and reply.received == 3 and reply.responder == ADDRESS_2
        assert reply.rtt is not None and 0 < reply.rtt < 1_000_000_000
        lost = await left.ping("10.77.0.9", timeout=0.2)
        assert not lost.ok and lost.error == "no answer" and lost.received == 0
        far = await right.ping("192.0.2.1", timeout=0.2)
        assert not far.ok and "unreachable" in far.error


@pytest.mark.trio
async def test_a_size_above_the_mtu_is_fragmented_and_put_together(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, _):
        assert (await left.ping("10.77.0.2", size=4000)).ok


@pytest.mark.trio
async def test_port_probes_tell_open_closed_and_silent(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, right):
        listen = "import socket; s=socket.create_server(('10.77.0.2', 80)); print('ready', flush=True); input()"
        with program(right, *PYTHON, listen) as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            assert (await left.tcp_probe("10.77.0.2", 80)).ok
        closed = await left.tcp_probe("10.77.0.2", 81)
        assert closed.verdict is Verdict.CLOSED and closed.rtt is not None
        assert (await left.udp_probe("10.77.0.2", 81)).verdict is Verdict.CLOSED
        with program(right, *PYTHON, UDP_SERVER, "4") as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            assert (await left.udp_probe("10.77.0.2", 7)).verdict is Verdict.OPEN
        assert (await left.tcp_probe("192.0.2.1", 80)).verdict is Verdict.UNREACHABLE
        assert (await left.tcp_probe("10.77.0.9", 80, timeout=0.2)).verdict is Verdict.SILENT


@pytest.mark.trio
async def test_unsolicited_frames_are_none(tmp_path: Path) -> None:
    """Without `ipv6` Linux says nothing unasked, so that a lab's captures hold what the lab does."""
    with running(make_guests(tmp_path, 1)) as (guest,):
        shown = run(guest, "cat", "/proc/net/if_inet6")
        assert "eth0" not in shown
        assert int(run(guest, "cat", "/sys/class/net/eth0/statistics/tx_packets")) == 0


@needs("iperf3")
def test_tcp_crosses_in_super_frames(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, right), program(right, "iperf3", "-s", "-1", "--forceflush") as server:
        assert server.stdout is not None
        while b"listening" not in (line := server.stdout.readline()):
            assert line
        seen = watch(left.ports[0])
        report = json.loads(run(left, "iperf3", "-c", "10.77.0.2", "-t", "1", "-J"))
        left.ports[0].hook()
        assert report["end"]["sum_received"]["bits_per_second"] > 1e9
        kinds = Counter(offload[1] & 0x7F for _, offload in seen)
        assert kinds[virtio_net.GSO_TCPV4] > 100
        assert max(length for length, _ in seen) > 30_000
        assert all(length <= 1514 or virtio_net.is_super(offload) for length, offload in seen)
        assert not left.adapters[0].drops["malformed"] and not right.adapters[0].drops


def test_udp_segments_cross_as_one_frame(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, right):
        if not left.adapters[0].device.has_udp_segmentation:
            pytest.skip("this kernel has no USO on TAP devices (Linux 6.2)")
        with program(right, *PYTHON, UDP_SERVER, "20001") as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            seen = watch(left.ports[0])
            run(left, *PYTHON, UDP_SEGMENTS)
            assert server.stdout.read() == b"21 20001\n"  # as datagrams of 1000 octets, and the first one
            assert (20_042, virtio_net.GSO_UDP_L4) in [(length, offload[1]) for length, offload in seen]


def test_small_frames_are_plain_or_want_a_checksum(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, _):
        seen = watch(left.ports[0])
        run(left, "ping", "-c", "2", "-i", "0.2", "10.77.0.2")
        assert seen and all(offload is NO_OFFLOAD for _, offload in seen)


def test_the_carrier_shows_in_the_guest(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, right):
        path = "/sys/class/net/eth0/carrier"
        assert run(left, "cat", path) == "1\n"
        left.ports[0].set_carrier(False)
        assert run(left, "cat", path) == "0\n" and run(right, "cat", path) == "1\n"
        left.ports[0].set_carrier(True)
        assert run(left, "cat", path) == "1\n"


def test_a_deleted_device_takes_the_carrier_away(tmp_path: Path) -> None:
    events: list[str] = []
    with pair(tmp_path) as (left, right):
        left.adapters[0]._report = lambda kind, **fields: events.append(kind)
        run(left, "ip", "link", "del", "eth0")
        right.ports[0].send(bytes(60), NO_OFFLOAD)
        port = left.ports[0]
        for _ in range(100):
            if not port.carrier:
                break
            subprocess.run(["sleep", "0.01"])
        assert not port.carrier and events == ["device-gone"]
        right.ports[0].send(bytes(60), NO_OFFLOAD)  # does no harm


@pytest.mark.parametrize(
    ("frame", "offload", "reason"),
    [
        (bytes(13), NO_OFFLOAD, "malformed"),
        (bytes(2000), NO_OFFLOAD, "oversize"),
        (bytes(2000), virtio_net.HEADER.pack(1, 1, 54, 1600, 34, 16), "oversize"),
        (bytes(60), virtio_net.HEADER.pack(1, 0, 0, 0, 200, 16), "malformed"),
        (bytes(60), virtio_net.HEADER.pack(1, 99, 0, 0, 34, 16), "malformed"),
        (bytes(60), virtio_net.HEADER.pack(0, 1, 54, 0, 0, 0), "malformed"),
    ],
)
def test_what_linux_refuses_is_counted(tmp_path: Path, frame: bytes, offload: bytes, reason: str) -> None:
    with pair(tmp_path) as (left, _):
        before = Counter(left.adapters[0].drops)
        left.ports[0].receive(frame, offload)
        assert left.adapters[0].drops - before == Counter({reason: 1})


def test_an_interface_that_is_down_counts_drops(tmp_path: Path) -> None:
    with pair(tmp_path) as (left, _):
        run(left, "ip", "link", "set", "eth0", "down")
        left.ports[0].receive(bytes(60), NO_OFFLOAD)
        assert left.adapters[0].drops["interface-down"] == 1


def test_resolv_conf_is_the_guests_own_and_the_hosts_stays(tmp_path: Path) -> None:
    from ipaddress import IPv4Address

    host = Path("/etc/resolv.conf").read_bytes()
    guests = make_guests(tmp_path, 1, dns=(IPv4Address("10.77.0.53"),), domain="lab.example")
    with running(guests) as (guest,):
        assert run(guest, "cat", "/etc/resolv.conf") == "search lab.example\nnameserver 10.77.0.53\n"
        assert Path("/etc/resolv.conf").read_bytes() == host


@needs("ip", "iperf3")
@pytest.mark.kernel_module("8021q")
def test_tagged_super_frames_cross_whole(tmp_path: Path) -> None:
    """What a guest on a trunk sends: the tag is in the frame, and the header's offsets count it."""
    with pair(tmp_path) as (left, right):
        for guest, address in ((left, "10.78.0.1/24"), (right, "10.78.0.2/24")):
            added = subprocess.run(
                guest.exec_argv(["ip", "link", "add", "link", "eth0", "name", "eth0.16", "type", "vlan", "id", "16"]),
                capture_output=True, text=True,
            )  # fmt: skip
            if added.returncode:
                pytest.skip(f"this kernel has no VLAN interfaces: {added.stderr.strip()}")
            run(guest, "ip", "address", "add", address, "dev", "eth0.16")
            run(guest, "ip", "link", "set", "eth0.16", "up")
        with program(right, "iperf3", "-s", "-1", "--forceflush") as server:
            assert server.stdout is not None
            while b"listening" not in (line := server.stdout.readline()):
                assert line
            frames: list[tuple[bytes, bytes]] = []

            def tx(outlet: Handler) -> Handler:
                def note(frame: bytes, offload: bytes) -> None:
                    frames.append((frame[:18], offload))
                    outlet(frame, offload)

                return note

            left.ports[0].hook(tx=tx)
            run(left, "iperf3", "-c", "10.78.0.2", "-n", "20M")
            left.ports[0].hook()
        tagged = [(head, virtio_net.decode(offload)) for head, offload in frames if head[12:14] == b"\x81\x00"]
        assert tagged and all(head[14:16] == b"\x00\x10" for head, _ in tagged)
        supers = [offload for _, offload in tagged if offload.gso_type & 0x7F == virtio_net.GSO_TCPV4]
        assert supers and all(offload.csum_start == 38 for offload in supers)
