"""IPv6 of an emulated host against that of Linux over a TAP device: both ways, and with Linux as a router."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from ipaddress import IPv6Address, IPv6Interface

import pytest
import trio
from live_labs import guest, live, needs, run, until

from vnet.guests.base import Verdict
from vnet.runtime.sinks import FileSink
from vnet.stack.ipv6.addresses import AddressState

pytestmark = [*needs("ip", "ping", "sysctl", "tshark"), pytest.mark.trio]

TOPOLOGY = """
name: NAME
networks: {n: {}}
guests:
  emulated: {nics: [{network: n, address: "fd00:77::1/64"}]}
  linux: {kind: namespace, nics: [{network: n}]}
"""
OURS, THEIRS = "fd00:77::1", "fd00:77::2"

TALK = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(5)
for size in (0, 1, 100, 1452, 1453, 9000, 60000, 65507):
    sent = bytes(i % 251 for i in range(size))
    s.sendto(sent, ("fd00:77::1", 7))
    assert s.recv(65535) == sent, size
s.connect(("fd00:77::1", 99))
s.send(b"nobody listens")
try:
    s.recv(10)
except ConnectionRefusedError:
    print("udp refused")
"""

ECHO = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 7))
print("listening", flush=True)
while True:
    payload, peer = s.recvfrom(65535)
    s.sendto(payload, peer)
"""

ADVERTISE = """
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
index = socket.if_nametoindex("eth0")
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 1800, 0, socket.inet_pton(socket.AF_INET6, "fd00:a::"))
mtu = struct.pack("!BBHI", 5, 1, 0, 1400)
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + mtu + prefix, ("ff02::1", 0, 0, index))
"""


async def address_of_linux(linux, *addresses: str, device: str = "eth0") -> None:
    """Give Linux addresses, and wait until it is done with asking for them."""
    await run(linux, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
    for address in addresses:
        await run(linux, "ip", "-6", "addr", "add", address, "dev", device)
    with trio.fail_after(10):
        while await asks(linux, device):  # noqa: ASYNC110 - Linux tells nobody when it is done
            await trio.sleep(0.05)


async def asks(linux, device: str) -> bool:
    shown = await run(linux, "ip", "-6", "addr", "show", "dev", device)
    return any("tentative" in line and "dadfailed" not in line for line in shown.splitlines())


async def test_ping_both_ways():
    async with live(TOPOLOGY) as lab:
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await address_of_linux(linux, f"{THEIRS}/64", "fe80::2/64")
        reply = await emulated.ping(THEIRS, count=3)
        assert (reply.sent, reply.received, str(reply.responder)) == (3, 3, THEIRS)
        assert (await emulated.ping(THEIRS, size=6000)).ok, "in fragments, both ways"
        assert (await emulated.ping("fe80::2")).ok
        for arguments in (["-c", "3", "-i", "0.01"], ["-c", "1", "-s", "6000"], ["-c", "1", "-M", "do", "-s", "1452"]):
            await run(linux, "ping", "-6", "-W", "2", *arguments, OURS)
        link_local = next(str(each.ip) for each in emulated.addresses if each.is_link_local)
        await run(linux, "ping", "-6", "-c", "1", f"{link_local}%eth0")
        assert link_local in await run(linux, "ping", "-6", "-c", "2", "-i", "0.1", "ff02::1%eth0")
        neighbors = await run(linux, "ip", "-6", "neigh", "show", OURS)
        assert emulated.interfaces()[0].mac.hex(":") in neighbors and "router" not in neighbors
        assert (await lab.ping("linux", OURS)).ok and (await lab.ping("emulated", THEIRS)).ok
        assert (await lab.ping("linux", "fd00:77::77", timeout=4)).error == f"address unreachable from {THEIRS}"
        assert emulated.host.drops == {}


STATED = """
name: NAME
networks: {n: {}, m: {}}
guests:
  emulated: {nics: [{network: n, address: [10.7.0.1/24, "fd00:77::1/64"], gateway: "fd00:77::2"}]}
  linux:
    kind: namespace
    nics: [{network: n, address: ["fd00:77::2/64", 10.7.0.2/24]}, {network: m, address: "fd00:78::2/64"}]
  other:
    kind: namespace
    nics: [{network: m, address: "fd00:78::3/64"}]
    routes: [{to: "fd00:77::/64", via: "fd00:78::2"}]
