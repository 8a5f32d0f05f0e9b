"""Whether a packet may begin a connection, and how it is to be translated: connection table, NAT and rules as one decision.

Which connections are tracked: those that NAT translates, and with a firewall all between different networks. Everything else
is routed without a memory (``None`` instead of a ``Direction``).

What NAT lets in by itself: a port forward is an opening in the firewall, without a rule of its own; it was configured for
that. Hairpinned packets come from inside, so a mapping's filtering does not apply to them, the rules between the two
networks do. Packets from outside to an inside address are refused even where a rule would let them in: inside addresses do
not exist outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

from vnet.ports import Randomness
from vnet.services.firewall.conntrack import Connection, ConnectionTable, Direction, Timeouts
from vnet.services.firewall.rules import FirewallConfig, Policy, RuleSet
from vnet.services.firewall.tcp_state import FIN, RST, SYN
from vnet.services.nat.rewrite import QUERY_TYPES
from vnet.services.nat.translator import Mapping, NatConfig, Translator
from vnet.units import Instant
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_NAMES, PROTOCOL_TCP, PROTOCOL_UDP

_ACK = 0x10


class Refusal(NamedTuple):
    """Why a packet begins no connection; *action* "reject" has the sender told."""

    reason: str
    action: Policy = "drop"


UNSOLICITED = Refusal("unsolicited")
"""From outside, and nobody inside asked for it."""


@final
class Sessions:
    """What a router remembers of the traffic that it lets through.

    ``external`` is the address that NAT shows outside, None while there is none. ``on_ended`` is called with each connection
    that ends. ``nat_counters`` counts connections by what NAT did for them: "outbound", "hairpin", "inbound" (to a mapping
    that stands) or "forward tcp/80"; the last are as many as ports are forwarded.
    """

    __slots__ = ("_held", "_on_ended", "connections", "external", "nat_counters", "rules", "translator")

    def __init__(self, on_ended: Callable[[Connection], None]) -> None:
        self._on_ended = on_ended
        self._held: dict[Connection, tuple[tuple[Mapping, bytes], ...]] = {}
        self.connections = ConnectionTable(Timeouts(), self._ended)
        self.translator: Translator | None = None
        self.rules: RuleSet | None = None
        self.external: bytes | None = None
        self.nat_counters: dict[str, int] = {}

    @property
    def active(self) -> bool:
        """Tell whether anything is tracked at all."""
        return self.translator is not None or self.rules is not None

    def configure_nat(self, config: NatConfig | None, randomness: Randomness) -> None:
        """Translate by *config* from now on; connections that stand end, because their translation may be wrong now."""
        self.connections.clear()
        self.connections.timeouts = config.timeouts if config is not None else Timeouts()
        self.translator = Translator(config, randomness) if config is not None else None

    def configure_firewall(self, config: FirewallConfig | None) -> None:
        """Judge new connections by *config*; those that stand end, so that no old permission outlives its rule."""
        self.connections.clear()
        self.rules = RuleSet(config) if config is not None else None

    def set_external(self, address: bytes | None) -> None:
        """Show another address outside; connections that stand end with the old one."""
        if address != self.external:
            self.external = address
            if self.translator is not None:
                self.connections.clear()

    def inbound(self, network: str, protocol: int, arrives: bytes) -> Mapping | Refusal | None:
        """Find what a packet to the external address is meant for; None if it is for the router itself."""
        nat = self.translator
        if nat is None or arrives[4:8] != self.external or protocol not in (PROTOCOL_TCP, PROTOCOL_UDP):
            return None
        mapping = nat.inbound(protocol, int.from_bytes(arrives[10:12], "big"))
        if mapping is None:
            return None
        if network in nat.config.inside:
            return mapping if nat.config.hairpin else None
        return mapping if nat.admits(mapping, arrives[:4]) else UNSOLICITED

    def open(
        self, now: Instant, from_network: str, to_network: str, protocol: int, arrives: bytes,
        *, begins: bool, mapping: Mapping | None,
    ) -> Direction | Refusal | None:  # fmt: skip
        """Decide about a packet that belongs to no connection, and enter its connection if it may have one.

        *mapping* is what ``inbound`` found; *begins* tells whether the packet can be the first of a connection. The result
        is the direction to translate by, None if the packet is routed without tracking, or why it is refused.
        """
        nat, source = self.translator, arrives[:4]
        from_inside = nat is not None and from_network in nat.config.inside
        if mapping is not None:
            hide = from_inside
        elif nat is not None and from_network == nat.config.outside and to_network in nat.config.inside:
            if nat.translates(arrives[4:8]):
                return UNSOLICITED
            hide = False
        else:
            hide = nat is not None and from_inside and to_network == nat.config.outside and nat.translates(source)
        judged = self.rules is not None and from_network != to_network
        if not (judged or hide or mapping is not None):
            return None
        if not begins:
            return Refusal("no-connection")
        leaves = arrives
        if mapping is not None:
            leaves = arrives[:4] + mapping.address + arrives[8:10] + mapping.port.to_bytes(2, "big")
        if judged and self.rules is not None and not (mapping is not None and mapping.forward):
            verdict = self.rules.decide(from_network, to_network, protocol, leaves[:8], int.from_bytes(leaves[10:12], "big"))
            if verdict.action != "accept":
                return Refusal("policy", verdict.action)
        return self._enter(now, from_network, to_network, protocol, arrives, leaves, mapping, nat if hide else None)

    def _enter(
        self, now: Instant, from_network: str, to_network: str, protocol: int, arrives: bytes, leaves: bytes,
        mapping: Mapping | None, hide_by: Translator | None,
    ) -> Direction | Refusal:  # fmt: skip
        held: list[tuple[Mapping, bytes]] = []
        if hide_by is not None:
            if self.external is None:
                return Refusal("nat-no-address")
            hiding = hide_by.outbound(protocol, arrives[:4], int.from_bytes(arrives[8:10], "big"))
            if isinstance(hiding, str):
                return Refusal(hiding)
            held.append((hiding, leaves[4:8]))
            leaves = self.external + leaves[4:8] + hiding.external_port.to_bytes(2, "big") + leaves[10:12]
        if mapping is not None:
            held.append((mapping, leaves[:4]))
        reply = leaves[4:8] + leaves[:4] + leaves[10:12] + leaves[8:10]
        connection = self.connections.open(now, protocol, arrives, reply, from_network, to_network)
        translator = self.translator
        if isinstance(connection, str):
            if hide_by is not None:
                hide_by.discard(held[0][0])
            return Refusal(connection)
        if held and translator is not None:
            for each, remote in held:
                translator.use(each, remote)
            self._held[connection] = tuple(held)
            branch = _branch(mapping, hide_by is not None)
            self.nat_counters[branch] = self.nat_counters.get(branch, 0) + 1
        return connection.original

    def _ended(self, connection: Connection) -> None:
        translator = self.translator
        for mapping, remote in self._held.pop(connection, ()):
            if translator is not None:
                translator.release(mapping, remote)
        self._on_ended(connection)


def _branch(mapping: Mapping | None, hides: bool) -> str:
    """Name what NAT does for a connection to *mapping*, whose source it hides or not."""
    if hides:
        return "outbound" if mapping is None else "hairpin"
    if mapping is None or not mapping.forward:
        return "inbound"
    return f"forward {PROTOCOL_NAMES[mapping.protocol]}/{mapping.external_port}"


def may_begin(packet: bytes, header_octets: int) -> bool:
    """Tell whether a packet can be the first of a connection: a TCP SYN, an ICMP request, anything of other protocols."""
    protocol = packet[9]
    if protocol == PROTOCOL_TCP:
        return packet[header_octets + 13] & (SYN | _ACK | RST | FIN) == SYN
    return protocol != PROTOCOL_ICMP or QUERY_TYPES.get(packet[header_octets], False)
