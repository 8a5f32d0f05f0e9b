"""Fifty hosts with leases, TCP and loss: print digests of the capture and the event log. ``python fifty_hosts.py SEED``."""

import hashlib
import sys

import trio

import vnet
from vnet.runtime.sinks import MemorySink


def topology():
    guests = "".join(f"  h{n}: {{switch: s{n % 4}, nics: [lan]}}\n" for n in range(50))
    return vnet.parse_topology(f"""
name: fifty
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{lease: 10min}}}}}}
switches: {{core: {{}}, s0: {{}}, s1: {{}}, s2: {{}}, s3: {{}}}}
links:
  - {{between: [core, s0], trunk: all, latency: 2ms, loss: 2%, rate: 100mbit}}
  - {{between: [core, s1], trunk: all, latency: 2ms, loss: 2%, rate: 100mbit}}
  - {{between: [core, s2], trunk: all, latency: 20ms, loss: 1%, rate: 10mbit}}
  - {{between: [core, s3], trunk: all, latency: 200us, rate: 1gbit}}
guests:
{guests}""")


async def serve(stream):
    total = 0
    async for data in stream:
        total += len(data)
    await stream.send_all(str(total).encode())


async def client(lab, number, results):
    await trio.sleep(number / 10)
    guest = lab.guests[f"h{number}"]
    async with await guest.open_tcp_stream(f"h{(number * 7 + 3) % 50}", 9) as stream:
        for _ in range(4):
            await stream.send_all(bytes(5000 * (number % 5 + 1)))
            await trio.sleep(3)
        await stream.send_eof()
        results[number] = await stream.receive_some()


async def main():
    async with vnet.open_lab(topology()) as lab:
        sink = MemorySink()
        capture = lab.captures.start(sink)
        await lab.wait_up(600)
        results = {}
        async with trio.open_nursery() as nursery:
            for guest in lab.guests.values():
                nursery.start_soon(guest.serve_tcp, serve, 9)
            await trio.sleep(1)
            async with trio.open_nursery() as clients:
                for number in range(50):
                    clients.start_soon(client, lab, number, results)
            await trio.sleep(1000)
            nursery.cancel_scope.cancel()
        capture.finish()
        return sink.octets(), lab.events.to_lines(), results


if __name__ == "__main__":
    octets, events, results = vnet.simulate(main, seed=int(sys.argv[1]))
    assert results == {number: str(20_000 * (number % 5 + 1)).encode() for number in range(50)}, results
    digests = hashlib.sha256(octets).hexdigest(), hashlib.sha256(events.encode()).hexdigest()
    sys.stdout.write(f"{len(octets)} {digests[0]} {len(events)} {digests[1]}\n")
