"""Whatever a topology file is, it is either a lab or refused in words; and the same file always makes the same lab."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.errors import TopologyError
from vnet.topology import check_text, parse_topology, resolve
from vnet.topology.graph import FORMATS, draw
from vnet.topology.reachability import expected
from vnet.topology.resolved import PortRef, ResolvedTopology

FOLDER = Path(__file__).parents[2]
SOURCES = [path.read_bytes() for path in sorted((FOLDER / "topologies").glob("*.yaml"))]
SOURCES += [path.read_bytes() for path in sorted((FOLDER / "tests" / "unit" / "topology" / "broken").glob("*.yaml"))]
WORDS = sorted({word for source in SOURCES for word in source.decode().replace(",", " ").split()})
TRICKS = ["&a ", "*a", "{", "}", "[", "]", ": ", "\n", "  ", "- ", "!!int ", "|\n", "'", '"', "~", "0x", "-1", "4095",
          "1e999", "99999999999999999999h", "::", "/0", "0.0.0.0", "255.255.255.255", "٣", "\t", "#", "%", "? "]  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(WORDS),
    st.binary(max_size=3),
)
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.integers(), inner, max_size=4),
    max_leaves=25,
)


def check(raw: str | bytes) -> ResolvedTopology | None:
    """Load, and use what was loaded in every way there is without running it."""
    try:
        lab = parse_topology(raw, "file.yaml")
    except TopologyError as error:
        assert error.problems
        assert all(problem.text and "\n" not in str(problem) for problem in error.problems), "each fits on a line"
        assert all(len(problem.text) < 1000 for problem in error.problems)
        return None
    assert_sound(lab)
    return lab


def assert_sound(lab: ResolvedTopology) -> None:
    macs = [interface.mac for _, interface in lab.endpoints()]
    macs += [network.dhcp.mac for network in lab.networks.values() if network.dhcp is not None]
    assert len(set(macs)) == len(macs)
    assert len({network.vid for network in lab.networks.values()}) == len(lab.networks)
    plugged = [interface.port for _, interface in lab.endpoints()]
    plugged += [network.dhcp.port for network in lab.networks.values() if network.dhcp is not None]
    plugged += [network.adapter_port for network in lab.networks.values() if network.adapter_port is not None]
    plugged += [end for link in lab.links for end in (link.a, link.b)]
    ports = [PortRef(switch.name, port.number) for switch in lab.switches.values() for port in switch.ports]
    assert sorted(map(str, plugged)) == sorted(map(str, ports))
    for network in lab.networks.values():
        if network.dhcp is not None:
            scope = network.dhcp
            assert scope.renew < scope.rebind < scope.lease
            assert scope.range_start in scope.subnet
            assert scope.range_end in scope.subnet
            assert not scope.range_start <= scope.server <= scope.range_end
    for format in FORMATS:
        assert draw(lab, format)
    expected(lab, "tcp", 80)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_octets(raw: bytes) -> None:
    check(raw)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_random_text(text: str) -> None:
    check(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS + TRICKS), max_size=60))
def test_random_words_of_the_language(words: list[str]) -> None:
    check("name: lab\n" + " ".join(words))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOURCES), st.randoms(use_true_random=False))
def test_mutated_files(source: bytes, randomness: random.Random) -> None:
    text = source.decode()
    for _ in range(randomness.randint(1, 4)):
        at = randomness.randrange(len(text) + 1)
        length = randomness.choice((0, 0, 1, 3, 12))
        new = randomness.choice(
            (randomness.choice(WORDS), randomness.choice(TRICKS), chr(randomness.randrange(32, 0x2FFF)), "")
        )
        text = text[:at] + new + text[at + length :]
    check(text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SOURCES), st.data())
def test_values_swapped_for_others(source: bytes, choice: st.DataObject) -> None:
    lines = source.decode().splitlines()
    at = choice.draw(st.integers(0, len(lines) - 1))
    word = choice.draw(st.sampled_from(WORDS + TRICKS))
    old = choice.draw(st.sampled_from(lines[at].split() or [""]))
    lines[at] = lines[at].replace(old, word, 1)
    check("\n".join(lines))


@settings(deadline=None)
@given(data)
def test_any_data_from_python(value: object) -> None:
    try:
        resolve(value)  # type: ignore[arg-type]
    except TopologyError as error:
        assert str(error)


@settings(deadline=None)
@given(st.sampled_from(["networks", "routers", "switches", "links", "guests"]), data)
def test_any_section_from_python(section: str, value: object) -> None:
    base: dict[str, object] = {
        "name": "lab",
        "networks": {"lan": {"subnet": "10.0.0.0/24", "dhcp": {}}},
        "guests": {"a": {"nics": ["lan"]}},
    }
    try:
        assert_sound(resolve({**base, section: value}))
    except TopologyError as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_labs_are_sound(choice: st.DataObject) -> None:
    """Build labs that are right, of random size, and see that they are accepted and sound."""
    count = choice.draw(st.integers(1, 6))
    networks = {
        f"net{n}": {
            "subnet": f"10.{n}.0.0/{choice.draw(st.integers(16, 27))}",
            **({"dhcp": {}} if choice.draw(st.booleans()) else {}),
        }
        for n in range(count)
    }
    switches = {f"s{n}": None for n in range(choice.draw(st.integers(1, 4)))}
    links = [{"between": [f"s{choice.draw(st.integers(0, n - 1))}", f"s{n}"]} for n in range(1, len(switches))]
    joined = choice.draw(st.lists(st.sampled_from(sorted(networks)), unique=True, max_size=4))
    routers = {"r": {"interfaces": {name: f"10.{name[3:]}.0.1" for name in joined}}} if joined else {}
    guests = {
        f"g{n}": {
            "switch": choice.draw(st.sampled_from(sorted(switches))),
            "nics": choice.draw(st.lists(st.sampled_from(sorted(networks)), max_size=3)),
        }
        for n in range(choice.draw(st.integers(1, 12)))
    }
    model = {"name": "lab", "networks": networks, "switches": switches, "links": links, "routers": routers, "guests": guests}
    lab = resolve(model)
    assert_sound(lab)
    assert lab == resolve(model)
    assert len(lab.guests) == len(guests)


def test_the_shipped_files_are_among_the_sources() -> None:
    loaded = [check(source) for source in SOURCES]
    assert sum(lab is not None for lab in loaded) >= 5
    assert check_text(SOURCES[0])[0] is not None
