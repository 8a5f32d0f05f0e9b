"""The invariants see what is wrong, one by one, and are quiet where nothing is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

import vnet
from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD
from vnet.runtime.lab import Lab
from vnet.switch.vlan import access
from vnet.testing import Invariants
from vnet.testing.strategies import Step
from vnet.units import MILLISECOND
from vnet.wire import arp

ROOMS = vnet.parse_topology("""
name: rooms
networks:
  office: {vlan: 16, subnet: 10.0.1.0/24, dhcp: {}}
  lobby: {vlan: 30, subnet: 10.0.2.0/24}
routers:
  gate:
    interfaces: {office: 10.0.1.1/24, lobby: 10.0.2.1/24}
    nat: {outside: lobby, inside: [office]}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 1ms}]
guests:
  server: {nics: [{network: office, address: 10.0.1.10/24, gateway: 10.0.1.1}]}
  pc: {switch: edge, nics: [office]}
  phone: {switch: edge, nics: [{network: lobby, address: 10.0.2.7/24}]}
""")


def switch_port(lab: Lab, switch: str, name: str) -> int:
    return next(port.number for port in lab.switches[switch].ports.values() if port.name == name)


def leak(lab: Lab) -> None:
    lab.switches["edge"].set_vlan(switch_port(lab, "edge", "phone:eth0"), access(16))
    lab.guests["server"].host.interfaces["eth0"].port.send(
        arp.request_frame(lab.guests["server"].host.interfaces["eth0"].mac, b"\x0a\0\1\x0a", b"\x0a\0\1\x63"), NO_OFFLOAD
    )


def invent(lab: Lab) -> None:
    lab.switches["edge"].ports[switch_port(lab, "edge", "phone:eth0")].port.send(
        bytes(12) + b"\x88\xb6" + bytes(46), NO_OFFLOAD
    )


def change_octets(lab: Lab) -> None:
    port = lab.ports["phone:eth0"]
    port.gate(rx=lambda handler: lambda frame, offload: handler(frame[:-1] + b"!", offload))
    lab.guests["pc"].host.interfaces["eth0"].port.send(b"", NO_OFFLOAD)
    lab.routers["gate"].interfaces["lobby"].neighbor(IPv4Address("10.0.2.7").packed).send(bytes(30), NO_OFFLOAD)


def miscount(lab: Lab) -> None:
    lab.switches["core"].ports[1].tx_frames += 10**6


def overdrop(lab: Lab) -> None:
    lab.switches["core"].ports[1].count_drop("runt", 10**6)


def misplace(lab: Lab) -> None:
    lab.switches["edge"].add_static(16, b"\2\0\0\0\0\1", switch_port(lab, "edge", "phone:eth0"))


def forget_bindings(lab: Lab) -> None:
    lab.dhcp["office"].flush()


@pytest.mark.parametrize(("spoil", "text"), [
    (leak, r"phone:eth0 received what nobody sent in VLAN 30: .*ARP"),
    (invent, r"phone:eth0 received what nobody sent in VLAN 30: 00:00"),
    (change_octets, r"phone:eth0 received what nobody sent in VLAN 30: "),
    (miscount, r"switch core received \d+ frames, dropped \d+ and sent \d+"),
    (overdrop, r"core:.* counts \d+ frames received and .*runt"),
    (misplace, r"switch edge has 02:00:00:00:00:01 of VLAN 16 on port \d+, which is no member"),
    (forget_bindings, r"pc:eth0 uses 10.0.1.\d+/24, which is not bound to it"),
])  # fmt: skip
def test_what_is_wrong_is_told(spoil: Callable[[Lab], None], text: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            watch = Invariants(lab)
            await lab.wait_up()
            await lab.ping("pc", "phone")
            watch.check()
            spoil(lab)
            await lab.advance("100ms")
            with pytest.raises(AssertionError, match=text):
                watch.check()

    vnet.simulate(main)


def test_traffic_in_every_direction_is_right_and_a_late_watch_gives_no_false_alarm() -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            with Invariants(lab):
                await lab.wait_up()
                await lab.ping_all()
                lab.guests["phone"].host.ping(lab.resolve("gate").packed, on_result=lambda result: None)
                with Invariants(lab) as late:
                    await lab.ping_all()
                assert not late.problems()
            assert not lab.captures.running

    vnet.simulate(main)


def flip(port: str, *bits: int) -> Callable[[Lab], None]:
    """Make a node send a frame that arrives at *port* with these bits flipped, counted from the end."""

    def spoil(lab: Lab) -> None:
        mask = sum(1 << bit for bit in bits)
        lab.ports[port].gate(
            rx=lambda handler: (
                lambda frame, offload: handler((int.from_bytes(frame, "big") ^ mask).to_bytes(len(frame), "big"), offload)
            )
        )
        lab.routers["gate"].interfaces["lobby"].neighbor(IPv4Address("10.0.2.7").packed).send(bytes(30), NO_OFFLOAD)

    return spoil


@pytest.mark.parametrize(("corrupting", "bits", "found"), [(0, 1, 1), (1, 1, 0), (1, 2, 1), (2, 2, 0), (2, 3, 1)])
def test_a_bit_may_be_flipped_for_each_link_that_corrupts_and_no_more(corrupting: int, bits: int, found: int) -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            watch = Invariants(lab)
            await lab.ping("phone", "gate")
            for name in ("server:eth0", "pc:eth0")[:corrupting]:
                lab.links[name].corruption = 1e-9
            flip("phone:eth0", *range(3, 3 + bits))(lab)
            await lab.advance("100ms")
            assert len(watch.problems()) == found

    vnet.simulate(main)


def test_links_that_repeat_reorder_and_damage_give_no_false_alarm() -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            with Invariants(lab) as watch:
                for name in ("core-edge", "phone:eth0"):
                    link = lab.links[name]
                    link.duplication, link.reordering, link.corruption, link.delay_variation = 0.3, 0.3, 0.5, MILLISECOND
                for _ in range(30):
                    await lab.ping("pc", "phone", timeout=0.2)
                    await lab.ping("phone", "gate", timeout=0.2)
                    watch.check()
                ways = [way for link in lab.links.values() for way in (link.forward, link.backward)]
            assert sum(way.altered["corrupted"] for way in ways) > 10

    vnet.simulate(main)


def test_the_error_of_the_block_comes_first() -> None:
    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            with pytest.raises(ZeroDivisionError), Invariants(lab):
                miscount(lab)
                raise ZeroDivisionError

    vnet.simulate(main)


def test_steps_print_as_what_they_are_and_wrong_ones_are_refused() -> None:
    assert eval(repr(Step("crash", ("pc",)))) == Step("crash", ("pc",))

    async def main() -> None:
        async with vnet.open_lab(ROOMS) as lab:
            with pytest.raises(UsageError, match="no such step"):
                await Step("send", ("pc:eth0", "text")).run(lab)

    vnet.simulate(main)


def test_without_hypothesis_the_strategies_say_what_to_install() -> None:
    """The others work without it."""
    program = """
import sys; sys.modules["hypothesis"] = None
from vnet.testing import Invariants, expect, never; print("imported")
import vnet.testing.strategies
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == "imported\n"
    assert "UsageError: vnet.testing.strategies needs hypothesis: pip install hypothesis" in result.stderr
