"""The emulated host that stands in for a machine: what stands still, what is kept, what is forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

import vnet
from vnet.adapters.sockets import QUEUE_OCTETS
from vnet.errors import LabError, NoAnswer, UsageError
from vnet.guests.base import Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.stand_in import MOST_KEPT, StandIn
from vnet.runtime.change import change
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink
from vnet.runtime.views import show
from vnet.topology import parse_topology
from vnet.wire.pcapng import read

TOPOLOGY = parse_topology(
    """
name: stand-ins
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  peer: {nics: [{network: lan, address: 10.0.0.9/24}], run: [sink]}
  vm:
    kind: qemu
    nics: [{network: lan, address: 10.0.0.5/24}]
    run: [echo, {traffic: {to: peer, pattern: cbr, rate: 80kbit, size: 100, protocol: udp, duration: 30d}}]
  leased: {kind: qemu, nics: [lan]}
"""
)
WORDS = ("start", "stop", "shutdown", "reset", "pause", "resume", "save", "restore", "save=good", "restore=good")
LEGAL = {
    "stopped": {"start", "stop"},
    "saved": {"start", "restore", "stop"},
    "running": {"stop", "shutdown", "reset", "pause", "save", "save=good", "restore=good"},
    "paused": {"stop", "resume", "reset", "save", "save=good", "restore=good"},
    "failed": {"start", "stop"},
}


def stand_in(lab: Lab, name: str = "vm") -> StandIn:
    guest = lab.guests[name]
    assert isinstance(guest, StandIn)
    return guest


def emulated(lab: Lab, name: str = "peer") -> EmulatedGuest:
    guest = lab.guests[name]
    assert isinstance(guest, EmulatedGuest)
    return guest


def in_lab(main: Callable[[Lab], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            await lab.wait_up()
            await main(lab)

    vnet.simulate(opened)


@pytest.mark.parametrize("state", LEGAL)
def test_only_what_is_legal_is_done(state: str) -> None:
    """VS-82: as with QEMU (``test_qemu``), word for word."""

    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        for word in WORDS:
            await vm.stop()
            if state != "stopped":
                await vm.start()
            if state == "failed":
                lab.faults.crash("vm")
            elif state == "paused":
                await vm.pause()
            elif state == "saved":
                await vm.save()
            if state in ("running", "paused"):
                await vm.save("good")
            assert vm.state.value == state
            if word in LEGAL[state]:
                await change(lab, "vm", [word])
            else:
                with pytest.raises(UsageError, match=f"it is {state}, and must be "):
                    await change(lab, "vm", [word])
                assert vm.state.value == state

    in_lab(main)


def test_a_paused_machine_says_nothing_and_keeps_what_arrives() -> None:
    async def main(lab: Lab) -> None:
        vm, peer = stand_in(lab), emulated(lab)
        async with await peer.open_udp_socket(7000) as ours, await vm.open_udp_socket(7001) as theirs:
            await ours.send_to(b"before", ("10.0.0.5", 7001))
            assert (await theirs.receive())[0] == b"before"
            await vm.pause()
            size, many = 1000, 2 * QUEUE_OCTETS // 1000
            for number in range(many):
                await ours.send_to(number.to_bytes(size, "big"), ("10.0.0.5", 7001))
            await theirs.send_to(b"later", ("10.0.0.9", 7000))
            with trio.move_on_after(100) as waited:
                await ours.receive()
            assert waited.cancelled_caught and lab.ports["vm:eth0"].carrier
            kept = QUEUE_OCTETS // (size + 42)
            assert vm.host.drops["machine-paused"] == many - kept
            shown = next(row["machine"] for row in show(lab, "guests") if row["name"] == "vm")
            assert isinstance(shown, dict) and shown["state"] == "paused"
            before = lab.now
            await vm.resume()
            assert await ours.receive() == (b"later", (vm.address, 7001))
            got = [int.from_bytes((await theirs.receive())[0], "big") for _ in range(kept)]
            assert got == list(range(kept)) and lab.now == before, "in their order, and at once"

    in_lab(main)


def test_programs_and_timers_stand_still() -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        sink = next(program for program in emulated(lab).programs)
        woke: list[float] = []

        async def sleeper() -> None:
            await trio.sleep(20)
            woke.append(lab.now)
            with trio.move_on_after(20):
                await trio.sleep_forever()
            woke.append(lab.now)

        def datagrams() -> int:
            return sum(int(row["received"] or 0) for row in sink.results)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(vm.run, sleeper)
            began = lab.now
            await lab.advance(10)
            assert datagrams() > 900
            await vm.pause()
            heard = datagrams()
            await lab.advance("1h")
            assert (datagrams(), woke) == (heard, [])
            await vm.resume()
            await lab.advance(10.5)
            assert woke == pytest.approx([began + 3620])
            assert abs(datagrams() - heard - 1050) < 20, "at its rate, not all that it missed"
            await vm.save()
            await lab.advance(100)
            await vm.start()
        assert woke == pytest.approx([began + 3620, began + 3740])

    in_lab(main)


def test_a_lease_that_ran_out_while_it_was_paused_is_renewed_by_its_own_time() -> None:
    """Its clock stands still, as that of a machine does: T1 comes 18 h of its own time after the lease."""

    async def main(lab: Lab) -> None:
        await stand_in(lab).stop()  # whose traffic is of no use here
        vm = stand_in(lab, "leased")
        await lab.advance("10h")
        await vm.pause()
        await lab.advance("100h")
        assert vm.lease() is not None
        await vm.resume()
        renewed = [event for event in lab.events if event.kind == "dhcp-renewed"]
        await lab.advance("7h")
        assert [event for event in lab.events if event.kind == "dhcp-renewed"] == renewed
        await lab.advance("2h")
        assert (await lab.ping("peer", "leased")).ok

    in_lab(main)


def test_a_machine_that_is_off_or_saved_is_not_there() -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        for down in (vm.save, vm.stop):
            await down()
            assert not (await lab.ping("peer", "10.0.0.5")).ok
            reply = await vm.ping("10.0.0.9")
            assert (reply.ok, reply.sent, reply.error) == (False, 0, f"vm is {vm.state.value}")
            assert (await vm.tcp_probe("10.0.0.9", 1)).verdict is Verdict.SILENT
            assert not (await vm.udp_probe("10.0.0.9", 1)).ok
        assert vm.address is None
        with pytest.raises(NoAnswer, match="vm has no address"):
            lab.resolve("vm")
        assert [program.state for program in vm.programs] == ["stopped", "stopped"]
        with pytest.raises(UsageError, match="vm is stopped: only a machine that runs can crash"):
            lab.faults.crash("vm")
        await vm.start()
        assert (await lab.ping("peer", "vm")).ok and (await vm.tcp_probe("10.0.0.9", 9000)).ok
        assert [program.state for program in vm.programs] == ["running", "running"]

    in_lab(main)


@pytest.mark.parametrize("steps", range(6))
def test_who_is_cancelled_while_it_is_saved_leaves_nothing_by_half(steps: int) -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        for call, state in ((vm.save, "saved"), (vm.restore, "running"), (vm.pause, "paused")):
            before = vm.state.value
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            if vm.state.value == before:  # it had not begun
                await call()
            assert vm.state.value == state and vm.clock.is_held == (state != "running")

    in_lab(main)


def test_what_is_kept_by_name_is_gone_back_to_only_while_it_stands() -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        assert (await change(lab, "vm", ["save=now", "restore=now"]))["state"] == "running"
        await vm.pause()
        await vm.save("paused")
        await lab.advance(100)
        await vm.restore("paused")
        await vm.resume()
        with pytest.raises(LabError, match="vm: cannot restore it: Snapshot 'never' does not exist"):
            await vm.restore("never")
        await lab.advance(1)
        with pytest.raises(LabError, match="vm: cannot restore it: it has run since 'paused' was saved"):
            await vm.restore("paused")
        for number in range(MOST_KEPT - 2):
            await vm.save(f"s{number}")
        with pytest.raises(UsageError, match="vm keeps 64 states already"):
            await vm.save("one-more")
        await vm.save("now")

    in_lab(main)


def test_a_crash_and_what_undoes_it() -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        with lab.faults.crash("vm") as fault:
            assert (vm.state.value, vm.error, fault.active) == ("failed", "crashed", True)
            assert lab.faults.crash("vm") is fault
            assert not (await lab.ping("peer", "10.0.0.5")).ok
        assert (vm.state.value, vm.error) == ("running", "")
        fault = lab.faults.crash("vm")
        await vm.start()
        assert vm.state.value == "running"
        assert lab.faults.crash("vm") is fault and vm.state.value == "failed", "it is as if it had been healed"
        await vm.start()
        fault.heal()
        assert vm.state.value == "running" and (await lab.ping("peer", "vm")).ok
        lab.faults.restart("vm")
        kinds = [event.kind for event in lab.events if event.node == "vm" and event.kind.startswith("vm-")]
        assert kinds == ["vm-started", *["vm-failed", "vm-started"] * 4]

    in_lab(main)


def test_pings_under_way_end_with_the_machine_they_came_from() -> None:
    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        errors: list[str] = []

        async def ping() -> None:
            errors.append((await vm.ping("10.0.0.77", timeout=60)).error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            await lab.advance(1)
            await vm.pause()
            await lab.advance(100)
            assert errors == []
            await vm.reset()
            assert vm.state.value == "paused", "as QEMU has it: the reset button does not let it go on"
        assert errors and lab.now < 200

    in_lab(main)


def test_the_switch_sees_whether_a_machine_is_on() -> None:
    """VS-82: the link is up while the machine runs or is paused, and not while it is saved or off."""

    async def main(lab: Lab) -> None:
        vm = stand_in(lab)
        switch, cable = lab.switches["switch"], lab.links["vm:eth0"]
        port = next(each for each in switch.ports.values() if each.port is cable.b)

        async def seen(*words: str) -> bool:
            await change(lab, "vm", words)
            assert cable.up, "whether it is plugged in is another matter"
            return port.is_up

        assert port.is_up
        assert await seen("pause") and await seen("resume")
        assert not await seen("save") and await seen("restore")
        assert not await seen("stop")
        cable.up = False
        cable.up = True
        assert not port.is_up and vm.state.value == "stopped", "a cable to nobody"
        assert await seen("start") and (await lab.ping("peer", "vm")).ok
        with lab.faults.crash("vm"):
            assert not port.is_up
        assert port.is_up
        cable.up = False
        await vm.save()
        await vm.restore()
        assert not port.is_up and not lab.ports["vm:eth0"].carrier

    in_lab(main)


NICS = parse_topology(
    """
