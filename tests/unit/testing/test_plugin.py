"""The pytest plugin, as its users see it: projects of their own, run by a pytest of their own.

Most of those run in this process, where all that they need has been imported. A process of its own, a second each, is for
what only that can show: that pytest finds the plugin, workers of pytest-xdist, the debugger.
"""

import json
import pdb

import pytest

# what the plugin imports when a lab is made: imported within a run of pytester's, it would be forgotten after it
import vnet.runtime.lab
import vnet.runtime.programs
import vnet.runtime.views
import vnet.testing.coverage  # noqa: F401

pytest_plugins = ["pytester"]

TOPOLOGY = """
name: tiny
networks:
  lan: {subnet: 10.0.0.0/24, dhcp: {}}
guests:
  a: {nics: [lan]}
  b: {nics: [lan]}
"""


@pytest.fixture
def project(pytester):
    pytester.makefile(".yaml", tiny=TOPOLOGY)
    return pytester


def run(project, *arguments):
    """Run pytest in this process: no module of the project may have the name of one of our own."""
    return project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def run_apart(project, *arguments):
    """Run pytest in a process of its own, without the plugins that take half of its time and have no part in this."""
    unused = ("cacheprovider", "trio", "anyio", "hypothesispytest", "timeout")
    return project.runpytest_subprocess(*(f"-pno:{name}" for name in unused), *arguments)


def test_a_test_gets_a_lab_that_is_up_in_virtual_time(project):
    project.makepyfile(
        """
        import pytest, trio

        @pytest.mark.vnet("tiny.yaml")
        async def test_it(lab, tmp_path):
            assert tmp_path.is_dir()
            assert str(lab.guests["a"].address).startswith("10.0.0.")
            assert (await lab.ping("a", "b")).ok
            await trio.sleep(24 * 3600)
            assert lab.now > 24 * 3600
        """
    )
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)  # with all plugins that there are


