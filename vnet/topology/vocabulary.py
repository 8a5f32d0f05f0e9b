"""What the structs of a topology are made of: their base, and the kinds of text in them, with the words of the manual."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct


def about(text: str) -> Meta:
    """Describe a field."""
    return Meta(description=text)


DurationText: TypeAlias = Annotated[
    str, Meta(description="A duration with its unit, such as 20ms, 300s or 36h.", pattern=r"^(0|([0-9.]+ *[A-Za-zµ]+ *)+)$")
]
RateText: TypeAlias = Annotated[
    str,
    Meta(
        description="A rate with its unit, such as 100mbit or 1gbit.",
        pattern=r"^[0-9.]+ *[KMGkmg]?[Bb]([Ii][Tt])?(/[Ss]|[Pp][Ss])?$",
    ),
]
SizeText: TypeAlias = Annotated[int | str, about("A number of octets, with a unit if you like: 1500, 64KiB.")]
RatioText: TypeAlias = Annotated[float | str, about("A percentage such as 0.1%, or a number from 0 to 1.")]
MacText: TypeAlias = Annotated[
    str,
    Meta(
        description="A MAC address such as 00:03:ff:00:00:27.",
        pattern=r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$",
    ),
]
AddressText: TypeAlias = Annotated[str, about("An IP address such as 172.17.1.27.")]
InterfaceText: TypeAlias = Annotated[
    str,
    about("An IP address with its prefix length (172.17.1.27/24); without it, the network's subnet is taken."),
]
PrefixText: TypeAlias = Annotated[str, about("An IP prefix such as 172.17.1.0/24.")]
Vlan: TypeAlias = Annotated[int | str, about("A VLAN: its number (1 to 4094), or the name of the network that has it.")]
VlanList: TypeAlias = Annotated[
    Literal["all"] | list[int | str],
    about("VLANs of a trunk: all, or a list of numbers, ranges (10-20) and names of networks."),
]
NetworkName: TypeAlias = Annotated[str, about("The name of a network.")]


class Strict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything in the model: immutable, by keyword, no unknown keys."""
