"""What a stub resolver reads in an answer: whether it is one, what it says, and what a lookup comes to by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from vnet.wire import dns

MAX_ALIASES: Final = 16
"""CNAME records that are followed from the name that was asked for."""

_ADDRESS_OCTETS: Final = {dns.A: 4, dns.AAAA: 16}
NEXT_SERVER: Final = {
    dns.SERVER_FAILURE: "SERVFAIL", dns.NOT_IMPLEMENTED: "NOTIMP", dns.REFUSED: "REFUSED",
}  # fmt: skip
"""Response codes after which glibc asks another server."""
_RECURSION_AVAILABLE: Final = 0x0080
_CODE: Final = 0x000F


class Outcome(Enum):
    """What a lookup came to; the names are those of glibc's ``h_errno``."""

    FOUND = "found"
    NO_NAME = "no such name"
    NO_DATA = "no such record"
    """The name exists, but has no record of the kinds that were asked for."""
    AGAIN = "no server answered"
    """Nobody answered, or nobody could."""
    FAILED = "not answered as it should be"
    """A server answered with an error that asking again does not mend."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a lookup.

    ``addresses`` are packed, those of the first kind asked for first; ``names`` what PTR records say. ``canonical`` is the
    name at the end of the aliases. ``told`` says what each server did, in the order it did.
    """

    outcome: Outcome
    addresses: tuple[bytes, ...] = ()
    names: tuple[dns.Name, ...] = ()
    canonical: dns.Name = ()
    told: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class Question:
    """One kind of record that is asked for, of the spelling that is tried."""

    kind: int
    name: dns.Name
    identifier: int = 0
    answer: dns.Message | None = None
    refusal: str = ""
    """What the server that is asked now said instead of an answer."""

    def encode(self, identifier: int) -> bytes:
        """Write the query, with an identifier of its own (RFC 5452, 9.2)."""
        self.identifier = identifier
        question = dns.Question(self.name, self.kind)
        return dns.encode(dns.Message(identifier, dns.RECURSION_DESIRED, (question,)))

    def is_met(self, message: dns.Message) -> bool:
        """Tell whether a message answers it."""
        if message.identifier != self.identifier or not message.flags & dns.RESPONSE or message.flags & dns.OPCODE:
            return False
        if len(message.questions) != 1:
            return False
        (asked,) = message.questions
        same = dns.folded(asked.name) == dns.folded(self.name)
        return same and asked.kind == self.kind and asked.record_class == dns.INTERNET


def why_another(message: dns.Message) -> str | None:
    """Say why another server should be asked instead, None if the answer is one."""
    code = message.flags & _CODE
    if code in NEXT_SERVER:
        return NEXT_SERVER[code]
    able = dns.AUTHORITATIVE | _RECURSION_AVAILABLE
    if code == dns.NO_ERROR and not message.answers and not message.additional and not message.flags & able:
        return "lame: neither an answer nor willing to find one"
    return None


def read_answer(message: dns.Message, question: Question) -> Result:
    """Read an answer: follow the aliases from the name that was asked for (RFC 1034, 3.6.2), take what stands at the end.

    If nothing does there is a ``canonical`` name though none is found.
    """
    code = message.flags & _CODE
    if code == dns.NAME_ERROR:
        return Result(outcome=Outcome.NO_NAME)
    if code != dns.NO_ERROR:
        return Result(outcome=Outcome.FAILED)
    if not message.answers:
        return Result(outcome=Outcome.NO_DATA)
    canonical = _follow(question.name, message.answers)
    held = [
        record for record in message.answers
        if record.kind == question.kind and record.record_class == dns.INTERNET
        and dns.folded(record.name) == dns.folded(canonical)
    ]  # fmt: skip
    octets = _ADDRESS_OCTETS.get(question.kind)
    if octets is None:
        names = tuple(dns.held_name(record) for record in held)
        return Result(outcome=Outcome.FOUND if names else Outcome.NO_NAME, names=names, canonical=canonical)
    addresses = tuple(record.data for record in held if len(record.data) == octets)
    return Result(outcome=Outcome.FOUND if addresses else Outcome.NO_NAME, addresses=addresses, canonical=canonical)


def _follow(name: dns.Name, records: Iterable[dns.Record]) -> dns.Name:
    aliases: dict[dns.Name, dns.Name] = {}
    for record in records:
        if record.kind == dns.CNAME and record.record_class == dns.INTERNET:
            aliases.setdefault(dns.folded(record.name), dns.held_name(record))
    for _ in range(MAX_ALIASES):
        target = aliases.get(dns.folded(name))
        if target is None:
            break
        name = target
    return name