def test_a_failure_leaves_a_capture_the_events_and_the_way_to_see_it_again(project):
    project.makepyfile(
        test_sad="""
        import pytest

        @pytest.mark.vnet("tiny.yaml")
        async def test_sad(lab):
            await lab.ping("a", "b")
            assert lab.seed != 5
        """
    )
    result = run(project, "--vnet-seed", "5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["replay:*pytest test_sad.py::test_sad --vnet-seed 5"])
    (kept,) = (project.path / "vnet-failures").iterdir()
    assert (kept / "capture.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    assert b"a:eth0" in (kept / "capture.pcapng").read_bytes()
    events = [json.loads(line) for line in (kept / "events.jsonl").read_text().splitlines()]
    assert any(event["event"] == "dhcp-lease" and event["node"] == "a" for event in events)
    state = json.loads((kept / "state.json").read_text())
    assert (state["lab"], state["seed"], state["faults"]) == ("tiny", 5, [])
    assert {row["owner"] for row in state["leases"]} == {"a:eth0", "b:eth0"} and state["now_s"] > 4
    result.stdout.fnmatch_lines([f"state at {state['now_s']:.6f} s: *state.json"])
    replay = (kept / "replay.txt").read_text().split()[1:]
    run(project, *replay).assert_outcomes(failed=1)
    run(project, "test_sad.py::test_sad", "--vnet-seed", "6").assert_outcomes(passed=1)


SOMETIMES = """
import pathlib, pytest

@pytest.mark.vnet("tiny.yaml", wait=False)
@pytest.mark.parametrize("number", [1, 2])
async def test_it(lab, number):
    assert number == 2 or lab.seed in eval(pathlib.Path("good").read_text())
"""


def test_what_a_failure_left_is_kept_until_that_very_run_passes(project):
    project.makepyfile(test_it=SOMETIMES)
    good, kept = project.path / "good", project.path / "vnet-failures"

    def left():
        return {each.name: sorted(file.name for file in each.iterdir()) for each in kept.iterdir()}

    files = ["capture.pcapng", "events.jsonl", "replay.txt", "state.json"]
    good.write_text("[0]")
    result = run(project, "--vnet-seeds", "4")
    result.assert_outcomes(failed=3, passed=5)
    assert left() == {"test_it.py-test_it-1-seed1": files}  # one of three that failed
    result.stdout.fnmatch_lines(
        ["replay: pytest 'test_it.py::test_it[[]1]' --vnet-seed 3", "what another seed left is kept"]
    )
    run(project, "--vnet-seed", "2").assert_outcomes(failed=1, passed=1)
    assert left() == {"test_it.py-test_it-1-seed1": files, "test_it.py-test_it-1": files}
    good.write_text("[0, 1]")
    run(project).assert_outcomes(passed=2)
    assert len(left()) == 2, "those are other seeds'"
    run(project, "--vnet-seed", "1").assert_outcomes(passed=2)
    assert left() == {"test_it.py-test_it-1": files}
    good.write_text("[0, 1, 2]")
    run(project, "--vnet-seed", "2").assert_outcomes(passed=2)
    assert left() == {}


def test_many_seeds_are_many_tests(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.vnet("tiny.yaml")
        @pytest.mark.parametrize("number", [1, 2])
        async def test_it(lab, vnet_seed, number):
            assert lab.seed == vnet_seed != 12
        """
    )
    run(project, "--vnet-seed", "10", "--vnet-seeds", "4").assert_outcomes(passed=6, failed=2)


SEED_TEST = """
import pytest

@pytest.mark.vnet("tiny.yaml", wait=False)
@pytest.mark.parametrize("number", [1, 2])
async def test_it(lab, number):
    assert lab.seed % 5 != number + 1

@pytest.mark.vnet("tiny.yaml", wait=False)
async def test_good(lab):
    pass
"""
SEED_LINES = [
    "test_it.py::test_it[[]1]: 2 of 10 seeds, the first is 2",
    "  pytest 'test_it.py::test_it[[]1]' --vnet-seed 2",
    "test_it.py::test_it[[]2]: 2 of 10 seeds, the first is 3",
    "  pytest 'test_it.py::test_it[[]2]' --vnet-seed 3",
]


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_first_seed_that_fails_is_named_at_the_end(project, how):
    project.makepyfile(test_it=SEED_TEST)
    run_it = run_apart if how else run
    result = run_it(project, "--vnet-seeds", "10", *how)
    result.assert_outcomes(passed=26, failed=4)
    if how:  # the order of tests is that in which their failures came
        result.stdout.fnmatch_lines_random(SEED_LINES)
    else:
        result.stdout.fnmatch_lines(["*vnet: seeds that fail*", *SEED_LINES])
    assert "test_good:" not in result.stdout.str()
    left = len(list((project.path / "vnet-failures").iterdir()))
    assert 2 <= left <= 4 if how else left == 2, "one of each test and process"
    assert "coverage of the network" not in result.stdout.str()
    run(project, "test_it.py::test_it[2]", "--vnet-seed", "3").assert_outcomes(failed=1)
    assert "seeds that fail" not in run(project, "--vnet-seeds", "2").stdout.str()


def test_the_debugger_opens_at_the_instant_of_the_failure_with_the_lab_still_there(project, monkeypatch):
    monkeypatch.setattr(pdb, "post_mortem", pdb.post_mortem)  # the project's conftest puts another in its place
    project.makeconftest(
        """
        import pathlib, pdb

        def post_mortem(traceback):
            while traceback.tb_next:
                traceback = traceback.tb_next
            lab = traceback.tb_frame.f_locals["lab"]
            pathlib.Path("stopped").write_text(f"{lab.now} {lab.guests['a'].address is not None}")

        pdb.post_mortem = post_mortem
        """
    )
    project.makepyfile(
        test_it="""
        import pytest, trio

        @pytest.mark.vnet("tiny.yaml")
        async def test_it(lab):
            await lab.advance(1000 - lab.now)
            assert lab.now < 1000
        """
    )
    result = run_apart(project, "--vnet-stop")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["stopped at 1000.000000 s of lab tiny: AssertionError: *", "replay and stop there:*--vnet-stop"]
    )
    assert (project.path / "stopped").read_text() == "1000.0 True"
    (project.path / "stopped").unlink()
    run(project).assert_outcomes(failed=1)
    run_apart(project, "--vnet-stop", "-n", "1").assert_outcomes(failed=1)
    assert not (project.path / "stopped").exists()


def test_the_same_seed_is_the_same_run_and_the_text_of_a_topology_will_do(project):
    project.makepyfile(
        f"""
        import pytest
        seen = []

        @pytest.mark.vnet({TOPOLOGY!r}, seed=3)
        @pytest.mark.parametrize("number", [1, 2])
        async def test_it(lab, number):
            seen.append(lab.events.to_lines())
            assert lab.seed == 3
            assert len(set(seen)) == 1
        """
    )
    run(project).assert_outcomes(passed=2)


def test_the_same_test_runs_in_real_time(project, monkeypatch):
    project.makefile(".yaml", fixed=TOPOLOGY.replace("dhcp: {}", "").replace("[lan]", "[{network: lan, address: X}]"))
    text = (project.path / "fixed.yaml").read_text()
    (project.path / "fixed.yaml").write_text(text.replace("X", "10.0.0.1/24", 1).replace("X", "10.0.0.2/24", 1))
    project.makepyfile(
        """
        import pytest, time, trio

        @pytest.mark.vnet("fixed.yaml")
        async def test_it(lab, request):
            assert lab.live == request.config.getoption("--vnet-live")
            before = time.monotonic()
            assert (await lab.ping("a", "b")).ok
            await trio.sleep(0.3)
            assert (time.monotonic() - before >= 0.3) == lab.live
        """
    )
    run(project).assert_outcomes(passed=1)
    monkeypatch.setenv("VNET_RUN_DIR", str(project.path / "run"))
    run(project, "--vnet-live").assert_outcomes(passed=1)


def test_mistakes_are_told_plainly(project):
    project.makepyfile(
        test_no_marker="async def test_it(lab):\n    pass\n",
        test_no_file="import pytest\n@pytest.mark.vnet('nowhere.yaml')\nasync def test_it(lab):\n    pass\n",
        test_wrong_text="import pytest\n@pytest.mark.vnet('name: x\\nnetwork: {}\\n')\nasync def test_it(lab):\n    pass\n",
    )
    result = run(project)
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(["*needs @pytest.mark.vnet*"])
    result.stdout.fnmatch_lines(["*no topology nowhere.yaml*"])
    result.stdout.fnmatch_lines(["*test_it:2:1: *network*did you mean*networks*"])


def test_other_tests_are_left_alone(project):
    project.makepyfile("def test_it():\n    assert True\n")
    run(project, "--vnet-seeds", "3").assert_outcomes(passed=1)


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_report_says_what_of_the_network_was_covered(project, how):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.vnet("tiny.yaml")
        async def test_one(lab):
            lab.links["a:eth0"].up = False

        @pytest.mark.vnet("tiny.yaml")
        async def test_two(lab):
            assert False
        """
    )
    run_it = run_apart if how else run
    result = run_it(project, "--vnet-cov", *how)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "*vnet: coverage of the network*",
        "tiny, 2 tests",
        "  networks           1/1",
        "  links              3/3",
        "  links cut          1/3     never: lan:dhcp, b:eth0",
        "  DHCP messages      4/8     never: lan decline, lan release, lan inform, lan nak",
    ])  # fmt: skip
    assert "coverage of the network" not in run(project).stdout.str()


