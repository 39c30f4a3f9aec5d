"""The pytest plugin of numguard: runs tests under a guard that checks every call of every operator it covers.

It lies outside the package, and imports neither torch nor numguard before a test asks for a guard: a test suite in
whose environment numguard is merely installed starts as fast as before, and its coverage is measured in full.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

if TYPE_CHECKING:
    from numguard import Guard

_GUARD: Final = pytest.StashKey["Guard"]()
_MARKER: Final = (
    "numguard(enabled=True, *, checks=None, skip=None): run this test under an exhaustive guard even without "
    "--numguard, or never with enabled=False; checks= and skip= choose what is checked"
)
_MOST_REASONS: Final = 5  # listed in the summary


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags."""
    group = parser.getgroup("numguard", "numerical checks of the operators that tests call (numguard)")
    group.addoption(
        "--numguard",
        action="store_true",
        help="run every test under a guard that checks every call; a wrong result fails the test",
    )
    group.addoption(
        "--numguard-checks",
        metavar="NAMES",
        help="names of checks, or regular expressions that match whole names, with commas between; implies --numguard",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse checks that do not exist before any test runs."""
    config.addinivalue_line("markers", _MARKER)
    if _checks(config) is not None:
        import numguard

        try:
            _new_guard(config, {})
        except numguard.UsageError as error:
            raise pytest.UsageError(f"--numguard-checks: {error}") from None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that every test is watched, and by which checks."""
    if not _watches_everything(config):
        return None
    checks = _checks(config)
    return f"numguard: every test under an exhaustive guard, {'all checks' if checks is None else ', '.join(checks)}"


def _checks(config: pytest.Config) -> list[str] | None:
    text = config.getoption("numguard_checks")
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _watches_everything(config: pytest.Config) -> bool:
    return bool(config.getoption("numguard")) or _checks(config) is not None


def _new_guard(config: pytest.Config, options: Mapping[str, Any]) -> "Guard":
    import numguard

    return numguard.guard(budget=None, **{"checks": _checks(config), **options})


def _refuse(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)


def _marked(item: pytest.Item) -> tuple[bool | None, dict[str, Any]]:
    """Return whether the closest marker wants a guard, None without one, and its options."""
    marker = item.get_closest_marker("numguard")
    if marker is None:
        return None, {}
    options = dict(marker.kwargs)
    values = [*marker.args, *([options.pop("enabled")] if "enabled" in options else [])]
    unknown = sorted(set(options) - {"checks", "skip"})
    if unknown or len(values) > 1 or not all(isinstance(value, bool) for value in values):
        given = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())])
        _refuse(f"@pytest.mark.numguard({given}) cannot be read; use {_MARKER.partition(':')[0]}")
    return (values[0] if values else True), options


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Make the guard of a test that is to be watched; it starts when the fixtures are there."""
    wanted, options = _marked(item)
    asked = "numguard_guard" in getattr(item, "fixturenames", ())
    if asked and wanted is False:
        _refuse(f"{item.nodeid} takes the fixture numguard_guard and is marked numguard(False); leave out one of them")
    if asked or wanted or (wanted is None and _watches_everything(item.config)):
        import numguard

        try:
            item.stash[_GUARD] = _new_guard(item.config, options)
        except numguard.UsageError as error:
            _refuse(f"@pytest.mark.numguard: {error}")


@pytest.fixture
def numguard_guard(request: pytest.FixtureRequest) -> "Guard":
    """The guard that watches this test, for ``g.step(loss)`` and ``g.findings``; it starts with the test's body."""
    item = request.node
    assert isinstance(item, pytest.Item)
    return item.stash[_GUARD]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run the body of a test under its guard, and fail it where a result was wrong."""
    guard = item.stash.get(_GUARD, None)
    if guard is None:
        return (yield)
    try:
        with guard:
            yield
    except BaseException as error:
        for text in _errors(guard):
            error.add_note(f"numguard: {text}")
        raise
    errors = _errors(guard)
    if errors:
        _refuse("\n\n".join(errors))
    return None


def _errors(guard: "Guard") -> list[str]:
    return [str(finding) for finding in guard.findings if finding.severity == "error"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what the guard saw into the report, as plain values that travel from the processes of pytest-xdist."""
    report = yield
    guard = item.stash.get(_GUARD, None)
    if guard is not None and call.when == "call":
        coverage = guard.coverage
        vars(report)["numguard"] = {
            "num_checks": coverage.num_checks,
            "not_covered": dict(coverage.uncovered),
            "findings": [[found.severity, found.fingerprint, str(found)] for found in guard.findings],
        }
    if call.when == "teardown" and guard is not None:
        del item.stash[_GUARD]  # with everything that it has recorded
    return report


def _seen(reporter: pytest.TerminalReporter) -> Iterator[Mapping[str, Any]]:
    for reports in list(reporter.stats.values()):
        for report in reports:
            seen = getattr(report, "numguard", None)
            if isinstance(seen, Mapping):
                yield seen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was checked, what was not, and what was found, each finding once."""
    seen = list(_seen(terminalreporter))
    if not seen:
        return
    num_tests: Counter[str] = Counter()
    texts: dict[str, str] = {}
    severities: Counter[str] = Counter()
    not_covered: Counter[str] = Counter()
    for report in seen:
        not_covered.update(report["not_covered"])
        for severity, name, text in {found[1]: found for found in report["findings"]}.values():
            severities[severity] += name not in texts
            texts.setdefault(name, text)
            num_tests[name] += 1
    num_checks = sum(report["num_checks"] for report in seen)
    terminalreporter.section("numguard")
    found = ", ".join(f"{severities[kind]} {kind}(s)" for kind in ("error", "warning", "notice") if severities[kind])
    terminalreporter.line(f"{len(seen)} test(s) watched, {num_checks} check(s) of calls; found: {found or 'nothing'}")
    if not num_checks:
        terminalreporter.line(
            "Nothing was checked: no test called an operator that a check covers, or NUMGUARD=off is set."
        )
    for name, text in texts.items():
        terminalreporter.line(f"{text} [{num_tests[name]} test(s), fingerprint {name}]")
    for reason, count in not_covered.most_common(_MOST_REASONS):
        terminalreporter.line(f"not checked: {reason} [{count} call(s)]")
