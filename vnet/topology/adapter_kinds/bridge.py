"""``bridge``: a NIC of the machine as the way out; the network is on the wire, with all that is there (VS-01, VS-04)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, final

from vnet.addresses import Mac
from vnet.topology.adapter_kinds.names import check_existing_name
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import MacText, Strict, about
from vnet.wire.vlan import MAX_VID

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

BridgeMode: TypeAlias = Literal["ethernet", "wifi", "macvtap"]


class Bridge(Strict, frozen=True, kw_only=True):
    """A NIC of the machine, with options."""

    nic: Annotated[str, about("The NIC's name on the machine.")]
    vlan: Annotated[
        int | None, about("The VLAN that the network is in the wire's tags; not given: frames are untagged there.")
    ] = None
    mode: Annotated[
        BridgeMode,
        about(
            "How frames pass: ethernet (every guest with its own MAC address, the default), wifi (all behind the NIC's"
            " address, as access points demand), macvtap (the network has the NIC to itself)."
        ),
    ] = "ethernet"
    mac: Annotated[MacText | None, about("The NIC's MAC address, by which it is found when its name has changed.")] = None
    host: Annotated[
        bool | None,
        about("Whether guests reach the machine itself by this NIC; not given: yes in mode ethernet, as far as it can."),
    ] = None
    dhcp: Annotated[
        bool | None,
        about("Whether DHCP passes between lab and wire; not given: only if the network has no DHCP server in the lab."),
    ] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSpec(AdapterSpec):
    """The NIC called ``nic``, or with MAC address ``mac``; ``vlan`` is the VID on the wire, None for untagged frames."""

    kind: ClassVar[str] = "bridge"
    nic: str
    vlan: int | None = None
    mode: BridgeMode = "ethernet"
    mac: Mac | None = None
    host: bool = True
    passes_dhcp: bool = True

    def describe(self) -> str:
        """Say which NIC, and what is not as usual."""
        words = [self.kind, self.nic]
        words += [f"vlan {self.vlan}"] if self.vlan is not None else []
        words += [self.mode] if self.mode != "ethernet" else []
        return " ".join(words)


def resolve_bridge(model: Bridge | str, around: Surroundings, path: Path) -> BridgeSpec:
    """Read what is typed: a name alone is all defaults."""
    given = Bridge(nic=model) if isinstance(model, str) else model
    check_existing_name(given.nic, around, path if isinstance(model, str) else (*path, "nic"))
    if given.vlan is not None and not 1 <= given.vlan <= MAX_VID:
        around.error((*path, "vlan"), f"{given.vlan} is no VLAN: they are 1 to {MAX_VID}")
    if given.mode == "macvtap" and given.vlan is not None:
        around.error((*path, "vlan"), "mode macvtap takes the whole NIC, tags included; use mode ethernet for a VLAN of it")
    if given.host and given.mode != "ethernet":
        around.error((*path, "host"), f"in mode {given.mode} guests do not reach the machine; leave host out")
    return BridgeSpec(
        nic=given.nic,
        vlan=given.vlan,
        mode=given.mode,
        mac=around.reader.mac(given.mac, (*path, "mac")),
        host=given.mode == "ethernet" if given.host is None else given.host,
        passes_dhcp=not around.has_dhcp if given.dhcp is None else given.dhcp,
    )
