"""Ports that are plugged into a running lab from outside: a socket for each, for a virtual machine that vnet did not start.

Such a port is not in the topology. Its number begins at ``FIRST_NUMBER``, beyond those of the topology, and it goes with
``unplug`` or with the lab.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import trio

from vnet.adapters.base import HostAdapter
from vnet.adapters.plug_kinds import PLUG_KINDS
from vnet.adapters.registry import open_adapter
from vnet.addresses import Mac, format_mac, is_group, parse_mac
from vnet.errors import UsageError
from vnet.ports import Port
from vnet.runtime.build import Builder
from vnet.runtime.ways import MakeContext, nowhere
from vnet.switch.vlan import Admit, VlanConfig
from vnet.topology.names import GOOD_NAME
from vnet.topology.nic_models import DEFAULT_MODEL, DEVICES, device_of
from vnet.topology.problems import suggestion
from vnet.topology.resolve_adapter import derived_mac

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

FIRST_NUMBER: Final = 1001
LARGER_FIRST_NUMBER: Final = 100_001
"""For switches that have almost as many ports by their topology."""
MOST_PLUGS: Final = 4096
NIC: Final = "eth0"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """A port for something outside; ``argv`` is the command line for it, to which a VM's own arguments are added."""

    name: str
    kind: str
    mac: Mac
    switch: str
    number: int
    argv: tuple[str, ...]
    adapter: HostAdapter
    port: Port

    @property
    def command(self) -> str:
        """The command line as one types it."""
        return shlex.join(self.argv)

    def describe(self) -> dict[str, object]:
        """Tell everything, fit for JSON."""
        return {
            "name": self.name, "kind": self.kind, "mac": format_mac(self.mac), "port": f"{self.switch}:{self.number}",
            "argv": list(self.argv), "command": self.command, "problem": self.adapter.problem,
            "details": {**self.adapter.details(), "drops": dict(self.adapter.drops)},
        }  # fmt: skip


