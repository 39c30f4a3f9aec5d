"""The museum's ways of playing a bug, and the rule that every reproduction says what it reproduces."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from numguard.finding import Finding
from reproductions.stage import Play, Stage, perform
from reproductions.watchers import Guarded

KINDS = ("live", "by design", "emulated", "reconstruction")
REQUIRED = {"project", "issue", "url", "family", "kind", "catalogue", "found_by"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--museum", type=Path, help="folder for one JSON file per reproduction: what was found and how")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reproduction(project, issue, url, family, kind, catalogue, found_by, missing, declared): one known bug; "
        "found_by is None where numguard cannot find it yet, and missing names the capability; declared where it is "
        "found because the play gives the kernel or the region a reference, as its author would",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a reproduction that does not say what it is."""
    for item in items:
        if item.path.parent.name != "reproductions":
            continue
        mark = item.get_closest_marker("reproduction")
        given = dict(mark.kwargs) if mark is not None else {}
        if missing := REQUIRED - given.keys():
            raise pytest.UsageError(f"{item.nodeid}: the reproduction marker lacks {', '.join(sorted(missing))}")
        if given["kind"] not in KINDS:
            raise pytest.UsageError(f"{item.nodeid}: kind={given['kind']!r}; one of {', '.join(KINDS)}")
        if (given["found_by"] is None) != bool(given.get("missing")):
            raise pytest.UsageError(f"{item.nodeid}: found_by=None needs missing=, and the other way round")


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Print a line of the story: ``pytest reproductions/test_x.py -s`` reads like one."""

    def line(*parts: object) -> None:
        print(*(f"{float(part):.6g}" if isinstance(part, float | Tensor) else part for part in parts))

    mark = request.node.get_closest_marker("reproduction")
    print(f"\n\n{mark.kwargs['project']} {mark.kwargs['issue']}  {mark.kwargs['url']}")
    return line


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Take the finding that names the bug, and the number of steps it took, for the museum's catalogue page."""
    folder: Path | None = request.config.getoption("--museum")

    def take(finding: Finding, num_steps: int) -> None:
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        fields = {name: getattr(finding, name) for name in ("kind", "op", "module", "message", "ratio", "proof")}
        fields |= {"forward_error": finding.forward_error, "error_bound": finding.error_bound, "num_steps": num_steps}
        (folder / f"{request.path.stem}.json").write_text(json.dumps(fields), encoding="utf-8")

    return take


@pytest.fixture
def found(tell: Callable[..., None], note: Callable[..., None]) -> Callable[..., Finding]:
    """Play under an exhaustive guard and return the first finding that names the bug."""

    def watch(play: Play, *, kind: str, op: str = "", module: str = "", **options: object) -> Finding:
        watcher = Guarded(**options)
        stage = perform(play, watcher=watcher)
        hits = [
            finding
            for finding in watcher.findings
            if finding.kind == kind and op in finding.op and module in finding.module
        ]
        for finding in hits[:1] or watcher.findings:
            tell(f"numguard, step {finding.first_caught_step} of {stage.num_steps}: {finding}")
        assert hits, f"no {kind} of {op!r} among {[(f.kind, f.op, f.module) for f in watcher.findings]}"
        note(hits[0], 1 + (hits[0].first_caught_step or 0))
        return hits[0]

    return watch


@pytest.fixture
def silent(tell: Callable[..., None]) -> Callable[..., Stage]:
    """Play the fixed twin under an exhaustive guard: it must end without a finding of severity error."""

    def watch(play: Play, *, allowed: tuple[str, ...] = (), **options: object) -> Stage:
        watcher = Guarded(**options)
        stage = perform(play, fixed=True, watcher=watcher)
        loud = [finding for finding in watcher.findings if finding.severity != "notice" and finding.kind not in allowed]
        assert loud == [], f"the fixed twin is not silent: {[str(finding) for finding in loud]}"
        tell("fixed: silent")
        return stage

    return watch
