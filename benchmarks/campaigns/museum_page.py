"""The museum's catalogue page as text."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence

import torch

from benchmarks.campaigns.exhibits import Exhibit

_TOOLS = {
    "anomaly mode": "`torch.autograd.detect_anomaly`",
    "float64 run": "`torch.testing.assert_close` against the same run in float64",
    "finiteness": "finiteness of loss, gradients and parameters",
    "loss rule": "OLMo's loss rule (128 steps, 6 sigma)",
}


def page(exhibits: Sequence[Exhibit], *, command: str, date: str) -> str:
    """Return the page in Markdown."""
    found = [exhibit for exhibit in exhibits if exhibit.marker["found_by"] is not None]
    declared = sum(bool(exhibit.marker.get("declared")) for exhibit in found)
    missing = Counter(str(exhibit.marker["missing"]) for exhibit in exhibits if exhibit.marker["found_by"] is None)
    lines = [
        "# Reproductions",
        "",
        f"Written by `{command}` on {date}, torch {torch.__version__}. Every line is one file in `reproductions/`; run "
        "it alone with `pytest reproductions/FILE.py -s` and it tells its story.",
        "",
        f"{len(exhibits)} bugs are reproduced; numguard finds {len(found)} of them now: {len(found) - declared} with "
        f"nothing declared, and {declared} because the play gives a kernel or a module its reference "
        "(`numguard.shadowed`, `regions=`), as its author would. What it lacks for the others: "
        + (", ".join(f"{name} ({count})" for name, count in missing.most_common()) or "nothing")
        + ".",
        "",
        "## Bugs",
        "",
        "| bug | family | kind | symptom and cause | found by | finding | steps | error / bound |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(exhibit) for exhibit in exhibits),
        "",
        "## What other tools see",
        "",
        "A tool sees a bug where it speaks up for the broken play and not for the fixed one. Cost is the time of the "
        "fixed play under the tool over the time without it, the median over plays that are long enough to be timed.",
        "",
        "| tool | sees | speaks up for the fixed play too | cost |",
        "|---|---|---|---|",
        *(_tool(exhibits, key, name) for key, name in _TOOLS.items()),
        f"| numguard | {len(found)} | {_errors(exhibits)} | {_cost(exhibits, 'numguard, exhaustive')} exhaustive, "
        f"{_cost(exhibits, 'numguard, 1 %')} at the default budget |",
        "",
        "| bug | " + " | ".join(_TOOLS) + " | numguard |",
        "|---|" + "---|" * (len(_TOOLS) + 1),
        *(_seen(exhibit) for exhibit in exhibits),
        "",
    ]
    return "\n".join(lines)


def _errors(exhibits: Sequence[Exhibit]) -> int:
    """Count the fixed plays in which numguard reports an error."""
    return sum(exhibit.sights["numguard, exhaustive"].fix for exhibit in exhibits)


def _section(story: str, title: str) -> str:
    match = re.search(rf"^{title}\n((?: {{4}}.*\n?|\n)+)", story, flags=re.M)
    return " ".join(match.group(1).split()) if match else ""


def _row(exhibit: Exhibit) -> str:
    marker, finding = exhibit.marker, exhibit.finding
    title = (exhibit.story.strip().splitlines() or [""])[0]
    told = f"{_section(exhibit.story, 'Symptom')} {_section(exhibit.story, 'Cause')}".strip().replace("|", "\\|")
    cells = [f"[{title}](../reproductions/{exhibit.name}.py)", str(marker["family"]), str(marker["kind"]), told]
    if finding is None and marker["found_by"] is not None:
        cells += [str(marker["found_by"]), "in a slow test", "", ""]
    elif finding is None:
        cells += ["not yet", f"needs {marker['missing']}", "", ""]
    else:
        ratio = finding["ratio"]
        figure = "" if ratio is None else f"{ratio:.3g}" if math.isfinite(ratio) else "not finite"
        way = str(marker["found_by"]) + (", reference declared" if marker.get("declared") else "")
        cells += [way, f"`{finding['kind']}` {finding['op']}", str(finding["num_steps"]), figure]
    return "| " + " | ".join(cells) + " |"


def _tool(exhibits: Sequence[Exhibit], key: str, name: str) -> str:
    sights = [exhibit.sights[key] for exhibit in exhibits]
    seen = sum(sight.bug and not sight.fix for sight in sights)
    return f"| {name} | {seen} | {sum(sight.fix for sight in sights)} | {_cost(exhibits, key)} |"


def _cost(exhibits: Sequence[Exhibit], key: str) -> str:
    costs = [exhibit.sights[key].cost for exhibit in exhibits if not math.isnan(exhibit.sights[key].cost)]
    return f"{statistics.median(costs):.2f}x" if costs else "too short to tell"


def _seen(exhibit: Exhibit) -> str:
    cells = []
    for key in _TOOLS:
        sight = exhibit.sights[key]
        cells.append(
            "both" if sight.bug and sight.fix else "yes" if sight.bug else "false alarm" if sight.fix else "no"
        )
    return f"| {exhibit.name.removeprefix('test_')} | " + " | ".join([*cells, _numguard(exhibit)]) + " |"


def _numguard(exhibit: Exhibit) -> str:
    return "yes" if exhibit.marker["found_by"] is not None else "no"
