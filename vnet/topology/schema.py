"""The JSON Schema of topology files (draft 2020-12), made from the model, for editors and for other tools.

It describes form only: that names refer to something and that addresses fit is what ``vnet check`` is for.
"""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import msgspec

from vnet.topology.model import Topology

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_MAY_BE_EMPTY: Final = "null"
_EXAMPLE: Final[dict[str, Json]] = {
    "name": "two-hosts",
    "networks": {"lan": {"subnet": "10.20.100.0/24", "dhcp": {}}},
    "guests": {"a": {"nics": ["lan"]}, "b": {"nics": ["lan"]}},
}


def topology_schema() -> dict[str, Json]:
    """Return the schema as plain data, in the same order every time."""
    generated = cast("dict[str, Json]", msgspec.json.schema(Topology))
    definitions = cast("dict[str, dict[str, Json]]", generated["$defs"])
    for definition in definitions.values():
        _tidy(definition)
    return {
        "$schema": DIALECT,
        "title": "vnet topology",
        "description": "A lab for vnet: networks, routers, switches, links and guests.",
        "examples": [_EXAMPLE],
        "$ref": generated["$ref"],
        "$defs": dict(sorted(definitions.items())),
    }


def _tidy(definition: dict[str, Json]) -> None:
    """Allow what the loader allows: ``key:`` with nothing behind it is as good as no key."""
    properties = cast("dict[str, dict[str, Json]]", definition.get("properties", {}))
    required = cast("list[str]", definition.get("required", []))
    for name, schema in properties.items():
        if schema.get("default", 0) is None:
            del schema["default"]  # "not given" is described in words; null would only puzzle
        if name not in required:
            properties[name] = _or_null(schema)


def _or_null(schema: dict[str, Json]) -> dict[str, Json]:
    if "anyOf" in schema:
        alternatives = cast("list[Json]", schema["anyOf"])
        if {"type": _MAY_BE_EMPTY} in alternatives:
            return schema
        return {**schema, "anyOf": [*alternatives, {"type": _MAY_BE_EMPTY}]}
    if "enum" in schema:
        return {**schema, "enum": [*cast("list[Json]", schema["enum"]), None]}
    kept = {key: value for key, value in schema.items() if key in ("description", "default")}
    rest = {key: value for key, value in schema.items() if key not in kept}
    return {**kept, "anyOf": [rest, {"type": _MAY_BE_EMPTY}]}
