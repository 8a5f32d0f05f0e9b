"""The switch against a naive bridge written from IEEE 802.1Q alone: no caches, no shortcuts, one frame at a time.

The reference keeps frames taken apart (addresses, tag, rest) and decides each from scratch; whatever random configuration,
frames and changes hypothesis comes up with, both must put the same octets on the same ports and count the same drops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from switch_bed import BROADCAST, Bed, frame, mac, tag

from vnet.switch.vlan import Admit, VlanConfig, trunk

AGEING = 1_000
MAX_FRAME = 80
VIDS = [1, 2, 3, 4094]
STATIONS = [mac(number) for number in range(4)]
GROUPS = [BROADCAST, bytes.fromhex("01005e000001"), bytes.fromhex("0180c2000010")]
NO_STATION = [*GROUPS, bytes(6), bytes.fromhex("0180c2000000"), bytes.fromhex("0180c200000f")]


@dataclass
class Bridge:
    """Clause 8.6 by the letter."""

    configs: dict[int, VlanConfig]
    up: dict[int, bool]
    now: int = 0
    learned: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    static: dict[tuple[int, bytes], int] = field(default_factory=dict)
    drops: dict[int, Counter[str]] = field(default_factory=dict)
    received: dict[int, Counter[str]] = field(default_factory=dict)
    sent: dict[int, Counter[str]] = field(default_factory=dict)

    def frame_in(self, port: int, octets: bytes) -> dict[int, list[bytes]]:
        self.received.setdefault(port, Counter()).update(frames=1, octets=len(octets))
        outcome = self.relay(port, octets)
        if isinstance(outcome, str):
            self.drops.setdefault(port, Counter())[outcome] += 1
            return {}
        for target, out in outcome.items():
            self.sent.setdefault(target, Counter()).update(frames=1, octets=len(out))
        return {target: [out] for target, out in sorted(outcome.items())}

    def relay(self, port: int, octets: bytes) -> str | dict[int, bytes]:
        config = self.configs[port]
        tagged = octets[12:14] == b"\x81\x00"
        if len(octets) > MAX_FRAME + 4 * tagged:
            return "oversize"
        if len(octets) < 14 + 4 * tagged:
            return "runt"
        destination, source, rest = octets[:6], octets[6:12], octets[12:]
        pcp = dei = 0
        vid: int | None = None
        if tagged:
            control = int.from_bytes(rest[2:4], "big")
            pcp, dei, vid = control >> 13, control >> 12 & 1, control & 0xFFF
            rest = rest[4:]
        if destination.startswith(bytes.fromhex("0180c20000")) and destination[5] <= 0x0F:
            return "reserved-address"
        if source[0] % 2 == 1 or source == bytes(6):
            return "bad-source"
        if vid == 4095:
            return "reserved-vid"
        if not vid:  # untagged or priority-tagged
            if config.admit is Admit.TAGGED or config.pvid is None:
                return "frame-type"
            vid = config.pvid
        elif config.admit is Admit.UNTAGGED:
            return "frame-type"
        if not self.member(port, vid):
            return "ingress-filter"
        self.learn(vid, source, port)
        targets = [number for number in self.configs if number != port and self.up[number] and self.member(number, vid)]
        if destination[0] % 2 == 0:
            at = self.where(vid, destination)
            if at == port:
                return "same-port"
            if at is not None:
                targets = [number for number in targets if number == at]
        if not targets:
            return "no-egress"
        tag = b"\x81\x00" + (pcp << 13 | dei << 12 | vid).to_bytes(2, "big")
        return {
            number: destination + source + (b"" if vid in self.configs[number].untagged else tag) + rest
            for number in targets
        }

    def member(self, port: int, vid: int) -> bool:
        members = self.configs[port].members
        return members is None or vid in members

    def learn(self, vid: int, source: bytes, port: int) -> None:
        if (vid, source) not in self.static:
            self.learned[vid, source] = (port, self.now)

    def where(self, vid: int, address: bytes) -> int | None:
        if (vid, address) in self.static:
            return self.static[vid, address]
        port, seen = self.learned.get((vid, address), (None, 0))
        return port if port is not None and self.now - seen < AGEING else None

    def forget(self, port: int | None = None, vid: int | None = None) -> None:
        self.learned = {
            key: value
            for key, value in self.learned.items()
            if (port is not None and value[0] != port) or (vid is not None and key[0] != vid)
        }


@st.composite
def configs(draw: st.DrawFn) -> VlanConfig:
    members = draw(st.none() | st.frozensets(st.sampled_from(VIDS)))
    return VlanConfig(
        pvid=draw(st.none() | st.sampled_from(VIDS)),
        members=members,
        untagged=draw(st.frozensets(st.sampled_from(VIDS), max_size=2)),
        admit=draw(st.sampled_from(Admit)),
    )


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    destination = draw(st.sampled_from(STATIONS * 3 + NO_STATION))
    source = draw(st.sampled_from(STATIONS * 6 + NO_STATION))
    tags = b""
    for tpid in draw(st.sampled_from([(), (), (0x8100,), (0x8100,), (0x8100, 0x8100), (0x88A8,), (0x8100, 0x88A8)])):
        vid = draw(st.sampled_from([*VIDS, *VIDS, 0, 4095]))
        tags += tpid.to_bytes(2, "big") + (draw(st.integers(0, 15)) << 12 | vid).to_bytes(2, "big")
    octets = destination + source + tags + b"\x08\x00" + draw(st.sampled_from([b"", b"x", bytes(46), bytes(67)]))
    return octets[: draw(st.sampled_from([200, 200, 200, 200, 82, 84, 80, 18, 17, 14, 13]))]


ports = st.integers(1, 4)
changes = st.one_of(
    st.tuples(st.just("frame"), ports, frames()),
    st.tuples(st.just("frame"), ports, frames()),
    st.tuples(st.just("frame"), ports, frames()),
    st.tuples(st.just("again"), ports, st.integers(0, 5)),
    st.tuples(st.just("again"), ports, st.integers(0, 5)),
    st.tuples(st.just("advance"), st.sampled_from([0, 1, 400, AGEING - 1, AGEING, 3 * AGEING])),
    st.tuples(st.just("configure"), ports, configs()),
    st.tuples(st.just("cable"), ports),
    st.tuples(st.just("enabled"), ports),
    st.tuples(st.just("static"), ports, st.sampled_from(VIDS), st.sampled_from(STATIONS)),
    st.tuples(st.just("remove"), st.sampled_from(VIDS), st.sampled_from(STATIONS)),
    st.tuples(st.just("flush"), st.none() | ports, st.none() | st.sampled_from(VIDS)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(configs(), min_size=4, max_size=4), st.lists(changes, max_size=40))
def test_the_switch_does_what_the_standard_says(vlans: list[VlanConfig], steps: list[tuple]) -> None:
    bed = Bed(*vlans, ageing=AGEING, max_frame=MAX_FRAME)
    bridge = Bridge(dict(enumerate(vlans, 1)), dict.fromkeys(range(1, 5), True))
    history: list[bytes] = []
    for kind, *arguments in steps:
        match kind:
            case "frame" | "again":
                port, octets = arguments
                if isinstance(octets, int):  # an earlier frame once more, so that cached decisions are used
                    if not history:
                        continue
                    octets = history[-1 - octets % len(history)]
                if not bridge.up[port]:
                    continue
                history.append(octets)
                assert bed.send(port, octets) == bridge.frame_in(port, octets)
            case "advance":
                bed.advance(arguments[0])
                bridge.now += arguments[0]
            case "configure":
                port, config = arguments
                bed.switch.set_vlan(port, config)
                bridge.configs[port] = config
                bridge.forget(port=port)
            case "cable":
                port = arguments[0]
                if bed.switch.ports[port].port.carrier:
                    bed.cut(port)
                else:
                    bed.mend(port)
                bridge.up[port] = bed.switch.ports[port].is_up
                if not bridge.up[port]:
                    bridge.forget(port=port)
            case "enabled":
                port = arguments[0]
                bed.switch.set_enabled(port, not bed.switch.ports[port].enabled)
                bridge.up[port] = bed.switch.ports[port].is_up
                if not bridge.up[port]:
                    bridge.forget(port=port)
            case "static":
                port, vid, address = arguments
                bed.switch.add_static(vid, address, port)
                bridge.static[vid, address] = port
                bridge.learned.pop((vid, address), None)
            case "remove":
                vid, address = arguments
                bed.switch.remove_entry(vid, address)
                bridge.static.pop((vid, address), None)
                bridge.learned.pop((vid, address), None)
            case "flush":
                port, vid = arguments
                bed.switch.flush(port, vid)
                if port is None and vid is None:
                    bridge.learned.clear()
                else:
                    bridge.forget(port, vid)
    for port in bridge.configs:
        received, sent = bridge.received.get(port, Counter()), bridge.sent.get(port, Counter())
        assert bed.counters(port) == (received["frames"], received["octets"], sent["frames"], sent["octets"])
        assert bed.drops(port) == dict(bridge.drops.get(port, {}))
    static = {(entry.vid, entry.mac): entry.port for entry in bed.switch.fdb if entry.static}
    assert static == bridge.static
    dynamic = {(entry.vid, entry.mac): (entry.port, entry.seen) for entry in bed.switch.fdb if not entry.static}
    assert dynamic == {key: value for key, value in bridge.learned.items() if bridge.now - value[1] < AGEING}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5),
    st.lists(
        st.tuples(ports, st.sampled_from(STATIONS), st.sampled_from(STATIONS), st.sampled_from([1, 2]))
        | st.sampled_from([1, 400, AGEING]),
        max_size=60,
    ),
)
def test_cached_decisions_change_nothing(fdb_size: int, steps: list[tuple[int, bytes, bytes, int] | int]) -> None:
    """Stations come, move, age out and give way in a small FDB: the caches of a switch do not show."""
    beds = [Bed(*[trunk()] * 4, ageing=AGEING, fdb_size=fdb_size) for _ in range(2)]
    remembering, forgetful = beds
    for step in steps:
        if isinstance(step, int):
            for bed in beds:
                bed.advance(step)
            continue
        port, destination, source, vid = step
        octets = frame(destination, source, tag(vid))
        forgetful.switch.forget_flows()
        assert remembering.send(port, octets) == forgetful.send(port, octets)
        for bed in beds:
            bed.advance(1)
    for number in range(1, 5):
        assert remembering.counters(number) == forgetful.counters(number)
        assert remembering.drops(number) == forgetful.drops(number)
    assert remembering.events == forgetful.events
    tables = [{(entry.vid, entry.mac): (entry.port, entry.seen) for entry in bed.switch.fdb} for bed in beds]
    assert tables[0] == tables[1]
    held = {flow for port in remembering.switch.ports.values() for flow in port.flows.values()}
    assert {flow for flows in remembering.switch._index._flows.values() for flow in flows} == held
