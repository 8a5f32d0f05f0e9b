"""Any life of a machine that is stood in for: only legal moves are made, it is silent when it must be, and ends well."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import vnet
from vnet.errors import LabError, UsageError
from vnet.guests.machine_life import TRANSITIONS, MachineState, Move
from vnet.guests.stand_in import StandIn
from vnet.runtime.change import change
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink
from vnet.topology import parse_topology
from vnet.wire.pcapng import read

TOPOLOGY = parse_topology(
    """
name: lives
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 2min}}}
guests:
  user: {nics: [{network: lan, address: 10.0.0.250/24}], run: [sink, echo]}
  vm:
    kind: qemu
    nics: [lan]
    run:
      - echo
      - {traffic: {to: user, rate: 5/s, size: 100, protocol: udp, duration: 1h}}
      - {traffic: {to: user, pattern: request, rate: 1/s, duration: 1h}}
"""
)
MOVES = {
    "start": Move.START, "stop": Move.STOP, "shutdown": Move.SHUT_DOWN, "pause": Move.PAUSE, "resume": Move.RESUME,
    "reset": Move.RESET, "save": Move.SAVE, "restore": Move.RESTORE, "save=x": Move.KEEP, "restore=x": Move.GO_BACK,
}  # fmt: skip
AFTER = {
    MachineState.STARTING: MachineState.RUNNING, MachineState.RESTORING: MachineState.RUNNING,
    MachineState.SAVING: MachineState.SAVED, MachineState.STOPPING: MachineState.STOPPED,
}  # fmt: skip
"""Where a state on the way to another leads, if nothing goes wrong."""
LIVES = st.lists(st.tuples(st.sampled_from([*MOVES, "crash", "heal"]), st.sampled_from([0.0, 0.3, 7.0, 200.0])), max_size=12)


async def live(lab: Lab, moves: list[tuple[str, float]]) -> None:
    vm = lab.guests["vm"]
    assert isinstance(vm, StandIn)
    mac, sink = vm.interfaces()[0].mac, MemorySink()
    capture = lab.captures.start(sink, ["vm:eth0"])
    for word, wait in moves:
        before = vm.state
        if word == "heal":
            lab.faults.heal()
        elif word == "crash":
            try:
                lab.faults.crash("vm")
            except UsageError:
                assert not before.is_alive
        else:
            allowed = TRANSITIONS.get((before, MOVES[word]))
            try:
                await change(lab, "vm", [word])
                assert allowed is not None
                wanted = MachineState.STOPPED if word == "shutdown" else AFTER.get(allowed, allowed)
                assert vm.state is wanted
            except UsageError:
                assert allowed is None and vm.state is before
            except LabError:
                assert word == "restore=x" and vm.state is before
        said = len(read(sink.octets()))
        await lab.advance(wait)
        if vm.state is not MachineState.RUNNING:
            assert not any(each.frame[6:12] == mac for each in read(sink.octets())[said:]), f"{vm.state.value} after {word}"
    capture.finish()
    if vm.state is MachineState.PAUSED:
        await vm.resume()
    elif vm.state is not MachineState.RUNNING:
        await vm.start()
    await lab.advance(60)
    assert (await lab.ping("user", "vm")).ok
    async with await vm.open_tcp_stream("user", 7) as stream:
        await stream.send_all(b"well")
        assert await stream.receive_some() == b"well"
    assert [program.state for program in vm.programs][:2] == ["running", "running"]
    assert not [event for event in lab.events if event.kind == "internal-error"]


def run(moves: list[tuple[str, float]]) -> str:
    async def main() -> str:
        async with vnet.open_lab(TOPOLOGY) as lab:
            await lab.wait_up()
            await live(lab, moves)
        return lab.events.to_lines()

    return vnet.simulate(main)


@settings(max_examples=25, deadline=None)
@given(LIVES)
def test_any_life_ends_well_and_is_the_same_again(moves: list[tuple[str, float]]) -> None:
    assert run(moves) == run(moves)
