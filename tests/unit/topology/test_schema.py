"""The JSON Schema accepts what the loader accepts, and says what is wrong with what it does not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from vnet.topology import check_topology
from vnet.topology.problems import Problems
from vnet.topology.schema import topology_schema
from vnet.topology.yaml_reader import read_yaml

SHIPPED = sorted((Path(__file__).parents[3] / "topologies").glob("*.yaml"))
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
FORM = {"unknown-key", "wrong-type", "missing-key", "unknown-word"}


@cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(topology_schema())


def data_of(path: Path) -> object:
    root = read_yaml(path.read_bytes(), Problems())
    return None if root is None else root.data


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(topology_schema())
    assert json.dumps(topology_schema()) == json.dumps(topology_schema())
    for example in topology_schema()["examples"]:  # type: ignore[union-attr]
        validator().validate(example)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_topologies_are_valid(path: Path) -> None:
    validator().validate(data_of(path))


@pytest.mark.parametrize("path", [path for path in BROKEN if data_of(path) is not None], ids=lambda path: path.stem)
def test_it_agrees_with_the_loader_about_form(path: Path) -> None:
    data = data_of(path)
    codes = {problem.code for problem in check_topology(path)[1]}
    valid = validator().is_valid(data)
    if codes & FORM:
        assert not valid
    elif not codes & {"bad-duration", "bad-rate", "bad-mac", "bad-link", "yaml-tag"}:  # these have a form in the schema too
        problems = [error.message for error in validator().iter_errors(data)]
        assert valid, problems


def test_every_key_is_described() -> None:
    for name, definition in topology_schema()["$defs"].items():  # type: ignore[union-attr]
        assert definition.get("description"), name
        assert definition["additionalProperties"] is False
        for key, schema in definition["properties"].items():
            text = json.dumps(schema)
            assert "description" in text or "$ref" in text, f"{name}.{key}"
