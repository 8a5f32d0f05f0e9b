"""A TCP without segments, to see what sockets do with whatever it may say: the calls of ``vnet.stack.tcp`` that they use."""

from __future__ import annotations

from collections import deque

from vnet.errors import UsageError
from vnet.stack.transport import overlap
from vnet.wire.ipv6 import LOOPBACK

BUFFER = 32_768


class FakeConnection:
    scope = None

    def __init__(self, scheduler, local, remote):
        self.scheduler, self.local, self.remote = scheduler, local, remote
        self.peer = None
        self.on_change = None
        self.error = None
        self.is_up = self.at_fin = self.shut = self.closed = False
        self.no_delay, self.keep_alive = False, None
        self.inbox = bytearray()
        self.in_flight = 0

    is_established = property(lambda self: self.is_up and self.error is None)
    available = property(lambda self: len(self.inbox))
    unsent = property(lambda self: self.in_flight)
    at_end = property(lambda self: self.at_fin and not self.inbox)

    @property
    def room(self):
        if self.shut or self.error is not None or self.peer is None:
            return 0
        return BUFFER - len(self.peer.inbox) - self.in_flight

    def send(self, data):
        assert not self.shut
        taken = bytes(data[: self.room])
        self.in_flight += len(taken)
        self.scheduler.soon(self._deliver, taken)
        return len(taken)

    def _deliver(self, data):
        self.in_flight -= len(data)
        if self.peer.closed:
            self.fail("reset")
        elif self.peer.error is None:
            self.peer.inbox += data
            self.peer.changed()

    def receive(self, limit):
        data = bytes(self.inbox[:limit])
        del self.inbox[:limit]
        if self.peer is not None:
            self.scheduler.soon(self.peer.changed)
        return data

    def shutdown(self):
        if not self.shut:
            self.shut = True
            if self.peer is not None:
                self.scheduler.soon(self.peer.finish)

    def finish(self):
        self.at_fin = True
        self.changed()

    def close(self):
        if self.inbox:
            self.abort()
        else:
            self.shutdown()
        self.closed = True

    def abort(self):
        self.closed = True
        if self.peer is not None:
            self.scheduler.soon(self.peer.fail, "reset")

    def fail(self, reason):
        if self.error is None and not self.closed:
            self.error = reason
        self.changed()

    def changed(self):
        if self.on_change is not None:
            self.on_change()


class FakeListener:
    def __init__(self, tcp, port, address, both):
        self.tcp, self.port, self.address, self.both = tcp, port, address, both
        self.on_ready = None
        self.queue = deque()

    def accept(self):
        return self.queue.popleft() if self.queue else None

    def close(self):
        if self in self.tcp.listeners:
            self.tcp.listeners.remove(self)


class FakeTcp:
    """The TCP of one host; *world* has those of all, by packed address. The first address of an IP version is its source."""

    def __init__(self, scheduler, addresses, world):
        self.scheduler, self.addresses, self.world = scheduler, addresses, world
        self.listeners = []
        self.last_port = 50_000
        self.connections = []
        for address in addresses:
            world[address] = self

    def forget_paths(self):
        pass

    def next_port(self):
        self.last_port += 1
        return self.last_port

    def listen(self, port=0, address=None, *, backlog=128, both=False):
        port = port or self.next_port()
        if any(port == other.port and overlap(address, both, other.address, other.both) for other in self.listeners):
            raise UsageError(f"TCP port {port} is taken")
        self.listeners.append(FakeListener(self, port, address, both))
        return self.listeners[-1]

    def connect(self, destination, port, *, source=None, source_port=0, interface=None):
        is_loop = destination[0] == 127 or destination == LOOPBACK
        own = destination if is_loop else next(each for each in self.addresses if len(each) == len(destination))
        local = (source or own, source_port or self.next_port())
        connection = FakeConnection(self.scheduler, local, (destination, port))
        self.connections.append(connection)
        self.scheduler.soon(self.arrive, connection, self if is_loop else self.world.get(destination))
        return connection

    def arrive(self, client, there):
        address, port = client.remote
        if there is None:
            client.fail({10: "host unreachable", 0x20: "address unreachable"}.get(address[0], "no route"))
            return
        fitting = (
            each for each in there.listeners if each.port == port and overlap(each.address, each.both, address, False)
        )
        listener = next(fitting, None)
        if listener is None:
            client.fail("refused")
        elif not client.closed:
            server = FakeConnection(self.scheduler, client.remote, client.local)
            client.peer, server.peer = server, client
            client.is_up = server.is_up = True
            listener.queue.append(server)
            if listener.on_ready is not None:
                listener.on_ready()
            client.changed()
