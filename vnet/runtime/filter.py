"""The language of ``vnet capture --filter``: what tcpdump users expect, compiled to a predicate over frames.

::

    expression:  term {or term}          or, ||
    term:        factor {and factor}     and, &&; binds tighter than or
    factor:      not factor | ( expression ) | primitive
    primitive:   [arp|ip|ip6|tcp|udp] [src|dst] (host ADDRESS | net PREFIX | port NUMBER | ADDRESS)
                 ether [src|dst] [host] MAC | ether proto NUMBER | vlan [VID] | len RELATION NUMBER | greater N | less N
                 arp | ip | ip6 | icmp | icmp6 | tcp | udp | dhcp | stp | lldp | broadcast | multicast

Unlike tcpdump, tags are looked through: ``ip`` and ``vlan 20 and ip`` both match a tagged packet, in any order. ``host``
also finds the addresses inside ARP. A frame that is cut short simply does not match what cannot be read.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias, final

from vnet.addresses import BROADCAST, parse_mac
from vnet.errors import UsageError
from vnet.runtime.fields import ARP, IPV4, IPV6, Fields

Predicate: TypeAlias = Callable[[bytes], bool]
"""Tells whether a frame is wanted."""
Test: TypeAlias = Callable[[Fields], bool]

MAX_EXPRESSION: Final = 4096
MAX_DEPTH: Final = 64
"""Parentheses and nots inside each other."""

_TOKEN: Final = re.compile(r"\s*(\(|\)|&&|\|\||<=|>=|==|!=|<|>|=|!|[^\s()&|<>=!]+)")
_RELATIONS: Final[dict[str, Callable[[int, int], bool]]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_LLDP: Final = 0x88CC
_KINDS: Final[dict[str, Test]] = {
    "arp": lambda fields: fields.ethertype == ARP,
    "ip": lambda fields: fields.ethertype == IPV4,
    "ip6": lambda fields: fields.ethertype == IPV6,
    "icmp": lambda fields: fields.ethertype == IPV4 and fields.protocol == 1,
    "icmp6": lambda fields: fields.ethertype == IPV6 and fields.protocol == 58,
    "tcp": lambda fields: fields.protocol == 6,
    "udp": lambda fields: fields.protocol == 17,
    "dhcp": lambda fields: fields.protocol == 17 and (fields.source_port in (67, 68) or fields.destination_port in (67, 68)),
    "stp": lambda fields: fields.ethertype < 1536 and fields.payload[:3] == b"\x42\x42\x03",
    "lldp": lambda fields: fields.ethertype == _LLDP,
    "broadcast": lambda fields: fields.frame[:6] == BROADCAST,
    "multicast": lambda fields: bool(fields.frame[0] & 1),
}
_QUALIFIERS: Final = frozenset({"arp", "ip", "ip6", "tcp", "udp"})
"""Kinds that may stand directly before ``host``, ``net`` or ``port``, as in ``tcp dst port 80``."""
_WORDS: Final = (
    *_KINDS, "and", "or", "not", "src", "dst", "host", "net", "port", "ether", "vlan", "len", "greater", "less",
)  # fmt: skip


def compile_filter(expression: str) -> Predicate:
    """Compile; raise UsageError with the column where the expression cannot be understood. An empty one takes all."""
    if len(expression) > MAX_EXPRESSION:
        raise UsageError(f"the filter is longer than {MAX_EXPRESSION} characters")
    if not expression.strip():
        return lambda frame: True
    parser = _Parser(expression)
    test = parser.expression(0)
    parser.expect_end()
    return lambda frame: len(frame) >= 14 and test(Fields(frame))


@final
class _Parser:
    """Recursive descent over the tokens, each with its column."""

    __slots__ = ("_columns", "_next", "_text", "_tokens")

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        self._columns: list[int] = []
        self._next = 0
        end = len(text.rstrip())
        position = 0
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                column = position + len(text[position:]) - len(text[position:].lstrip())
                raise UsageError(f"filter, column {column + 1}: {text[column]!r} has no meaning here")
            self._tokens.append(match[1])
            self._columns.append(match.start(1))
            position = match.end()

    def expression(self, depth: int) -> Test:
        terms = [self._term(depth)]
        while self._accept("or", "||"):
            terms.append(self._term(depth))
        return _any_of(terms)

    def expect_end(self) -> None:
        if self._next < len(self._tokens):
            raise self._error(f"{self._peek()!r} is not expected here; join conditions with 'and' or 'or'", suggest=True)

    def _term(self, depth: int) -> Test:
        factors = [self._factor(depth)]
        while self._accept("and", "&&"):
            factors.append(self._factor(depth))
        return _all_of(factors)

    def _factor(self, depth: int) -> Test:
        if depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels of parentheses")
        if self._accept("not", "!"):
            test = self._factor(depth + 1)
            return lambda fields: not test(fields)
        if self._accept("("):
            test = self.expression(depth + 1)
            if not self._accept(")"):
                raise self._error("a ')' is missing")
            return test
        return self._primitive()

    def _primitive(self) -> Test:
        word = self._peek()
        if word in _KINDS:
            self._next += 1
            if word in _QUALIFIERS and self._peek() in ("src", "dst", "host", "net", "port"):
                return _all_of([_KINDS[word], self._addressed()])
            return _KINDS[word]
        if self._accept("ether"):
            return self._ether()
        if self._accept("vlan"):
            if not self._peek().isdigit():
                return lambda fields: bool(fields.vids)
            vid = self._number(0, 4095, "a VLAN ID")
            return lambda fields: vid in fields.vids
        if self._accept("len"):
            relation = _RELATIONS.get(self._peek())
            if relation is None:
                raise self._error("write a relation after 'len', such as len > 100")
            self._next += 1
            return self._length(relation)
        if word in ("greater", "less"):
            self._next += 1
            return self._length(operator.ge if word == "greater" else operator.le)
        return self._addressed()

    def _length(self, relation: Callable[[int, int], bool]) -> Test:
        length = self._number(0, 1 << 20, "a number of octets")
        return lambda fields: relation(len(fields.frame), length)

    def _ether(self) -> Test:
        if self._peek() in ("broadcast", "multicast"):
            return self._primitive()
        if self._accept("proto"):
            number = self._number(0, 0xFFFF, "an EtherType")
            return lambda fields: fields.ethertype == number
        source, destination = self._sides()
        self._accept("host")
        try:
            mac = parse_mac(self._peek())
        except ValueError:
            raise self._error(f"{self._peek()!r} is not a MAC address such as 52:54:00:12:34:56") from None
        self._next += 1
        return lambda fields: (source and fields.frame[6:12] == mac) or (destination and fields.frame[:6] == mac)

    def _sides(self) -> tuple[bool, bool]:
        """Read ``src``, ``dst``, ``src or dst`` or nothing: (source wanted, destination wanted)."""
        if self._accept("src"):
            if self._tokens[self._next : self._next + 2] == ["or", "dst"]:
                self._next += 2
                return True, True
            return True, False
        if self._accept("dst"):
            return False, True
        return True, True

    def _addressed(self) -> Test:
        source, destination = self._sides()
        if self._accept("port"):
            port = self._number(0, 0xFFFF, "a port number")
            return lambda fields: (
                (source and fields.source_port == port) or (destination and fields.destination_port == port)
            )
        if self._accept("net"):
            return _in_network(self._network(), source, destination)
        named = self._accept("host")
        if not self._peek():
            raise self._error("an address is missing" if named else "a condition is missing")
        if not named and not re.search(r"[.:]", self._peek()):
            raise self._error(f"{self._peek()!r} is not a filter word", suggest=True)
        try:
            address = ip_address(self._peek()).packed
        except ValueError:
            raise self._error(f"{self._peek()!r} is not an IP address") from None
        self._next += 1
        return lambda fields: (source and fields.source == address) or (destination and fields.destination == address)

    def _network(self) -> IPv4Network | IPv6Network:
        try:
            network = ip_network(self._peek(), strict=False)
        except ValueError:
            raise self._error(f"{self._peek()!r} is not a network such as 10.0.0.0/8") from None
        self._next += 1
        return network

    def _number(self, low: int, high: int, what: str) -> int:
        text = self._peek()
        number = int(text, 0) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,8}", text) else -1
        if not low <= number <= high:
            raise self._error(f"{text!r} is not {what} ({low} to {high})" if text else f"{what} is missing")
        self._next += 1
        return number

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _accept(self, *words: str) -> bool:
        if self._peek() in words:
            self._next += 1
            return True
        return False

    def _error(self, text: str, suggest: bool = False) -> UsageError:
        at_end = self._next >= len(self._tokens)
        column = len(self._text.rstrip()) if at_end else self._columns[self._next]
        near = difflib.get_close_matches(self._peek(), _WORDS, 1) if suggest and not at_end else []
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != self._peek() else ""
        return UsageError(f"filter, column {column + 1}: {text}{hint}")


def _any_of(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda fields: any(test(fields) for test in tests)


def _all_of(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda fields: all(test(fields) for test in tests)


def _in_network(network: IPv4Network | IPv6Network, source: bool, destination: bool) -> Test:
    octets = network.max_prefixlen // 8
    shift = network.max_prefixlen - network.prefixlen
    wanted = int(network.network_address) >> shift

    def inside(address: bytes) -> bool:
        return len(address) == octets and int.from_bytes(address, "big") >> shift == wanted

    return lambda fields: (source and inside(fields.source)) or (destination and inside(fields.destination))
