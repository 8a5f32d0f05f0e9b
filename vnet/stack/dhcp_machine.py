"""The DHCP client as a pure machine (RFC 2131, section 4.4).

The moves are in ``dhcp_states``; here is what is done on entering each state. Every input returns its effects; the one that
needs an answer (``Probe``) gets it through ``probed``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, final

from vnet.addresses import Mac
from vnet.errors import WireError
from vnet.ports import Randomness
from vnet.stack.dhcp_lease import Lease, read_lease
from vnet.stack.dhcp_states import MOVES, Event, State
from vnet.units import SECOND, Duration, Instant
from vnet.wire import dhcpv4 as wire
from vnet.wire import dhcpv4_options as opt
from vnet.wire.dhcpv4 import NO_ADDRESS, Message
from vnet.wire.dhcpv4_frame import IP_BROADCAST

FIRST_RETRY: Final = 4 * SECOND
MAX_RETRY: Final = 64 * SECOND
RETRY_SPREAD: Final = 1 * SECOND
"""Delays double from 4 s to 64 s, each plus or minus up to 1 s at random (RFC 2131, 4.1)."""
REQUEST_TRIES: Final = 4
"""REQUESTs for one offer before starting again: about 60 s."""
REBOOT_TRIES: Final = 2
"""REQUESTs for the old address before asking for any: about 12 s."""
MIN_RENEW_RETRY: Final = 60 * SECOND
"""RFC 2131, 4.4.5."""
DECLINE_WAIT: Final = 10 * SECOND
"""RFC 2131, 3.1, point 5."""
MAX_NAK_WAIT: Final = 64 * SECOND

WANTED: Final = bytes(
    (opt.SUBNET_MASK, opt.ROUTER, opt.DNS_SERVERS, opt.DOMAIN_NAME, opt.WINS_SERVERS,
     opt.LEASE_TIME, opt.SERVER_ID, opt.RENEWAL_TIME, opt.REBINDING_TIME)
)  # fmt: skip


_TRIES: Final = {State.REQUESTING: REQUEST_TRIES, State.REBOOTING: REBOOT_TRIES}


class Send(NamedTuple):
    """Send *payload* from port 68 to port 67; a *destination* of 255.255.255.255 goes to the broadcast MAC address.

    Addresses are 4 octets; *source* is zero while the client has no address.
    """

    payload: bytes
    source: bytes
    destination: bytes


class Configure(NamedTuple):
    """Use the lease from now on; it may be the same address with new times."""

    lease: Lease


class Unconfigure(NamedTuple):
    """Do not use the lease's address any more."""

    lease: Lease


class Probe(NamedTuple):
    """Find out whether somebody uses *address*, and tell ``probed``."""

    address: bytes


class CancelProbe(NamedTuple):
    """Stop probing."""

    address: bytes


Effect: TypeAlias = Send | Configure | Unconfigure | Probe | CancelProbe


