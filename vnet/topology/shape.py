"""Give plain data the shape of the model, and say everything that does not fit.

``msgspec.convert`` stops at the first mistake and knows no places, so the model's types (as msgspec sees them) are walked
here.
What cannot be used is left out after its problem was noted, and the rest goes on to ``resolve``: one run reports all.
A key or word that is nearly right is taken for the right one, so that only the typing mistake is reported and not what
would follow from it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final, TypeAlias, TypeVar, final, get_args

import msgspec
from msgspec import inspect

from vnet.topology.adapter_kinds.choice import Adapter, AdapterChoice, AdapterWord
from vnet.topology.model import Topology
from vnet.topology.problems import Path, Problems, nearest, suggestion

T = TypeVar("T")

_Kinds: TypeAlias = tuple[inspect.Type, ...]
_ADDRESSES: Final = (
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
)  # fmt: skip


@final
class _Bad:
    """Stands for a value that could not be used."""


_BAD: Final = _Bad()
_SURE: Final = 0.7
"""How alike two keys have to be for one to be taken for the other; to suggest it, less is enough."""


@final
class Sparse(list[T]):
    """A list from which unusable items were left out; ``indexes`` are those of the others in the file."""

    __slots__ = ("indexes",)

    def __init__(self, numbered: list[tuple[int, T]]) -> None:
        super().__init__(item for _, item in numbered)
        self.indexes = [index for index, _ in numbered]


def numbered(items: list[T]) -> list[tuple[int, T]]:
    """Pair items with their indexes in the file."""
    return list(zip(items.indexes, items, strict=True)) if isinstance(items, Sparse) else list(enumerate(items))


def placed(value: str | list[str] | None, path: Path) -> list[tuple[Path, str]]:
    """Pair one text, several or none with the places where they stand."""
    return [(path, value)] if isinstance(value, str) else [((*path, index), text) for index, text in numbered(value or [])]


def shape_topology(data: object, problems: Problems) -> Topology | None:
    """Make a ``Topology`` of plain data or of structs; None if there is nothing to go on with."""
    shaped = _struct(data, _TOPOLOGY, (), problems)
    return shaped if isinstance(shaped, Topology) else None


def shape_adapter(data: object, problems: Problems) -> AdapterWord | Adapter | None:
    """Make a network's adapter of plain data or of a struct; None if it is neither a word nor a mapping of that shape."""
    shaped = _shape(data, _ADAPTER, ("adapter",), problems)
    if isinstance(shaped, Adapter):
        return shaped
    return next((word for word in get_args(AdapterWord) if word == shaped), None)


def _model() -> inspect.StructType:
    kind = inspect.type_info(Topology)
    assert isinstance(kind, inspect.StructType)
    return kind


_TOPOLOGY: Final = _model()
_ADAPTER: Final = inspect.type_info(AdapterChoice)
_KINDS: Final[dict[int, _Kinds]] = {}
"""By the identity of types that ``_TOPOLOGY`` keeps alive."""


def _kinds(kind: inspect.Type) -> _Kinds:
    """List the alternatives of a type, without descriptions."""
    if (known := _KINDS.get(id(kind))) is not None:
        return known
    plain = kind
    while isinstance(plain, inspect.Metadata):
        plain = plain.type
    parts = plain.types if isinstance(plain, inspect.UnionType) else ()
    kinds = tuple(alternative for part in parts for alternative in _kinds(part)) or (plain,)
    _KINDS[id(kind)] = kinds
    return kinds


