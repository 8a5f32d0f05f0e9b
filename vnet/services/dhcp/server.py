"""The DHCP server as a pure machine (RFC 2131, section 4.3): messages and the time come in, effects go out.

A message runs through ``receive``: who is it (option 61, or its hardware address), which address may it have (``_choose``
for DISCOVER, ``_may_have`` for REQUEST), a new ``Binding``, and the octets of the reply. What a client may have, in this
order: its reservation, the address it has or had, the one it asks for, the pool's choice.

Effects are to be carried out in their order: a ``Save`` comes before the ``Reply`` that relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias, final

from vnet.addresses import format_mac
from vnet.ports import Report, ReportLimit, no_report
from vnet.services.dhcp.binding import Binding, BindingState, BindingTable
from vnet.services.dhcp.policy import DhcpConfig, OptionTails
from vnet.services.dhcp.pool import AddressPool
from vnet.services.dhcp.replies import Reply, write_nak, write_reply
from vnet.units import Instant
from vnet.wire import dhcpv4 as wire
from vnet.wire import dhcpv4_options as opt
from vnet.wire.dhcpv4 import NO_ADDRESS, Message

OFFERED: Final = BindingState.OFFERED
BOUND: Final = BindingState.BOUND
DECLINED: Final = BindingState.DECLINED

MAX_CLIENT_ID: Final = 255
"""Octets of option 61: one piece on the wire. The field may be longer by RFC 3396, no client's is."""
MAX_HOSTNAME: Final = 255
"""Octets of option 12 that are kept: a name has no more (RFC 1035, 2.3.4), whatever RFC 3396 lets a client send."""


class Save(NamedTuple):
    """Record the change in the store."""

    binding: Binding


class Probe(NamedTuple):
    """Ask by ARP whether somebody uses *address*; tell ``observe`` about any answer."""

    address: bytes


Effect: TypeAlias = Reply | Save | Probe

RECEIVED: Final = {
    wire.DISCOVER: "discover", wire.REQUEST: "request", wire.DECLINE: "decline",
    wire.RELEASE: "release", wire.INFORM: "inform",
}  # fmt: skip
"""Counters of what came in, by message type; ``ignored`` counts the rest."""
SENT: Final = ("offer", "ack", "nak")
REFUSED: Final = (
    "bad-message",  # an option that every such message must have is missing or wrong
    "no-address-left",  # DISCOVER: the pool is used up
    "other-subnet",  # came through a relay agent of a subnet that is not served here
    "other-server",  # REQUEST, DECLINE, RELEASE: meant for, or chose, another server
    "unknown-client",  # REQUEST: not ours to judge
    "not-held",  # DECLINE, RELEASE: of an address that the client does not have
)
"""Counters of what got no reply, by reason. Accepted DECLINEs and RELEASEs get none either, and are not among these."""


