"""The document that tells what the injection campaign found, written from its outcomes alone."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch

from benchmarks.campaigns.injection_patterns import PATTERNS
from benchmarks.campaigns.injection_runs import Outcome, Verdict
from benchmarks.campaigns.injection_sites import FLOATS

_COLUMNS: Final[tuple[Verdict, ...]] = (
    "found",
    "missed",
    "misnamed",
    "silent",
    "false alarm",
    "between",
    "no fault",
)
_LETTERS: Final[dict[Verdict, str]] = {
    "found": "f",
    "missed": "MISSED",
    "misnamed": "MISNAMED",
    "silent": "s",
    "false alarm": "FALSE",
    "between": "b",
    "no fault": "n",
}

_INTRODUCTION: Final = """# Injections

Faults put under the kernels of PyTorch, below everything that numguard intercepts, inside small training steps.

- **The fault** is a kernel registered in place of the right one at the dispatcher's CPU key
  (`numguard.testing.faulty_kernel`). It is wrong in every dtype and for every caller, numguard's own shadows included.
- **The size** is `|c - v| / B`. `c` is what the faulty kernel returned. `v` is the exact value from the inputs that the
  kernel was given, in 80-bit extended precision (unit roundoff 2^-64), by formulas of the campaign's own
  (`benchmarks/campaigns/extended_values.py`). `B` is the alarm threshold of numguard's check for that element; where a
  check repeats 16-bit additions bit for bit, `B` is the threshold of its strict bound. The place of a fault is chosen
  so that its size comes near a target that the seed fixes.
- **Above 2 B** a fault has to be found in the step in which it acts, as an `error` that names the operator, the
  module, the phase, the user's line, the last clean step and the kind: `wrong_result` for a fault that comes back,
  `corruption` for one that acts in a single execution of an operator that can be run again. Nothing else may be
  reported. **At or below B** nothing may be reported. **Between** is only counted; so is a float64 result that lies
  nearer to B than the shadow's own error, which B includes.
- One case in five runs at the default budget with a burst (`g.arm`); the others check every call of every step.
"""


def document(outcomes: Sequence[Outcome], *, command: str, date: str, seconds: float) -> str:
    """Return the document as Markdown."""
    tally = Counter(outcome.verdict for outcome in outcomes)
    close = sum(2.0 <= outcome.ratio <= 100.0 for outcome in outcomes)
    finite = [outcome.ratio for outcome in outcomes if 2.0 < outcome.ratio < float("inf")]
    silent = [outcome.ratio for outcome in outcomes if outcome.verdict == "silent"]
    armed = sum(outcome.case.armed for outcome in outcomes)
    transient = sum(outcome.case.transient for outcome in outcomes)
    lines = [
        _INTRODUCTION,
        f"Written by `{command}` on {date}, torch {torch.__version__}, {torch.get_num_threads()} thread, "
        f"{seconds:.0f} seconds.",
        "",
        "## Result",
        "",
        f"{len(outcomes):,} cases: **{tally['found']:,} found, {tally['missed']} missed, "
        f"{tally['misnamed']} misnamed** above 2 B; "
        f"**{tally['silent']:,} silent, {tally['false alarm']} false alarms** at or below B; "
        f"{tally['between']} between; {tally['no fault']} in which no fault could be made.",
        "",
        f"- {close:,} of {len(outcomes):,} ({close / len(outcomes):.0%}) have a size in [2, 100] B; the smallest that "
        f"was found has {min(finite):.3g} B, the largest that was silent {max(silent):.3g} B.",
        f"- {transient} faults act in one execution only; {armed} cases run at the default budget.",
        f"- Right kernels, before the fault: the largest `|c - v| / B` is "
        f"{max(outcome.right for outcome in outcomes):.3g}.",
        "",
        "The median of `B / |v|` at the faulty element tells how fine the check is there: an error that is smaller "
        "relative to the result cannot be told from rounding.",
        "",
        "## By operator, dtype and fault",
        "",
        "f found, s silent at or below B, b between, n no fault could be made.",
        "",
        *_by_fault(outcomes),
        "",
        "## By operator and dtype",
        "",
        *_table(outcomes, ("operator", "dtype"), lambda o: (f"`{o.case.site.name}`", _dtype(o))),
        "",
        "## By fault and dtype",
        "",
        *_table(outcomes, ("fault", "dtype"), lambda o: (o.case.pattern, _dtype(o))),
        "",
        "## Left out",
        "",
        "Fused SGD in bfloat16 and float16: the kernel of this build is wrong by itself on the CPU, and the guard says "
        "so at the first step, so that no fault can be told apart.",
        "",
    ]
    return "\n".join(lines)


def _dtype(outcome: Outcome) -> str:
    return str(outcome.case.dtype)[6:]


def _grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], tuple[str, ...]]
) -> dict[tuple[str, ...], list[Outcome]]:
    groups: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome)].append(outcome)
    return groups


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _table(outcomes: Sequence[Outcome], names: tuple[str, ...], key: Callable[[Outcome], tuple[str, ...]]) -> list[str]:
    header = (*names, "cases", *_COLUMNS, "in [2, 100] B", "right kernel, most", "median B / \\|v\\|")
    lines = [_row(header), _row("---" for _ in header)]
    for group, members in _grouped(outcomes, key).items():
        tally = Counter(outcome.verdict for outcome in members)
        fineness = [o.size.relative_bound for o in members if o.size is not None and o.size.relative_bound < 1e300]
        lines.append(
            _row(
                (
                    *group,
                    len(members),
                    *(tally[verdict] for verdict in _COLUMNS),
                    sum(2.0 <= outcome.ratio <= 100.0 for outcome in members),
                    f"{max(outcome.right for outcome in members):.2g}",
                    f"{statistics.median(fineness):.1g}" if fineness else "-",
                )
            )
        )
    return lines


def _by_fault(outcomes: Sequence[Outcome]) -> list[str]:
    header = ("operator", "dtype", *PATTERNS)
    lines = [_row(header), _row("---" for _ in header)]
    groups = _grouped(outcomes, lambda o: (o.case.site.name, _dtype(o)))
    for name in dict.fromkeys(name for name, _ in groups):
        for dtype in (str(dtype)[6:] for dtype in FLOATS):
            members = groups.get((name, dtype), [])
            if members:
                lines.append(_row((f"`{name}`", dtype, *(_cell(members, pattern) for pattern in PATTERNS))))
    return lines


def _cell(members: Sequence[Outcome], pattern: str) -> str:
    tally = Counter(outcome.verdict for outcome in members if outcome.case.pattern == pattern)
    return " ".join(f"{tally[verdict]}{_LETTERS[verdict]}" for verdict in _COLUMNS if tally[verdict])
