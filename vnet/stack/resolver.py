"""A stub resolver (RFC 1034, 5.3.1; RFC 9499, 6) as a pure machine: one ``Lookup`` is one call of a program.

::

    start -> ASKING --all servers of all turns--> next spelling of the name -> ASKING
               | truncated                                | none is left
               v                                          v
             STREAMING --answer, or next server--> ... -> DONE

The questions for A and AAAA go out together from one socket of a random port, with random IDs; only what comes from the
server that was asked, with the ID and the question, is an answer (RFC 5452, 9.1). Servers are asked in their order, as often
and for as long as glibc does by resolv.conf(5); so are search domains. A recursive server gives whole chains of aliases, so
none is asked for piece by piece. Nothing is cached, as glibc caches nothing: a changed record is seen at once. There is no
EDNS, so what is longer than 512 octets comes over TCP.

Every input returns its effects. Whoever runs the machine closes the way to a server when the next ``Ask``, ``AskStream`` or
``Done`` comes, and hands over no more of what arrives by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias, final

from vnet.errors import WireError
from vnet.ports import Randomness
from vnet.stack.resolver_answer import NEXT_SERVER, Outcome, Question, Result, read_answer, why_another
from vnet.stack.resolver_names import candidates
from vnet.units import SECOND, Duration, Instant
from vnet.wire import dns

PORT: Final = 53
TIMEOUT: Final[Duration] = 5 * SECOND
"""Patience with the first server (resolv.conf(5), timeout)."""
ATTEMPTS: Final = 2
"""How often all servers are asked (resolv.conf(5), attempts)."""
NDOTS: Final = 1
"""Names with as many dots are tried as they are before search domains (resolv.conf(5), ndots)."""
MAX_SERVERS: Final = 3
"""Servers that are asked; others are for nothing (resolv.conf(5), nameserver)."""


class State(Enum):
    """Where a lookup stands."""

    IDLE = "idle"
    ASKING = "asking"
    STREAMING = "streaming"
    """Asking over TCP, because an answer was truncated."""
    DONE = "done"


_WORDS: Final = {Outcome.NO_NAME: "NXDOMAIN", Outcome.NO_DATA: "no such record", Outcome.FAILED: "an error"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverSettings:
    """What a host's resolver goes by (resolv.conf(5)): *servers* are packed addresses, *search* names of domains."""

    servers: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = NDOTS
    timeout: Duration = TIMEOUT
    attempts: int = ATTEMPTS

    def patience(self, index: int) -> Duration:
        """Return how long the server at *index* is waited for, as glibc has it: twice as long for each, shared by all."""
        seconds = (self.timeout // SECOND) << index
        return max(1, seconds // len(self.servers) if index else seconds) * SECOND


class Ask(NamedTuple):
    """Send each of *messages* to a server in a datagram of its own, from a socket that is new."""

    server: bytes
    messages: tuple[bytes, ...]


class AskStream(NamedTuple):
    """Send *messages* to a server over TCP, each behind its length (RFC 1035, 4.2.2)."""

    server: bytes
    messages: tuple[bytes, ...]


class Done(NamedTuple):
    """Tell the program."""

    result: Result


Effect: TypeAlias = Ask | AskStream | Done


@final
@dataclass(slots=True)
class _Search:
    """How the spellings went that were tried so far, which decides about the last word; after glibc's ``res_search``."""

    first: Outcome | None = None
    """How the name went as it was given, if that was tried before search domains."""
    no_data: bool = False
    no_server: bool = False
    last: Outcome | None = None

    def note(self, outcome: Outcome, *, as_given: bool, heard: bool) -> None:
        """Take note of a spelling that led nowhere; *heard* tells that a server said SERVFAIL."""
        if as_given and self.last is None:
            self.first = outcome
        self.last = outcome
        self.no_data |= outcome is Outcome.NO_DATA
        self.no_server |= outcome is Outcome.AGAIN and heard

    def verdict(self) -> Outcome:
        """Say what became of it all."""
        if self.first is not None:
            return self.first
        if self.no_data:
            return Outcome.NO_DATA
        return Outcome.AGAIN if self.no_server or self.last is None else self.last


@final
@dataclass(slots=True)
class Lookup:
    """Ask for the records of some *kinds* (A, AAAA, PTR) of a name, given as people write it.

    *ids* draws the identifiers. ``ignored`` counts what arrived and was no answer.
    """

    name: str
    kinds: tuple[int, ...]
    settings: ResolverSettings
    ids: Randomness
    state: State = State.IDLE
    ignored: int = 0
    _spellings: list[tuple[dns.Name, bool]] = field(default_factory=list)
    _questions: list[Question] = field(default_factory=list)
    _search: _Search = field(default_factory=_Search)
    _turn: int = 0
    _deadline: Instant | None = None
    _told: list[str] = field(default_factory=list)
    _heard: bool = False
    """Whether a server said SERVFAIL of the spelling that is tried: then further search domains are worth a try."""

    def start(self, now: Instant) -> list[Effect]:
        """Begin; a name that cannot be, or a host without servers, is done at once."""
        servers = self.settings.servers[:MAX_SERVERS]
        self.settings = replace(self.settings, servers=servers)
        self._spellings = candidates(self.name, self.settings.search, self.settings.ndots)
        if not servers or not self._spellings:
            return self._end(Result(outcome=Outcome.NO_NAME))
        return self._try_next(now)

    def cancel(self) -> None:
        """Be done without a word: nobody waits any more."""
        self.state = State.DONE
        self._deadline = None

    def next_deadline(self) -> Instant | None:
        """Return when the server that is asked loses its turn."""
        return self._deadline

    def receive(self, now: Instant, server: bytes, octets: bytes) -> list[Effect]:
        """Take a message from port 53 of a server, by the way that the last effect opened."""
        if self.state not in (State.ASKING, State.STREAMING) or server != self._server:
            self.ignored += 1
            return []
        try:
            message = dns.decode(octets)
        except WireError:
            self.ignored += 1
            return []
        waiting = (each for each in self._questions if each.answer is None and not each.refusal)
        question = next((each for each in waiting if each.is_met(message)), None)
        if question is None:
            self.ignored += 1
            return []
        if message.flags & dns.TRUNCATED and self.state is State.ASKING:
            return self._ask(now, State.STREAMING)
        reason = why_another(message)
        if reason is None:
            question.answer = message
        else:
            question.refusal = reason
            self._heard |= reason == NEXT_SERVER[dns.SERVER_FAILURE]
        return self._settle(now)

    def failed(self, now: Instant, reason: str) -> list[Effect]:
        """Take note that the server cannot be asked, or not by this way: it loses its turn."""
        if self.state not in (State.ASKING, State.STREAMING):
            return []
        return self._next_server(now, reason)

    def expire(self, now: Instant) -> list[Effect]:
        """Go on to the next server, if the one that is asked was silent for too long."""
        if self._deadline is None or now < self._deadline:
            return []
        return self._next_server(now, "no answer")

    # -- one turn after the other

    @property
    def _server(self) -> bytes:
        return self.settings.servers[self._turn % len(self.settings.servers)]

    def _tell(self, *reasons: str) -> None:
        about = dns.name_text(self._questions[0].name)
        refusals = (question.refusal for question in self._questions if question.refusal)
        self._told += [f"{ip_address(self._server)}: {what} for {about}" for what in dict.fromkeys([*refusals, *reasons])]
        for question in self._questions:
            question.refusal = ""

    def _try_next(self, now: Instant) -> list[Effect]:
        """Ask for the next spelling."""
        name, _ = self._spellings[0]
        self._questions = [Question(kind, name) for kind in self.kinds]
        self._turn = 0
        self._heard = False
        return self._ask(now, State.ASKING)

    def _ask(self, now: Instant, state: State) -> list[Effect]:
        """Ask the server whose turn it is for what is not known yet."""
        self.state = state
        self._deadline = now + self.settings.patience(self._turn % len(self.settings.servers))
        messages = []
        taken: set[int] = set()
        for question in self._questions:
            if question.answer is None:
                question.refusal = ""
                identifier = self.ids.below(0x10000)
                while identifier in taken:
                    identifier = (identifier + 1) & 0xFFFF
                taken.add(identifier)
                messages.append(question.encode(identifier))
        effect = Ask if state is State.ASKING else AskStream
        return [effect(self._server, tuple(messages))]

    def _settle(self, now: Instant) -> list[Effect]:
        """Go on once the server has said something about each question.

        If it answered one and failed at the other, what is there is taken: so does glibc.
        """
        if any(question.answer is None and not question.refusal for question in self._questions):
            return []
        if all(question.answer is None for question in self._questions):
            return self._next_server(now)
        return self._judge(now)

    def _next_server(self, now: Instant, *reasons: str) -> list[Effect]:
        self._tell(*reasons)
        if self._turn + 1 >= len(self.settings.servers) * self.settings.attempts:
            return self._judge(now)
        self._turn += 1
        return self._ask(now, State.ASKING)

    def _judge(self, now: Instant) -> list[Effect]:
        """Decide what the answers to one spelling come to, and whether to try another."""
        found = [read_answer(question.answer, question) for question in self._questions if question.answer is not None]
        outcomes = {each.outcome for each in found} or {Outcome.AGAIN}
        if Outcome.FOUND in outcomes:
            good = [each for each in found if each.outcome is Outcome.FOUND]
            return self._end(Result(
                outcome=Outcome.FOUND,
                addresses=tuple(address for each in good for address in each.addresses),
                names=tuple(name for each in good for name in each.names),
                canonical=good[0].canonical,
            ))  # fmt: skip
        if any(each.canonical for each in found):
            self._tell("aliases of nothing")
            return self._end(Result(outcome=Outcome.NO_NAME))  # and glibc ends the search: something was answered
        order = (Outcome.NO_NAME, Outcome.NO_DATA, Outcome.FAILED, Outcome.AGAIN)  # that of glibc
        outcome = next(each for each in order if each in outcomes)
        if outcome is not Outcome.AGAIN:
            self._tell(_WORDS[outcome])
        _, as_given = self._spellings.pop(0)
        self._search.note(outcome, as_given=as_given, heard=self._heard)
        if not as_given and (outcome is Outcome.FAILED or (outcome is Outcome.AGAIN and not self._heard)):
            self._spellings = [each for each in self._spellings if each[1]]  # no further domain, but the name itself
        if self._spellings:
            return self._try_next(now)
        return self._end(Result(outcome=self._search.verdict()))

    def _end(self, result: Result) -> list[Effect]:
        self.cancel()
        return [Done(replace(result, told=tuple(self._told)))]