@final
class DhcpServer:
    """One server for one subnet.

    *bindings* come from a store, *now* is the present; ``counters`` counts messages by type and refusals by reason.
    """

    __slots__ = (
        "_config", "_exhausted", "_limit", "_network", "_pool", "_quiet_until", "_report", "_reserved",
        "_reserved_addresses", "_server", "_tails", "counters", "table",
    )  # fmt: skip

    def __init__(
        self, config: DhcpConfig, now: Instant = 0, bindings: Sequence[Binding] = (), report: Report = no_report
    ) -> None:
        self._config = config
        self._server = config.server.packed
        self._network = (int(config.subnet.network_address), int(config.subnet.netmask))
        self._reserved = {mac: address.packed for mac, address in config.reservations.items()}
        self._tails = OptionTails(config)
        self._report = report
        self._limit = ReportLimit(report)  # for what clients can bring about as often as they like
        self._exhausted = False
        excluded = [config.subnet.network_address, config.subnet.broadcast_address, *config.reservations.values()]
        if config.gateway is not None:
            excluded.append(config.gateway)
        self.table = BindingTable()
        self._pool = AddressPool(config.range_start, config.range_end, excluded, self.table)
        self.counters = dict.fromkeys(("received", *RECEIVED.values(), "ignored", *SENT, *REFUSED, "conflict"), 0)
        self._reserved_addresses = frozenset(self._reserved.values())
        self._quiet_until: dict[bytes, Instant] = {}
        """Addresses whose conflict was reported: the next report is not before this instant."""
        ours = (each for each in bindings if each.address in self._pool or each.address in self._reserved_addresses)
        self.table.load(ours, now)

    @property
    def pool_size(self) -> int:
        """Count the addresses for clients without a reservation."""
        return self._pool.size

    def option_counters(self) -> dict[str, int]:
        """Tell how often the options that depend on the client were asked for and given (RFC 2132, 9.8)."""
        return self._tails.counters()

    def receive(self, now: Instant, message: Message) -> list[Effect]:
        """Take a message from a client or relay agent; return what to save and to send."""
        counters = self.counters
        counters["received"] += 1
        deadline = self.table.expiries.next()
        if deadline is not None and deadline <= now:
            self.expire(now)
        kind = message.message_type
        if message.op != wire.BOOTREQUEST or kind not in RECEIVED or not message.chaddr:
            counters["ignored"] += 1
            return []
        counters[RECEIVED[kind]] += 1
        if message.giaddr != NO_ADDRESS and not self._on_subnet(message.giaddr):
            return self._refuse("other-subnet")
        client = message.options.get(opt.CLIENT_ID)
        if client is None or len(client) < 2:
            client = bytes((message.htype,)) + message.chaddr
        elif len(client) > MAX_CLIENT_ID:
            return self._refuse("bad-message")
        if kind == wire.DISCOVER:
            return self._discover(now, message, client)
        if kind == wire.REQUEST:
            return self._request(now, message, client)
        if kind == wire.INFORM:
            return self._inform(message)
        return self._give_up(now, message, client, declined=kind == wire.DECLINE)

    def next_deadline(self) -> Instant | None:
        """Say when ``expire`` has something to do."""
        return self.table.expiries.next()

    def expire(self, now: Instant) -> list[Effect]:
        """End the offers, leases and quarantines whose time is over."""
        table = self.table
        for address in table.expiries.due(now):
            binding = table.of_address(address)
            if binding is None or not binding.state.live:
                continue
            if binding.expires_at > now:
                table.expiries.set(address, binding.expires_at)
            elif binding.state is DECLINED or binding.since is None:
                self._forget(binding)
            else:
                table.put(binding._replace(state=BindingState.EXPIRED))
                if binding.state is BOUND:
                    self._note("dhcp-expired", binding)
        return []

    def observe(self, now: Instant, address: bytes, mac: bytes) -> list[Effect]:
        """Take note that the station *mac* uses *address*: it sent ARP with it (RFC 5227).

        An address that somebody else has is taken out of the pool for the quarantine; one that is bound is only reported,
        because its client finds out by itself and declines.
        """
        binding = self.table.of_address(address)
        if binding is None:
            if address not in self._pool or self._reserved.get(mac) == address:
                return []
            binding = Binding(address, b"", mac, DECLINED, now)
        elif binding.mac == mac or binding.state is DECLINED:
            return []
        self.counters["conflict"] += 1
        if now >= self._quiet_until.get(address, now):
            self._quiet_until[address] = now + self._config.quarantine
            state = binding.state.name.lower()
            self._limit.report(now, "dhcp-conflict", address=_dotted(address), mac=format_mac(mac), state=state)
        return [] if binding.state is BOUND else self._quarantine(now, address, mac)

    def flush(self) -> list[Effect]:
        """Forget every binding."""
        bindings = list(self.table)
        for binding in bindings:
            self._forget(binding)
        return [Save(binding._replace(state=BindingState.FREE)) for binding in bindings]

    # -- the five messages ---------------------------------------------------------------------------------------------

    def _discover(self, now: Instant, message: Message, client: bytes) -> list[Effect]:
        """Offer an address and keep it for a while (RFC 2131, 4.3.1)."""
        address = self._choose(message, client)
        if address is None:
            if not self._exhausted:
                self._exhausted = True
                self._limit.report(now, "dhcp-exhausted", mac=format_mac(message.chaddr), pool=self._pool.size)
            return self._refuse("no-address-left")
        self._exhausted = False
        effects: list[Effect] = []
        table = self.table
        known = table.of_address(address)
        if known is None or known.client != client or known.state is not BOUND:
            since = known.since if known is not None and known.client == client else None
            self._leave_other(client, address)
            if len(table.offers) >= self._config.max_offers:
                self._withdraw(next(iter(table.offers)))
            until = now + self._config.offer_time
            table.put(Binding(address, client, message.chaddr, OFFERED, until, since))
            if known is None and self._config.probe:
                effects.append(Probe(address))
        self.counters["offer"] += 1
        options = self._tails.lease(message.options.get(opt.PARAMETER_REQUEST_LIST))
        effects.append(write_reply(message, wire.OFFER, address, NO_ADDRESS, options))
        return effects

    def _request(self, now: Instant, message: Message, client: bytes) -> list[Effect]:
        """Accept or refuse an offer taken up, a verification, a renewal or a rebinding (RFC 2131, 4.3.2)."""
        options = message.options
        chosen = options.get(opt.SERVER_ID)
        wanted = options.get(opt.REQUESTED_ADDRESS)
        if chosen is not None and chosen != self._server:
            binding = self.table.of_client(client)
            if binding is not None and binding.state is OFFERED:
                self._withdraw(binding.address)
            return self._refuse("other-server")
        if wanted is None:
            wanted = message.ciaddr
        if len(wanted) != 4 or wanted == NO_ADDRESS:
            return self._refuse("bad-message")
        problem = self._may_have(message, client, wanted, selecting=chosen is not None)
        if problem is None:
            return self._bind(now, message, client, wanted)
        if not problem:
            return self._refuse("unknown-client")
        self.counters["nak"] += 1
        self._limit.report(now, "dhcp-nak", address=_dotted(wanted), mac=format_mac(message.chaddr), reason=problem)
        return [write_nak(message, self._server, problem)]

    def _inform(self, message: Message) -> list[Effect]:
        """Tell a host that has its address by other means the rest (RFC 2131, 4.3.5)."""
        if message.ciaddr == NO_ADDRESS or not self._on_subnet(message.ciaddr):
            return self._refuse("bad-message")
        self.counters["ack"] += 1
        options = self._tails.inform(message.options.get(opt.PARAMETER_REQUEST_LIST))
        return [write_reply(message._replace(giaddr=NO_ADDRESS), wire.ACK, NO_ADDRESS, message.ciaddr, options)]

    def _give_up(self, now: Instant, message: Message, client: bytes, declined: bool) -> list[Effect]:
        """Take an address back (RFC 2131, 4.3.3 and 4.3.4)."""
        chosen = message.options.get(opt.SERVER_ID)
        if chosen is not None and chosen != self._server:
            return self._refuse("other-server")
        address = message.options.get(opt.REQUESTED_ADDRESS) if declined else message.ciaddr
        binding = self.table.of_client(client)
        if binding is None or binding.address != address or not binding.state.live:
            return self._refuse("not-held")
        if declined:
            self._note("dhcp-declined", binding)
            return self._quarantine(now, binding.address, b"")
        released = binding._replace(state=BindingState.RELEASED, expires_at=now)
        self.table.put(released)
        self._note("dhcp-released", binding)
        return [Save(released)]

    # -- which address -------------------------------------------------------------------------------------------------

    def _choose(self, message: Message, client: bytes) -> bytes | None:
        """Choose the address to offer; None if there is none."""
        table, pool = self.table, self._pool
        reserved = self._reserved.get(message.chaddr)
        if reserved is not None and self._is_open(reserved, message.chaddr):
            return reserved
        held = table.of_client(client)
        if held is not None and held.address in pool:
            return held.address
        wanted = message.options.get(opt.REQUESTED_ADDRESS)
        if wanted is not None and len(wanted) == 4 and wanted in pool:
            known = table.of_address(wanted)
            if known is None or not known.state.live:
                return wanted
        return pool.choose()

    def _may_have(self, message: Message, client: bytes, address: bytes, selecting: bool) -> str | None:
        """Decide whether the client may have *address*: None if so, the text of a NAK if not, "" to be silent."""
        if not self._on_subnet(address):
            return "the address is not of this network"
        reserved = self._reserved.get(message.chaddr)
        if reserved is not None and self._is_open(reserved, message.chaddr):
            return None if reserved == address else "another address is reserved for the client"
        in_pool = address in self._pool
        known = self.table.of_address(address)
        if in_pool and known is not None and known.client == client:
            return None
        if selecting:
            # an offer that was withdrawn, or made before a restart, stands while nobody else took the address
            is_free = known is None or not known.state.live
            return None if in_pool and is_free else "the address is not the client's"
        # about a client it does not know a server is silent, for another may know it; but its own pool is nobody else's
        is_ours = in_pool or address in self._reserved_addresses
        return "the address is not the client's" if is_ours and self._config.authoritative else ""

    def _is_open(self, reserved: bytes, mac: bytes) -> bool:
        """Tell whether the station *mac* may use its reserved address now: nobody else got it before it was reserved."""
        holder = self.table.of_address(reserved)
        return holder is None or not holder.state.live or (holder.mac == mac and holder.state is not DECLINED)

    def _on_subnet(self, address: bytes) -> bool:
        network, mask = self._network
        return int.from_bytes(address, "big") & mask == network

    # -- bindings ------------------------------------------------------------------------------------------------------

    def _bind(self, now: Instant, message: Message, client: bytes, address: bytes) -> list[Effect]:
        """Bind the client to the address for a whole lease, and tell it."""
        known = self.table.of_address(address)
        renewed = known is not None and known.state is BOUND and known.client == client
        since = known.since if known is not None and renewed else now
        binding = Binding(address, client, message.chaddr, BOUND, now + self._config.lease, since, _hostname(message))
        effects: list[Effect] = [Save(binding)]
        left = self._leave_other(client, address)
        if left is not None:
            effects.insert(0, Save(left._replace(state=BindingState.FREE)))
        self.table.put(binding)
        self.counters["ack"] += 1
        self._note("dhcp-renewed" if renewed else "dhcp-bound", binding)
        options = self._tails.lease(message.options.get(opt.PARAMETER_REQUEST_LIST))
        effects.append(write_reply(message, wire.ACK, address, message.ciaddr, options))
        return effects

    def _leave_other(self, client: bytes, address: bytes) -> Binding | None:
        """Free the other address that the client has or had; return its binding."""
        other = self.table.of_client(client)
        if other is None or other.address == address:
            return None
        self._forget(other)
        return other

    def _withdraw(self, address: bytes) -> None:
        """End an offer: a client that had the address before keeps its claim to it."""
        offer = self.table.of_address(address)
        if offer is not None and offer.since is not None:
            self.table.put(offer._replace(state=BindingState.EXPIRED))
        elif offer is not None:
            self._forget(offer)

    def _quarantine(self, now: Instant, address: bytes, mac: bytes) -> list[Effect]:
        declined = Binding(address, b"", mac, DECLINED, now + self._config.quarantine)
        self.table.put(declined)
        return [Save(declined)]

    def _forget(self, binding: Binding) -> None:
        self.table.remove(binding)
        self._pool.give_back(binding.address)

    def _refuse(self, reason: str) -> list[Effect]:
        self.counters[reason] += 1
        return []

    def _note(self, kind: str, binding: Binding) -> None:
        self._report(kind, address=_dotted(binding.address), mac=format_mac(binding.mac), hostname=binding.hostname)


def _hostname(message: Message) -> str:
    value = message.options.get(opt.HOST_NAME)
    return opt.decode_text(value[:MAX_HOSTNAME]) if value else ""


def _dotted(address: bytes) -> str:
    return f"{address[0]}.{address[1]}.{address[2]}.{address[3]}"
