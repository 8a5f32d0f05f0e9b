"""A name server that is authoritative for a table of names and addresses, over UDP and TCP (RFC 1034, RFC 1035, RFC 7766).

Whatever is not in the table does not exist. There are no zones and so no SOA: nobody caches a negative answer (RFC 2308, 5),
which is what a lab wants whose names come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias, final

import trio

from vnet.errors import WireError
from vnet.programs.both_protocols import answer_datagrams, listening
from vnet.programs.connections import bounded
from vnet.wire import dns

Address: TypeAlias = "IPv4Address | IPv6Address"

DEFAULT_PORT: Final = 53
DEFAULT_TTL: Final = 60
MOST_TTL: Final = 2**31 - 1
"""Seconds (RFC 2181, 8)."""
PLAIN_UDP: Final = 512
"""Octets of an answer over UDP to somebody who does not say more (RFC 1035, 2.3.4)."""
MOST_UDP: Final = 1232
"""Octets of an answer over UDP at most: what passes any path without fragments (RFC 9715)."""
IDLE_TIMEOUT: Final = 30.0
"""Seconds that a TCP connection may be idle (RFC 7766, 6.2.3)."""
MAX_CONNECTIONS: Final = 256


@final
class NameTable:
    """The names; each also answers for its addresses' PTR records, in the order of the table."""

    def __init__(self, names: Mapping[str, Iterable[Address]], ttl: int = DEFAULT_TTL) -> None:
        """Take names as people write them; raise ValueError for one that is none. *ttl* is in seconds, at most 2^31 - 1."""
        if not 0 <= ttl <= MOST_TTL:
            raise ValueError(f"a TTL of {ttl} seconds: it is 0 to {MOST_TTL}")
        self._records: dict[dns.Name, list[dns.Record]] = {}
        self._inner: set[dns.Name] = {()}
        for text, addresses in names.items():
            name = dns.parse_name(text)
            for address in addresses:
                self._add(dns.address_record(name, ttl, address))
                self._add(dns.name_record(dns.reverse_name(address), dns.PTR, ttl, name))

    def _add(self, record: dns.Record) -> None:
        key = dns.folded(record.name)
        known = self._records.setdefault(key, [])
        if record not in known:
            known.append(record)
        self._inner.update(key[index:] for index in range(1, len(key)))

    def find(self, question: dns.Question) -> list[dns.Record] | None:
        """Return the records, none if the name has no such, None if there is no such name.

        A name that others stand under exists (RFC 8020).
        """
        key = dns.folded(question.name)
        records = self._records.get(key)
        if records is None:
            return [] if key in self._inner else None
        return [
            replace(record, name=question.name) for record in records if question.kind in (record.kind, dns.ANY)
        ]  # in the asker's letters

    def answer(self, data: bytes, *, over_tcp: bool = False) -> bytes | None:
        """Answer a query; None where there is nothing to say: to what is none, or is an answer itself."""
        if len(data) < 12 or data[2] & 0x80:
            return None
        identifier, flags = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        flags = dns.RESPONSE | flags & (dns.OPCODE | dns.RECURSION_DESIRED)
        try:
            query = dns.decode(data)
            edns = dns.find_edns(query.additional)
        except WireError:
            return dns.encode(dns.Message(identifier, flags | dns.FORMAT_ERROR))
        made = self._judge(query, flags, edns)
        encoded = dns.encode(made)
        most = 0xFFFF if over_tcp else PLAIN_UDP if edns is None else min(max(edns.record_class, PLAIN_UDP), MOST_UDP)
        if len(encoded) > most:
            return dns.encode(replace(made, flags=made.flags | dns.TRUNCATED, answers=()))
        return encoded

    def _judge(self, query: dns.Message, flags: int, edns: dns.Record | None) -> dns.Message:
        additional = () if edns is None else (dns.edns_record(MOST_UDP),)
        made = dns.Message(query.identifier, flags, query.questions[:1], additional=additional)
        if edns is not None and edns.ttl >> 16 & 0xFF:
            return replace(made, additional=(dns.edns_record(MOST_UDP, dns.BAD_VERSION),))
        if query.flags & dns.OPCODE:
            return replace(made, flags=flags | dns.NOT_IMPLEMENTED)
        if len(query.questions) != 1:
            return replace(made, flags=flags | dns.FORMAT_ERROR, questions=())
        (question,) = query.questions
        if question.record_class not in (dns.INTERNET, dns.ANY):
            return replace(made, flags=flags | dns.REFUSED)
        found = self.find(question)
        code = dns.NAME_ERROR if found is None else dns.NO_ERROR
        return replace(made, flags=flags | dns.AUTHORITATIVE | code, answers=tuple(found or ()))


async def serve(
    table: NameTable,
    port: int = DEFAULT_PORT,
    *,
    host: str | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer queries until cancelled; with ``nursery.start`` it returns the port. Raise OSError if the port is taken."""
    handle = bounded(partial(_serve_stream, table), MAX_CONNECTIONS)
    async with listening(port, host) as (port, listeners, socket), trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        task_status.started(port)
        await answer_datagrams(socket, 0xFFFF, lambda query, _: table.answer(query))


async def _serve_stream(table: NameTable, stream: trio.SocketStream) -> None:
    """Answer what comes behind its length in two octets (RFC 1035, 4.2.2)."""
    buffer = bytearray()
    while True:
        with trio.fail_after(IDLE_TIMEOUT):
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                more = await stream.receive_some(0x10000)
                if not more:
                    return
                buffer += more
            length = int.from_bytes(buffer[:2], "big")
            query = bytes(buffer[2 : 2 + length])
            del buffer[: 2 + length]
            answer = table.answer(query, over_tcp=True)
            if answer is None:
                return
            await stream.send_all(len(answer).to_bytes(2, "big") + answer)
