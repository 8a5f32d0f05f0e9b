"""The client's side of a talk with a DHCP server whose every message the test writes."""

from __future__ import annotations

from vnet.fabric.rng import RandomStreams
from vnet.stack.dhcp_machine import DhcpMachine, Send
from vnet.stack.dhcp_states import State
from vnet.units import HOUR
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt

MAC = b"\x52\x54\0\0\0\1"
SERVER = bytes((10, 0, 0, 2))
ADDRESS = bytes((10, 0, 0, 16))
BROADCAST = b"\xff" * 4
TIMES = {opt.LEASE_TIME: 129600, opt.RENEWAL_TIME: 64800, opt.REBINDING_TIME: 97200}


class Talk:
    """A machine, and a server as a test wants it to be."""

    def __init__(self, **settings):
        self.now = 0
        self.machine = DhcpMachine(MAC, RandomStreams(5).stream("pc", "dhcp"), **settings)
        self.effects = []
        self.sent = []

    def note(self, effects):
        self.effects = effects
        self.sent += [effect for effect in effects if isinstance(effect, Send)]

    def wait(self, duration=0):
        """Let time pass, doing what is due on the way."""
        end = self.now + duration
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.note(self.machine.expire(self.now))
        self.now = end

    @property
    def last(self):
        return dhcpv4.decode(self.sent[-1].payload)

    def answer(self, kind, address=ADDRESS, server=SERVER, options=None, **fields):
        values = {opt.MESSAGE_TYPE: bytes((kind,)), opt.SERVER_ID: server, opt.SUBNET_MASK: b"\xff\xff\xff\0"}
        if kind != dhcpv4.NAK:
            values |= {code: opt.encode_seconds(seconds) for code, seconds in TIMES.items()}
        values |= options or {}
        values = {code: value for code, value in values.items() if value is not None}
        message = dhcpv4.Message(dhcpv4.BOOTREPLY, self.last.xid, MAC, values, yiaddr=address)
        self.note(self.machine.receive(self.now, message._replace(**fields)))
        return self.effects

    def start(self):
        self.note(self.machine.start(self.now))
        self.wait()

    def bind(self):
        self.start()
        self.answer(dhcpv4.OFFER)
        self.answer(dhcpv4.ACK)
        if self.machine.state is State.CHECKING:
            self.note(self.machine.probed(self.now, False))
        assert self.machine.state is State.BOUND
        return self

    def kinds(self):
        return [dhcpv4.MESSAGE_NAMES[dhcpv4.decode(each.payload).message_type] for each in self.sent]


def in_state(talk, state):
    """Bring a bound machine into *state* by what would bring it there."""
    machine = talk.machine
    if state in (State.RENEWING, State.REBINDING):
        talk.wait(20 * HOUR if state is State.RENEWING else 30 * HOUR)
    elif state in (State.INIT_REBOOT, State.REBOOTING):
        talk.note(machine.link_up(talk.now))
        if state is State.REBOOTING:
            talk.wait()
    elif state is not State.BOUND:
        talk.note(machine.release(talk.now))
        if state is not State.OFF:
            talk.note(machine.start(talk.now))
        if state in (State.SELECTING, State.REQUESTING, State.CHECKING):
            talk.wait()
        if state in (State.REQUESTING, State.CHECKING):
            talk.answer(dhcpv4.OFFER)
        if state is State.CHECKING:
            talk.answer(dhcpv4.ACK)
    assert machine.state is state
