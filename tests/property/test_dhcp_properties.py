"""DHCP under anything: random octets, random messages in random order, mutated messages."""

from contextlib import suppress

from dhcp_bed import Bed, config, request
from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.fabric.rng import RandomStreams
from vnet.ports import NO_OFFLOAD
from vnet.services.dhcp.binding import BindingState
from vnet.services.dhcp.replies import Reply
from vnet.services.dhcp.server import RECEIVED, REFUSED, DhcpServer, Save
from vnet.stack.dhcp_machine import DhcpMachine
from vnet.units import HOUR, SECOND
from vnet.wire import dhcpv4
from vnet.wire.dhcpv4_frame import dhcp_frame

addresses = st.binary(min_size=4, max_size=4)
options = st.dictionaries(st.integers(1, 254).filter(lambda code: code != 52), st.binary(max_size=600), max_size=8)
messages = st.builds(
    dhcpv4.Message,
    op=st.sampled_from([1, 2]), xid=st.integers(0, 0xFFFFFFFF), chaddr=st.binary(max_size=16), options=options,
    ciaddr=addresses, yiaddr=addresses, siaddr=addresses, giaddr=addresses, flags=st.integers(0, 0xFFFF),
    secs=st.integers(0, 0xFFFF), hops=st.integers(0, 255), htype=st.integers(0, 255),
    sname=st.binary(max_size=64).map(lambda name: name.rstrip(b"\0")),
    file=st.binary(max_size=128).map(lambda name: name.rstrip(b"\0")),
)  # fmt: skip


@given(messages)
def test_every_message_survives_the_round_trip(message):
    assert dhcpv4.decode(dhcpv4.encode(message)) == message


@given(messages, st.integers(300, 1500))
def test_a_size_limit_is_kept_and_only_costs_options(message, limit):
    payload = dhcpv4.encode(message, limit)
    assert len(payload) <= limit
    got = dhcpv4.decode(payload)
    assert got._replace(options={}) == message._replace(options={}) and got.options.items() <= dict(message.options).items()


@given(messages, st.integers(300, 1500))
def test_the_order_of_options_is_kept_within_a_field(message, limit):
    got = list(dhcpv4.decode(dhcpv4.encode(message, limit)).options)
    if len(got) == len(message.options) and len(dhcpv4.encode(message)) <= limit:
        assert got == list(message.options)


@given(st.binary(max_size=700))
def test_random_octets_raise_nothing_but_wire_errors(octets):
    for payload in (octets, dhcpv4.encode(request(1, b"\2" * 6))[:240] + octets):
        with suppress(WireError):
            dhcpv4.decode(payload)


@given(messages, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 40))
def test_mutated_messages_raise_nothing_but_wire_errors(message, changes, cut):
    octets = bytearray(dhcpv4.encode(message))
    for at, value in changes:
        octets[at % len(octets)] = value
    try:
        again = dhcpv4.decode(bytes(octets[: len(octets) - cut]))
    except WireError:
        return
    assert dhcpv4.decode(dhcpv4.encode(again)) == again


# The server: a small world in which everything collides

SMALL = config("10.0.0.0/28", "10.0.0.4", "10.0.0.7", "10.0.0.2", "10.0.0.1", max_offers=3)
macs = st.integers(0, 5).map(lambda n: b"\2\0\0\0\0" + bytes((n,)))
ips = st.integers(0, 15).map(lambda n: bytes((10, 0, 0, n)))
moves = st.one_of(
    st.tuples(
        st.just("message"),
        st.sampled_from(sorted(RECEIVED)),
        macs,
        st.fixed_dictionaries(
            {},
            optional={
                "want": ips | st.binary(max_size=5), "server": st.sampled_from([b"\x0a\0\0\2", b"\x0a\0\0\3", b""]),
                "ciaddr": ips | st.just(bytes(4)), "id": st.sampled_from([b"\0aa", b"\0bb", b"", bytes(300)]),
                "giaddr": st.sampled_from([bytes(4), b"\x0a\0\0\1", b"\x0b\0\0\1"]),
            },
        ),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, SECOND, 61 * SECOND, HOUR, 20 * HOUR, 40 * HOUR])),
    st.tuples(st.just("arp"), ips, macs),
    st.tuples(st.just("flush")),
)  # fmt: skip


def message_of(kind, mac, fields):
    fields = dict(fields)
    values = {code: fields.pop(name) for name, code in (("want", 50), ("server", 54), ("id", 61)) if name in fields}
    return request(kind, mac, options=values, **fields)


