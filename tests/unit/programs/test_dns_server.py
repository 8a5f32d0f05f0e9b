"""The name server, asked by dnspython over the loopback of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, ip_address

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vnet.programs.dns import NameTable, serve

HOST = "127.0.0.1"
TABLE = NameTable(
    {
        "www.example": [ip_address("10.0.0.1"), ip_address("fd00::1")],
        "alias.example": [ip_address("10.0.0.1")],
        "only4.deep.example": [ip_address("10.0.0.2")],
        "many.example": [IPv4Address(0x0A010000 + index) for index in range(100)],
    },
    ttl=30,
)


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(partial(serve, TABLE, 0, host=HOST))
            nursery.cancel_scope.cancel()


def asked(name: str, kind: str, **options: object) -> dns.message.Message:
    answer = TABLE.answer(dns.message.make_query(name, kind, **options).to_wire())  # type: ignore[arg-type]
    assert answer is not None
    return dns.message.from_wire(answer)


@pytest.mark.trio
@pytest.mark.parametrize("transport", [dns.asyncquery.udp, dns.asyncquery.tcp])
async def test_a_stub_resolver_is_answered(transport) -> None:
    async with server() as port:
        for name, kind, code, texts in (
            ("www.example", "A", dns.rcode.NOERROR, ["10.0.0.1"]),
            ("wWw.eXample", "AAAA", dns.rcode.NOERROR, ["fd00::1"]),
            ("1.0.0.10.in-addr.arpa", "PTR", dns.rcode.NOERROR, ["alias.example.", "www.example."]),
            (ip_address("fd00::1").reverse_pointer, "PTR", dns.rcode.NOERROR, ["www.example."]),
            ("only4.deep.example", "AAAA", dns.rcode.NOERROR, []),
            ("deep.example", "A", dns.rcode.NOERROR, []),
            ("none.example", "A", dns.rcode.NXDOMAIN, []),
            ("ww.example", "A", dns.rcode.NXDOMAIN, []),
            ("9.0.0.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN, []),
        ):
            answer = await transport(dns.message.make_query(name, kind), HOST, port=port, timeout=5)
            assert answer.rcode() == code and answer.flags & dns.flags.AA, name
            assert sorted(str(each) for rrset in answer.answer for each in rrset) == texts, name
            assert all(rrset.ttl == 30 for rrset in answer.answer)
            assert answer.question[0].name.to_text() == name + "."


@pytest.mark.trio
async def test_what_is_too_long_for_udp_comes_over_tcp() -> None:
    async with server() as port:
        answer, over_tcp = await dns.asyncquery.udp_with_fallback(
            dns.message.make_query("many.example", "A"), HOST, port=port, timeout=5
        )
        assert over_tcp and len(answer.answer[0]) == 100


def test_edns_lets_more_through() -> None:
    plain = asked("many.example", "A")
    assert plain.flags & dns.flags.TC and not plain.answer
    table = NameTable({"some.example": [IPv4Address(0x0A010000 + index) for index in range(50)]})
    for payload, is_truncated in ((0, True), (512, True), (1000, False), (65535, False)):
        query = dns.message.make_query("some.example", "A", use_edns=0, payload=payload)
        data = table.answer(query.to_wire())
        assert data is not None and bool(dns.message.from_wire(data).flags & dns.flags.TC) == is_truncated
        assert dns.message.from_wire(data).edns == 0


def test_any_means_all() -> None:
    assert len(asked("www.example", "ANY").answer) == 2


def test_what_is_not_done_is_said() -> None:
    assert asked("www.example", "A", use_edns=1).rcode() == dns.rcode.BADVERS
    assert asked("www.example", "A", rdclass="CH").rcode() == dns.rcode.REFUSED
    query = dns.message.make_query("www.example", "A")
    query.set_opcode(dns.opcode.STATUS)
    data = TABLE.answer(query.to_wire())
    assert data is not None and dns.message.from_wire(data).rcode() == dns.rcode.NOTIMP
    assert TABLE.answer(bytes(12)) == bytes.fromhex("0000 8001 0000 0000 0000 0000"), "no question at all"
    assert TABLE.answer(dns.message.make_response(query).to_wire()) is None, (
        "two servers must not answer each other for ever"
    )
    assert TABLE.answer(b"x" * 11) is None


@given(st.binary(max_size=200))
def test_any_octets_are_answered_or_not(data: bytes) -> None:
    for octets in (data, bytes.fromhex("0001 0000 0001 0000 0000 0001") + data):
        answer = TABLE.answer(octets)
        assert answer is None or (len(answer) <= 1232 and answer[:2] == octets[:2] and answer[2] & 0x80)


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError):
        NameTable({"a..b": []})


def test_a_ttl_that_no_record_can_have_is_refused() -> None:
    address = ip_address("10.0.0.1")
    assert NameTable({"a": [address]}, ttl=2**31 - 1).answer(dns.message.make_query("a", "A").to_wire()) is not None
    for ttl in (-1, 2**31):
        with pytest.raises(ValueError, match="TTL"):
            NameTable({"a": [address]}, ttl=ttl)
