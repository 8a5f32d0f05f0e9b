"""The documentation says what is so: code runs, topologies are right; commands, options, keys and links exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from inspect import iscoroutine
from pathlib import Path
from typing import NamedTuple

import click
import jsonschema
import pytest
import trio
import yaml

import vnet
from vnet.cli.main import cli, run
from vnet.links.direction import DEFAULT_QUEUE
from vnet.stack.bond import BondConfig
from vnet.topology import check_text, parse_topology
from vnet.topology.schema import topology_schema
from vnet.units import parse_duration, parse_size

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CABLE = {
    "rate", "latency", "delay_variation", "loss", "reordering", "duplication", "corruption", "queue",
}  # fmt: skip
OFFLINE = ("check", "graph", "schema", "completion")
"""Commands whose shown output is compared with the real one, beside ``up --simulate`` and wrong use."""


class Block(NamedTuple):
    """A fenced block: its page, line, language and the word behind that."""

    page: Path
    line: int
    language: str
    word: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\w+) ?(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if match[1] in languages:
                found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2], match[3]))
    return found


def name_of(block: Block) -> str:
    return f"{block.page.name}-{block.line}"


TOPOLOGIES = blocks("yaml")
PYTHON = [block for block in blocks("python") if block.word != "live"]
TESTS = [block for block in PYTHON if "def test_" in block.text]
SCRIPTS = [block for block in PYTHON if "def test_" not in block.text]


def topology_name(block: Block) -> str:
    return str(yaml.safe_load(block.text)["name"])


def lay_out(directory: Path) -> None:
    """Put every topology of the docs where examples look for it, and those that are shipped beside them."""
    for shipped in (*(ROOT / "topologies").glob("*.yaml"), *(ROOT / "topologies").glob("*.py")):
        (directory / shipped.name).write_bytes(shipped.read_bytes())
    for block in TOPOLOGIES:
        (directory / f"{topology_name(block)}.yaml").write_text(block.text)


# -- code and topologies


@pytest.mark.parametrize("block", TOPOLOGIES, ids=name_of)
def test_topologies_are_right(block: Block) -> None:
    resolved, problems = check_text(block.text, name_of(block))
    assert resolved is not None and not problems, [str(problem) for problem in problems]


def test_topologies_of_one_name_are_one_topology() -> None:
    seen: dict[str, object] = {}
    for block in TOPOLOGIES:
        name, resolved = topology_name(block), parse_topology(block.text)
        assert seen.setdefault(name, resolved) == resolved, f"{name_of(block)}: another {name} than before"


@pytest.mark.parametrize("block", SCRIPTS, ids=name_of)
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block about ``lab`` that opens none is run inside the lab ``two-rooms``, any other as a script."""
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = compile(block.text, name_of(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"__name__": "__main__", "vnet": vnet, "trio": trio}

    async def inside() -> None:
        async with vnet.open_lab("two-rooms.yaml") as lab:
            await lab.wait_up()
            names["lab"] = lab
            result = eval(code, names)
            if iscoroutine(result):
                await result

    if re.search(r"\blab\.", block.text) and "open_lab" not in block.text:
        vnet.simulate(inside)
    else:
        assert eval(code, names) is None


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.word == "live"], ids=name_of)
def test_python_blocks_for_live_labs_compile(block: Block) -> None:
    compile(block.text, name_of(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_example_tests_pass_and_are_short(pytester: pytest.Pytester) -> None:
    lay_out(pytester.path)
    for number, block in enumerate(TESTS):
        assert block.text.count("\n") < 25, f"{name_of(block)} is too long to copy"
        (pytester.path / f"test_{number:02}_{block.page.stem}_{block.line}.py").write_text(block.text)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q", "-rs")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= len(TESTS) - 1 and set(outcomes) <= {"passed", "skipped"}, result.stdout.str()
    assert outcomes.get("skipped", 0) == sum("pytest.skip(" in block.text for block in TESTS)


# -- links


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


def test_links_lead_somewhere() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    pages = {*PAGES, *(ROOT / name for name in tracked.split() if (ROOT / name).exists())}
    broken = []
    for page in sorted(pages):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
            if "://" in target:
                continue
            path = (page.parent / target).resolve() if target else page
            if not path.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and anchor not in {slug(head) for head in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}:
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert not broken


# -- keys of the format


class Row(NamedTuple):
    """A key of a table in topology.md."""

    meaning: str
    default: str
    example: str


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def key_tables() -> dict[str, dict[str, Row]]:
    """Read the tables behind ``<!-- keys: NAME -->``; a row of several keys refers to another table."""
    tables: dict[str, dict[str, Row]] = {}
    text = (ROOT / "docs/topology.md").read_text()
    for name, table in re.findall(r"<!-- keys: (\w+) -->\n\n((?:\|.*\n)+)", text):
        rows = [cells(line) for line in table.splitlines()[2:]]
        tables[name] = {key: Row(*row[1:]) for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    return tables


TABLES = key_tables()
SCHEMA = topology_schema()
DEFINITIONS: dict[str, dict] = SCHEMA["$defs"]  # type: ignore[assignment]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_key_is_documented_and_no_other(definition: str) -> None:
    assert set(TABLES[definition]) == set(DEFINITIONS[definition]["properties"])


def test_cables_are_documented_once() -> None:
    assert set(TABLES["Impaired"]) == CABLE
    assert all(TABLES[name][key].meaning == "see [cables](#cables)" for name in ("Link", "Nic") for key in CABLE)


def documented_keys() -> Iterator[tuple[str, str, Row]]:
    for name, rows in TABLES.items():
        for key, row in rows.items():
            if row.example:
                yield name, key, row


@pytest.mark.parametrize(
    ("name", "key", "row"), list(documented_keys()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_key_has_a_meaning_and_an_example_that_fits(name: str, key: str, row: Row) -> None:
    example = yaml.safe_load(row.example.strip("`"))
    assert row.meaning and row.default and list(example) == [key]
    properties = DEFINITIONS["Link" if name == "Impaired" else name]["properties"]
    jsonschema.Draft202012Validator({**properties[key], "$defs": DEFINITIONS}).validate(example[key])
    required = key in DEFINITIONS.get(name, {}).get("required", ())
    assert row.default.startswith("must be given") or not required


def test_stated_defaults_are_those_that_are_used() -> None:
    lab = parse_topology(
        "{name: d, networks: {in: {subnet: 10.0.0.0/24, dhcp: {}}, out: {subnet: 10.0.1.0/24}},"
        " routers: {r: {interfaces: {in: 10.0.0.1/24, out: 10.0.1.1/24}, nat: {outside: out, inside: [in]}, firewall: {}}},"
        " guests: {g: {nics: [in]}}}"
    )
    (switch,) = lab.switches.values()
    nat, firewall = lab.routers["r"].nat, lab.routers["r"].firewall
    scope, nic = lab.networks["in"].dhcp, lab.guests["g"].interfaces[0]
    assert nat is not None and firewall is not None and scope is not None

    def stated(table: str, key: str) -> str:
        return TABLES[table][key].default.strip("`")

    assert stated("Topology", "profile") == lab.profile and stated("Topology", "switches") == f"one, called `{switch.name}"
    assert lab.networks["in"].vid == 101 and "101" in stated("Network", "vlan")
    assert stated("Network", "adapter") == lab.networks["in"].adapter.kind
    assert parse_duration(stated("Dhcp", "lease")) == scope.lease
    assert (scope.renew, scope.rebind) == (scope.lease // 2, scope.lease * 3 // 4)
    assert scope.range_start.packed[3] == 16 and ".16" in stated("Dhcp", "range")
    assert parse_size(stated("Impaired", "queue")) == DEFAULT_QUEUE
    assert parse_duration(stated("Switch", "ageing")) == switch.ageing
    for key in ("fdb_size", "mtu", "priority"):
        assert int(stated("Switch", key)) == getattr(switch, key)
    for key in ("udp", "tcp_established", "tcp_transitory", "icmp"):
        assert parse_duration(stated("NatTimeouts", key)) == getattr(nat.timeouts, key)
    assert stated("Nat", "hairpin") == str(nat.hairpin).lower() and stated("Firewall", "policy") == firewall.policy
    assert int(stated("Nic", "mtu")) == int(stated("RouterInterface", "mtu")) == nic.mtu
    bond = BondConfig()
    assert parse_duration(stated("Bond", "miimon").partition("`")[0]) == bond.miimon
    assert int(stated("Bond", "num_grat_arp")) == bond.num_grat_arp
    assert stated("Bond", "primary_reselect") == bond.primary_reselect
    assert parse_duration(stated("Bond", "updelay")) == bond.updelay and parse_duration(stated("Bond", "downdelay")) == 0
    assert stated("Guest", "kind") == lab.guests["g"].kind and stated("Nic", "name").startswith(nic.name)


# -- commands


def commands() -> dict[str, click.Command]:
    assert isinstance(cli, click.Group)
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def visible_options(command: click.Command) -> set[str]:
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def command_sections() -> dict[str, str]:
    text = (ROOT / "docs/commands.md").read_text()
    parts = re.split(r"^## vnet (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section_and_no_other() -> None:
    assert list(command_sections()) == list(commands())


@pytest.mark.parametrize("name", commands())
def test_every_option_is_documented_and_no_other(name: str) -> None:
    section = command_sections()[name]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| `-")]
    documented = {option for row in rows for option in re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", row[0])}
    assert documented == visible_options(commands()[name])
    assert "Exit status" in section and "```console" in section


def command_lines() -> list[tuple[str, str]]:
    """Find every line that calls vnet in blocks of shell and console, and in code within the text."""
    found = []
    for block in blocks("sh", "console"):
        for line in block.text.splitlines():
            line = line.split("  #")[0].removeprefix("$ ").strip()
            if block.language == "sh" or "$ " in block.text:
                for part in re.split(r"\|\||&&|[|;&]", line.replace("2>&1", "")):
                    words = re.sub(r"[<>].*", "", part).strip().removeprefix("sudo ").removeprefix(".venv/bin/")
                    if words.startswith("vnet ") and (block.language == "sh" or f"$ {line}" in block.text):
                        found.append((name_of(block), words))
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += [(page.name, text) for text in re.findall(r"`(vnet [a-z][^`]*)`", prose)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("where", "line"), command_lines())
def test_command_lines_are_understood(where: str, line: str) -> None:
    """The command is there, and takes the options; arguments may be left out in the text."""
    name, *arguments = [word for word in shlex.split(line)[1:] if word not in ("...", "…")]
    if name == "shwo":  # the mistake that commands.md shows
        return
    command = commands()[name]
    if not arguments:
        return
    context = click.Context(
        command, info_name=name, ignore_unknown_options=name == "exec", allow_interspersed_args=name != "exec"
    )
    command.make_parser(context).parse_args(list(arguments))
    for argument in arguments:
        if argument.startswith("topologies/"):
            assert (ROOT / argument).is_file()


def transcripts() -> list[tuple[str, str, str]]:
    """Split console blocks into commands and what they print."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            words = line.split()
            wrong = "shwo" in words or "nosuch.yaml" in words
            if output and (words[1] in OFFLINE or "--simulate" in words or wrong) and "..." not in output:
                found.append((name_of(block), line, output))
    return found


@pytest.mark.parametrize(("where", "line", "output"), transcripts())
def test_shown_output_is_real(
    where: str, line: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path)
    two_rooms = (tmp_path / "two-rooms.yaml").read_text()
    (tmp_path / "broken.yaml").write_text(
        two_rooms.replace("10.20.100.10/24", "10.20.101.10/24").replace("firewall", "firewal")
    )
    monkeypatch.chdir(tmp_path)
    run(shlex.split(line)[1:])
    out, err = capfd.readouterr()
    assert [text.rstrip() for text in (err + out).splitlines()] == output.rstrip("\n").splitlines()


def test_transcripts_are_found() -> None:
    """A change of the blocks' form must not switch the tests above off."""
    assert len(transcripts()) >= 5 and len(command_lines()) >= 40 and len(TESTS) >= 10 and len(SCRIPTS) >= 5


@pytest.mark.parametrize("words", [["ping", "a", "-c", "3"], ["-c", 'import x; x.do("/")\nprint(x)'], ["it's", "", "$HOME"]])
def test_what_the_demo_prints_can_be_pasted(words: list[str]) -> None:
    script = (ROOT / "tools" / "demo").read_text()
    function = script[script.index("run() {") : script.index("\n}\n") + 3]
    shown = subprocess.run(
        ["sh", "-c", f'{function}run true "$@"', "sh", *words], capture_output=True, text=True, check=True
    )
    assert shlex.split(shown.stdout.removeprefix("\n$ ")) == ["true", *words]
