"""The DNS server of the adapter's addresses: questions go on to the machine's resolvers, and answers come back.

Datagrams get a socket and an identifier of their own each, so that who guesses has two numbers to guess (RFC 5452). What a
server does not answer, the next one is asked. TCP is passed on to the first server as it is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias, final

from vnet.adapters.user.outside import Outside
from vnet.stack.transport import TransportAddress
from vnet.stack.udp import UdpSocket
from vnet.units import SECOND, Duration, Instant

DNS_PORT: Final = 53
RESOLV_CONF: Final = "/etc/resolv.conf"
MAX_SERVERS: Final = 3
"""MAXNS in resolv.conf(5)."""
MAX_QUESTIONS: Final = 512
"""Under way; the oldest gives way."""
PATIENCE: Final[Duration] = 3 * SECOND
"""How long one server has for an answer; programs in guests commonly ask again after 5 s."""
ROUNDS: Final = 2
LARGEST: Final = 65535
_HEADER: Final = 12
_RESPONSE: Final = 0x80
_SERVER_FAILURE: Final = 2
_UNWILLING: Final = frozenset({_SERVER_FAILURE, 4, 5})
"""SERVFAIL, NOTIMP, REFUSED: another server may know better."""
_LOOK_AGAIN: Final[Duration] = 1 * SECOND
_Key: TypeAlias = tuple[UdpSocket, TransportAddress, bytes]
"""Which address was asked, by whom, with which identifier."""


@final
class Resolvers:
    """The servers to ask: those that are stated, or those of resolv.conf, which is read again when it has changed."""

    def __init__(self, outside: Outside, stated: Sequence[IPv4Address | IPv6Address], path: str = RESOLV_CONF) -> None:
        self._outside = outside
        self._path = path
        self._is_stated = bool(stated)
        self._servers = tuple(str(each) for each in stated)
        self._looked_at: Instant | None = None
        self._version: tuple[int, int] | None = None

    @property
    def servers(self) -> tuple[str, ...]:
        """Their addresses, in the order to ask them."""
        now = self._outside.scheduler.now
        if not self._is_stated and (self._looked_at is None or now - self._looked_at >= _LOOK_AGAIN):
            self._looked_at = now
            self._look()
        return self._servers

    def first(self) -> tuple[str, int] | None:
        """Return where to connect to."""
        servers = self.servers
        return (servers[0], DNS_PORT) if servers else None

    def _look(self) -> None:
        try:
            status = os.stat(self._path)
            version = status.st_ino, status.st_mtime_ns
            if version == self._version:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._servers = read_servers(file.read(65536))
            self._version = version
        except OSError:
            self._version, self._servers = None, read_servers("")


def read_servers(text: str) -> tuple[str, ...]:
    """Read the name servers of a resolv.conf; without any it is the machine itself (resolv.conf(5))."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(words[1])
    return tuple(found[:MAX_SERVERS]) or ("127.0.0.1",)


@final
class _Question:
    """One question of a guest."""

    __slots__ = ("asked", "deadline", "ident", "payload", "sock")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.asked = 0
        self.ident = b""
        self.sock: socket.socket | None = None
        self.deadline: Instant = 0


@final
class DnsForwarder:
    """Answers on port 53 of the adapter's addresses."""

    def __init__(self, outside: Outside, resolvers: Resolvers) -> None:
        self._outside = outside
        self._resolvers = resolvers
        self._questions: dict[_Key, _Question] = {}  # in the order of their deadlines
        self._alarm = outside.scheduler.alarm(self._expire)
        self._sockets = [self._bind(address) for address in outside.own]
        self.answered = 0

    def __len__(self) -> int:
        return len(self._questions)

    def retire(self) -> None:
        """Answer no more."""
        for each in self._sockets:
            each.close()
        for question in self._questions.values():
            self._hang_up(question)
        self._questions.clear()
        self._alarm.set(None)

    def _bind(self, address: bytes) -> UdpSocket:
        """Take questions to one of the adapter's addresses, and answer from there."""
        made = self._outside.host.udp_bind(DNS_PORT, address, on_datagram=lambda *_: None)
        made.on_datagram = lambda payload, client: self._on_question(made, payload, client)
        return made

    def _on_question(self, asked: UdpSocket, payload: bytes, client: TransportAddress) -> None:
        if len(payload) < _HEADER or payload[2] & _RESPONSE:
            self._outside.drops["dns-malformed"] += 1
            return
        key = asked, client, payload[:2]
        known = self._questions.get(key)
        if known is not None:
            if known.payload == payload:
                return  # asked again, and so are we
            self._forget(key)
        if len(self._questions) >= MAX_QUESTIONS:
            self._outside.drops["dns-full"] += 1
            self._forget(next(iter(self._questions)))
        self._ask(key, _Question(payload))

    def _ask(self, key: _Key, question: _Question) -> None:
        """Ask the next server that can be asked, or give up."""
        outside = self._outside
        servers = self._resolvers.servers
        self._hang_up(question)
        self._questions.pop(key, None)
        while question.asked < ROUNDS * len(servers):
            server = servers[question.asked % len(servers)]
            question.asked += 1
            sock = outside.open(socket.SOCK_DGRAM, family=socket.AF_INET6 if ":" in server else socket.AF_INET)
            if sock is None:
                break
            question.ident = outside.host.stream("dns").octets(2)
            try:
                sock.connect((server, DNS_PORT))
                sock.send(question.ident + question.payload[2:])
            except OSError:
                sock.close()
                continue
            question.sock = sock
            question.deadline = outside.scheduler.now + PATIENCE
            self._questions[key] = question
            outside.poller.wants_read(sock.fileno(), lambda: self._on_answer(key, question))
            if self._alarm.deadline is None:
                self._alarm.set(question.deadline)
            return
        outside.drops["dns-no-answer"] += 1
        flags = bytes((_RESPONSE | question.payload[2] & 0x79, 0x80 | _SERVER_FAILURE))  # opcode and RD as they were
        key[0].send_to(question.payload[:2] + flags + question.payload[4:], key[1])

    def _on_answer(self, key: _Key, question: _Question) -> None:
        sock = question.sock
        if sock is None:
            return
        try:
            answer = sock.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:  # refused, or unreachable
            self._ask(key, question)
            return
        if len(answer) < _HEADER or answer[:2] != question.ident or not answer[2] & _RESPONSE:
            self._outside.drops["dns-stray"] += 1
            return
        more = question.asked < len(self._resolvers.servers)
        if answer[3] & 0x0F in _UNWILLING and more:
            self._ask(key, question)
            return
        self._forget(key)
        self.answered += 1
        key[0].send_to(question.payload[:2] + answer[2:], key[1])

    def _expire(self) -> None:
        now = self._outside.scheduler.now
        while self._questions:
            key, question = next(iter(self._questions.items()))
            if question.deadline > now:
                self._alarm.set(question.deadline)
                return
            self._ask(key, question)

    def _forget(self, key: _Key) -> None:
        self._hang_up(self._questions.pop(key))

    def _hang_up(self, question: _Question) -> None:
        sock, question.sock = question.sock, None
        if sock is not None:
            self._outside.close(sock)
