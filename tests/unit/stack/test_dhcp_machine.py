"""The DHCP client as a machine: the table of states, what is sent when, and which replies count."""

from ipaddress import IPv4Address, IPv4Interface
from itertools import pairwise, product

import pytest

from tests.unit.stack.dhcp_talk import ADDRESS, BROADCAST, MAC, SERVER, Talk, in_state
from vnet.errors import WireError
from vnet.fabric.rng import RandomStreams
from vnet.stack import dhcp_machine, dhcp_states
from vnet.stack.dhcp_lease import read_lease
from vnet.stack.dhcp_machine import CancelProbe, Configure, DhcpMachine, Probe, Unconfigure
from vnet.stack.dhcp_states import IGNORED, IMPOSSIBLE, MOVES, Event, State
from vnet.units import DAY, HOUR, MINUTE, SECOND
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt


@pytest.fixture
def talk():
    return Talk(probe=False)


# The table


def test_every_pair_of_state_and_event_has_its_place():
    everything = set(product(State, Event))
    assert set(MOVES) | IGNORED | IMPOSSIBLE == everything
    assert len(MOVES) + len(IGNORED) + len(IMPOSSIBLE) == len(everything)
    assert set(MOVES.values()) == set(State), "every state can be reached"
    assert set(dhcp_machine._ENTER) == set(State)
    assert {state for state, _ in MOVES} == set(State), "every state can be left"


def test_only_timers_and_probes_are_called_impossible():
    events = {event for _, event in IMPOSSIBLE}
    assert events <= {Event.RESUME, Event.FREE, Event.TAKEN, Event.SEND, Event.GIVE_UP, Event.T1, Event.T2, Event.END}


@pytest.mark.parametrize("state", list(State))
def test_commands_in_any_state_do_no_harm(state):
    for command in ("start", "stop", "release", "renew", "link_up"):
        talk = Talk(probe=True).bind()
        in_state(talk, state)
        talk.note(getattr(talk.machine, command)(talk.now))
        talk.wait(3 * DAY)
        if talk.machine.state is not State.OFF:
            talk.wait(MINUTE)
            assert talk.sent, "it goes on asking"


# Getting an address


def test_the_four_messages(talk):
    talk.machine = DhcpMachine(MAC, RandomStreams(5).stream("pc", "dhcp"), "pc", probe=False)
    talk.start()
    discover = talk.last
    assert talk.sent[-1][1:] == (bytes(4), BROADCAST) and discover.chaddr == MAC and discover.xid
    assert dict(discover.options) == {53: b"\1", 55: dhcp_machine.WANTED, 12: b"pc"}
    talk.answer(dhcpv4.OFFER)
    request = talk.last
    assert talk.sent[-1][1:] == (bytes(4), BROADCAST) and request.xid == discover.xid and request.ciaddr == bytes(4)
    assert request.options[opt.SERVER_ID] == SERVER and request.options[opt.REQUESTED_ADDRESS] == ADDRESS
    (configure,) = talk.answer(dhcpv4.ACK)
    lease = configure.lease
    assert lease.address == IPv4Interface("10.0.0.16/24") and (lease.duration, lease.t1, lease.t2) == (
        36 * HOUR, 18 * HOUR, 27 * HOUR,
    )  # fmt: skip
    assert talk.machine.lease is lease and talk.machine.next_deadline() == 18 * HOUR


def test_an_address_is_probed_before_it_is_used():
    talk = Talk()
    talk.start()
    talk.answer(dhcpv4.OFFER)
    assert talk.answer(dhcpv4.ACK) == [Probe(ADDRESS)] and talk.machine.lease is None
    talk.now += 5 * SECOND
    (configure,) = talk.machine.probed(talk.now, False)
    assert isinstance(configure, Configure) and configure.lease.renew_at == 18 * HOUR, "time counts from the request"


def test_a_taken_address_is_declined():
    talk = Talk()
    talk.start()
    talk.answer(dhcpv4.OFFER)
    talk.answer(dhcpv4.ACK)
    talk.note(talk.machine.probed(talk.now, True))
    decline = talk.last
    assert decline.message_type == dhcpv4.DECLINE and talk.sent[-1][1:] == (bytes(4), BROADCAST)
    assert decline.options[opt.REQUESTED_ADDRESS] == ADDRESS and decline.options[opt.SERVER_ID] == SERVER
    assert talk.machine.state is State.INIT and talk.machine.next_deadline() == 10 * SECOND
    talk.wait(10 * SECOND)
    assert opt.REQUESTED_ADDRESS not in talk.last.options