def test_a_test_that_is_not_async_gets_no_lab(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.vnet("tiny.yaml")
        def test_it(lab):
            pass

        @pytest.mark.vnet("tiny.yaml")
        def test_without():
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UsageError: test_it needs async def*"])


def test_the_marker_takes_nothing_unknown(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.vnet("tiny.yaml", seeds=3)
        async def test_it(lab):
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*UsageError: the marker vnet takes no 'seeds'; it takes a topology, and seed, state, wait, limit"]
    )


def test_a_test_that_waits_for_ever_fails_at_its_limit_and_says_where(project):
    project.makepyfile(
        test_it="""
        import pytest, trio

        @pytest.mark.vnet("tiny.yaml", limit="2h")
        async def test_short(lab):
            while True:
                await trio.sleep(60)

        @pytest.mark.vnet("tiny.yaml")
        async def test_long(lab):
            while True:
                await trio.sleep(86400)

        @pytest.mark.vnet("tiny.yaml", limit="soon")
        async def test_wrong(lab):
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random([
        "*SimulationStalled: the lab clock passed 2h and somebody still waits: test_short at *test_it.py:6",
        "*SimulationStalled: the lab clock passed 8760h and somebody still waits: test_long at *test_it.py:11",
        "*UsageError: 'soon' is not a duration*",
    ])  # fmt: skip


def test_a_lab_that_never_ran_leaves_nothing(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.vnet("name: wrong\\nguests: {a: {nics: [nowhere]}}")
        async def test_it(lab):
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TopologyError*"])
    result.stdout.no_fnmatch_line("replay:*")
    assert not (project.path / "vnet-failures").exists()
