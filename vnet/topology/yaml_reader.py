"""Read YAML as YAML 1.2 means it, with the place of every node, and with bounds on everything a file can grow.

PyYAML parses (into events); what the events mean is decided here, because its own constructors follow YAML 1.1, where
``52:54:00:12:34:56`` is a number in base 60 and ``no`` is false. Here plain scalars follow the core schema of YAML 1.2.2
(10.3.2) with one deviation: digits with a leading zero (``012``) stay text, because no two readers agree on what they are.
Keys are always text. Merge keys (``<<``) belong to YAML 1.1 and are ordinary keys here.

The event loop is iterative and aliases share one object, so neither deep nesting nor an "anchor bomb" can hurt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol, TypeAlias, final

import yaml

from vnet.topology.problems import Path, Place, Problems

MOST_OCTETS: Final = 1 << 20
"""A topology of a thousand guests is a tenth of this."""
DEEPEST: Final = 32
"""A topology needs seven levels."""
MOST_NODES: Final = 200_000
"""Nodes after aliases are written out: what a nest of aliases ("billion laughs") may grow to."""

Data: TypeAlias = "str | int | float | bool | list[Data] | dict[str, Data] | None"

_NULL: Final = re.compile(r"(null|Null|NULL|~|)")
_BOOL: Final = re.compile(r"(true|True|TRUE|false|False|FALSE)")
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_OCTAL: Final = re.compile(r"0o[0-7]{1,30}")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,30}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,60}|(0|[1-9][0-9]{0,30})(\.[0-9]{0,60})?)([eE][-+]?[0-9]{1,3})?")
_SPECIAL_FLOAT: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CORE: Final = "tag:yaml.org,2002:"
_FITS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),),
}  # fmt: skip

_TOO_DEEP: Final = f"nested more than {DEEPEST} levels deep; a topology needs seven"
_BRACKETS: Final = {"while parsing a flow mapping": "the closing }", "while parsing a flow sequence": "the closing ]"}

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@final
@dataclass(slots=True)
class Node:
    """A value with its place, and the places of its keys; ``size`` counts nodes as if aliases were written out."""

    place: Place
    data: Data
    keys: dict[str, Place] = field(default_factory=dict)
    children: dict[str | int, Node] = field(default_factory=dict)
    size: int = 1
    complete: bool = True


@final
class NodePlaces:
    """Looks paths up in the tree of nodes."""

    def __init__(self, root: Node) -> None:
        self.root = root

    def find(self, path: Path, *, key: bool) -> Place | None:
        """Return the place of the value at *path*, or of its key; of the nearest enclosing value if it is not there."""
        node, place = self.root, self.root.place
        for step in path:
            child = node.children.get(step)
            if child is None:
                return node.keys.get(str(step), place) if key else place
            place = node.keys.get(str(step), child.place) if key else child.place
            node = child
        return place


@final
class _Refused(Exception):
    """The file cannot be read any further; the problem is already noted."""


def read_yaml(raw: str | bytes, problems: Problems) -> Node | None:
    """Read one document; None (and at least one problem) if that cannot be done."""
    text = _decode(raw, problems)
    if text is None:
        return None
    try:
        return _compose(text, problems)
    except _Refused:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = _place(mark)
        if error.problem == "exceeded maximum nesting depth":  # newer C parsers look ahead, and stop before our own bound
            problems.at_place("too-deep", _TOO_DEEP, line, column)
        else:
            problems.at_place("yaml-syntax", _in_words(error, text, line), line, column)
    except (yaml.YAMLError, ValueError, UnicodeError) as error:
        problems.at_place("yaml-syntax", f"this is not YAML: {error}")
    return None


def _in_words(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    """Say what the parser complains of; its own words are about its grammar, and differ between PyYAML's two parsers."""
    lines = text.split("\n")
    if re.match(r"[ ]*\t", lines[line - 1] if line <= len(lines) else ""):
        return "a tab is not allowed here; indent with spaces, not with tabs"
    context, problem = error.context or "", error.problem or "cannot be parsed"
    since = f" (it began in line {error.context_mark.line + 1})" if error.context_mark is not None else ""
    if context == "while parsing a block mapping" or "document start" in problem:
        return "this line belongs to nothing above it; indent it like its neighbours"
    if context == "while parsing a block collection":
        return "this line is no item of the list above it; begin it with - or indent it like its neighbours"
    if problem.startswith("mapping values are not allowed"):
        return "a second ':' in one value; indent the line like its neighbours, or put the value in quotes"
    if context == "while scanning a simple key":
        return "a word without ':' before this line; write key: value, and indent it like its neighbours"
    if context in _BRACKETS:
        return f"a comma or {_BRACKETS[context]} is missing before this{since}"
    if context == "while scanning a quoted scalar" and "end of stream" in problem:
        return f"the quotes are never closed{since}"
    return f"this is not YAML: {context} {problem}".replace(":  ", ": ")


def _decode(raw: str | bytes, problems: Problems) -> str | None:
    if len(raw) > MOST_OCTETS:
        problems.at_place("file-too-big", f"the file is larger than {MOST_OCTETS >> 10} KiB; this is no topology file")
        return None
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
            problems.at_place("not-text", "this is not UTF-8 text; save the file as UTF-8", line, column)
            return None
    else:
        text = raw.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        problems.at_place("not-text", f"the character U+{ord(bad[0]):04X} may not stand in YAML; remove it", line, column)
        return None
    return text


