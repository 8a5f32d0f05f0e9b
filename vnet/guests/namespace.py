"""Guests that are Linux: a network namespace with a TAP device for each NIC, for any program to run in.

The devices are made inside the namespace, so nothing of them ever shows on the host. For root one thread makes all
namespaces of a lab, one after the other (``create_all``): a thread may leave its network namespace without the process, and
no process is started. An ordinary user gets them in user namespaces, each held by a small process. A guest of kind
``attach`` is the namespace of a process that runs already, which gets only the devices.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from typing import Final, final

import trio

from vnet.adapters import _linux, netns
from vnet.adapters.base import Poller
from vnet.adapters.netlink import Netlink
from vnet.adapters.resources import FileId, Ledger, NamespaceResource, NoLedger
from vnet.adapters.tap import TapDevice, TapPort
from vnet.errors import HostError, NoAnswer, UsageError
from vnet.guests import probes
from vnet.guests.base import Address, InterfaceState, PingReply, ProbeReply, Target, Verdict, checked_port
from vnet.guests.dhcp import NamespaceDhcp
from vnet.guests.namespace_nic import Nic, allow_ipv6, configuration, leased
from vnet.guests.process import LabProcesses, Process
from vnet.guests.program import GuestProgram, Row
from vnet.guests.space import HeldSpace, RootSpace, Space
from vnet.ports import Port, Randomness, Report, Scheduler, no_report
from vnet.stack.dhcp_lease import Lease

CLOSING_THREADS: Final = 32
"""Removing a TAP device waits for a grace period of the kernel; waiting for many at once takes hardly longer."""


@final
class NamespaceGuest:
    """A network namespace called *namespace*, with an interface for each of *nics*; with *pid* that of a process.

    Made by ``create_all``, which raises HostError where it cannot be. Then ``ports`` are there to be plugged in, ``start``
    begins to pass frames. *processes* starts programs inside; *directory* is where the guest's resolv.conf lies; *scheduler*
    and *streams* serve vnet's DHCP client.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        nics: Sequence[Nic],
        *,
        directory: str | None = None,
        ledger: Ledger | None = None,
        processes: LabProcesses | None = None,
        report: Report = no_report,
        scheduler: Scheduler | None = None,
        streams: Callable[[str], Randomness] | None = None,
        pid: int | None = None,
    ) -> None:
        self.name = name
        self.kind = "namespace" if pid is None else "attach"
        self.namespace = namespace
        self.nics = tuple(nics)
        self.path = netns.path_of(namespace)
        self.adapters: list[TapPort] = []
        self._directory = directory
        self._ledger: Ledger = ledger or NoLedger()
        self._processes = processes or LabProcesses(self._ledger)
        self._report = report
        self._devices: list[TapDevice] = []
        self._indexes: list[int] = []
        self._pid = pid
        self._space: Space | None = None
        self._netlink: Netlink | None = None
        self._resource: NamespaceResource | None = None
        self._scheduler = scheduler
        self._streams = streams
        self._clients: dict[int, NamespaceDhcp] = {}
        self._poller: Poller | None = None
        self._watched: set[int] = set()
        self.problem = ""
        """Which process has ended that the namespace needs; empty if all is well."""
        if any(nic.dhcp for nic in self.nics) and (scheduler is None or streams is None):
            raise UsageError(f"{name} uses vnet's DHCP client, which needs a scheduler and random streams")

    # -- the network namespace

    def _create(self) -> None:
        """Make everything as root: in a new network namespace of the calling thread, or in that of a process."""
        if self._pid is not None:
            self._space = RootSpace.of_process(self._pid)
            self._furnish(self._space)
            return
        _linux.unshare(_linux.CLONE_NEWNET)
        self._space = space = RootSpace.here(self.path)
        cookie = netns.cookie()

        def write_down(status: os.stat_result) -> None:
            self._resource = NamespaceResource(self.path, cookie, FileId.of(status))
            self._ledger.add(self._resource)

        try:
            netns.make_placeholder(self.path, write_down)
        except FileExistsError as error:
            raise HostError(
                f"there is a network namespace {self.namespace} already, and it is not of this lab: "
                f"remove it (ip netns del {self.namespace}), or give the guest another name with `namespace:`"
            ) from error
        _linux.mount("/proc/thread-self/ns/net", self.path, "none", _linux.MS_BIND)
        self._furnish(space)
        space.leave()

    def _begin_held(self) -> HeldSpace:
        """Start the process that makes the namespace for an ordinary user, or joins one."""
        self._space = space = HeldSpace(self._ledger, self._pid)
        return space

    def _furnish(self, space: Space) -> None:
        """Make the devices, and configure them."""
        self._netlink = Netlink(space.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        for number, nic in enumerate(self.nics):
            device = space.tap(self._name(number))
            self._devices.append(device)
            self._indexes.append(space.index(device.name))
            self.adapters.append(TapPort(f"{self.name}:{device.name}", device, nic.mtu, self._report))
            if nic.ipv6:
                allow_ipv6(space, device.name, nic)
        named = [
            (self._name(number), index, nic)
            for number, (index, nic) in enumerate(zip(self._indexes, self.nics, strict=True))
        ]
        self._netlink.run(configuration(named, has_loopback=self._pid is None))
        self._write_resolv_conf()
        for number, nic in enumerate(self.nics):
            if nic.dhcp:
                self._clients[number] = self._make_client(space, number, nic)

    # -- life

    def start(self, poller: Poller) -> None:
        """Begin to pass frames."""
        for adapter in self.adapters:
            adapter.start(poller)
        for client in self._clients.values():
            client.start(poller)
        self._poller = poller
        for fd, problem in self._open_space().watched():
            self._watched.add(fd)
            poller.register(fd, partial(self._process_ended, fd, problem))

    def _process_ended(self, fd: int, problem: str) -> None:
        """Tell of the end of a process: that of an attached guest, or the one that holds the namespace."""
        self._unwatch(fd)
        self.problem = problem
        self._report("process-ended", problem=problem)

    def _unwatch(self, fd: int) -> None:
        assert self._poller is not None, "it was started"
        self._watched.discard(fd)
        self._poller.unregister(fd)

    def stop(self) -> None:
        """Stop passing frames; everything else goes with ``remove_all``."""
        for client in self._clients.values():
            client.stop()
        self._clients.clear()
        for adapter in self.adapters:
            adapter.stop()
        for fd in tuple(self._watched):
            self._unwatch(fd)

    def _release(self) -> list[TapDevice]:
        """Take the name away and give back the devices, which are still to be closed."""
        self.stop()
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        if self._resource is not None:
            self._resource.remove()
            if not self._resource.exists():  # or else the next run tries again
                self._ledger.done(self._resource)
            self._resource = None
        if self._space is not None:
            self._space.close()
            self._space = None
        if self._directory is not None and os.path.exists(self.resolv_conf):
            os.unlink(self.resolv_conf)
        devices, self._devices = self._devices, []
        return devices

    # -- what a guest offers

    @property
    def programs(self) -> tuple[GuestProgram, ...]:
        """None: the programs here are real ones, see ``exec``."""
        return ()

    @property
    def results(self) -> tuple[Row, ...]:
        """None, as there are no programs."""
        return ()

    @property
    def ports(self) -> tuple[Port, ...]:
        """The guest's ends of its cables."""
        return tuple(adapter.port for adapter in self.adapters)

    @property
    def address(self) -> Address | None:
        """The first address that an interface has, whoever gave it: an IPv4 one, or else an IPv6 one beyond the link."""
        every = [address for interface in self.interfaces() for address in interface.addresses]
        ordered = sorted(every, key=lambda address: address.version)
        return next((address.ip for address in ordered if address.version == 4 or not address.is_link_local), None)

    def interfaces(self) -> tuple[InterfaceState, ...]:
        """Describe the interfaces as Linux has them now; what a program inside configured shows too."""
        found: dict[int, list[IPv4Interface | IPv6Interface]] = {}
        gateways: dict[int, IPv4Address] = {}
        if self._netlink is not None:
            for index, each in self._netlink.addresses():
                found.setdefault(index, []).append(each)
            if any(nic.ipv6 for nic in self.nics):
                for index, each6 in self._netlink.addresses6():
                    found.setdefault(index, []).append(each6)
            gateways = self._netlink.gateways()
        return tuple(
            InterfaceState(
                self._name(number),
                nic.mac,
                tuple(found.get(index, ())),
                gateways.get(index),
                up=self.adapters[number].port.carrier,
                dhcp=self._clients[number].state if number in self._clients else "",
            )
            for number, (index, nic) in enumerate(zip(self._indexes, self.nics, strict=False))
        )

    async def dhcp(self, timeout: float = 30.0) -> IPv4Address:
        """Wait until every interface that uses vnet's DHCP client has an address."""
        if not self._clients:
            raise UsageError(f"{self.name} does not use vnet's DHCP client: give it `dhcp: vnet`, or run a client in it")
        with trio.move_on_after(timeout):
            for client in list(self._clients.values()):
                await client.bound.wait()
            lease = next(iter(self._clients.values())).lease
            assert lease is not None, "a bound client has a lease"
            return lease.address.ip
        raise NoAnswer(f"{self.name} got no address by DHCP within {timeout:g} s")

    def _name(self, number: int) -> str:
        return self.nics[number].name or f"eth{number}"

    def _make_client(self, space: Space, number: int, nic: Nic) -> NamespaceDhcp:
        assert self._scheduler is not None and self._streams is not None, "checked when the guest was made"
        client = NamespaceDhcp(
            self.name, space, self._name(number), nic.mac, nic.mtu, self._scheduler, self._streams,
            lambda lease: self._use(number, lease), lambda lease: self._use(number, lease, remove=True), self._report,
        )  # fmt: skip
        self.adapters[number].on_carrier = client.set_carrier
        return client

    def _use(self, number: int, lease: Lease, *, remove: bool = False) -> None:
        """Give Linux the address, the routes and the DNS servers of a lease, or take them away."""
        has_gateway = any(other.gateway and other.addresses for other in self.nics)
        try:
            if self._netlink is not None:
                index, nic = self._indexes[number], self.nics[number]
                self._netlink.run(leased(index, nic, lease, takes_gateway=not has_gateway, remove=remove))
            self._write_resolv_conf()
        except OSError as error:
            self._report("dhcp-not-configured", error=str(error))

    async def ping(self, target: Target, count: int = 1, timeout: float = 1.0, size: int = 56) -> PingReply:
        """Send ICMP echo requests from the namespace."""
        try:
            return await probes.ping(self._open_space(), ip_address(target), count, timeout, size)
        except HostError as error:  # nobody is there who could send
            return PingReply(False, error=str(error), sent=0)

    async def tcp_probe(self, target: Target, port: int, timeout: float = 1.0) -> ProbeReply:
        """Open a TCP connection from the namespace and close it again."""
        try:
            return await probes.tcp_probe(self._open_space(), ip_address(target), checked_port(port), timeout)
        except HostError as error:
            return ProbeReply(Verdict.UNREACHABLE, None, str(error))

    async def udp_probe(self, target: Target, port: int, payload: bytes = b"vnet", timeout: float = 1.0) -> ProbeReply:
        """Send one datagram from the namespace and wait for an answer."""
        try:
            return await probes.udp_probe(self._open_space(), ip_address(target), checked_port(port), payload, timeout)
        except HostError as error:
            return ProbeReply(Verdict.UNREACHABLE, None, str(error))

    # -- programs

    @property
    def resolv_conf(self) -> str:
        """The file that programs in the namespace see as /etc/resolv.conf."""
        return f"{self._directory}/{self.name}.resolv.conf"

    def exec_argv(self, command: Sequence[str]) -> list[str]:
        """Give the command line that runs *command* in the namespace, for anybody who may (root) and at any time."""
        return self._processes.argv(self._open_space().entry(), command, self.resolv_conf if self._directory else None)

    async def exec(self, *command: str, input: bytes = b"", check: bool = False) -> Process:
        """Run a program to its end and return its exit status and output."""
        return await self._processes.run(self.exec_argv(command), input=input, check=check)

    def _write_resolv_conf(self) -> None:
        """Write what the topology and the leases say; in place, because programs that run have the file mounted."""
        if self._directory is None:
            return
        leases = [client.lease for client in self._clients.values() if client.lease is not None]
        domains = [nic.domain for nic in self.nics] + [lease.domain for lease in leases]
        servers = [
            f"{server}%{self._name(number)}" if server.version == 6 and server.is_link_local else str(server)
            for number, nic in enumerate(self.nics)
            for server in nic.dns
        ]
        servers += [str(server) for lease in leases for server in lease.dns]
        lines = [f"search {domain}" for domain in domains if domain][:1]
        lines += [f"nameserver {server}" for server in dict.fromkeys(servers)]
        with open(self.resolv_conf, "w", encoding="ascii") as file:
            file.write("".join(line + "\n" for line in lines))

    def _open_space(self) -> Space:
        if self._space is None:
            raise UsageError(f"guest {self.name} does not run")
        return self._space


def create_all(guests: Sequence[NamespaceGuest]) -> None:
    """Make the namespaces of all *guests*, or none: what was made is removed if one fails.

    Blocks: as root for 1 ms a guest, for an ordinary user for some 10 ms.
    """
    if not guests:
        return
    is_root = os.geteuid() == 0

    def create() -> None:
        held = [] if is_root else [guest._begin_held() for guest in guests]
        for number, guest in enumerate(guests):
            try:
                if is_root:
                    guest._create()
                else:
                    held[number].wait()
                    guest._furnish(held[number])
            except OSError as error:
                raise HostError(f"cannot make namespace {guest.namespace}: {error.strerror}") from error

    try:
        if is_root:
            netns.prepare_directory()
        netns.in_thread(create)
    except BaseException:
        remove_all(guests)
        raise


def remove_all(guests: Sequence[NamespaceGuest]) -> None:
    """Remove the namespaces of all *guests* and their devices; blocks for a few ms a guest. Calling again does nothing."""
    devices = [device for guest in guests for device in guest._release()]
    if devices:
        with ThreadPoolExecutor(min(CLOSING_THREADS, len(devices)), "vnet-close") as threads:
            list(threads.map(TapDevice.close, devices))