@final
class Plugs(Mapping[str, Plug]):
    """The ports of a lab that were plugged in from outside, by name."""

    def __init__(self, lab: Lab, builder: Builder) -> None:
        self._lab = lab
        self._builder = builder
        self._make_context: MakeContext | None = None
        self._plugs: dict[str, Plug] = {}
        self._opening: set[str] = set()
        self._opened = 0

    def __getitem__(self, name: str) -> Plug:
        plug = self._plugs.get(name)
        if plug is None:
            raise UsageError(f"nothing called {name!r} is plugged in; there are: {', '.join(self._plugs) or 'none'}")
        return plug

    def __contains__(self, name: object) -> bool:
        return name in self._plugs

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugs)

    def __len__(self) -> int:
        return len(self._plugs)

    def at(self, switch: str, number: int) -> Plug | None:
        """Find what is plugged into a switch port."""
        return next((plug for plug in self._plugs.values() if (plug.switch, plug.number) == (switch, number)), None)

    def open(self, make_context: MakeContext) -> None:
        """Take plugs from now on."""
        self._make_context = make_context

    async def close(self) -> None:
        """Unplug everything."""
        self._make_context = None
        for name in list(self._plugs):
            await self.unplug(name)

    async def plug(
        self,
        network: str | None,
        *,
        vlan: str | None = None,
        trunk: Sequence[str] | None = None,
        native: str | None = None,
        kind: str = "qemu-stream",
        model: str = DEFAULT_MODEL,
        mac: str | None = None,
        switch: str | None = None,
        name: str | None = None,
    ) -> Plug:
        """Make a switch port with a socket behind it; see ``Lab.plug``."""
        vlans = self._vlans(network, vlan, trunk, native)
        plug_kind = PLUG_KINDS.get(kind)
        if plug_kind is None:
            raise UsageError(f"there is no kind of plug {kind!r}; {suggestion(kind, list(PLUG_KINDS))}")
        device = device_of(model)
        if device is None:
            raise UsageError(f"there is no NIC model {model!r}; {suggestion(model, list(DEVICES))}")
        if model != DEFAULT_MODEL and not plug_kind.has_models:
            raise UsageError(f"{plug_kind.program} has one kind of NIC; leave the model {model} out")
        on = self._switch(network, switch)
        name = self._name(name)
        octets = self._mac(mac, name)
        if self._make_context is None:
            raise UsageError("nothing can be plugged into a simulated lab: there is no machine around it")
        port = Port(f"{name}:{NIC}", nowhere)
        context = self._make_context(port, name)
        self._opening.add(name)
        self._opened += 1
        spec = plug_kind.spec(f"p{self._opened}.sock")
        try:
            with trio.CancelScope(shield=True):  # or else nobody would close it
                adapter = await trio.to_thread.run_sync(open_adapter, spec, context)
        finally:
            self._opening.discard(name)
        number = self._number(on)
        words = plug_kind.words(name, adapter.details(), device, octets)
        plug = Plug(
            name=name, kind=kind, mac=octets, switch=on, number=number, argv=(plug_kind.program, *words), adapter=adapter,
            port=port,
        )  # fmt: skip
        self._builder.add_plug(port, on, number, vlans)
        self._plugs[name] = plug
        adapter.start()
        self._lab.events.add(name, "plugged", speaks=kind, port=f"{on}:{number}", mac=format_mac(octets))
        return plug

    async def unplug(self, name: str) -> None:
        """Take a port away again, with its socket; raise UsageError if there is none of that name."""
        plug = self[name]
        del self._plugs[name]
        self._builder.remove_plug(plug.port, plug.switch, plug.number)
        with trio.CancelScope(shield=True):
            plug.adapter.stop()
            await trio.to_thread.run_sync(plug.adapter.close)
        self._lab.events.add(name, "unplugged", port=f"{plug.switch}:{plug.number}")

    # -- what is wanted

    def _vlans(self, network: str | None, vlan: str | None, trunk: Sequence[str] | None, native: str | None) -> VlanConfig:
        own = None if network is None else self._lab.networks[network].vid
        if vlan is not None:
            if own is not None or trunk is not None:
                raise UsageError("a port is on a network, on a VLAN of its own, or a trunk: give one of them")
            own = self._vid(vlan)
        if trunk is None:
            if own is None:
                raise UsageError("which network? name one, or give the VLAN, or a trunk's VLANs")
            if native is not None:
                raise UsageError("only a trunk has a native VLAN")
            return VlanConfig(own, frozenset({own}), frozenset({own}), Admit("untagged"))
        untagged = own if native is None else self._vid(native)
        members = None if list(trunk) == ["all"] else {vid for text in trunk for vid in self._vids(text)}
        if untagged is None:
            return VlanConfig(None, None if members is None else frozenset(members), frozenset(), Admit("tagged"))
        tagged = None if members is None else frozenset({*members, untagged})
        return VlanConfig(untagged, tagged, frozenset({untagged}), Admit("all"))

    def _vids(self, text: str) -> range:
        first, dash, last = text.partition("-")
        if dash and text not in self._lab.networks:
            low, high = self._vid(first), self._vid(last)
            if low <= high:
                return range(low, high + 1)
        vid = self._vid(text)
        return range(vid, vid + 1)

    def _vid(self, text: str) -> int:
        if text in self._lab.networks:
            return self._lab.networks[text].vid
        if text.isascii() and text.isdigit() and 0 < int(text[:5]) < 4095:
            return int(text)
        raise UsageError(f"{text!r} is no VLAN: write a number from 1 to 4094, or a network's name")

    def _switch(self, network: str | None, switch: str | None) -> str:
        switches = self._lab.switches
        if switch is not None:
            if switch not in switches:
                raise UsageError(f"there is no switch {switch!r}; {suggestion(switch, list(switches))}")
            return switch
        found = None if network is None else self._lab.networks[network].resolved
        if found is not None and found.dhcp is not None:
            return found.dhcp.port.switch
        return next(iter(switches))

    def _name(self, name: str | None) -> str:
        lab = self._lab
        taken = {"host", *lab.guests, *lab.routers, *lab.switches, *self._plugs, *self._opening}
        if len(self._plugs) >= MOST_PLUGS:
            raise UsageError(f"{MOST_PLUGS} ports are plugged in already")
        if name is None:
            return next(each for number in range(1, len(taken) + 2) if (each := f"vm{number}") not in taken)
        if not GOOD_NAME.fullmatch(name):
            raise UsageError(f"{name[:80]!r} cannot be a name; use up to 63 letters, digits, - and _")
        if name in taken:
            raise UsageError(f"there is a {name!r} in this lab already; choose another name")
        return name

    def _mac(self, text: str | None, name: str) -> Mac:
        if text is None:
            return derived_mac(self._lab.topology, name)(NIC)
        try:
            mac = parse_mac(text)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if is_group(mac):
            raise UsageError(f"{text} is a group address (its first octet is odd); a NIC needs an individual one")
        return mac

    def _number(self, switch: str) -> int:
        first = FIRST_NUMBER if len(self._lab.topology.switches[switch].ports) < FIRST_NUMBER // 2 else LARGER_FIRST_NUMBER
        ports = self._lab.switches[switch].ports
        return next(number for number in range(first, first + len(ports) + MOST_PLUGS) if number not in ports)
