"""A DHCP server as a machine, and the shortest way to talk to it."""

from dhcp_bed import config, request

from vnet.services.dhcp.replies import Reply
from vnet.services.dhcp.server import DhcpServer, Probe, Save
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt

SMALL = config("10.0.0.0/24", "10.0.0.10", "10.0.0.12", "10.0.0.2", "10.0.0.1", dns=["10.0.0.3"], domain="lab.example")


def ip(last: int) -> bytes:
    return bytes((10, 0, 0, last))


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes((number,))


class Talk:
    """A server, and the shortest way to talk to it."""

    def __init__(self, settings=SMALL, bindings=(), now=0):
        self.events = []
        self.now = now
        self.server = DhcpServer(settings, now, bindings, lambda kind, **fields: self.events.append((kind, fields)))

    def send(self, kind, client, **fields):
        options = fields.pop("options", {})
        for name, code in (("want", opt.REQUESTED_ADDRESS), ("server", opt.SERVER_ID), ("id", opt.CLIENT_ID)):
            if name in fields:
                options[code] = fields.pop(name)
        self.effects = self.server.receive(self.now, request(kind, mac(client), options=options, **fields))
        self.reply = next((effect for effect in self.effects if isinstance(effect, Reply)), None)
        self.saved = [effect.binding for effect in self.effects if isinstance(effect, Save)]
        self.probes = [effect.address for effect in self.effects if isinstance(effect, Probe)]
        return dhcpv4.decode(self.reply.payload) if self.reply else None

    def discover(self, client, **fields):
        return self.send(dhcpv4.DISCOVER, client, **fields)

    def request(self, client, **fields):
        return self.send(dhcpv4.REQUEST, client, **fields)

    def bind(self, client, **fields):
        """Do the four-way exchange and return the address."""
        offer = self.discover(client, **fields)
        ack = self.request(client, want=offer.yiaddr, server=offer.options[opt.SERVER_ID], **fields)
        assert ack.message_type == dhcpv4.ACK and ack.yiaddr == offer.yiaddr
        return ack.yiaddr

    def renew(self, client, address):
        return self.request(client, ciaddr=address)

    def release(self, client, address):
        return self.send(dhcpv4.RELEASE, client, ciaddr=address, server=ip(2))

    def wait(self, duration):
        self.now += duration

    def state(self, address):
        binding = self.server.table.of_address(address)
        return binding and binding.state

    def count(self, name):
        return self.server.counters[name]
