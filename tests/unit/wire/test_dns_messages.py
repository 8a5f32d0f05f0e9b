"""DNS messages against dnspython, and against whatever octets there are."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire.dns import (
    MAX_NAME,
    PTR,
    A,
    Message,
    Question,
    Record,
    address_record,
    decode,
    encode,
    find_edns,
    folded,
    name_record,
    parse_name,
    reverse_name,
)

HEADER = bytes.fromhex("0001 0000 0001 0000 0000 0000")
ASK = bytes.fromhex("0001 0001")

labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=6).map(tuple).filter(lambda name: sum(len(label) + 1 for label in name) < MAX_NAME)
words = st.integers(0, 0xFFFF)
records = st.builds(
    Record,
    names,
    words.filter(lambda kind: kind not in (2, 5, 12)),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
    words,
) | st.builds(name_record, names, st.sampled_from([2, 5, 12]), st.integers(0, 2**32 - 1), names)
sections = st.lists(records, max_size=4).map(tuple)
messages = st.builds(
    Message,
    words,
    words,
    st.lists(st.builds(Question, names, words, words), max_size=3).map(tuple),
    sections,
    sections,
    sections,
)


@given(messages)
def test_what_is_written_reads_the_same(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_any_octets_are_a_message_or_a_wire_error(data: bytes) -> None:
    for octets in (data, HEADER + data, HEADER[:4] + b"\0\1\0\2\0\1\0\1" + data):
        try:
            message = decode(octets)
        except WireError:
            continue
        assert decode(encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    octets = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
    except WireError:
        return
    assert all(sum(len(label) + 1 for label in question.name) < MAX_NAME for question in read.questions)


def test_dnspython_reads_what_we_write() -> None:
    name = parse_name("www.Example.com")
    ours = Message(
        7, 0x8580, (Question(name, A),),
        (address_record(name, 60, IPv4Address("10.0.0.1")), address_record(name, 60, IPv6Address("fd00::1"))),
        (name_record(reverse_name(IPv4Address("10.0.0.1")), PTR, 5, name),),
    )  # fmt: skip
    theirs = dns.message.from_wire(encode(ours))
    assert theirs.id == 7 and theirs.flags & dns.flags.AA
    assert [str(rrset) for rrset in theirs.answer] == [
        "www.Example.com. 60 IN A 10.0.0.1",
        "www.Example.com. 60 IN AAAA fd00::1",
    ]
    assert str(theirs.authority[0]) == "1.0.0.10.in-addr.arpa. 5 IN PTR www.Example.com."


def test_we_read_what_dnspython_writes() -> None:
    theirs = dns.message.make_response(dns.message.make_query("a.b.example", "PTR", use_edns=0), our_payload=1400)
    theirs.answer.append(dns.rrset.from_text("a.b.example.", 9, "IN", "PTR", "c.b.example.", "d.c.b.example."))
    read = decode(theirs.to_wire())
    assert read.questions == (Question(parse_name("a.b.example"), PTR),)
    owner = parse_name("a.b.example")
    assert set(read.answers) == {name_record(owner, PTR, 9, parse_name(to)) for to in ("c.b.example", "d.c.b.example.")}
    edns = find_edns(read.additional)
    assert edns is not None and edns.record_class == 1400


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (b"\xc0\x0c", "forward, or at itself"),
        (b"\xc0\x0e\x01a\x00", "forward, or at itself"),
        (b"\x01a\xc0\x0c", "forward, or at itself"),
        (b"\xc0\x00", "forward, or at itself"),
        (b"\x40abc\x00", "unknown kind"),
        (b"\x80abc\x00", "unknown kind"),
        ((b"\x3f" + b"a" * 63) * 4 + b"\x00", "too long"),
        (b"\x05abc", "cut off"),
        (b"\x01a", "cut off"),
        (b"\xc0", "cut off"),
    ],
)
def test_names_that_are_none(name: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode(HEADER + name + (ASK if complaint != "cut off" else b""))


def test_the_longest_name_passes() -> None:
    longest = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)
    assert decode(encode(Message(1, 0, (Question(longest, A),)))).questions[0].name == longest
    assert parse_name(".".join(label.decode() for label in longest)) == longest


def test_a_long_chain_of_pointers_is_bounded_by_the_length_of_names() -> None:
    """Each piece adds a label to the next: the two hundredth name would have two hundred labels."""
    out = bytearray(bytes.fromhex("0001 0000 00c8 0000 0000 0000"))
    previous = None
    for _ in range(200):
        here = len(out)
        out += b"\x01a" + (b"\x00" if previous is None else bytes((0xC0 | previous >> 8, previous & 0xFF))) + ASK
        previous = here
    with pytest.raises(WireError, match="too long"):
        decode(bytes(out))


@pytest.mark.parametrize("text", ["a..b", "." * 3, "x" * 64, ".".join(["abcdefg"] * 32), "bücher.example"])
def test_text_that_is_no_name(text: str) -> None:
    with pytest.raises(ValueError):
        parse_name(text)


def test_names_for_people() -> None:
    assert parse_name("") == parse_name(".") == ()
    assert parse_name("A.b.") == (b"A", b"b") and folded((b"A", b"b")) == (b"a", b"b")
    for text in ("192.0.2.7", "2001:db8::7"):
        assert ".".join(label.decode() for label in reverse_name(ip_address(text))) == ip_address(text).reverse_pointer