def _shape(data: object, kind: inspect.Type, path: Path, problems: Problems) -> object:
    kinds = _kinds(kind)
    if isinstance(data, _ADDRESSES):
        data = str(data)
    for alternative in kinds:
        match alternative:
            case inspect.NoneType() if data is None:
                return None
            case inspect.LiteralType() if isinstance(data, str) and data in alternative.values:
                return data
            case inspect.StrType() if isinstance(data, str):
                return data
            case inspect.BoolType() if isinstance(data, bool):
                return data
            case inspect.IntType() if isinstance(data, int) and not isinstance(data, bool):
                return data
            case inspect.FloatType() if isinstance(data, int | float) and not isinstance(data, bool):
                return float(data)
            case inspect.ListType() if isinstance(data, list | tuple):
                return _list(data, alternative, path, problems)
            case inspect.StructType() if isinstance(data, Mapping | msgspec.Struct):
                return _struct(data, alternative, path, problems)
            case inspect.DictType() if isinstance(data, Mapping):
                return _dict(data, alternative, path, problems)
            case _:
                pass
    _mismatch(data, kinds, path, problems, _wanted(kind))
    problems.blame(path)
    meant = nearest(data, _words(kinds)) if isinstance(data, str) else None
    return _BAD if meant is None else meant


def _accepts(data: object, kind: inspect.Type) -> bool:
    """Tell whether a value is roughly of a kind: a mapping, a list, or something simple."""

    def rough(alternative: inspect.Type) -> str:
        match alternative:
            case inspect.ListType():
                return "list"
            case inspect.StructType() | inspect.DictType():
                return "mapping"
            case _:
                return "simple"

    found = (
        "list" if isinstance(data, list | tuple) else "mapping" if isinstance(data, Mapping | msgspec.Struct) else "simple"
    )
    return found in {rough(each) for each in _kinds(kind) if not isinstance(each, inspect.NoneType)}


def _list(data: list[object] | tuple[object, ...], kind: inspect.ListType, path: Path, problems: Problems) -> object:
    shaped = [(index, _shape(item, kind.item_type, (*path, index), problems)) for index, item in enumerate(data)]
    if all(item is not _BAD for _, item in shaped):
        return [item for _, item in shaped]
    return Sparse([(index, item) for index, item in shaped if item is not _BAD])


def _dict(data: Mapping[object, object], kind: inspect.DictType, path: Path, problems: Problems) -> object:
    nothing_will_do = any(isinstance(alternative, inspect.NoneType) for alternative in _kinds(kind.value_type))
    shaped: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str):
            problems.error("wrong-type", path, f"the key {key!r} has to be text")
            continue
        item = _shape(value, kind.value_type, (*path, key), problems)
        if item is not _BAD:
            shaped[key] = item
        elif nothing_will_do:
            shaped[key] = None  # so that what refers to it is not blamed as well
    return shaped


def _struct(data: object, kind: inspect.StructType, path: Path, problems: Problems) -> object:
    if isinstance(data, msgspec.Struct):
        data = {field.encode_name: getattr(data, field.name) for field in msgspec.structs.fields(data)}
    if not isinstance(data, Mapping):
        _mismatch(data, (kind,), path, problems)
        return _BAD
    known = [field.encode_name for field in kind.fields]
    meant = _misspelt(data, kind, path, problems)
    for key in data:
        if key not in known:
            text = f"{key!r} is not a key of {_name(kind)}; {suggestion(str(key), known)}"
            problems.error("unknown-key", (*path, str(key)), text, key=True)
    arguments: dict[str, object] = {}
    complete = True
    for field in kind.fields:
        given = data.get(meant.get(field.encode_name, field.encode_name))
        if given is None:  # `key:` with nothing behind it is as good as no key
            if field.required and problems.blamed((*path, field.encode_name)):
                complete = False
            elif field.required:
                problems.error("missing-key", path, f"{_name(kind)} needs {field.encode_name!r}")
                complete = False
            continue
        value = _shape(given, field.type, (*path, field.encode_name), problems)
        if value is not _BAD:
            arguments[field.name] = value
        elif field.required:
            complete = False
    if kind.cls is Topology:  # without a good name there is still a lot to check
        arguments.setdefault("name", "lab")
        complete = True
    return kind.cls(**arguments) if complete else _BAD


def _misspelt(data: Mapping[object, object], kind: inspect.StructType, path: Path, problems: Problems) -> dict[str, object]:
    """Find the keys that are not there and those that stand for them.

    Where an unknown key resembles none, it may stand for any that is missing; they are all blamed. (A simple value at the
    top stands for no section.)
    """
    fields = {field.encode_name: field.type for field in kind.fields}
    meant: dict[str, object] = {}
    for key in data:
        if key in fields:
            continue
        match = nearest(str(key), fields, _SURE)
        if match is not None and match not in meant and data.get(match) is None and _accepts(data[key], fields[match]):
            meant[match] = key
            problems.rename((*path, match), str(key))
        elif kind.cls is not Topology or isinstance(data[key], Mapping | list):
            for missing in fields.keys() - data.keys():
                problems.blame((*path, missing))
    return meant


