"""Routers hand frames over within one call, however many of them, and however wrongly they are set up."""

from vnet.fabric.timeline import Timeline
from vnet.ports import MAX_NESTING, NO_OFFLOAD, Nesting
from vnet.runtime.clock import simulate
from vnet.runtime.opening import open_lab
from vnet.topology import parse_topology

ROUTERS = 12
RING = (
    "name: ring\nnetworks:\n"
    + "".join(f"  n{i}: {{subnet: 10.0.{i}.0/24}}\n" for i in range(ROUTERS))
    + "routers:\n"
    + "".join(
        f"  r{i}:\n    interfaces: {{n{i}: 10.0.{i}.1/24, n{(i + 1) % ROUTERS}: 10.0.{(i + 1) % ROUTERS}.2/24}}\n"
        f"    default_gateway: 10.0.{(i + 1) % ROUTERS}.1\n"
        for i in range(ROUTERS)
    )
    + "guests:\n  a: {nics: [{network: n0, address: 10.0.0.9/24, gateway: 10.0.0.1}]}\n"
)


def test_a_packet_that_circles_through_routers_ends_by_its_ttl():
    async def main():
        async with open_lab(parse_topology(RING)) as lab:
            return await lab.guests["a"].ping("192.0.2.1", ttl=255)

    reply = simulate(main)
    assert not reply.ok and reply.error.startswith("time exceeded")


def test_a_handler_that_calls_itself_goes_on_as_an_event():
    timeline = Timeline()
    nesting = Nesting(timeline)
    calls = []

    def handler(frame, offload):
        calls.append(frame)
        if len(calls) < 1000:
            guarded(frame, offload)

    guarded = nesting.guard(handler)
    guarded(b"", NO_OFFLOAD)
    assert len(calls) == MAX_NESTING
    timeline.run_until(0)
    assert len(calls) == 1000


def test_a_handler_that_raises_leaves_no_depth_behind():
    nesting = Nesting(Timeline())

    def fail(frame, offload):
        raise RuntimeError

    for _ in range(3 * MAX_NESTING):
        try:
            nesting.guard(fail)(b"", NO_OFFLOAD)
        except RuntimeError:
            continue
        raise AssertionError("it was deferred")
