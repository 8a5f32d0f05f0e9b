"""Frames in UDP datagrams: VXLAN, GENEVE, and plain.

An Ethernet segment that spans machines: each frame goes to the end behind which its destination was learned; what is for
all, or for nobody that is known, goes to every end (RFC 7348, 4.1 and 4.2, with the other ends listed in place of a group).
Datagrams from anybody else are counted and dropped. Super-frames leave cut into frames, in one system call where the kernel
cuts datagrams (UDP_SEGMENT); a datagram that is larger than the path takes is fragmented.

Tunnels of one lab with the same local address and port share a socket, and are told apart by their VNI.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack
from typing import Final, TypeAlias, final
from weakref import WeakKeyDictionary

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext, Poller, cut_up
from vnet.adapters.peers import LearnedPeers
from vnet.errors import HostError, WireError
from vnet.ports import NO_OFFLOAD
from vnet.topology.adapter_kinds.tunnels import TunnelSpec, UdpSpec
from vnet.wire.ethernet import HEADER_OCTETS, MIN_FRAME
from vnet.wire.tunnels import geneve_header, read_geneve, read_vxlan, vxlan_header
from vnet.wire.vlan import TAG_OCTETS

BUFFER_OCTETS: Final = 4 << 20
_UDP_SEGMENT: Final = 103
_MOST_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""
_MOST_OCTETS: Final = 65_000
_IP_MTU_DISCOVER: Final = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_FRAGMENT: Final = 0
_REASONS: Final = {errno.EAGAIN: "queue-full", errno.ENOBUFS: "no-buffers", errno.EMSGSIZE: "oversize"}

Remote: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"
Reader: TypeAlias = Callable[[bytes], tuple[int, int]]
"""Returns the VNI of a datagram, and where its frame begins; raises WireError."""


@final
class _Socket:
    """A UDP socket that tunnels share; it lives as long as one of them uses it."""

    def __init__(self, local: tuple[str, int], version: int, read: Reader) -> None:
        self.socket = socket.socket(
            socket.AF_INET if version == 4 else socket.AF_INET6,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        )
        self.tunnels: dict[int, UdpTunnel] = {}
        self.drops: Counter[str] = Counter()
        self.is_read = False
        self._read = read
        self._cuts = True
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_OCTETS)
            if version == 6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.setsockopt(*_IP_MTU_DISCOVER[version], _FRAGMENT)
            self.socket.bind(local)
        except BaseException:
            self.socket.close()
            raise

    def on_readable(self) -> None:
        """Hand frames to their tunnels."""
        receive, read, tunnels = self.socket.recvfrom, self._read, self.tunnels
        try:
            for _ in range(FRAMES_A_WAKE_UP):
                datagram, source = receive(65_535)
                try:
                    vni, start = read(datagram)
                except WireError:
                    self.drops["malformed"] += 1
                    continue
                tunnel = tunnels.get(vni)
                if tunnel is None:
                    self.drops["unknown-vni"] += 1
                else:
                    tunnel.received(datagram[start:], source)
        except BlockingIOError:
            return
        except OSError:
            self.drops["refused"] += 1  # an ICMP error about what was sent: nobody listens there, yet

    def send(self, header: bytes, frames: list[bytes], remote: Remote) -> str:
        """Send frames to one end; return why not, or nothing."""
        try:
            if len(frames) > 1 and self._cuts and self._send_cut(header, frames, remote):
                return ""
            for frame in frames:
                self.socket.sendto(header + frame, remote)
        except OSError as error:
            return _REASONS.get(error.errno or 0, "not-sent")
        return ""

    def _send_cut(self, header: bytes, frames: list[bytes], remote: Remote) -> bool:
        """Let the kernel make datagrams of equal size out of one large one; tell whether it did."""
        size = len(header) + len(frames[0])
        batch = min(_MOST_SEGMENTS, _MOST_OCTETS // size)
        if batch < 2:
            return False
        option = [(socket.SOL_UDP, _UDP_SEGMENT, pack("H", size))]
        try:
            for start in range(0, len(frames), batch):
                pieces = [piece for frame in frames[start : start + batch] for piece in (header, frame)]
                self.socket.sendmsg(pieces, option, 0, remote)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP):
                self._cuts = False  # the path takes no datagram of that size whole, or the device does no checksums
                return False
            raise
        return True


_SHARED: Final[WeakKeyDictionary[Poller, dict[tuple[str, str, int], _Socket]]] = WeakKeyDictionary()
"""The sockets of each lab by kind of tunnel, local address and port."""
_SHARING: Final = threading.Lock()
"""Ways out are opened in other threads, several at a time; a socket must not end while somebody joins it."""


def _read_plain(datagram: bytes) -> tuple[int, int]:
    if len(datagram) < MIN_FRAME:
        raise WireError("a datagram is too short for a frame")
    return 0, 0


@final
class UdpTunnel:
    """One network's tunnel; raise HostError if the socket cannot be had."""

    def __init__(self, spec: TunnelSpec | UdpSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._learned = LearnedPeers[Remote](context.scheduler)
        self._is_open = True
        if isinstance(spec, UdpSpec):
            self._word, self._vni, self._header, read = "udp", 0, b"", _read_plain
            local, port, ends = spec.local[0], spec.local[1], [spec.remote]
            self._largest = 65_507
        else:
            self._word, self._vni = spec.word, spec.vni
            make, read = (vxlan_header, read_vxlan) if spec.word == "vxlan" else (geneve_header, read_geneve)
            self._header = make(spec.vni)
            port, ends = spec.port, [(remote, spec.port) for remote in spec.remotes]
            local = spec.local or type(spec.remotes[0])(0)
            self._largest = spec.mtu + HEADER_OCTETS + TAG_OCTETS
        self._remotes: list[Remote] = [_remote(*end) for end in ends]
        self._known = {_address(remote): remote for remote in self._remotes}
        for remote in self._remotes:
            if _is_here(remote, local, port):
                raise HostError(
                    f"{spec.describe()}: {_address(remote)} is this machine's own address, so the lab would talk to itself; "
                    "write the other machine's address"
                )
        self._key = (self._word, str(local), port)
        self._socket = self._share(local, port, read)
        context.port.set_handler(self._out)

    def _share(self, local: IPv4Address | IPv6Address, port: int, read: Reader) -> _Socket:
        with _SHARING:
            sockets = _SHARED.setdefault(self._context.poller, {})
            found = sockets.get(self._key)
            if found is None:
                try:
                    found = sockets[self._key] = _Socket((str(local), port), local.version, read)
                except OSError as error:
                    raise HostError(
                        f"{self._spec.describe()}: cannot use UDP port {port} of {local}: {error.strerror}"
                    ) from error
            elif self._vni in found.tunnels:
                raise HostError(f"{self._spec.describe()}: another network of the lab has this tunnel already")
            found.tunnels[self._vni] = self
        return found

    @property
    def problem(self) -> str:
        """A socket always works."""
        return ""

    def start(self) -> None:
        """Begin to pass frames."""
        if not self._socket.is_read:
            self._socket.is_read = True
            self._context.poller.register(self._socket.socket.fileno(), self._socket.on_readable)

    def stop(self) -> None:
        """Give the socket up, if nobody else uses it."""
        if not self._is_open:
            return
        self._is_open = False
        with _SHARING:
            del self._socket.tunnels[self._vni]
            if not self._socket.tunnels:
                self._context.poller.unregister(self._socket.socket.fileno())
                self._socket.socket.close()
                _SHARED.get(self._context.poller, {}).pop(self._key, None)

    def close(self) -> None:
        """There is nothing left to give back."""

    def details(self) -> dict[str, object]:
        """Tell how many addresses were learned behind the other ends, and what came for nobody."""
        return {"learned": len(self._learned), "socket_drops": dict(self._socket.drops)}

    def received(self, frame: bytes, source: Remote) -> None:
        """Take a frame from the socket."""
        remote = self._known.get(_address(source))
        if remote is None:
            self.drops["unknown-peer"] += 1
            return
        if len(frame) > self._largest:
            self.drops["oversize"] += 1
            return
        if len(self._remotes) > 1:
            self._learned.learn(frame[6:12], remote)
        self._context.port.send(frame, NO_OFFLOAD)

    def _out(self, frame: bytes, offload: bytes) -> None:
        frames = [frame] if offload == NO_OFFLOAD else cut_up(frame, offload, self.drops)
        if not frames:
            return
        if len(frames[0]) > self._largest:
            self.drops["oversize"] += 1
            return
        learned = self._learned.find(frame[:6])
        for remote in self._remotes if learned is None else [learned]:
            reason = self._socket.send(self._header, frames, remote) if self._is_open else "closed"
            if reason:
                self.drops[reason] += 1


def _remote(address: IPv4Address | IPv6Address, port: int) -> Remote:
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


def _address(remote: Remote) -> str:
    """Name the machine of a datagram's source: VXLAN chooses source ports as it likes (RFC 7348, 5)."""
    return str(remote[0])


def _is_here(remote: Remote, local: IPv4Address | IPv6Address, port: int) -> bool:
    """Tell whether datagrams to *remote* come back to the tunnel's own socket: then they leave from where they go to."""
    address = ip_address(remote[0])
    if remote[1] != port or not (local.is_unspecified or local == address):
        return False
    if address.is_loopback or local == address:
        return True
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(remote)
        except OSError:
            return False  # there is no way there yet
        return ip_address(probe.getsockname()[0]) == address