_NAMES: Final[Mapping[str, str]] = {
    "Dhcp": "a network's dhcp", "Nat": "a router's nat", "NatTimeouts": "nat timeouts", "Nic": "a NIC",
    "Rule": "an allow rule", "Firewall": "a router's firewall", "Forward": "a port forward",
    "Program": "a program", "Echo": "program echo", "Http": "program http", "Dns": "program dns", "Sink": "program sink",
    "Iperf3": "program iperf3", "Iperf3Client": "program iperf3_client", "Traffic": "program traffic",
    "Adapter": "an adapter", "Loopback": "a loopback adapter", "Bridge": "a bridge adapter",
    "Stream": "a stream adapter", "Dgram": "a dgram adapter",
    "Vxlan": "a vxlan adapter", "Geneve": "a geneve adapter", "Udp": "a udp adapter", "Vde": "a vde adapter",
    "VhostUser": "a vhost_user adapter", "Gvproxy": "a gvproxy adapter",
    "Pcap": "a pcap adapter", "RouterInterface": "a router's interface", "SubInterface": "a VLAN sub-interface",
    "BondMember": "a bond's member (which has a cable; addresses stand with the bond)",
    "Topology": "a topology",
}  # fmt: skip


def _name(kind: inspect.StructType) -> str:
    return _NAMES.get(kind.cls.__name__, f"a {kind.cls.__name__.lower()}")


def _wanted(kind: inspect.Type) -> str:
    """Return the description of text that has a form, such as a rate; empty for text of any form."""
    if isinstance(kind, inspect.UnionType):
        return next((wanted for part in kind.types if (wanted := _wanted(part))), "")
    if isinstance(kind, inspect.Metadata):
        if isinstance(kind.type, inspect.StrType) and kind.type.pattern is not None:
            description = str((kind.extra_json_schema or {}).get("description", ""))
            return description[:1].lower() + description[1:].rstrip(".")
        return _wanted(kind.type)
    return ""


def _words(kinds: _Kinds) -> list[str]:
    return [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]


def _mismatch(data: object, kinds: _Kinds, path: Path, problems: Problems, wanted: str = "") -> None:
    words = _words(kinds)
    if isinstance(data, str) and words:
        others = [_expected(kind) for kind in kinds if not isinstance(kind, inspect.LiteralType | inspect.NoneType)]
        choice = " or ".join([", ".join(words), *others])
        match = suggestion(data, words)
        hint = f"; {match}" if match.startswith("did you") else ""
        problems.error("unknown-word", path, f"{data!r} is not one of: {choice}{hint}")
        return
    expected = " or ".join(dict.fromkeys(_expected(kind) for kind in kinds if not isinstance(kind, inspect.NoneType)))
    hint = ""
    if isinstance(data, bool | int | float) and any(isinstance(kind, inspect.StrType) for kind in kinds):
        hint = f"; write {wanted}" if wanted else "; put it in quotes if it is meant as text"
    if data is True and any(isinstance(kind, inspect.StructType) for kind in kinds):
        hint = "; {} turns it on with all its defaults"
    problems.error("wrong-type", path, f"expected {expected}, got {_found(data)}{hint}")


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType():
            return " or ".join(repr(value) for value in kind.values)
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType():
            return "a list"
        case _:
            return "a mapping"


def _found(data: object) -> str:
    match data:
        case None:
            return "nothing"
        case bool():
            return "true" if data else "false"
        case int() | float():
            return f"the number {data!r}"[:60]
        case str():
            return f"the text {data[:40]!r}"
        case list() | tuple():
            return "a list"
        case Mapping() | msgspec.Struct():
            return "a mapping"
        case _:
            return f"a {type(data).__name__}"
