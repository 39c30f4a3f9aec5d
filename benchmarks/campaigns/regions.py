"""Hand-written regions on data that turn bad by degrees: when they are found, against an independent judge.

Run ``python -m benchmarks.campaigns.regions``; it writes ``docs/regions.md``.
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import numguard
from numguard.regions import REFERENCE_FORMS
from tests.regions.hand_written import REGIONS, Holder, Written, error_in_one_ulp_changes

NUM_STEPS = 40
EIGHT = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One region in one dtype: expected and actual first step, the guard's figure and the independent one."""

    name: str
    dtype: str
    expected: int | None
    found: int | None
    ratio: float
    independent: float
    largest_before: float
    twin_findings: int
    twin_largest: float


def _first(model: nn.Module, data: Callable[[int], tuple[Tensor, ...]]) -> tuple[int | None, float, int]:
    with numguard.guard(model, budget=None) as g:
        for step in range(NUM_STEPS):
            model(*data(step))
            g.step(0.0)
    found = [finding for finding in g.findings if finding.kind == "unstable_region"]
    return (found[0].first_caught_step, found[0].ratio or 0.0, len(found)) if found else (None, 0.0, 0)


def run(name: str, dtype: torch.dtype) -> Outcome:
    """Run a region and its twin through all data, and judge both by hand."""
    region = REGIONS[name]
    batches = [region.data(step / (NUM_STEPS - 1), dtype) for step in range(NUM_STEPS)]
    errors = [error_in_one_ulp_changes(region, region.wrong(*batch), batch) for batch in batches]
    twins = [error_in_one_ulp_changes(region, region.well(*batch), batch) for batch in batches]
    expected = next((step for step, error in enumerate(errors) if error > EIGHT), None)
    found, ratio, _ = _first(Holder(Written(region.wrong)), lambda step: batches[step])
    _, _, twin_findings = _first(Holder(Written(region.well)), lambda step: batches[step])
    return Outcome(
        name=name,
        dtype=str(dtype)[6:],
        expected=expected,
        found=found,
        ratio=ratio,
        independent=errors[expected] if expected is not None else 0.0,
        largest_before=max(errors[:expected], default=0.0),
        twin_findings=twin_findings,
        twin_largest=max(twins),
    )


def _figure(value: float) -> str:
    return "not finite" if math.isinf(value) else f"{value:.3g}"


def document(outcomes: list[Outcome], date: str) -> str:
    """Return the page."""
    lines = [
        "# Regions",
        "",
        "Each operator can be right and the sequence of them wrong: `E[x*x] - E[x]*E[x]` cancels, "
        "`log(softmax)` takes the logarithm of what has underflowed. In an armed step numguard records the "
        "operators that a module runs itself (its children's results being given), and those that the script "
        "runs on the model's result. When the module returns, the recorded operators are replayed in float64 "
        "on copies of their inputs; the module is not run again. The error of each element is compared with "
        "the *one-ulp change* of that element,",
        "",
        "    change(y) = sum over inputs of |dy/dx| ulp(x)  +  ulp(y) / 2,",
        "",
        "the most that moving every input by one unit in its last place can make of it, to first order, or what random "
        "one-ulp moves were seen to make where that is more. Beyond 8 such changes the region is an "
        "`unstable_region`, a warning. A value that the program rounds on purpose (`x.to(torch.bfloat16)`) is a new "
        "input; integers, masks, random numbers and constants are taken as they were.",
        "",
        f"Written by `python -m benchmarks.campaigns.regions` on {date}, torch {torch.__version__}.",
        "",
        f"## {NUM_STEPS} steps whose data turn bad by degrees",
        "",
        "*Expected* is the first step at which an independent judge (the mathematics in float64, its Jacobian, one "
        "ulp: `tests/regions/hand_written.py`) sees more than 8 one-ulp changes.",
        "",
        "| region | dtype | expected | found | numguard's ratio | independent ratio | largest before | findings on the "
        "twin | its largest ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for o in outcomes:
        cells = [o.name, o.dtype, o.expected, o.found, _figure(o.ratio), _figure(o.independent)]
        cells += [_figure(o.largest_before), o.twin_findings, _figure(o.twin_largest)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    right = sum(o.expected == o.found and o.twin_findings == 0 for o in outcomes)
    lines += [
        "",
        f"{right} of {len(outcomes)} at the expected step, with a silent twin.",
        "",
        "## Forms of what is meant",
        "",
        "A region that computes another formula than the one meant (a Welford merge without a factor) is as wrong in "
        'float64. `regions={"stats": "welford_merge"}` judges what such a module returns against a reference form: '
        + ", ".join(f"`{name}`" for name in sorted(REFERENCE_FORMS))
        + ", or a function `(state, *arguments)` of your own in float64.",
        "",
        "## What is not covered",
        "",
        "- Backward: only what modules and the script compute in forward is replayed.",
        "- Accelerators: judging a region reads its numbers, so there regions are off, and coverage says so.",
        "- Compiled models: their operators are fused. Operators outside aten, sparse and nested tensors, more than "
        "400 operators, results of more than 2^24 elements together, or more than the step's quota pays for.",
        "- A hand-written `x - log(sum(exp x))` is called unstable where a probability comes near one: the log "
        "probability keeps an absolute precision only. PyTorch's own `log_softmax` and `logsumexp` share that "
        "property; their own checks judge it.",
        "- Where float64 leaves its range or its digits as well, nothing is known.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; return 1 where a region was found at another step than expected, or a twin was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/regions.md"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)
    outcomes = [run(name, dtype) for name, region in REGIONS.items() for dtype in region.dtypes]
    for outcome in outcomes:
        print(outcome)
    options.output.write_text(document(outcomes, time.strftime("%d %B %Y", time.gmtime())), "utf-8")
    return int(any(o.expected != o.found or o.twin_findings for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
