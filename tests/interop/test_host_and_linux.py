"""The stack of an emulated host against that of Linux, both ways, over a TAP device in a namespace."""

from __future__ import annotations

import sys

import pytest
import trio

from tests.interop.live_labs import PAIR, live, needs
from vnet.guests.base import Verdict

pytestmark = [*needs("ip", "ping"), pytest.mark.trio]

TALK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
for size in (0, 1, 100, 1472, 1473, 9000, 60000):
    sent = bytes(i % 251 for i in range(size))
    s.sendto(sent, ("10.77.0.1", 7))
    assert s.recv(65535) == sent, size
s.connect(("10.77.0.1", 99))
s.send(b"nobody listens")
try:
    s.recv(10)
except ConnectionRefusedError:
    print("udp refused")
try:
    socket.create_connection(("10.77.0.1", 80), 5)
except ConnectionRefusedError:
    print("tcp refused")
"""

LISTEN = """
import socket
server = socket.create_server(("10.77.0.2", 8080))
server.settimeout(60)
server.accept()  # never returns: the probe resets a connection that it has not completed
"""


async def test_both_stacks_understand_each_other():
    async with live(PAIR) as lab:
        emulated, linux = lab.guests["emulated"], lab.guests["linux"]
        echo = emulated.host.udp_bind(7, on_datagram=lambda payload, source: echo.send_to(payload, source) and None)

        reply = await emulated.ping(linux.address, count=3)
        assert (reply.sent, reply.received) == (3, 3)
        assert (await emulated.ping(linux.address, size=6000)).ok, "in fragments, both ways"
        assert (await emulated.tcp_probe(linux.address, 80)).verdict is Verdict.CLOSED
        assert (await emulated.udp_probe(linux.address, 9)).verdict is Verdict.CLOSED
        (hop,) = await emulated.traceroute(linux.address)
        assert hop.source == linux.address.packed

        for arguments in (["-c", "3", "-i", "0.01"], ["-c", "1", "-s", "6000"], ["-c", "1", "-M", "do", "-s", "1472"]):
            await linux.exec("ping", *arguments, "10.77.0.1", check=True)
        talk = await linux.exec(sys.executable, "-c", TALK, check=True)
        assert talk.output.split() == b"udp refused tcp refused".split()
        neighbors = await linux.exec("ip", "neigh", "show", "10.77.0.1", check=True)
        mac = emulated.interfaces()[0].mac.hex(":").encode()
        assert mac in neighbors.output

        taken, done = [], trio.Event()
        emulated.host.interfaces["eth0"].probe(linux.address.packed, lambda conflict: (taken.append(conflict), done.set()))
        await done.wait()
        assert taken == [True], "Linux answers an ARP probe for its address"
        assert emulated.host.drops == {"udp-port": 1, "tcp-port": 1}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(linux.exec, sys.executable, "-c", LISTEN)
            with trio.fail_after(10):
                while (await emulated.tcp_probe(linux.address, 8080)).verdict is not Verdict.OPEN:  # noqa: ASYNC110 - only asking tells
                    await trio.sleep(0.02)  # a real program starts when it starts
            nursery.cancel_scope.cancel()