name: nics
networks: {lan: {vlan: 16, subnet: 10.0.0.0/24}, six: {vlan: 30, subnet: "fd00:6::/64"}}
switches: {one: {}}
guests:
  peer: {nics: [{network: lan, address: 10.0.0.9/24}]}
  peer6: {nics: [{network: six, address: "fd00:6::9/64"}]}
  tagged: {kind: qemu, nics: [{trunk: [16, 20], vlans: {16: {address: 10.0.0.5/24}}}]}
  bonded: {kind: qemu, nics: [{network: lan, address: 10.0.0.6/24, bond: {members: [one, one]}}]}
  six6: {kind: qemu, nics: [{network: six, address: "fd00:6::5/64"}]}
  idle: {kind: qemu, nics: [lan], start_action: never, run: [{traffic: {to: peer, rate: 10/s}}]}
"""
)


@pytest.mark.parametrize(
    ("name", "peer", "address"),
    [("tagged", "peer", "10.0.0.5"), ("bonded", "peer", "10.0.0.6"), ("six6", "peer6", "fd00:6::5")],
)
def test_every_kind_of_nic_stands_still_and_starts_again(name: str, peer: str, address: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(NICS) as lab:
            await lab.wait_programs()  # of those that run
            await lab.wait_up()
            vm, target = stand_in(lab, name), emulated(lab, peer).address
            assert target is not None and (await lab.ping(peer, address)).ok
            async with await vm.open_udp_socket(99) as socket:
                await vm.pause()
                macs, sink = {state.mac for state in vm.interfaces()}, MemorySink()
                capture = lab.captures.start(sink, [port.name for port in vm.ports])
                await socket.send_to(b"later", (target, 9))
                assert not (await lab.ping(peer, address)).ok
                await lab.advance(30)
                assert not any(each.frame[6:12] in macs for each in read(sink.octets()))
                await vm.resume()
                await lab.advance(1)
                assert any(each.frame[6:12] in macs and b"later" in each.frame for each in read(sink.octets()))
                capture.finish()
                await vm.reset()
            await lab.advance(5)
            assert (await lab.ping(peer, address)).ok

    vnet.simulate(main)
