"""Linux believes gratuitous ARP of emulated guests, and exchanges raw frames with them, to the octet."""

from __future__ import annotations

import sys

import pytest
import trio

from tests.interop.live_labs import guest, live, needs, program, run
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.namespace import NamespaceGuest

pytestmark = [*needs(), pytest.mark.trio]

VIRTUAL = "10.78.0.70"
TOPOLOGY = """
name: NAME
networks: {n: {subnet: 10.78.0.0/24}}
guests:
  one: {nics: [{network: n, address: 10.78.0.1/24}]}
  two: {nics: [{network: n, address: 10.78.0.2/24}]}
  linux: {kind: namespace, nics: [{network: n, address: 10.78.0.3/24}]}
"""
ANSWERS = """
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
s.settimeout(20)
s.bind(("eth0", 0x88B5))
print("listening", flush=True)
frame = s.recv(2000)
s.send(frame[6:12] + frame[:6] + frame[12:14] + frame[14:][::-1])
print(frame.hex(), flush=True)
"""


async def mac_of(linux: NamespaceGuest, address: str) -> str | None:
    rows = [line.split() for line in (await run(linux, "cat", "/proc/net/arp")).splitlines()]
    return next((row[3] for row in rows if row[0] == address), None)


async def test_linux_follows_an_address_that_moves() -> None:
    async with live(TOPOLOGY) as lab:
        one, two, linux = lab.guests["one"], lab.guests["two"], guest(lab, "linux")
        assert isinstance(one, EmulatedGuest) and isinstance(two, EmulatedGuest)
        one.add_address(f"{VIRTUAL}/24")
        await run(linux, "ping", "-c1", "-W5", VIRTUAL)
        assert await mac_of(linux, VIRTUAL) == one.interfaces()[0].mac.hex(":")
        one.remove_address(VIRTUAL)
        two.add_address(f"{VIRTUAL}/24")
        await run(linux, "ping", "-c1", "-W5", VIRTUAL)
        assert await mac_of(linux, VIRTUAL) == two.interfaces()[0].mac.hex(":")


async def test_raw_frames_both_ways() -> None:
    async with live(TOPOLOGY) as lab:
        one, linux = lab.guests["one"], guest(lab, "linux")
        assert isinstance(one, EmulatedGuest)
        async with (
            await one.open_frame_socket(ethertype=0x88B5) as frames,
            program(linux, sys.executable, "-c", ANSWERS, ready="listening") as answering,
        ):
            mac = linux.interfaces()[0].mac
            sent = mac + frames.mac + b"\x88\xb5" + bytes(range(200))
            await frames.send(sent)
            await answering.says(sent.hex())
            with trio.fail_after(10):
                assert await frames.receive() == frames.mac + mac + b"\x88\xb5" + bytes(range(200))[::-1]