class _Mark(Protocol):
    """What PyYAML's two parsers call a place; both count from 0."""

    line: int
    column: int


def _place(mark: _Mark | None) -> Place:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _compose(text: str, problems: Problems) -> Node:
    """Build the tree of nodes from the parser's events."""
    builder = _Builder(problems)
    for event in yaml.parse(text, Loader=_LOADER):
        builder.take(event)
    if builder.root is None:
        problems.at_place("empty-file", "there is nothing in it; start with a line such as `name: my-lab`", 1, 1)
        raise _Refused
    return builder.root


@final
class _Builder:
    """Takes events one by one; the collections that are still open are on a stack."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.root: Node | None = None
        self.anchors: dict[str, Node] = {}
        self.open: list[Node] = []
        self.pending: list[tuple[str, Place] | None] = []
        """For each open collection the key that waits for its value."""

    def take(self, event: yaml.Event) -> None:
        """Act on one event."""
        place = _place(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                if self.root is not None:
                    self._refuse("many-documents", "a second document starts here; put one topology in one file", place)
            case yaml.AliasEvent():
                self._alias(event.anchor, place)
            case yaml.ScalarEvent():
                self._scalar(event, place)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event, place)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                node = self.open.pop()
                self.pending.pop()
                node.complete = True
                self._grow(node)
            case _:
                pass

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, place: Place) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if len(self.open) >= DEEPEST:
            self._refuse("too-deep", _TOO_DEEP, place)
        if self._awaits_key():
            self._refuse("bad-key", "a key has to be a word, not a list or a mapping", place)
        if event.tag not in (None, "!", _CORE + ("map" if mapping else "seq")):
            self.problems.at_place("yaml-tag", f"the tag {event.tag!r} means nothing here; remove it", *place)
        empty: Data = {} if mapping else []
        node = Node(place, empty, complete=False)
        self._anchor(event.anchor, node)
        self._attach(node, place)
        self.open.append(node)
        self.pending.append(None)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        if self._awaits_key():
            self.pending[-1] = (event.value, place)
            self._anchor(event.anchor, Node(place, event.value))
            return
        node = Node(place, self._value(event, place))
        self._anchor(event.anchor, node)
        self._attach(node, place)

    def _alias(self, anchor: str | None, place: Place) -> None:
        node = self.anchors.get(anchor or "")
        if node is None:
            self._refuse("unknown-anchor", f"nothing is called &{anchor} above", place)
        if not node.complete:
            self._refuse("recursive-alias", f"*{anchor} contains itself", place)
        if self._awaits_key():
            if not isinstance(node.data, str):
                self._refuse("bad-key", "a key has to be a word, not a list or a mapping", place)
            self.pending[-1] = (node.data, place)
            return
        self._attach(node, place)
        if self.open and sum(open_node.size for open_node in self.open) > MOST_NODES:
            self._refuse("too-many-nodes", "the aliases repeat too much; write out what is meant", place)

    def _attach(self, node: Node, place: Place) -> None:
        """Put a node where the parser stands; collections join their parent before they are filled."""
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if isinstance(parent.data, list):
            parent.children[len(parent.data)] = node
            parent.data.append(node.data)
        elif isinstance(parent.data, dict):
            waiting = self.pending[-1]
            assert waiting is not None, "the parser gives a key before each value"
            key, key_place = waiting
            self.pending[-1] = None
            if key in parent.data:
                text = f"{key!r} stands here a second time (first in line {parent.keys[key][0]})"
                self.problems.at_place("duplicate-key", text, *key_place)
                return
            parent.data[key] = node.data
            parent.keys[key] = key_place
            parent.children[key] = node
        if node.complete:
            parent.size += node.size

    def _grow(self, node: Node) -> None:
        if self.open:
            self.open[-1].size += node.size
        if node.size > MOST_NODES:
            self._refuse("too-many-nodes", "the file has too many values; this is no topology file", node.place)

    def _awaits_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].data, dict) and self.pending[-1] is None

    def _anchor(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self.anchors[anchor] = node

    def _value(self, event: yaml.ScalarEvent, place: Place) -> Data:
        kind = event.tag.removeprefix(_CORE) if event.tag else None
        if kind in ("str", "!") or (kind is None and not event.implicit[0]):
            return event.value
        value = read_scalar(event.value)
        if kind is not None:
            if kind not in _FITS:
                self.problems.at_place("yaml-tag", f"the tag {event.tag!r} means nothing here; remove it", *place)
            elif type(value) not in _FITS[kind]:
                self.problems.at_place("yaml-tag", f"{event.value[:40]!r} is no {kind}", *place)
        return value

    def _refuse(self, code: str, text: str, place: Place) -> NoReturn:
        self.problems.at_place(code, text, *place)
        raise _Refused


def read_scalar(text: str) -> str | int | float | bool | None:
    """Read a plain scalar by the core schema (YAML 1.2.2, 10.3.2); numbers longer than any sensible one stay text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1).lower())
    return text
