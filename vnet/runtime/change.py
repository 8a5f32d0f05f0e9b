"""``vnet set``: change a link, a switch port or a network while the lab runs, or tell a virtual machine what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from vnet.errors import UsageError
from vnet.links.impairments import Impairments
from vnet.links.link import Link
from vnet.runtime.machines import change_machine, is_for_machine
from vnet.switch.port import SwitchPort
from vnet.switch.switch import Switch
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.units import SECOND, parse_duration, parse_rate, parse_ratio, parse_size

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

RATIOS: Final = ("loss", "reordering", "duplication", "corruption")
LINK_KEYS: Final = ("state", "rate", "latency", "delay_variation", *RATIOS, "queue")
NETWORK: Final = "network."
"""What names of networks begin with where links and ports are named, too."""
NETWORK_KEYS: Final = ("adapter", "forward", "unforward")
PORT_KEYS: Final = ("state",)
_STATES: Final = {
    "up": True,
    "on": True,
    "yes": True,
    "true": True,
    "down": False,
    "off": False,
    "no": False,
    "false": False,
}


async def change(lab: Lab, target: str, settings: Sequence[str]) -> dict[str, object]:
    """Apply settings such as ``loss=5%`` or ``down`` to a link, port or network, all or none; return how it stands now.

    *target* is a link by name (``core-edge``, ``web:eth0``), by its ends (``core,edge``) or by a guest with one NIC
    (``web``), a switch port (``core:3``, ``core:web:eth0``), or a network (``network.office``). A virtual machine is told
    what to do: ``pause``, ``save=before``. Raise UsageError for what cannot be.
    """
    if not settings:
        raise UsageError(f"what is to change? for example: vnet set {lab.name} {target} down, or loss=5% latency=20ms")
    if is_for_machine(lab, target, settings):
        return await change_machine(lab, target, settings)
    pairs = [_pair(setting) for setting in settings]
    if target.startswith(NETWORK):
        return await _change_network(lab, target.removeprefix(NETWORK), pairs)
    link = find_link(lab, target)
    if link is not None:
        return _change_link(link, pairs)
    found = _find_port(lab, target)
    if found is None:
        names = [*lab.links, *(port.port.name for switch in lab.switches.values() for port in switch.ports.values())]
        near = difflib.get_close_matches(target, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"links are: {', '.join(list(lab.links)[:12])}"
        raise UsageError(f"there is no link or port {target!r}; {hint}")
    return _change_port(*found, pairs)


async def _change_network(lab: Lab, name: str, pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    if name not in lab.networks:
        near = difflib.get_close_matches(name, list(lab.networks), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(lab.networks) or 'none'}"
        raise UsageError(f"there is no network {name!r}; {hint}")
    for key, _ in pairs:
        if key not in NETWORK_KEYS:
            raise _unknown_key(key, NETWORK_KEYS)
    network = lab.networks[name]
    for key, value in pairs:
        if key == "adapter":
            await network.rebind(value)
            continue
        protocol, words = _forward_words(key, value)
        if key == "forward":
            await network.forward(words[0], words[1], protocol)
        else:
            await network.unforward(words[0], protocol)
    answer: dict[str, object] = {"network": name, "adapter": network.adapter.describe(), "state": network.state}
    if isinstance(network.adapter, UserSpec) and network.adapter.forwards:
        answer["forwards"] = [str(forward) for forward in network.adapter.forwards]
    return answer


def _forward_words(key: str, value: str) -> tuple[Literal["tcp", "udp"], list[str]]:
    """Read "8080 web:80" or "udp 5353 web:53", and the same without the guest."""
    words = value.split()
    protocol: Literal["tcp", "udp"] = "udp" if words[:1] == ["udp"] else "tcp"
    if words[:1] in (["tcp"], ["udp"]):
        words = words[1:]
    if len(words) != (2 if key == "forward" else 1):
        right = "forward='8080 web:80' or forward='udp 5353 web:53'" if key == "forward" else "unforward=8080"
        raise UsageError(f"{key}={value} is no forward: write {right}")
    return protocol, words


def _pair(setting: str) -> tuple[str, str]:
    if setting.lower() in _STATES:
        return "state", setting.lower()
    key, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(f"{setting!r} is no setting: write KEY=VALUE such as loss=5%, or up, or down")
    return key.strip().lower(), value.strip()


def find_link(lab: Lab, target: str) -> Link | None:
    """Find a link as ``vnet set`` names it; None if there is none, UsageError if there are several."""
    if target in lab.links:
        return lab.links[target]
    ends = {part.strip() for part in target.split(",")}
    node_of = {name: {port.name.split(":", 1)[0] for port in (link.a, link.b)} for name, link in lab.links.items()}
    if len(ends) == 2:
        between = [name for name, nodes in node_of.items() if nodes == ends]
    else:
        between = [
            name
            for name, link in lab.links.items()
            if link.a.name.split(":", 1)[0] == target and name.startswith(f"{target}:")
        ]
    if len(between) > 1:
        raise UsageError(f"{target!r} has several links: {', '.join(between)}; name one of them")
    return lab.links[between[0]] if between else None


def _find_port(lab: Lab, target: str) -> tuple[Switch, SwitchPort] | None:
    switch_name, _, name = target.partition(":")
    switch = lab.switches.get(switch_name)
    if switch is None:
        return None
    for port in switch.ports.values():
        if name in (str(port.number), port.name):
            return switch, port
    return None


def _change_link(link: Link, pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    changes: list[tuple[str, object]] = []
    for key, value in pairs:
        try:
            if key == "state":
                changes.append(("up", _state(value)))
            elif key == "rate":
                changes.append(("rate", None if value in ("", "none", "unlimited") else parse_rate(value)))
            elif key in ("latency", "delay_variation"):
                changes.append((key, parse_duration(value)))
            elif key in RATIOS:
                changes.append((key, parse_ratio(value)))
            elif key == "queue":
                changes.append(("queue", parse_size(value)))
            else:
                raise _unknown_key(key, LINK_KEYS)
        except ValueError as error:
            raise UsageError(str(error)) from error
    for attribute, new in changes:
        setattr(link, attribute, new)
    return {
        "link": link.name, "state": "up" if link.up else "down", "rate_bps": link.rate, "latency_s": link.latency / SECOND,
        "loss": link.loss, "queue_octets": link.queue, **show_impairments(link.impairments),
    }  # fmt: skip


def show_impairments(impairments: Impairments) -> dict[str, object]:
    """Tell the impairments that are set, loss aside."""
    told = {
        "delay_variation_s": impairments.delay_variation / SECOND,
        "reordering": impairments.reordering,
        "duplication": impairments.duplication,
        "corruption": impairments.corruption,
    }
    return {key: value for key, value in told.items() if value}


def _change_port(switch: Switch, port: SwitchPort, pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    for key, value in pairs:
        if key != "state":
            raise _unknown_key(key, PORT_KEYS)
        _state(value)
    for _, value in pairs:
        switch.set_enabled(port.number, _state(value))
    state = "up" if port.is_up else "down" if port.enabled else "disabled"
    return {"port": f"{switch.name}:{port.number}", "name": port.port.name, "state": state}


def _state(value: str) -> bool:
    if value.lower() not in _STATES:
        raise UsageError(f"{value!r} is no state: write up or down")
    return _STATES[value.lower()]


def _unknown_key(key: str, known: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return UsageError(f"there is no setting {key!r} here; {hint}")