@settings(max_examples=200)
@given(st.lists(moves, max_size=60))
def test_whatever_is_said_the_server_keeps_its_word(script):
    now, server = 0, DhcpServer(SMALL)
    stored = {}
    promised = {}  # address -> (client's MAC, until), from what was sent
    for name, *args in script:
        if name == "wait":
            now += args[0]
            effects = server.expire(now)
        elif name == "arp":
            effects = server.observe(now, *args)
        elif name == "flush":
            effects = server.flush()
            promised.clear()
        else:
            kind, mac, fields = args
            message = message_of(kind, mac, fields)
            effects = server.receive(now, message)
            for effect in effects:
                if isinstance(effect, Reply):
                    reply = dhcpv4.decode(effect.payload)
                    assert reply.xid == message.xid and reply.chaddr == mac and reply.op == dhcpv4.BOOTREPLY
                    if reply.message_type in (dhcpv4.OFFER, dhcpv4.ACK) and kind != dhcpv4.INFORM:
                        assert 4 <= reply.yiaddr[3] <= 7, "only out of the pool"
                    if reply.message_type == dhcpv4.ACK and kind == dhcpv4.REQUEST:
                        client = reply.options.get(61, mac)
                        holder, until = promised.get(reply.yiaddr, (client, 0))
                        assert holder == client or until <= now, "one address for two clients"
                        promised[reply.yiaddr] = client, now + SMALL.lease
            if kind in (dhcpv4.RELEASE, dhcpv4.DECLINE) and effects:
                for effect in effects:
                    promised.pop(effect.binding.address, None)
        for effect in effects:
            if isinstance(effect, Save):
                stored[effect.binding.address] = effect.binding
                if effect.binding.state is BindingState.FREE:
                    promised.pop(effect.binding.address, None)
        check(server, now, stored)


def check(server, now, stored):
    table, counters = server.table, server.counters
    bindings = list(table)
    clients = [each.client for each in bindings if each.state is not BindingState.DECLINED]
    assert len(clients) == len(set(clients)) and len(bindings) <= 4
    for each in bindings:
        if each.client:
            assert table.of_client(each.client) == each
        assert (each.address in table.offers) == (each.state is BindingState.OFFERED)
        assert (each.address in table.free_again) == (not each.state.live)
        if each.state.live and each.expires_at > now:
            assert server.next_deadline() is not None and server.next_deadline() <= each.expires_at
        if each.state is BindingState.BOUND:
            assert stored[each.address] == each, "every binding was saved"
    assert len(table.offers) <= 3
    assert counters["received"] == counters["ignored"] + sum(counters[name] for name in RECEIVED.values())
    silent = sum(counters[reason] for reason in REFUSED)
    answered = counters["offer"] + counters["ack"] + counters["nak"]
    given_up = counters["decline"] + counters["release"]
    assert answered + silent <= counters["received"] - counters["ignored"] <= answered + silent + given_up


@given(st.lists(messages, max_size=10))
def test_random_messages_do_not_upset_the_server(batch):
    server = DhcpServer(SMALL)
    for now, message in enumerate(batch):
        for effect in server.receive(now, message):
            if isinstance(effect, Reply):
                dhcpv4.decode(effect.payload)
    assert server.counters["received"] == len(batch)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["start", "stop", "release", "renew", "link_up"])),
            st.tuples(st.just("wait"), st.sampled_from([0, SECOND, 70 * SECOND, 10 * HOUR, 19 * HOUR])),
            st.tuples(st.just("probed"), st.booleans()),
            st.tuples(st.just("reply"), st.sampled_from([2, 5, 6]), ips, options),
        ),
        max_size=40,
    )
)
def test_whatever_happens_the_client_goes_on(script):
    machine = DhcpMachine(b"\2" * 6, RandomStreams(1).stream("pc", "dhcp"))
    now = 0
    for name, *args in script:
        if name == "wait":
            end = now + args[0]
            rounds = 0
            while (deadline := machine.next_deadline()) is not None and deadline <= end:
                now = max(now, deadline)
                machine.expire(now)
                rounds += 1
                assert rounds < 2000, "time stands still"
            now = end
        elif name == "probed":
            machine.probed(now, args[0])
        elif name == "reply":
            kind, yiaddr, extra = args
            values = {53: bytes((kind,)), 54: b"\x0a\0\0\2", 51: (3600).to_bytes(4, "big"), 1: b"\xff\xff\xff\0"}
            machine.receive(
                now, dhcpv4.Message(2, machine._xid, b"\2" * 6, {**values, **extra, 53: bytes((kind,))}, yiaddr=yiaddr)
            )
        else:
            getattr(machine, name)(now)
        deadline = machine.next_deadline()
        assert deadline is not None or machine.state.value in ("off", "checking", "bound")


@settings(max_examples=50)
@given(st.lists(st.one_of(st.binary(max_size=400), messages), max_size=8), st.binary(min_size=10, max_size=10))
def test_random_frames_into_the_port(items, offload):
    bed = Bed()
    node = bed.server(config("10.0.0.0/24", "10.0.0.4", "10.0.0.99", "10.0.0.2"))
    client = bed.client("pc")
    for item in items:
        frame = item
        if isinstance(item, dhcpv4.Message):
            frame = dhcp_frame(b"\xff" * 6, b"\2" * 6, bytes(4), b"\xff" * 4, 68, 67, dhcpv4.encode(item))
        for port in (node.port, client._interface.port):
            port.receive(frame, NO_OFFLOAD)
            port.receive(frame, offload)
    bed.run()
    assert client.lease is not None, "it still serves, and is still served"
