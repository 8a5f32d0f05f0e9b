"""Ports, cables and hooks, in every order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Handler, Port, connect, disconnect


def ignore(frame: bytes, offload: bytes) -> None:
    pass


def test_an_unplugged_port_counts_what_it_cannot_send() -> None:
    port = Port("p", ignore)
    port.send(b"x", NO_OFFLOAD)
    assert port.unsent == 1
    assert not port.carrier


def test_a_cable_carries_both_ways_with_the_offload_header() -> None:
    seen: list[tuple[str, bytes, bytes]] = []
    a = Port("a", lambda frame, offload: seen.append(("a", frame, offload)))
    b = Port("b", lambda frame, offload: seen.append(("b", frame, offload)))
    connect(a, b)
    a.send(b"1", NO_OFFLOAD)
    b.send(b"2", bytes(range(10)))
    assert seen == [("b", b"1", NO_OFFLOAD), ("a", b"2", bytes(range(10)))]


def test_carrier_is_told_once_for_each_change() -> None:
    a, b = Port("a", ignore), Port("b", ignore)
    told: list[bool] = []
    a.on_carrier = told.append
    connect(a, b)
    a.set_carrier(True)
    a.set_carrier(False)
    disconnect(a, b)
    assert told == [True, False]


def test_a_deferred_cable_delivers_as_an_event_of_the_same_instant() -> None:
    timeline = Timeline(now=5)
    seen: list[tuple[str, int]] = []
    node = Port("node", lambda frame, offload: seen.append(("node", timeline.now)))
    switch = Port("switch", lambda frame, offload: seen.append(("switch", timeline.now)))
    connect(node, switch, defer=timeline)
    switch.send(b"", NO_OFFLOAD)
    assert seen == [("node", 5)], "towards the node it is direct"
    node.send(b"", NO_OFFLOAD)
    assert len(seen) == 1
    timeline.run_until(5)
    assert seen == [("node", 5), ("switch", 5)]


def test_nodes_that_answer_each_other_do_not_recurse() -> None:
    timeline = Timeline()
    a = Port("a", lambda frame, offload: a.send(frame, offload))
    b = Port("b", lambda frame, offload: b.send(frame, offload))
    connect(a, b, defer=timeline)
    a.send(b"ball", NO_OFFLOAD)
    assert timeline.run_until(0, limit=50_000) == 50_000


def test_a_hook_is_built_anew_only_when_its_direction_changes() -> None:
    built: list[str] = []

    def note(direction: str):
        def hook(handler: Handler) -> Handler:
            built.append(direction)
            return lambda frame, offload: handler(frame, offload)

        return hook

    a, b = Port("a", ignore), Port("b", ignore)
    a.hook(note("rx"), note("tx"))
    assert built == ["rx", "tx"]
    connect(a, b)
    assert "rx" not in built[2:], "a cable changes where frames go, not where they arrive"
    del built[:]
    b.set_handler(ignore)
    assert set(built) == {"tx"}
    del built[:]
    a.set_handler(ignore)
    assert set(built) == {"rx"}


class Wiring(RuleBasedStateMachine):
    """Three ports, plugged, hooked and given new handlers in any order: a frame meets all that is current, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.trail: list[str] = []
        self.timeline = Timeline()
        self.generation = 0
        self.names = ("a", "b", "c")
        self.handler = dict.fromkeys(self.names, "0")
        self.hooked: dict[str, tuple[str, str]] = dict.fromkeys(self.names, ("", ""))
        self.gated: dict[str, tuple[str, str]] = dict.fromkeys(self.names, ("", ""))
        self.peer: dict[str, str] = {}
        self.ports = {name: Port(name, self.make_handler(name, "0")) for name in self.names}
        self.cached = {name: self.ports[name].send for name in self.names}
        for name in self.names:
            self.ports[name].on_change = lambda name=name: self.refresh(name)

    def refresh(self, name: str) -> None:
        self.cached[name] = self.ports[name].send

    def make_handler(self, name: str, version: str) -> Handler:
        return lambda frame, offload: self.trail.append(f"{name}{version}")

    def wrap(self, mark: str):
        def hook(handler: Handler) -> Handler:
            def handle(frame: bytes, offload: bytes) -> None:
                self.trail.append(mark)
                handler(frame, offload)

            return handle

        return hook if mark else None

    @rule(name=st.sampled_from("abc"))
    def replace(self, name: str) -> None:
        self.generation += 1
        self.handler[name] = str(self.generation)
        self.ports[name].set_handler(self.make_handler(name, str(self.generation)))

    @rule(name=st.sampled_from("abc"), rx=st.booleans(), tx=st.booleans())
    def hook(self, name: str, rx: bool, tx: bool) -> None:
        self.generation += 1
        marks = (f"rx{self.generation}" if rx else "", f"tx{self.generation}" if tx else "")
        self.hooked[name] = marks
        self.ports[name].hook(self.wrap(marks[0]), self.wrap(marks[1]))

    @rule(name=st.sampled_from("abc"), rx=st.booleans(), tx=st.booleans())
    def gate(self, name: str, rx: bool, tx: bool) -> None:
        self.generation += 1
        marks = (f"in{self.generation}" if rx else "", f"out{self.generation}" if tx else "")
        self.gated[name] = marks
        self.ports[name].gate(self.wrap(marks[0]), self.wrap(marks[1]))

    @rule(pair=st.sampled_from(["ab", "ba", "bc", "ac"]), defer=st.booleans())
    def plug(self, pair: str, defer: bool) -> None:
        one, other = pair
        if one in self.peer or other in self.peer:
            return
        self.peer[one], self.peer[other] = other, one
        connect(self.ports[one], self.ports[other], self.timeline if defer else None)

    @rule(name=st.sampled_from("abc"))
    def unplug(self, name: str) -> None:
        other = self.peer.pop(name, None)
        if other is not None:
            del self.peer[other]
            disconnect(self.ports[name], self.ports[other])

    @invariant()
    def frames_take_the_present_way(self) -> None:
        for name in self.names:
            del self.trail[:]
            before = self.ports[name].unsent
            assert self.cached[name] is self.ports[name].send, "whoever caches send was told"
            self.ports[name].send(b"", NO_OFFLOAD)
            self.timeline.run_until(0)
            expected = [self.hooked[name][1], self.gated[name][1]]
            other = self.peer.get(name)
            if other is not None:
                expected += [self.gated[other][0], self.hooked[other][0], other + self.handler[other]]
            assert self.trail == [step for step in expected if step]
            assert self.ports[name].unsent - before == (other is None)
            assert self.ports[name].carrier == (other is not None)


Wiring.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestWiring = Wiring.TestCase
