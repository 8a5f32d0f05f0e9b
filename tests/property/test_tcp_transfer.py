"""Whatever the wire does, the octets that arrive are those that were sent, both ends close, and nothing is left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tcp_bed import V4, V6, Pair, Program, assert_clean
from vnet.stack.tcp.congestion import Cubic, NewReno
from vnet.units import MILLISECOND, MINUTE

ratios = st.sampled_from([0.0, 0.01, 0.05, 0.1])
sizes = st.one_of(st.integers(0, 5000), st.sampled_from([20_000, 100_001, 250_000]))


@st.composite
def wires(draw):
    return {
        "loss": draw(ratios), "repeat": draw(ratios), "swap": draw(ratios),
        "delay": draw(st.sampled_from([0, MILLISECOND, 50 * MILLISECOND])),
        "spread": draw(st.sampled_from([0, MILLISECOND, 20 * MILLISECOND])),
        "cut": draw(st.booleans()),
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), wire=wires(), forth=sizes, back=sizes, largest=st.sampled_from([100, 5000, 100_000]),
    pauses=st.tuples(*[st.sampled_from([0, 0, 5 * MILLISECOND])] * 2), mtu=st.sampled_from([576, 1500, 9000]),
    no_delay=st.booleans(), sack=st.booleans(), capacity=st.sampled_from([3000, 20_000, 65_536, 1 << 20]),
    stamps=st.booleans(), congestion=st.sampled_from([Cubic, NewReno]), version=st.sampled_from([V4, V6]),
)  # fmt: skip
def test_what_arrives_is_what_was_sent(
    seed, wire, forth, back, largest, pauses, mtu, no_delay, sack, capacity, stamps, congestion, version
):
    pair = Pair(seed, mtu=max(mtu, 1280) if version is V6 else mtu, version=version, **wire)
    random = pair.streams.stream("programs", "sizes")
    pair.b.tcp.settings.sack = sack
    pair.b.tcp.settings.timestamps = stamps
    for host in (pair.a, pair.b):
        host.tcp.settings.receive_buffer = host.tcp.settings.send_buffer = capacity
        host.tcp.settings.congestion = congestion
    client, server = pair.connect()
    client.no_delay = no_delay
    texts = pair.streams.stream("programs", "texts")
    there, here = texts.octets(forth) if forth else b"", texts.octets(back) if back else b""
    one = Program(client, there, random, largest, pauses[0])
    other = Program(server, here, random, largest, pauses[1])
    pair.run(60 * MINUTE)
    assert other.received == there
    assert one.received == here
    assert_clean(pair, client, server)
