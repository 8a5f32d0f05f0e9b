"""What the hosts of xen-cluster.yaml run: replicated storage with an address that fails over, and a cluster file system.

Ordinary trio programs: sockets, sleeps, nurseries. Of vnet they use ``guest.add_address``, ``guest.remove_address`` and
whether a cable is in. They are small copies of what clusters run, with the ports and the roles of those.

host3 and host4 tell each other once a second, on the heartbeat network, whether they are active and their public cable is
in. The active one has the virtual address, takes the blocks that clients write, and sends them to the other, which answers
before the client hears ``ok``. A node that hears nothing has the other's power cut and takes over. Where no power switch
listens it takes over all the same: that is how a split brain comes about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

if TYPE_CHECKING:
    from vnet.guests.emulated import EmulatedGuest

VIRTUAL: Final = "192.168.0.75/24"
FENCE: Final = ("192.168.0.79", 7000)
"""The power switch: it cuts off the host whose name it is sent, and answers ``cut``."""
HEARTBEAT_PORT: Final = 694
FILE_SYSTEM_PORT: Final = 7777
REPLICATION_PORT: Final = 7788
EXPORT_PORT: Final = 14567
"""Where clients read and write: a line is a block to write, but ``size`` asks how many there are."""

INTERVAL: Final = 1.0
"""Seconds between heartbeats, and between looks at what they said."""
DEAD_TIME: Final = 3.0
"""Seconds of silence after which the other is taken for dead."""
HEAD_START: Final = 2.0
"""Seconds by which the active node is faster to have the other's power cut: else they might do it to each other."""
TIMEOUT: Final = 3.0
"""Seconds that another host has to answer."""
MAX_LINE: Final = 1024
MAX_BLOCKS: Final = 100_000
"""Blocks that a disk holds: one more is refused."""

NUMBERS: Final = {"host1": 71, "host2": 72, "host3": 73, "host4": 74}
PEERS: Final = {"host1": "host2", "host2": "host1", "host3": "host4", "host4": "host3"}


class Heartbeat(NamedTuple):
    """What a node says of itself."""

    active: bool
    public: bool
    """Whether its public cable is in."""


