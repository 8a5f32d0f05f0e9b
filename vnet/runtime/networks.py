"""The networks of a running lab, by name: what they are, and how to give them another way out (VS-14).

How ways out come and go is in ``vnet.runtime.ways``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Literal, final

import trio

from vnet.errors import UsageError
from vnet.runtime.build import Builder
from vnet.runtime.emulated_machine import EmulatedMachine
from vnet.runtime.ways import MakeContext, Ways
from vnet.topology.adapter_kinds.choice import AdapterChoice
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.adapter_kinds.user import UserForward, UserSpec
from vnet.topology.resolve_adapter import read_choice, read_forward, read_place
from vnet.topology.resolved import ResolvedNetwork

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab


@final
class LabNetwork:
    """A network of a running lab: what it is, and its way out."""

    def __init__(self, lab: Lab, ways: Ways, name: str) -> None:
        self.name = name
        self._changing = trio.Lock()
        self._lab = lab
        self._ways = ways

    def __repr__(self) -> str:
        return f"<LabNetwork {self.name} of {self._lab.name}: {self.adapter.describe()}>"

    @property
    def resolved(self) -> ResolvedNetwork:
        """The network as the topology has it now."""
        return self._lab.topology.networks[self.name]

    @property
    def vid(self) -> int:
        """Its VLAN."""
        return self.resolved.vid

    @property
    def subnet(self) -> IPv4Network | IPv6Network | None:
        """Its IP prefix."""
        return self.resolved.subnet

    @property
    def adapter(self) -> AdapterSpec:
        """Its way out."""
        return self.resolved.adapter

    @property
    def state(self) -> str:
        """Its way out: "internal" without one, "up", "no carrier", "open end" in a simulation, "unbound: " and why."""
        if isinstance(self.adapter, NoAdapter):
            return "internal"
        if not (self._lab.live or self.adapter.works_simulated):
            return "open end"
        problem = self._ways.problem(self.name)
        if problem:
            return f"unbound: {problem}"
        return "up" if self._ways.has_carrier(self.name) else "no carrier"

    @property
    def details(self) -> dict[str, object]:
        """What the adapter knows of itself, fit for JSON; empty in a simulation."""
        return self._ways.details(self.name)

    async def rebind(self, adapter: AdapterChoice | str) -> None:
        """Give the network another way out while it runs: a word (``none``, ``loopback``), or text as in a topology file.

        Guests keep their addresses and connections. Raise UsageError for what cannot be, HostError for what the machine
        refuses; the old way out is then still there, untouched unless the two want the same interface, address or socket.
        """
        await self._change(read_choice(self._lab.topology, self.resolved, adapter))

    async def forward(self, listen: str, to: str, protocol: Literal["tcp", "udp"] = "tcp") -> None:
        """Have the machine listen for a guest: ``forward("127.0.0.1:8080", "web:80")``, as in a topology file.

        A guest by name may have its address by DHCP, or from the adapter's IPv6 prefix. Raise UsageError for what cannot be,
        and HostError for what the machine refuses.
        """
        spec = self._user_adapter()
        name, _, port = to.rpartition(":")
        if name in self._lab.guests:
            every = [each.ip for state in self._lab.guests[name].interfaces() for each in state.addresses]
            subnets = self.subnet, None if spec.address6 is None else spec.address6.network
            here = (each for subnet in subnets if subnet is not None for each in every if each in subnet)
            address = next(here, None)
            if address is not None:
                to = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
        wanted = UserForward(protocol=protocol, listen=listen, to=to)
        forward = read_forward(self._lab.topology, self.resolved, wanted)
        if any(other.place == forward.place for other in spec.forwards):
            raise UsageError(f"network {self.name}: {listen} is forwarded already")
        await self._change(replace(spec, forwards=(*spec.forwards, forward)))

    async def unforward(self, listen: str, protocol: Literal["tcp", "udp"] = "tcp") -> None:
        """End a forward by where it listens; connections that came in by it stay. Raise UsageError if there is none."""
        spec = self._user_adapter()
        place = read_place(self._lab.topology, self.resolved, protocol, listen)
        left = tuple(other for other in spec.forwards if other.place != place)
        if left == spec.forwards:
            raise UsageError(f"network {self.name}: nothing listens on {protocol} {listen}")
        await self._change(replace(spec, forwards=left))

    def _user_adapter(self) -> UserSpec:
        spec = self.adapter
        if not isinstance(spec, UserSpec):
            raise UsageError(
                f"network {self.name} has no user adapter, whose forwards they would be: adapter {spec.describe()}"
            )
        return spec

    async def _change(self, spec: AdapterSpec) -> None:
        async with self._changing:
            self._ways.check_open()
            network = self.resolved
            if spec != network.adapter or self._ways.problem(self.name):
                before = network.adapter.describe()
                await self._ways.change(network, spec)
                self._lab.events.add(self.name, "rebind", old=before, new=spec.describe())


@final
class Networks(Mapping[str, LabNetwork]):
    """The networks of a lab by name; with *emulate* the machine of a live lab is an emulated guest, too."""

    def __init__(self, lab: Lab, builder: Builder, emulate: bool) -> None:
        self._ways = Ways(lab, builder, EmulatedMachine(lab, builder) if emulate or not lab.live else None)
        self._networks = {name: LabNetwork(lab, self._ways, name) for name in lab.topology.networks}

    def __getitem__(self, name: str) -> LabNetwork:
        network = self._networks.get(name)
        if network is None:
            raise UsageError(f"no network {name}: there are {', '.join(self._networks) or 'none'}")
        return network

    def __contains__(self, name: object) -> bool:
        return name in self._networks

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    async def open(self, make_context: MakeContext) -> None:
        """Open the ways out; raise HostError if one cannot be."""
        await self._ways.open(make_context)

    async def close(self) -> None:
        """Close all that is open; nothing can be changed any more."""
        await self._ways.close()

    async def settle(self) -> None:
        """Refuse changes from now on, and wait for the end of those under way."""
        await self._ways.settle()

    def leave_files(self) -> None:
        """Write into no file any more: this lab is a copy, and the files are the original's."""
        self._ways.leave_files()
