"""The plugin fails tests whose numbers are wrong, leaves all others alone, and is not there when it is not wanted."""

import subprocess
import sys
from pathlib import Path

import pytest

import numguard
from numguard.testing import assert_accurate, faulty_kernel  # so that the runs inside this process share them
from tests.house.source_tree import ROOT

pytest_plugins = ["pytester"]

SUITE = """
import pytest, torch
from numguard.testing import faulty_kernel

def total():
    with faulty_kernel("aten::sum.dim_IntList", lambda call: call.results[0].add_(1.0)):
        return torch.ones(2, 3).sum(1)
"""
# The same module twice would be refused where the project is installed and its entry point is there.
PLUGIN = ("-p", "no:numguard_torch", "-p", "_numguard_pytest_plugin", "-p", "no:cacheprovider", "-p", "no:randomly")


@pytest.fixture(autouse=True)
def _loaded() -> None:
    assert callable(assert_accurate)
    assert callable(faulty_kernel)
    assert numguard.guard is not None


def _run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(SUITE + tests)
    return pytester.runpytest_inprocess(*PLUGIN, *options)


def test_without_the_flag_nothing_is_watched(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "def test_it(): assert total().tolist() == [4.0, 4.0]")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*numguard:*")
    result.stdout.no_fnmatch_line("*= numguard =*")


def test_with_the_flag_a_wrong_result_fails_its_test_with_the_message_alone(pytester: pytest.Pytester) -> None:
    tests = """
def test_wrong(): total()
def test_right(): assert torch.ones(3).sum() == 3.0
"""
    result = _run(pytester, tests, "--numguard")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "numguard: every test under an exhaustive guard, all checks",
            "*_ test_wrong _*",
            "error: wrong_result: aten::sum.dim_IntList returned 4 where 3 is right (*:6), forward.*",
            "*= numguard =*",
            "2 test(s) watched, 2 check(s) of calls; found: 1 error(s)",
            "error: wrong_result: aten::sum.dim_IntList * [[]1 test(s), fingerprint *[]]",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*_numguard_pytest_plugin.py:*")


def test_a_test_that_fails_by_itself_keeps_its_exception_and_is_told_the_reason(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "def test_it(): assert total().tolist() == [3.0, 3.0]", "--numguard")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*assert [[]4.0, 4.0] == [[]3.0, 3.0]", "E*numguard: error: wrong_result: *"])


def test_markers_choose_for_one_test(pytester: pytest.Pytester) -> None:
    tests = """
@pytest.mark.numguard
def test_on(): total()

@pytest.mark.numguard(checks="softmax")
def test_other(): total()

@pytest.mark.numguard(skip=["sum"])
def test_skipped(): total()

@pytest.mark.numguard(False)
def test_off(): total()

@pytest.mark.xfail(strict=True)
@pytest.mark.numguard
def test_expected(): total()
"""
    _run(pytester, tests, "--strict-markers").assert_outcomes(passed=3, failed=1, xfailed=1)
    _run(pytester, tests, "--numguard").assert_outcomes(passed=3, failed=1, xfailed=1)


def test_what_a_marker_cannot_mean_is_said(pytester: pytest.Pytester) -> None:
    tests = """
@pytest.mark.numguard(cheks="sum")
def test_name(): pass

@pytest.mark.numguard(checks="summ")
def test_check(): pass

@pytest.mark.numguard(False)
def test_both(numguard_guard): pass
"""
    result = _run(pytester, tests)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.numguard(cheks='sum') cannot be read; use numguard(enabled=True, [*], checks=None, *",
            "@pytest.mark.numguard: checks= got 'summ', which matches no check; did you mean 'sum'?*",
            "*::test_both takes the fixture numguard_guard and is marked numguard(False); leave out one of them",
        ]
    )


def test_the_fixture_is_the_guard_of_the_test(pytester: pytest.Pytester) -> None:
    tests = """
def test_it(numguard_guard):
    assert torch.ones(3).sum() == 3.0
    numguard_guard.step(torch.tensor(1.0))
    assert numguard_guard.coverage.num_checks == 1
    assert numguard_guard.findings == ()
"""
    result = _run(pytester, tests)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 test(s) watched, 1 check(s) of calls; found: nothing"])


def test_checks_are_chosen_on_the_command_line(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "def test_it(): total()", "--numguard-checks=softmax, .*norm")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "numguard: every test under an exhaustive guard, softmax, .*norm",
            "Nothing was checked: no test called an operator that a check covers, or NUMGUARD=off is set.",
        ]
    )


def test_a_check_that_does_not_exist_stops_the_run_at_once(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "def test_it(): pass", "--numguard-checks=summ")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --numguard-checks: *'summ', which matches no check; did you mean 'sum'?*"])


def test_classes_of_unittest_and_guards_in_tests_are_watched(pytester: pytest.Pytester) -> None:
    tests = """
import unittest, numguard

class TestOld(unittest.TestCase):
    def test_wrong(self): total()

def test_nested():
    with numguard.guard(budget=None) as inner:
        total()
    assert [finding.kind for finding in inner.findings] == ["wrong_result"]
"""
    _run(pytester, tests, "--numguard").assert_outcomes(passed=1, failed=1)


def _installed(folder: Path) -> None:
    information = folder / "numguard_torch-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numguard-torch\nVersion: 0\n")
    (information / "entry_points.txt").write_text("[pytest11]\nnumguard_torch = _numguard_pytest_plugin\n")


def test_where_it_is_installed_it_costs_nothing_and_can_be_left_out(tmp_path: Path) -> None:
    _installed(tmp_path)
    test = tmp_path / "test_lean.py"
    test.write_text(
        "import sys\n"
        "def test_it(pytestconfig):\n"
        "    assert '_numguard_pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'numguard'} & set(sys.modules)\n"
        "    assert pytestconfig.pluginmanager.has_plugin('numguard_torch')\n"
    )

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import pytest; sys.exit(pytest.main())"
        command = [sys.executable, "-c", path, "--rootdir", str(tmp_path), "-q", "-p", "no:cacheprovider", str(test)]
        return subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=120)

    assert run().returncode == 0, run().stdout
    left_out = run("-p", "no:numguard_torch", "--numguard")
    assert left_out.returncode == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments: --numguard" in left_out.stderr
