"""Whatever is cancelled whenever: what ``send`` said it took arrives, once and in order, and nothing else does."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import vnet
from vnet.units import MILLISECOND

TOPOLOGY = vnet.parse_topology("""
name: pair
networks: {lan: {subnet: 10.0.0.0/24}}
switches: {one: {}, two: {}}
links: [{between: [one, two], trunk: all}]
guests:
  a: {switch: one, nics: [{network: lan, address: [10.0.0.1/24, "2001:db8::1/64"]}]}
  b: {switch: two, nics: [{network: lan, address: [10.0.0.2/24, "2001:db8::2/64"]}]}
""")

PATIENCE = st.lists(st.integers(1, 30), min_size=1, max_size=8)
SIZES = st.lists(st.integers(500, 100_000), min_size=1, max_size=8)
TOTAL = 100_000


@settings(max_examples=20, deadline=None)
@given(
    sends=SIZES,
    receives=SIZES,
    send_patience=PATIENCE,
    receive_patience=PATIENCE,
    seed=st.integers(0, 1000),
    six=st.booleans(),
)
def test_cancelling_loses_and_repeats_nothing(sends, receives, send_patience, receive_patience, seed, six):
    pattern = bytes(number % 251 for number in range(TOTAL + 1))

    async def write(sock):
        taken = turn = 0
        while taken < TOTAL:
            size = min(sends[turn % len(sends)], TOTAL - taken)
            with trio.move_on_after(send_patience[turn % len(send_patience)] / 1000):
                taken += await sock.send(pattern[taken : taken + size])
            turn += 1
            await trio.sleep(0.0001)
        sock.shutdown(trio.socket.SHUT_WR)

    async def read(sock):
        got, turn, part = bytearray(), 0, b"-"
        while part:
            with trio.move_on_after(receive_patience[turn % len(receive_patience)] / 1000):
                part = await sock.recv(receives[turn % len(receives)])
                got += part
            turn += 1
            await trio.sleep(0.0001)
        assert got == pattern[:TOTAL]

    async def main():
        async with vnet.open_lab(TOPOLOGY) as lab:
            await lab.wait_up()
            cable = lab.links["one", "two"]
            cable.latency, cable.loss = 2 * MILLISECOND, 0.01
            async with lab.guests["b"].activate():
                listener = trio.socket.socket(trio.socket.AF_INET6)
                await listener.bind(("", 80))
                listener.listen()
            async with lab.guests["a"].activate():
                client = trio.socket.socket(trio.socket.AF_INET6 if six else trio.socket.AF_INET)
                await client.connect(("2001:db8::2" if six else "b", 80))
            server, _ = await listener.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, client)
                nursery.start_soon(read, server)

    vnet.simulate(main, seed=seed)