@final
class DhcpMachine:
    """One client on one interface.

    *identity* is option 61; without it the server goes by the MAC address, which suits a NIC whose only program is this one.
    ``lease`` is the one in use; ``remembered`` the last one, even after it ended. With *probe* an address is probed for
    before it is used. ``refused`` counts replies to us that make no sense.
    """

    __slots__ = (
        "_began", "_chosen", "_configured", "_hostname", "_identity", "_lease", "_mac", "_naks", "_probe", "_probing",
        "_random", "_secs", "_send_at", "_sent_at", "_tries", "_xid", "refused", "remembered", "state",
    )  # fmt: skip

    def __init__(
        self, mac: Mac, random: Randomness, hostname: str = "", probe: bool = True, identity: bytes | None = None
    ) -> None:
        self.state = State.OFF
        self.remembered: Lease | None = None
        self.refused = 0
        self._mac = mac
        self._random = random
        self._hostname = hostname.encode("ascii", "ignore")[:63]
        self._identity = identity
        self._probe = probe
        self._lease: Lease | None = None  # that the timers run for
        self._configured: Lease | None = None
        self._chosen: Lease | None = None  # the offer we asked for
        self._probing: bytes | None = None
        self._xid = 0
        self._secs = 0
        self._tries = 0
        self._naks = 0
        self._began: Instant = 0
        self._sent_at: Instant = 0
        self._send_at: Instant | None = None

    @property
    def lease(self) -> Lease | None:
        """The lease whose address is in use."""
        return self._configured

    # -- inputs --------------------------------------------------------------------------------------------------------

    def start(self, now: Instant) -> list[Effect]:
        """Get an address: the remembered one if its lease still runs, or else any."""
        lease = self.remembered
        if self.state is not State.OFF or lease is None or (lease.ends_at is not None and lease.ends_at <= now):
            return self._step(now, Event.START)
        self._lease = lease
        return self._step(now, Event.RESUME)

    def stop(self, now: Instant) -> list[Effect]:
        """Stop without telling the server: the lease runs on, and ``start`` goes back to it."""
        return self._step(now, Event.STOP)

    def release(self, now: Instant) -> list[Effect]:
        """Give the address back and stop (RFC 2131, 4.4.6)."""
        return self._step(now, Event.RELEASE)

    def renew(self, now: Instant) -> list[Effect]:
        """Ask for a longer lease now instead of at T1."""
        return self._step(now, Event.RENEW)

    def link_up(self, now: Instant) -> list[Effect]:
        """Verify the address, because the cable may lead to another network now (RFC 2131, 3.7); it stays in use so long."""
        return self._step(now, Event.LINK_UP)

    def probed(self, now: Instant, taken: bool) -> list[Effect]:
        """Take the answer to a ``Probe``."""
        if self._probing is None:
            return []
        self._probing = None
        return self._step(now, Event.TAKEN if taken else Event.FREE)

    def receive(self, now: Instant, message: Message) -> list[Effect]:
        """Take a message from a server; those for other clients, and those that make no sense, are ignored."""
        if message.op != wire.BOOTREPLY or message.xid != self._xid or message.chaddr != self._mac or not self._xid:
            return []
        echoed = message.options.get(opt.CLIENT_ID)
        if echoed is not None and echoed != self._identity:
            return []  # RFC 6842, section 3
        event = _EVENTS.get(message.message_type)
        if event is None or (self.state, event) not in MOVES:
            return []
        chosen = self._chosen
        if self.state is State.REQUESTING and chosen and message.options.get(opt.SERVER_ID) != chosen.server.packed:
            return []  # a server that was not chosen has no say
        try:
            return self._step(now, event, None if event is Event.NAK else self._read(message))
        except WireError:
            self.refused += 1
            return []

    def next_deadline(self) -> Instant | None:
        """Say when ``expire`` has something to do."""
        lease, state = self._lease, self.state
        deadlines = [self._send_at]
        if lease is not None:
            deadlines.append(lease.ends_at)
            if state is State.BOUND:
                deadlines.append(lease.renew_at)
            elif state is State.RENEWING:
                deadlines.append(lease.rebind_at)
        return min((each for each in deadlines if each is not None), default=None)

    def expire(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        while (event := self._due(now)) is not None:
            effects += self._step(now, event)
        return effects

    # -- moves ---------------------------------------------------------------------------------------------------------

    def _due(self, now: Instant) -> Event | None:
        lease, state = self._lease, self.state
        if lease is not None:
            if _passed(lease.ends_at, now):
                return Event.END
            if state in (State.BOUND, State.RENEWING) and _passed(lease.rebind_at, now):
                return Event.T2
            if state is State.BOUND and _passed(lease.renew_at, now):
                return Event.T1
        if not _passed(self._send_at, now):
            return None
        return Event.GIVE_UP if self._tries >= _TRIES.get(state, self._tries + 1) else Event.SEND

    def _step(self, now: Instant, event: Event, lease: Lease | None = None) -> list[Effect]:
        """Make one move; *lease* comes with OFFER and ACK."""
        old = self.state
        new = MOVES.get((old, event))
        if new is None:
            return []
        self.state = new
        if new is not old or event is Event.RENEW:
            self._tries = 0
        effects: list[Effect] = []
        if self._probing is not None:
            effects.append(CancelProbe(self._probing))
            self._probing = None
        if event is Event.OFFER:
            self._chosen = lease
        elif event is Event.ACK:
            self._lease, self._naks = lease, 0
        return effects + _ENTER[new](self, now, old, event)

    def _enter_off(self, now: Instant, old: State, event: Event) -> list[Effect]:
        effects: list[Effect] = []
        lease = self._configured
        if event is Event.RELEASE:
            if lease is not None:
                self._xid = self._new_xid()
                options = {opt.SERVER_ID: lease.server.packed}
                effects.append(self._message(wire.RELEASE, options, lease.address.ip.packed, lease.server.packed))
            self.remembered = None
        self._lease = self._chosen = self._send_at = None
        self._xid = 0
        return effects + self._unconfigure()

    def _enter_init(self, now: Instant, old: State, event: Event) -> list[Effect]:
        effects: list[Effect] = []
        delay: Duration = 0
        if event is Event.TAKEN and self._lease is not None:
            lease = self._lease
            options = {opt.REQUESTED_ADDRESS: lease.address.ip.packed, opt.SERVER_ID: lease.server.packed}
            effects.append(self._message(wire.DECLINE, options))
            self.remembered = None
            delay = DECLINE_WAIT
        elif event is Event.NAK:
            self.remembered = None
            if old is State.REQUESTING:  # an offer and then a NAK, again and again, must not be a storm
                delay = min(SECOND << self._naks, MAX_NAK_WAIT)
                self._naks = min(self._naks + 1, 6)
        self._lease = self._chosen = None
        self._xid = 0
        self._send_at = now + delay
        return effects + self._unconfigure()

    def _enter_selecting(self, now: Instant, old: State, event: Event) -> list[Effect]:
        if old is State.INIT:
            self._xid = self._new_xid()
            self._began = now
        self._secs = min((now - self._began) // SECOND, 0xFFFF)
        options: dict[int, bytes] = {}
        if self.remembered is not None:
            options[opt.REQUESTED_ADDRESS] = self.remembered.address.ip.packed
        self._retry_later(now)
        return [self._message(wire.DISCOVER, options)]

    def _enter_requesting(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._chosen
        assert lease is not None, "an OFFER leads here"
        self._retry_later(now)
        options = {opt.SERVER_ID: lease.server.packed, opt.REQUESTED_ADDRESS: lease.address.ip.packed}
        return [self._message(wire.REQUEST, options)]

    def _enter_checking(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._lease
        assert lease is not None, "an ACK leads here"
        self._send_at = None
        if not self._probe or (self._configured is not None and self._configured.address == lease.address):
            return self._step(now, Event.FREE)
        self._probing = lease.address.ip.packed
        return [Probe(self._probing)]

    def _enter_bound(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._lease
        assert lease is not None, "an ACK came before"
        self._send_at = None
        effects: list[Effect] = []
        if self._configured is not None and self._configured.address != lease.address:
            effects += self._unconfigure()
        self._configured = self.remembered = lease
        return [*effects, Configure(lease)]

    def _enter_renewing(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._lease
        assert lease is not None, "there is a lease to renew"
        return self._extend(now, old, lease.rebind_at, lease.server.packed)

    def _enter_rebinding(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._lease
        assert lease is not None, "there is a lease to rebind"
        return self._extend(now, old, lease.ends_at, IP_BROADCAST)

    def _extend(self, now: Instant, old: State, until: Instant | None, destination: bytes) -> list[Effect]:
        """Ask for a longer lease; try again after half the time that is left, but not within a minute."""
        assert self._lease is not None
        if old is not self.state:
            self._xid = self._new_xid()
            self._began = now
        self._secs = min((now - self._began) // SECOND, 0xFFFF)
        self._sent_at = now
        self._send_at = now + MIN_RENEW_RETRY if until is None else now + max((until - now) // 2, MIN_RENEW_RETRY)
        return [self._message(wire.REQUEST, {}, self._lease.address.ip.packed, destination)]

    def _enter_init_reboot(self, now: Instant, old: State, event: Event) -> list[Effect]:
        self._xid = 0
        self._send_at = now
        return []

    def _enter_rebooting(self, now: Instant, old: State, event: Event) -> list[Effect]:
        lease = self._lease
        assert lease is not None, "there is a lease to verify"
        if old is State.INIT_REBOOT:
            self._xid = self._new_xid()
            self._began = now
        self._secs = min((now - self._began) // SECOND, 0xFFFF)
        self._retry_later(now)
        return [self._message(wire.REQUEST, {opt.REQUESTED_ADDRESS: lease.address.ip.packed})]

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _unconfigure(self) -> list[Effect]:
        lease, self._configured = self._configured, None
        return [] if lease is None else [Unconfigure(lease)]

    def _read(self, message: Message) -> Lease:
        """Read an OFFER or ACK; an ACK must be for the address that we asked for."""
        lease = read_lease(message, self._sent_at)
        asked = self._chosen if self.state is State.REQUESTING else self._lease
        if asked is not None and lease.address.ip != asked.address.ip:
            raise WireError("ACK for an address that was not asked for")
        return lease

    def _retry_later(self, now: Instant) -> None:
        """Plan the next try after a delay that doubles (RFC 2131, 4.1)."""
        delay = min(FIRST_RETRY << min(self._tries, 4), MAX_RETRY)
        self._tries += 1
        self._sent_at = now
        self._send_at = now + delay - RETRY_SPREAD + self._random.below(2 * RETRY_SPREAD + 1)

    def _new_xid(self) -> int:
        """Draw a transaction id; 0 stands for none."""
        return 1 + self._random.below(0xFFFF_FFFF)

    def _message(
        self, kind: int, extra: dict[int, bytes], source: bytes = NO_ADDRESS, destination: bytes = IP_BROADCAST
    ) -> Send:
        """Write a message; with a *source* the client has an address and says so (ciaddr)."""
        options = {opt.MESSAGE_TYPE: bytes((kind,)), **extra}
        if self._identity is not None:
            options[opt.CLIENT_ID] = self._identity
        if kind in (wire.DISCOVER, wire.REQUEST):
            options[opt.PARAMETER_REQUEST_LIST] = WANTED
            if self._hostname:
                options[opt.HOST_NAME] = self._hostname
        secs = self._secs if kind in (wire.DISCOVER, wire.REQUEST) else 0
        payload = wire.encode(Message(wire.BOOTREQUEST, self._xid, self._mac, options, ciaddr=source, secs=secs))
        return Send(payload, source, destination)


_EVENTS: Final = {wire.OFFER: Event.OFFER, wire.ACK: Event.ACK, wire.NAK: Event.NAK}
_ENTER: Final[dict[State, Callable[[DhcpMachine, Instant, State, Event], list[Effect]]]] = {
    State.OFF: DhcpMachine._enter_off,
    State.INIT: DhcpMachine._enter_init,
    State.SELECTING: DhcpMachine._enter_selecting,
    State.REQUESTING: DhcpMachine._enter_requesting,
    State.CHECKING: DhcpMachine._enter_checking,
    State.BOUND: DhcpMachine._enter_bound,
    State.RENEWING: DhcpMachine._enter_renewing,
    State.REBINDING: DhcpMachine._enter_rebinding,
    State.INIT_REBOOT: DhcpMachine._enter_init_reboot,
    State.REBOOTING: DhcpMachine._enter_rebooting,
}


def _passed(instant: Instant | None, now: Instant) -> bool:
    return instant is not None and instant <= now
