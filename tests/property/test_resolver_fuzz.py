"""Whatever a server says, or anybody in its name, nothing escapes the resolver, and every lookup ends in bounded time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vnet.fabric.rng import RandomStreams
from vnet.stack.resolver import Ask, AskStream, Done, Lookup, ResolverSettings, State
from vnet.stack.resolver_answer import Outcome
from vnet.stack.resolver_names import MAX_SEARCH
from vnet.units import SECOND
from vnet.wire import dns

SERVERS = tuple(bytes((10, 0, 0, number)) for number in range(1, 5))
labels = st.sampled_from([b"www", b"WWW", b"example", b"a", b"b", b"\0", b"x" * 63])
names = st.lists(labels, max_size=4).map(tuple)
records = st.builds(
    dns.Record, names, st.sampled_from([dns.A, dns.AAAA, dns.PTR, dns.OPT, 99]), st.just(60), st.binary(max_size=20)
) | st.builds(dns.name_record, names, st.sampled_from([dns.CNAME, dns.PTR, dns.NS]), st.just(60), names)
lookups = st.builds(
    Lookup,
    st.sampled_from(["www.example", "www", "a.", "1.0.0.10.in-addr.arpa."]),
    st.sampled_from([(dns.A,), (dns.A, dns.AAAA), (dns.PTR,)]),
    st.builds(
        ResolverSettings,
        servers=st.integers(1, 4).map(lambda count: SERVERS[:count]),
        search=st.lists(st.sampled_from(["a", "example", "b.example"]), max_size=3).map(tuple),
        ndots=st.integers(0, 3),
    ),
    st.just(0).map(lambda seed: RandomStreams(seed).stream("h", "dns")),
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, int, object]:
    """Draw what is done next: wait, give up, forged octets, or an answer with some of it changed."""
    what = draw(st.sampled_from(["wait", "fail", "octets", "answer", "answer", "cut"]))
    if what == "octets":
        return what, draw(st.integers(0, 1)), draw(st.binary(max_size=80))
    flags = draw(st.sampled_from([0x8000, 0x8080, 0x8400, 0x8200])) | draw(st.integers(0, 15))
    return what, draw(st.integers(0, 1)), (flags, tuple(draw(st.lists(records, max_size=4))), draw(st.integers(0, 40)))


@given(lookups, st.lists(replies(), max_size=30))
def test_every_lookup_ends_and_nothing_escapes(lookup: Lookup, steps: list[tuple[str, int, object]]) -> None:
    now, results, asked = 0, [], 0
    open_: list[dns.Message] = []
    server = b""

    def apply(effects) -> None:
        nonlocal server, asked
        for effect in effects:
            match effect:
                case Done(result):
                    results.append(result)
                    open_.clear()
                case Ask(server, messages) | AskStream(server, messages):
                    asked += 1
                    assert len(messages) <= len(lookup.kinds) and server in SERVERS[:3]
                    open_[:] = [dns.decode(message) for message in messages]

    apply(lookup.start(now))
    for what, which, detail in steps:
        if results:
            break
        query = open_[which % len(open_)]
        if what == "wait":
            now += SECOND
            apply(lookup.expire(now))
        elif what == "fail":
            apply(lookup.failed(now, "unreachable"))
        elif what == "octets":
            head = dns.encode(query)[:12] if which else b""
            apply(lookup.receive(now, server, head + detail))
        else:
            flags, answers, length = detail
            octets = dns.encode(replace(query, flags=flags, answers=answers))
            apply(lookup.receive(now, server, octets[:length] if what == "cut" else octets))
    while not results:
        deadline = lookup.next_deadline()
        assert deadline is not None and now <= deadline + 10 * SECOND
        now = max(now, deadline)
        apply(lookup.expire(now))
    (result,) = results
    assert lookup.state is State.DONE and lookup.next_deadline() is None
    assert (result.outcome is Outcome.FOUND) == bool(result.addresses or result.names)
    assert all(len(address) in (4, 16) for address in result.addresses)
    spellings = MAX_SEARCH + 1
    assert asked <= spellings * 3 * 2 * 2 and len(result.told) <= asked * 3
    assert lookup.receive(now, server, b"") == [] and lookup.expire(now + 100 * SECOND) == []


@given(st.binary(max_size=60), st.sampled_from([dns.A, dns.AAAA, dns.PTR]))
def test_octets_behind_a_good_header_never_raise(tail: bytes, kind: int) -> None:
    lookup = Lookup("www.example", (kind,), ResolverSettings(servers=SERVERS[:1]), RandomStreams(1).stream("h", "dns"))
    ((_, (message,)),) = lookup.start(0)
    answer = message[:2] + b"\x80\x80\0\1\0\1\0\0\0\0" + message[12:]
    for effect in lookup.receive(0, SERVERS[0], answer + tail):
        assert isinstance(effect, Done | Ask)