"""


async def test_namespaces_have_the_addresses_and_routes_of_the_file():
    async with live(STATED) as lab:
        emulated, linux, other = lab.guests["emulated"], guest(lab, "linux"), guest(lab, "other")
        assert str(linux.address) == "10.7.0.2" and str(other.address) == "fd00:78::3"
        assert [str(each) for each in linux.interfaces()[0].addresses][:2] == ["10.7.0.2/24", "fd00:77::2/64"]
        assert (await lab.ping("linux", OURS)).ok and (await lab.ping("emulated", THEIRS)).ok
        assert (await lab.ping("other", "fd00:78::2")).ok
        await run(linux, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        await until(lambda: any(each.is_link_local for each in linux.interfaces()[1].addresses), "its link-local address")
        assert (await lab.ping("other", OURS)).ok and (await lab.ping("emulated", "other")).ok, "by the routes of the file"
        assert (await linux.udp_probe("10.7.0.1", 9)).verdict is Verdict.CLOSED
        assert emulated.address == lab.resolve("emulated")


async def test_udp_both_ways():
    async with live(TOPOLOGY) as lab:
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await address_of_linux(linux, f"{THEIRS}/64")
        await lab.wait_up()
        echo = emulated.host.udp_bind(
            7, both=True, on_datagram=lambda payload, source: echo.send_to(payload, source) and None
        )
        assert (await run(linux, sys.executable, "-c", TALK)).split() == ["udp", "refused"]
        assert (await emulated.udp_probe(THEIRS, 9)).verdict is Verdict.CLOSED
        assert (await linux.udp_probe(OURS, 7)).verdict is Verdict.OPEN
        assert (await linux.udp_probe(OURS, 9)).verdict is Verdict.CLOSED
        async with trio.open_nursery() as nursery:
            nursery.start_soon(linux.exec, sys.executable, "-c", ECHO)
            with trio.fail_after(10):
                while (await emulated.udp_probe(THEIRS, 7)).verdict is not Verdict.OPEN:  # noqa: ASYNC110 - only asking tells
                    await trio.sleep(0.02)  # a real program starts when it starts
            async with await emulated.open_udp_socket() as socket:
                for size in (0, 1, 1452, 1453, 9000, 65507):
                    payload = bytes(index % 251 for index in range(size))
                    await socket.send_to(payload, (THEIRS, 7))
                    with trio.fail_after(5):
                        assert await socket.receive() == (payload, (IPv6Address(THEIRS), 7)), size
            nursery.cancel_scope.cancel()
        assert emulated.host.drops == {"udp-port": 2}


async def test_duplicate_addresses_are_seen_by_both():
    async with live(TOPOLOGY) as lab:
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await lab.wait_up()
        await address_of_linux(linux, f"{THEIRS}/64", f"{OURS}/64")
        shown = await run(linux, "ip", "-6", "addr", "show", "dev", "eth0")
        (line,) = [line for line in shown.splitlines() if OURS in line]
        assert "dadfailed" in line, "Linux heard us defend our address"
        await run(linux, "ip", "-6", "addr", "del", f"{OURS}/64", "dev", "eth0")

        side = emulated.host.interfaces["eth0"].ipv6
        side.add_address(IPv6Interface(f"{THEIRS}/64"))
        await lab.wait_up()
        assert side.find(IPv6Address(THEIRS).packed).state is AddressState.DUPLICATE, "and we Linux"
        taken = [event.fields for event in lab.events if event.kind == "address-taken"]
        assert [fields["address"] for fields in taken] == [THEIRS]
        assert (await emulated.ping(THEIRS)).ok


AUTO = """
name: NAME
networks: {near: {}, far: {}}
guests:
  auto: {nics: [{network: near, ipv6: auto}]}
  server: {nics: [{network: far, address: "fd00:b::5/64", gateway: "fd00:b::1"}]}
  router: {kind: namespace, nics: [{network: near}, {network: far, mtu: 1300}]}