class StorageNode:
    """One of the two copies. ``blocks`` are on its disk: they outlive a crash, all else does not."""

    def __init__(self, guest: EmulatedGuest) -> None:
        self.guest = guest
        self.peer_name = PEERS[guest.name]
        self.blocks: list[bytes] = []
        self._forget()

    def _forget(self) -> None:
        self.active = False
        self.connected = False
        self._copied = 0
        self._peer: Heartbeat | None = None
        self._heard_at = trio.current_time()
        self._peer_is_cut = False
        self._incoming: list[bytes] = []
        self._expected = 0
        self._news = trio.Event()
        self._new_role = trio.Event()

    async def run(self) -> None:
        """Be a node until the guest crashes."""
        self._forget()
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as heartbeats:
            await heartbeats.bind((_heartbeat_address(self.guest.name), HEARTBEAT_PORT))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, heartbeats)
                nursery.start_soon(self._hear, heartbeats)
                nursery.start_soon(self._decide)
                nursery.start_soon(self._replicate)
                nursery.start_soon(trio.serve_tcp, self._export, EXPORT_PORT)
                nursery.start_soon(trio.serve_tcp, self._keep_copy, REPLICATION_PORT)

    # -- who is active

    async def _tell(self, heartbeats: trio.socket.SocketType) -> NoReturn:
        peer = (_heartbeat_address(self.peer_name), HEARTBEAT_PORT)
        while True:
            news = self._new_role
            role, cable = "active" if self.active else "standby", "up" if self._public else "down"
            with suppress(OSError):
                await heartbeats.sendto(f"{role} {cable}".encode(), peer)
            with trio.move_on_after(INTERVAL):
                await news.wait()  # at once, or the other might decide by what is no longer true

    async def _hear(self, heartbeats: trio.socket.SocketType) -> NoReturn:
        while True:
            words = (await heartbeats.recv(64)).split()
            if len(words) == 2:
                self._peer = Heartbeat(words[0] == b"active", words[1] == b"up")
                self._heard_at = trio.current_time()
                self._peer_is_cut = False

    async def _decide(self) -> NoReturn:
        while True:
            await trio.sleep(INTERVAL)
            silence = trio.current_time() - self._heard_at
            if silence < DEAD_TIME:
                if self._peer is not None:
                    self._agree(self._peer)
            elif not self._peer_is_cut and silence >= DEAD_TIME + (0 if self.active else HEAD_START):
                self._peer_is_cut = await self._fence()
                if self._peer_is_cut:
                    self._take_over()

    def _agree(self, peer: Heartbeat) -> None:
        """Settle who is active by a rule that gives both the same result; who is active stays so if nothing is wrong."""
        better = (self._public, self.peer_name) > (peer.public, self.guest.name)
        if not self.active:
            if better and not peer.active:
                self._take_over()
        elif (peer.public and not self._public) or (peer.active and not better):
            self._give_up()  # after a split brain, what only this node was told is lost
        elif peer.active:
            self.guest.announce(VIRTUAL)  # others may have been told last by the one that gives way

    async def _fence(self) -> bool:
        """Have the other's power cut; tell whether that is done, or nobody there does it."""
        try:
            with trio.fail_after(TIMEOUT):
                async with await self.guest.open_tcp_stream(*FENCE) as stream:
                    return await _ask(stream, self.peer_name.encode()) == b"cut"
        except ConnectionRefusedError:
            return True
        except (OSError, trio.TooSlowError, trio.BrokenResourceError):
            return False

    def _take_over(self) -> None:
        if not self.active:
            self.active = True
            self.guest.add_address(VIRTUAL, "public")  # and tell everybody, by gratuitous ARP
            self._role_changed()

    def _give_up(self) -> None:
        self.active = False
        self.guest.remove_address(VIRTUAL)
        self._role_changed()

    def _role_changed(self) -> None:
        self._new_role.set()
        self._new_role = trio.Event()
        self._changed()

    @property
    def _public(self) -> bool:
        return self.guest.interfaces()[0].up

    # -- the blocks

    async def _export(self, stream: trio.SocketStream) -> None:
        await _answer(stream, self._write)

    async def _write(self, line: bytes) -> bytes:
        if line == b"size":
            return str(len(self.blocks)).encode()
        if not self.active:
            return b"standby"
        if len(self.blocks) >= MAX_BLOCKS:
            return b"full"
        self.blocks.append(line)
        number = len(self.blocks)
        self._changed()
        while self.connected and self._copied < number:
            await self._news.wait()
        return b"ok"

    async def _replicate(self) -> NoReturn:
        """Keep the other's copy equal while active; begin anew when it does not answer."""
        while True:
            if self.active:
                with suppress(OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError):
                    with trio.fail_after(TIMEOUT):
                        stream = await self.guest.open_tcp_stream(_interconnect_address(self.peer_name), REPLICATION_PORT)
                    async with stream:
                        await self._send_blocks(stream)
                self.connected = False
                self._changed()
            await trio.sleep(INTERVAL)

    async def _send_blocks(self, stream: trio.SocketStream) -> None:
        self._copied = int(await _ask(stream, f"begin {len(self.blocks)}".encode()))
        self.connected = True
        while self.active:
            if self._copied == len(self.blocks):
                await self._news.wait()
            else:
                self._copied = int(await _ask(stream, self.blocks[self._copied]))
                self._changed()

    async def _keep_copy(self, stream: trio.SocketStream) -> None:
        await _answer(stream, self._copy)

    async def _copy(self, line: bytes) -> bytes:
        """Take a block; a copy that is made anew takes the old one's place when it is complete."""
        if self.active:
            return b"active"
        word, _, number = line.partition(b" ")
        if word == b"begin" and number.isdigit():
            self._incoming, self._expected = [], int(number)
        elif len(self._incoming) < MAX_BLOCKS:
            self._incoming.append(line)
        if len(self._incoming) >= self._expected:
            self.blocks = self._incoming
        return str(len(self._incoming)).encode()

    def _changed(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def storage(guest: EmulatedGuest) -> None:
    """Run a storage node, again after every crash."""
    await _run_for_ever(guest, StorageNode(guest).run)


async def file_system(guest: EmulatedGuest) -> None:
    """Keep a connection on port 7777 between host1, which opens it, and host2, and say on it every two seconds: alive."""

    async def echo(line: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return line

    async def serve() -> None:
        await trio.serve_tcp(lambda stream: _answer(stream, echo), FILE_SYSTEM_PORT)

    async def call() -> None:
        while True:
            with suppress(OSError, trio.TooSlowError, trio.BrokenResourceError):
                with trio.fail_after(TIMEOUT):
                    stream = await guest.open_tcp_stream(_interconnect_address(PEERS[guest.name]), FILE_SYSTEM_PORT)
                async with stream:
                    while True:
                        await _ask(stream, b"alive")
                        await trio.sleep(2 * INTERVAL)
            await trio.sleep(INTERVAL)

    await _run_for_ever(guest, call if guest.name == "host1" else serve)


async def _run_for_ever(guest: EmulatedGuest, program: Callable[[], Awaitable[None]]) -> None:
    """Run a program, and start it again when the guest has: a crash closes its sockets."""
    while True:
        try:
            if guest.address is not None:
                await program()
        except* trio.ClosedResourceError:
            pass
        await trio.sleep(INTERVAL)


async def _answer(stream: trio.SocketStream, respond: Callable[[bytes], Awaitable[bytes]]) -> None:
    """Answer each line of a connection by a line."""
    rest = b""
    with suppress(trio.BrokenResourceError):
        async with stream:
            async for part in stream:
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    await stream.send_all(await respond(line) + b"\n")
                if len(rest) > MAX_LINE:
                    return


async def _ask(stream: trio.SocketStream, line: bytes) -> bytes:
    """Send a line and wait for the line that answers it; raise TooSlowError, or BrokenResourceError if there is none."""
    answer = b""
    with trio.fail_after(TIMEOUT):
        await stream.send_all(line + b"\n")
        while not answer.endswith(b"\n"):
            part = await stream.receive_some()
            if not part or len(answer) > MAX_LINE:
                raise trio.BrokenResourceError("the connection ended without an answer")
            answer += part
    return answer.strip()


def _interconnect_address(host: str) -> str:
    return f"10.0.1.{NUMBERS[host]}"


def _heartbeat_address(host: str) -> str:
    return f"10.0.2.{NUMBERS[host]}"
