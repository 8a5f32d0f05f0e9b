"""One seed, one result: the capture and the event log of a busy lab, from two processes with different hash seeds."""

import subprocess
import sys

PROGRAM = """
import hashlib, sys, trio, vnet
from vnet.testing import expect, never
from vnet.runtime.sinks import MemorySink

async def main():
    async with vnet.open_lab("topologies/infrastructure-in-a-box.yaml") as lab:
        sink = MemorySink()
        capture = lab.captures.start(sink)
        lab.links["core-edge"].loss = 0.05
        await lab.wait_up()
        async with trio.open_nursery() as nursery:
            for guest in ("dc", "user1", "pc1", "pc2"):
                nursery.start_soon(lab.ping, guest, "customer", 20)
                nursery.start_soon(lab.guests[guest].traceroute, "customer")
        listener = lab.guests["web"].host.tcp.listen(8080)
        listener.on_ready = lambda: listener.accept().close()
        for number, guest in enumerate(("customer", "dc", "user1", "pc1")):
            connection = lab.guests[guest].host.tcp.connect(lab.resolve("web").packed, 8080)
            connection.send(bytes(10_000 + number))
            connection.shutdown()
        peers = lab.guests["pc2"].host.tcp.listen(445)
        taken = []
        peers.on_ready = lambda: taken.append(peers.accept())
        bulk = lab.guests["user1"].host.tcp.connect(lab.resolve("pc2").packed, 445)
        bulk.send(bytes(range(256)) * 2000)
        bulk.shutdown()
        await lab.ping_all()
        assert taken and taken[0].available == 512_000, "a stream over the link that loses"
        lab.links["core-edge"].up = False
        await trio.sleep(3600)
        lab.links["core-edge"].up = True
        await trio.sleep(40 * 3600)
        lab.faults.flap("core-edge", times=5, period="700ms")
        lab.at("2s", lab.faults.crash, "pc1")
        with lab.faults.partition("web", "edge"):
            async with never(lab, "host 203.0.113.77", "pc2"), expect(lab, "arp", "dc").within("1h"):
                await lab.reachability()
        lab.faults.heal()
        await lab.sleep_until_idle()
        capture.finish()
        return sink.octets(), lab.events.to_lines()

octets, events = vnet.simulate(main, seed=int(sys.argv[1]))
print(len(octets), hashlib.sha256(octets).hexdigest(), len(events), hashlib.sha256(events.encode()).hexdigest())
"""


def run(seed: int, hash_seed: int) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seed)],
        env={"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_a_seed_gives_the_same_octets_in_any_process_and_another_seed_others():
    first, second = run(7, 1), run(8, 2)
    assert int(first.split()[0]) > 100_000, "a capture worth comparing"
    assert run(7, 4711) == first != second
    assert run(8, 3) == second