"""


async def test_linux_as_a_router():
    async with live(AUTO) as lab:
        auto, server, router = lab.guests["auto"], lab.guests["server"], guest(lab, "router")
        await run(router, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        await address_of_linux(router, "fe80::1/64", "fd00:a::1/64")
        await address_of_linux(router, "fe80::1/64", "fd00:b::1/64", device="eth1")
        await lab.wait_up()
        await run(router, sys.executable, "-c", ADVERTISE)
        await until(lambda: auto.address6 is not None, "an address made from the advertisement")
        side = auto.host.interfaces["eth0"].ipv6
        assert str(auto.address6).startswith("fd00:a::5054:ff:fe") and side.mtu == 1400
        assert auto.interfaces()[0].gateway == IPv6Address("fe80::1")
        assert (await auto.ping("fd00:b::5")).ok, "through the router, and back"
        await run(router, "ping", "-6", "-c", "1", str(auto.address6))

        got = []
        server.host.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
        client = auto.host.udp_bind(both=True, on_datagram=lambda payload, source: None)
        errors = []
        client.on_error = lambda destination, error: errors.append((error.text, error.mtu))
        far = IPv6Address("fd00:b::5").packed
        client.send_to(bytes(1340), (far, 7))
        await until(lambda: bool(errors), "a packet that is too big for the far network")
        assert errors == [("packet too big", 1300)] and got == []
        client.send_to(bytes(1340), (far, 7))
        await until(lambda: got == [bytes(1340)], "the next one, in fragments")
        assert (await auto.ping("fd00:b::99", timeout=5)).error == "address unreachable from fd00:a::1"


OWN = """
name: NAME
networks: {n: {}}
guests:
  a: {nics: [{network: n, address: "fd00:77::1/64"}]}
  b: {nics: [{network: n, address: "fd00:77::2/64"}]}
"""
FIELDS = (
    "_ws.malformed",
    "_ws.expert.severity",
    "icmpv6.checksum.status",
    "udp.checksum.status",
    "icmpv6.type",
    "_ws.col.Info",
)
ERROR = 0x00800000


async def test_wireshark_finds_nothing_wrong_with_what_we_say(tmp_path):
    async with live(OWN, emulate=True) as lab:
        capture = lab.captures.start(FileSink(tmp_path / "six"), ["a"])
        a, b = lab.guests["a"], lab.guests["b"]
        await lab.wait_up()
        assert (await a.ping("fd00:77::2", size=4000)).ok
        assert (await a.udp_probe("fd00:77::2", 9)).verdict is Verdict.CLOSED
        echo = b.host.udp_bind(7, both=True, on_datagram=lambda payload, source: echo.send_to(payload, source) and None)
        assert (await a.udp_probe("fd00:77::2", 7, bytes(5000))).ok
        group = IPv6Address("ff02::fb").packed
        a.host.interfaces["eth0"].ipv6.join(group)
        a.host.interfaces["eth0"].ipv6.leave(group)
        lab.guests["b"].host.interfaces["eth0"].ipv6.add_address(IPv6Interface("fd00:77::1/64"))
        await lab.wait_up()
        capture.finish()
    words = [word for field in FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(tmp_path / "six"), "-oudp.check_checksum:TRUE", "-T", "fields", *words]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert len(rows) == capture.recorded
    kinds: Counter[str] = Counter()
    for malformed, severity, icmp, udp, kind, info in rows:
        assert not malformed and "0" not in (icmp + udp), info
        assert all(int(each, 0) < ERROR for each in severity.split(",") if each), info
        kinds[kind.partition(",")[0]] += 1
    assert {"128", "129", "1", "135", "136", "143"} <= set(kinds), kinds
