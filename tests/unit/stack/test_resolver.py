"""The resolver as a machine: whom it asks, when, for what, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from vnet.fabric.rng import RandomStreams
from vnet.stack.resolver import Ask, AskStream, Done, Lookup, ResolverSettings, State
from vnet.stack.resolver_answer import MAX_ALIASES, Outcome
from vnet.stack.resolver_names import MAX_SEARCH, candidates
from vnet.units import SECOND
from vnet.wire import dns

ONE, TWO, THREE = (bytes((10, 0, 0, number)) for number in (1, 2, 3))
FOUR, SIX = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CODES = {"NXDOMAIN": 3, "SERVFAIL": 2, "REFUSED": 5, "NOTIMP": 4, "FORMERR": 1}


class Run:
    """A lookup and its clock; ``asked`` has (instant in s, server, name, kind) of each question."""

    def __init__(self, name="www.example", *, servers=(ONE, TWO), kinds=(dns.A, dns.AAAA), search=(), ndots=1, seed=1):
        settings = ResolverSettings(servers=servers, search=search, ndots=ndots)
        self.lookup = Lookup(name, kinds, settings, RandomStreams(seed).stream("h", "dns"))
        self.now = 0
        self.asked, self.result, self.open = [], None, []
        self.apply(self.lookup.start(0))

    def apply(self, effects):
        for effect in effects:
            if isinstance(effect, Done):
                assert self.result is None and self.lookup.next_deadline() is None
                self.result, self.open = effect.result, []
                continue
            self.server = effect.server
            self.over_tcp = isinstance(effect, AskStream)
            self.open = [dns.decode(message) for message in effect.messages]
            for query in self.open:
                (question,) = query.questions
                assert query.flags == dns.RECURSION_DESIRED and question.record_class == dns.INTERNET
                name = dns.name_text(question.name)
                self.asked.append((self.now / SECOND, ip_address(effect.server).packed[3], name, question.kind))

    def say(self, query, *records, code=0, bits=0x80, server=None, **changes):
        message = dns.Message(query.identifier, dns.RESPONSE | bits | code, query.questions, records)
        octets = dns.encode(replace(message, **changes))
        self.apply(self.lookup.receive(self.now, self.server if server is None else server, octets))

    def say_all(self, code=0):
        for query in self.open:
            self.say(query, code=code)

    def wait(self):
        self.now = self.lookup.next_deadline()
        self.apply(self.lookup.expire(self.now))

    @property
    def names(self):
        return list(dict.fromkeys(name for _, _, name, _ in self.asked))


def addresses(query):
    (question,) = query.questions
    return [dns.address_record(question.name, 60, FOUR if question.kind == dns.A else SIX)]


def test_both_kinds_are_asked_for_at_once():
    run = Run()
    assert run.asked == [(0, 1, "www.example", dns.A), (0, 1, "www.example", dns.AAAA)]
    four, six = run.open
    assert four.identifier != six.identifier and run.lookup.next_deadline() == 5 * SECOND
    run.say(six, *addresses(six))
    assert run.result is None
    run.say(four, *addresses(four))
    assert run.result.outcome is Outcome.FOUND and run.result.addresses == (FOUR.packed, SIX.packed)
    assert run.result.canonical == (b"www", b"example") and run.lookup.state is State.DONE


def test_identifiers_are_drawn_anew_and_from_the_stream_alone():
    def identifiers(seed):
        run = Run(seed=seed)
        found = []
        while run.open:
            found += [query.identifier for query in run.open]
            run.wait()
        return found

    assert identifiers(1) == identifiers(1) != identifiers(2) and len(set(identifiers(1))) == 8


def test_what_is_no_answer_is_ignored():
    run = Run(kinds=(dns.A,))
    (query,) = run.open
    (question,) = query.questions
    for changes in (
        {"identifier": query.identifier ^ 1},
        {"flags": 0},
        {"flags": dns.RESPONSE | 0x2000},
        {"questions": ()},
        {"questions": (question, question)},
        {"questions": (replace(question, kind=dns.AAAA),)},
        {"questions": (replace(question, name=(b"www", b"example", b"org")),)},
        {"questions": (replace(question, record_class=3),)},
    ):
        run.say(query, *addresses(query), **changes)
    run.say(query, *addresses(query), server=TWO)
    for octets in (b"", b"x", dns.encode(query)[:-1]):
        assert run.lookup.receive(run.now, ONE, octets) == []
    assert run.lookup.ignored == 12 and run.result is None
    run.say(query, *addresses(query), questions=(replace(question, name=(b"WWW", b"Example")),))
    assert run.result.outcome is Outcome.FOUND
    assert run.lookup.receive(run.now, ONE, dns.encode(query)) == [] and run.lookup.expire(10**12) == []


@pytest.mark.parametrize(
    ("servers", "instants"),
    [((ONE,), [0, 5]), ((ONE, TWO), [0, 5, 10, 15]), ((ONE, TWO, THREE), [0, 5, 8, 14, 19, 22]),
     ((ONE, TWO, THREE, b"\x0a\0\0\4"), [0, 5, 8, 14, 19, 22])],
)  # fmt: skip
def test_servers_are_asked_in_order_twice_and_as_patiently_as_glibc(servers, instants):
    run = Run("www.example.", servers=servers, kinds=(dns.A,))
    while run.open:
        run.wait()
    asked = len(servers[:3])
    assert [(instant, server) for instant, server, _, _ in run.asked] == [
        (instant, index % asked + 1) for index, instant in enumerate(instants)
    ]
    assert run.now == (10, 20, 28)[asked - 1] * SECOND and run.result.outcome is Outcome.AGAIN
    assert run.result.told[:1] == ("10.0.0.1: no answer for www.example",) and len(run.result.told) == len(instants)


@pytest.mark.parametrize("word", ["SERVFAIL", "REFUSED", "NOTIMP", "lame"])
def test_a_server_that_fails_gives_way_to_the_next_at_once(word):
    run = Run()
    for query in run.open:
        run.say(query, code=CODES.get(word, 0), bits=0)
    assert run.server == TWO and run.now == 0
    for query in run.open:
        run.say(query, *addresses(query))
    assert len(run.result.addresses) == 2
    assert len(run.result.told) == 1 and run.result.told[0].startswith(f"10.0.0.1: {word}")


def test_a_server_that_cannot_be_reached_gives_way_at_once():
    run = Run(servers=(ONE,))
    run.apply(run.lookup.failed(run.now, "port unreachable"))
    assert len(run.asked) == 4
    run.apply(run.lookup.failed(run.now, "port unreachable"))
    assert run.result.outcome is Outcome.AGAIN and run.result.told == ("10.0.0.1: port unreachable for www.example",) * 2
    assert run.lookup.failed(run.now, "late") == []


@pytest.mark.parametrize("first", [0, 1])
def test_what_a_server_knows_counts_though_it_fails_at_the_other_kind(first):
    run = Run()
    queries = [run.open[first], run.open[1 - first]]
    run.say(queries[0], code=2) if first else run.say(queries[0], *addresses(queries[0]))
    run.say(queries[1], *addresses(queries[1])) if first else run.say(queries[1], code=2)
    assert run.result.addresses == (FOUR.packed,) and run.server == ONE


def test_only_what_is_missing_is_asked_for_again():
    run = Run(servers=(ONE,))
    four, _ = run.open
    run.say(four, *addresses(four))
    run.wait()
    assert run.asked[2:] == [(5, 1, "www.example", dns.AAAA)]
    run.wait()
    assert run.result.outcome is Outcome.FOUND and run.result.addresses == (FOUR.packed,) and run.now == 10 * SECOND


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [((3, 3), Outcome.NO_NAME), ((0, 0), Outcome.NO_DATA), ((0, 3), Outcome.NO_NAME), ((1, 1), Outcome.FAILED),
     ((3, None), Outcome.NO_NAME), ((0, None), Outcome.NO_DATA), ((None, None), Outcome.AGAIN), ((2, 2), Outcome.AGAIN)],
)  # fmt: skip
def test_what_it_comes_to(codes, outcome):
    run = Run(servers=(ONE,))
    for query, code in zip(run.open, codes, strict=True):
        if code is not None:
            run.say(query, code=code)
    while run.open:
        if codes == (2, 2):
            run.say_all(2)
        else:
            run.wait()
    assert run.result.outcome is outcome and run.result.addresses == () and run.result.told


def alias(owner, target):
    return dns.name_record(dns.parse_name(owner), dns.CNAME, 60, dns.parse_name(target))


def test_aliases_are_followed_in_any_order():
    run = Run(kinds=(dns.A,))
    (query,) = run.open
    end = dns.address_record(dns.parse_name("Host.example"), 60, FOUR)
    other = dns.address_record(dns.parse_name("www.example"), 60, ip_address("192.0.2.66"))
    run.say(query, end, alias("b.example", "host.EXAMPLE"), alias("WWW.example", "b.example"), other)
    assert run.result.addresses == (FOUR.packed,) and dns.name_text(run.result.canonical) == "host.EXAMPLE"


def test_aliases_in_a_circle_or_without_end_are_no_address():
    for records in (
        [alias("www.example", "b.example"), alias("b.example", "www.example")],
        [alias("www.example", "0.example"), *(alias(f"{n}.example", f"{n + 1}.example") for n in range(MAX_ALIASES)),
         dns.address_record(dns.parse_name(f"{MAX_ALIASES}.example"), 60, FOUR)],
        [alias("www.example", "elsewhere.example")],
    ):  # fmt: skip
        run = Run(kinds=(dns.A,))
        run.say(run.open[0], *records)
        assert run.result.outcome is Outcome.NO_NAME


def test_aliases_of_nothing_end_the_search():
    run = Run("pc", search=("a.example", "b.example"), kinds=(dns.A,))
    run.say(run.open[0], alias("pc.a.example", "gone.example"))
    assert run.names == ["pc.a.example"] and run.result.outcome is Outcome.NO_NAME
    assert run.result.told == ("10.0.0.1: aliases of nothing for pc.a.example",)


def test_records_of_the_wrong_length_or_class_are_no_addresses():
    run = Run(kinds=(dns.A,))
    (query,) = run.open
    (record,) = addresses(query)
    run.say(query, replace(record, data=b"123"), replace(record, record_class=3), replace(record, kind=dns.AAAA))
    assert run.result.outcome is Outcome.NO_NAME


def test_pointers_give_names():
    run = Run("1.2.0.192.in-addr.arpa.", kinds=(dns.PTR,))
    (query,) = run.open
    owner = query.questions[0].name
    run.say(query, *(dns.name_record(owner, dns.PTR, 60, dns.parse_name(name)) for name in ("a.example", "b.example")))
    assert run.result.names == ((b"a", b"example"), (b"b", b"example"))


def test_what_is_truncated_is_asked_for_over_tcp():
    run = Run()
    four, six = run.open
    run.say(four, *addresses(four))
    run.say(six, bits=dns.TRUNCATED)
    assert run.over_tcp and run.server == ONE and run.asked[2:] == [(0, 1, "www.example", dns.AAAA)]
    assert run.lookup.state is State.STREAMING
    run.say(run.open[0], *addresses(run.open[0]), bits=dns.TRUNCATED)
    assert run.result.addresses == (FOUR.packed, SIX.packed)


def test_what_was_refused_by_datagram_may_be_answered_over_tcp():
    run = Run()
    four, six = run.open
    run.say(four, code=CODES["SERVFAIL"])
    run.say(six, bits=dns.TRUNCATED)
    assert run.over_tcp and len(run.open) == 2
    for query in run.open:
        run.say(query, *addresses(query))
    assert run.result.addresses == (FOUR.packed, SIX.packed)


@pytest.mark.parametrize("how", ["fails", "is silent"])
def test_tcp_that_leads_nowhere_gives_way_to_the_next_server(how):
    run = Run()
    run.say(run.open[0], bits=dns.TRUNCATED)
    assert run.over_tcp and len(run.open) == 2
    if how == "fails":
        run.apply(run.lookup.failed(run.now, "TCP: refused"))
    else:
        run.wait()
        assert run.now == 5 * SECOND
    assert not run.over_tcp and run.server == TWO and len(run.open) == 2


@pytest.mark.parametrize(
    ("name", "ndots", "names"),
    [("pc", 1, ["pc.a.example", "pc.b.example", "pc"]), ("pc.", 1, ["pc"]),
     ("www.x", 1, ["www.x", "www.x.a.example", "www.x.b.example"]),
     ("www.x", 2, ["www.x.a.example", "www.x.b.example", "www.x"]), ("www.x.", 2, ["www.x"])],
)  # fmt: skip
def test_search_domains_are_tried_in_order(name, ndots, names):
    run = Run(name, search=("a.example", "b.example."), ndots=ndots)
    while run.open:
        run.say_all(3)
    assert run.names == names and run.result.outcome is Outcome.NO_NAME
    assert run.result.told == tuple(f"10.0.0.1: NXDOMAIN for {each}" for each in names)


def test_the_first_spelling_that_is_found_counts():
    run = Run("pc", search=("a.example", "b.example"), kinds=(dns.A,))
    run.say_all(3)
    run.say(run.open[0], *addresses(run.open[0]))
    assert run.result.outcome is Outcome.FOUND and dns.name_text(run.result.canonical) == "pc.b.example"


@pytest.mark.parametrize(
    ("name", "codes", "names", "outcome"),
    [
        ("pc", [0, 3, 3], ["pc.a", "pc.b", "pc"], Outcome.NO_DATA),
        ("pc", [2, 3, 3], ["pc.a", "pc.b", "pc"], Outcome.AGAIN),
        ("pc", [5, 3], ["pc.a", "pc"], Outcome.NO_NAME),  # REFUSED ends the search, but for the name itself
        ("pc", [None, 3], ["pc.a", "pc"], Outcome.NO_NAME),  # so does silence
        ("pc", [1, 3], ["pc.a", "pc"], Outcome.NO_NAME),
        ("www.x", [2, 3, 0], ["www.x", "www.x.a", "www.x.b"], Outcome.AGAIN),  # the name itself, tried first, decides
        ("www.x", [3, 0, 3], ["www.x", "www.x.a", "www.x.b"], Outcome.NO_NAME),
    ],
)
def test_how_spellings_that_fail_count(name, codes, names, outcome):
    run = Run(name, search=("a", "b"), servers=(ONE,), kinds=(dns.A,))
    for spelling, code in enumerate(codes):
        while run.result is None and len(run.names) == spelling + 1:
            if code is None:
                run.wait()
            else:
                run.say_all(code)
    assert run.names == names and run.result.outcome is outcome


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, "bücher", ".".join(["x" * 60] * 5)])
def test_what_is_no_name_is_not_asked_for(name):
    run = Run(name, search=("example",))
    assert run.asked == [] and run.result.outcome is Outcome.NO_NAME


def test_without_servers_nobody_is_asked():
    assert Run(servers=()).result.outcome is Outcome.NO_NAME


def test_search_domains_are_bounded_and_those_that_cannot_be_left_out():
    found = candidates("pc", ["a b  a", "", "..", "ü", *(f"d{number}" for number in range(9)), "x" * 64], 1)
    assert [dns.name_text(name) for name, _ in found] == ["pc.a", "pc.b", "pc.d0", "pc.d1", "pc.d2", "pc.d3", "pc"]
    assert len(found) == MAX_SEARCH + 1
    long = ".".join(["x" * 60] * 4)
    assert [dns.name_text(name) for name, _ in candidates("longer-than-a-name", [long, "a"], 1)] == [
        "longer-than-a-name.a", "longer-than-a-name",
    ]  # fmt: skip


def test_a_lookup_that_was_cancelled_says_nothing():
    run = Run()
    (query, _) = run.open
    run.lookup.cancel()
    run.say(query, *addresses(query))
    run.apply([*run.lookup.expire(10**12), *run.lookup.failed(0, "late")])
    assert run.result is None and run.lookup.next_deadline() is None and len(run.asked) == 2


def test_it_asks_by_datagrams_first():
    assert isinstance(
        Lookup("a", (dns.A,), ResolverSettings(servers=(ONE,)), RandomStreams(1).stream("h", "x")).start(0)[0], Ask
    )