def test_discovers_are_repeated_with_growing_delays(talk):
    talk.start()
    instants = [0]
    while len(instants) < 8:
        instants.append(talk.machine.next_deadline())
        talk.wait(instants[-1] - talk.now)
    delays = [later - earlier for earlier, later in pairwise(instants)]
    for delay, expected in zip(delays, (4, 8, 16, 32, 64, 64, 64), strict=True):
        assert abs(delay - expected * SECOND) <= SECOND
    assert len(set(delays)) == len(delays), "no two alike: each is off by a random part"
    messages = [dhcpv4.decode(each.payload) for each in talk.sent]
    assert len({each.xid for each in messages}) == 1
    assert [each.secs for each in messages] == [instant // SECOND for instant in instants]


def test_two_clients_do_not_speak_in_step():
    instants = []
    for name in ("a", "b"):
        machine = DhcpMachine(MAC, RandomStreams(5).stream(name, "dhcp"))
        machine.start(0)
        machine.expire(0)
        instants.append(machine.next_deadline())
    assert instants[0] != instants[1]


def test_an_offer_without_an_ack_is_given_up(talk):
    talk.start()
    talk.answer(dhcpv4.OFFER)
    talk.wait(59 * SECOND)
    assert talk.kinds() == ["DISCOVER"] + ["REQUEST"] * 4
    talk.wait(talk.machine.next_deadline() - talk.now)
    assert talk.kinds()[5:] == ["DISCOVER"] and talk.machine.state is State.SELECTING


def test_naks_do_not_make_a_storm(talk):
    talk.start()
    for _ in range(10):
        talk.answer(dhcpv4.OFFER)
        talk.answer(dhcpv4.NAK)
        assert talk.machine.state is State.INIT
        before = talk.now
        talk.wait(talk.machine.next_deadline() - talk.now)
        assert talk.now > before
    assert talk.now == (1 + 2 + 4 + 8 + 16 + 32 + 64 * 4) * SECOND


# Keeping it


def test_unicast_at_t1_broadcast_at_t2_and_gone_at_the_end(talk):
    """VS-52: 18 h, 27 h, 36 h, to the nanosecond."""
    talk.bind()
    talk.sent.clear()
    talk.wait(18 * HOUR - 1)
    assert talk.sent == []
    talk.wait(1)
    assert talk.sent[0][1:] == (ADDRESS, SERVER) and talk.last.ciaddr == ADDRESS
    assert not {opt.SERVER_ID, opt.REQUESTED_ADDRESS} & set(talk.last.options)
    talk.wait(9 * HOUR - 1)
    assert {each.destination for each in talk.sent} == {SERVER} and talk.machine.state is State.RENEWING
    talk.sent.clear()
    talk.wait(1)
    assert talk.sent[0][1:] == (ADDRESS, BROADCAST) and talk.machine.state is State.REBINDING
    talk.wait(9 * HOUR - 1)
    assert talk.machine.lease is not None
    talk.sent.clear()
    talk.wait(1)
    assert talk.machine.lease is None and talk.kinds() == ["DISCOVER"]
    assert talk.last.options[opt.REQUESTED_ADDRESS] == ADDRESS, "it would like its address back"


def test_renewals_are_repeated_after_half_of_the_time_left(talk):
    talk.bind()
    talk.wait(18 * HOUR)
    assert talk.machine.next_deadline() == 18 * HOUR + 9 * HOUR // 2
    instants = []
    while (deadline := talk.machine.next_deadline()) < 27 * HOUR:
        instants.append(deadline)
        talk.wait(deadline - talk.now)
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    assert min(gaps) == MINUTE and gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize("hours", [18, 27])
def test_an_ack_extends_the_lease(talk, hours):
    talk.bind()
    talk.wait(hours * HOUR)
    (configure,) = talk.answer(dhcpv4.ACK)
    assert talk.machine.state is State.BOUND and configure.lease.ends_at == (hours + 36) * HOUR


def test_an_ack_counts_from_its_request_not_from_its_arrival(talk):
    talk.bind()
    talk.wait(18 * HOUR)
    talk.now += SECOND
    talk.answer(dhcpv4.ACK)
    assert talk.machine.lease.obtained_at == 18 * HOUR


@pytest.mark.parametrize("hours", [18, 27])
def test_a_nak_ends_it(talk, hours):
    talk.bind()
    lease = talk.machine.lease
    talk.wait(hours * HOUR)
    assert talk.answer(dhcpv4.NAK, bytes(4)) == [Unconfigure(lease)]
    talk.wait()
    assert talk.kinds()[-1] == "DISCOVER" and opt.REQUESTED_ADDRESS not in talk.last.options


def test_a_clock_that_stood_still_skips_to_the_right_state(talk):
    for hours, state in ((20, State.RENEWING), (30, State.REBINDING), (40, State.SELECTING)):
        late = Talk(probe=False).bind()
        late.now = hours * HOUR
        late.note(late.machine.expire(late.now))
        assert late.machine.state is state


def test_a_lease_without_end_is_never_renewed(talk):
    talk.start()
    talk.answer(dhcpv4.OFFER, options={opt.LEASE_TIME: b"\xff" * 4})
    talk.answer(dhcpv4.ACK, options={opt.LEASE_TIME: b"\xff" * 4})
    assert talk.machine.state is State.BOUND and talk.machine.next_deadline() is None
    talk.note(talk.machine.renew(talk.now))
    assert talk.machine.next_deadline() == MINUTE


# Commands


def test_release_tells_the_server(talk):
    talk.bind()
    lease = talk.machine.lease
    talk.note(talk.machine.release(talk.now))
    assert talk.sent[-1][1:] == (ADDRESS, SERVER) and talk.effects[1] == Unconfigure(lease)
    assert talk.last.message_type == dhcpv4.RELEASE and talk.last.ciaddr == ADDRESS
    assert talk.last.options[opt.SERVER_ID] == SERVER and talk.machine.next_deadline() is None
    talk.start()
    assert talk.kinds()[-1] == "DISCOVER", "what was given back is not verified"


def test_stop_is_silent_and_start_verifies(talk):
    talk.bind()
    talk.sent.clear()
    talk.note(talk.machine.stop(talk.now))
    assert talk.sent == [] and talk.machine.lease is None
    talk.wait(HOUR)
    talk.start()
    assert talk.machine.state is State.REBOOTING and talk.sent[0][1:] == (bytes(4), BROADCAST)
    assert talk.last.options[opt.REQUESTED_ADDRESS] == ADDRESS and opt.SERVER_ID not in talk.last.options
    talk.answer(dhcpv4.ACK)
    assert talk.machine.state is State.BOUND
    talk.note(talk.machine.stop(talk.now))
    talk.wait(37 * HOUR)
    talk.start()
    assert talk.kinds()[-1] == "DISCOVER", "the lease ended meanwhile"


def test_link_up_verifies_while_the_address_stays_in_use():
    talk = Talk().bind()
    talk.note(talk.machine.link_up(talk.now))
    talk.wait()
    assert talk.machine.state is State.REBOOTING and talk.machine.lease is not None
    effects = talk.answer(dhcpv4.ACK)
    assert [type(each) for each in effects] == [Configure], "no new probe for an address that was in use all the time"


@pytest.mark.parametrize("silent", [True, False])
def test_on_another_network_the_address_is_dropped(talk, silent):
    talk.bind()
    lease = talk.machine.lease
    talk.note(talk.machine.link_up(talk.now))
    talk.wait()
    if silent:
        talk.wait(14 * SECOND)
        assert talk.kinds()[-3:] == ["REQUEST", "REQUEST", "DISCOVER"]
    else:
        assert talk.answer(dhcpv4.NAK, bytes(4)) == [Unconfigure(lease)]
    assert talk.machine.lease is None


def test_a_probe_is_cancelled_when_it_does_not_matter_any_more():
    talk = Talk()
    talk.start()
    talk.answer(dhcpv4.OFFER)
    talk.answer(dhcpv4.ACK)
    assert talk.machine.link_up(talk.now)[0] == CancelProbe(ADDRESS)
    assert talk.machine.probed(talk.now, True) == [], "an answer that comes too late"


def test_renew_on_demand(talk):
    talk.bind()
    talk.wait(HOUR)
    talk.note(talk.machine.renew(talk.now))
    assert talk.sent[-1][1:] == (ADDRESS, SERVER)
    talk.answer(dhcpv4.ACK)
    assert talk.machine.lease.obtained_at == HOUR


# Replies that do not count


@pytest.mark.parametrize(
    "fields",
    [
        {"op": dhcpv4.BOOTREQUEST},
        {"xid": 1},
        {"chaddr": b"\x52\x54\0\0\0\2"},
        {"options": {opt.CLIENT_ID: b"\0other"}},
        {"options": {opt.MESSAGE_TYPE: b"\x06"}},
        {"options": {opt.MESSAGE_TYPE: b"\x05"}},
        {"options": {opt.MESSAGE_TYPE: None}},
        {"options": {opt.SERVER_ID: None}},
        {"options": {opt.SERVER_ID: b"\1"}},
        {"options": {opt.LEASE_TIME: None}},
        {"options": {opt.LEASE_TIME: bytes(4)}},
        {"options": {opt.SUBNET_MASK: b"\xff\0\xff\0"}},
        {"options": {opt.ROUTER: b"\1"}},
        {"address": bytes(4)},
        {"address": b"\xe0\0\0\1"},
    ],
)
def test_replies_that_are_wrong_or_for_others(talk, fields):
    talk.start()
    assert talk.answer(dhcpv4.OFFER, **fields) == [] and talk.machine.state is State.SELECTING


def test_an_ack_must_be_for_what_was_asked(talk):
    talk.start()
    talk.answer(dhcpv4.OFFER)
    assert talk.answer(dhcpv4.ACK, bytes((10, 0, 0, 99))) == [] and talk.machine.refused == 1
    assert talk.answer(dhcpv4.ACK, server=bytes((10, 0, 0, 3))) == []
    assert talk.answer(dhcpv4.NAK, server=bytes((10, 0, 0, 3))) == []
    assert talk.machine.state is State.REQUESTING and talk.answer(dhcpv4.ACK)


def test_late_and_repeated_replies(talk):
    talk.bind()
    assert talk.answer(dhcpv4.ACK) == [] and talk.answer(dhcpv4.NAK) == [] and talk.answer(dhcpv4.OFFER) == []
    assert talk.machine.state is State.BOUND


# Leases


def lease_of(options):
    values = {opt.SERVER_ID: SERVER, opt.LEASE_TIME: opt.encode_seconds(1000), **options}
    return read_lease(dhcpv4.Message(dhcpv4.BOOTREPLY, 1, MAC, values, yiaddr=ADDRESS), 0)


def test_what_a_server_may_leave_out():
    lease = lease_of({})
    assert lease.address == IPv4Interface("10.0.0.16/8") and lease.gateway is None and lease.dns == () and lease.domain == ""
    assert (lease.t1, lease.t2) == (500 * SECOND, 875 * SECOND)


@pytest.mark.parametrize(("t1", "t2"), [(0, 500), (600, 500), (500, 500), (500, 1000), (2000, 3000)])
def test_times_that_make_no_sense(t1, t2):
    lease = lease_of({opt.RENEWAL_TIME: opt.encode_seconds(t1), opt.REBINDING_TIME: opt.encode_seconds(t2)})
    assert (lease.t1, lease.t2) == (500 * SECOND, 875 * SECOND)


def test_a_gateway_that_cannot_be_reached_is_none():
    options = {opt.SUBNET_MASK: b"\xff\xff\xff\0", opt.ROUTER: b"\xc0\xa8\0\1\x0a\0\0\1"}
    assert lease_of(options).gateway == IPv4Address("10.0.0.1")
    assert lease_of({**options, opt.ROUTER: b"\xc0\xa8\0\1"}).gateway is None


def test_everything_else():
    lease = lease_of({opt.DNS_SERVERS: SERVER * 2, opt.WINS_SERVERS: SERVER, opt.DOMAIN_NAME: b"lab.example"})
    assert lease.dns == (IPv4Address(SERVER),) * 2 and lease.wins == (IPv4Address(SERVER),) and lease.domain == "lab.example"
    with pytest.raises(WireError):
        lease_of({opt.DNS_SERVERS: b"\1"})


def test_the_states_have_names_for_people():
    assert {state.value for state in dhcp_states.State} >= {"off", "bound", "init-reboot"}
