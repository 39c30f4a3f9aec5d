"""The page that shows what a campaign of clean trainings found."""

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from benchmarks.campaigns.clean_run import CleanRun, Warned
from benchmarks.campaigns.own_models import OWN_MODELS
from benchmarks.campaigns.warning_causes import Cause, cause_of, defect_of

_HEAD = """# Clean training: no false alarms, every planted fault found

Written by `benchmarks/campaigns/clean_training.py` on {date}, torch {torch}, CPU ({capability}). To repeat it:

```sh
python -m benchmarks.campaigns.clean_training train --record clean.jsonl
python -m benchmarks.campaigns.clean_training page clean.jsonl --out docs/clean_training.md
```

Every model trains under `numguard.guard(model, optimizer, budget=None)`: each call of each checked operator of each
step is judged, forward, backward, gradient clipping and AdamW. Then one more step runs with a fault under one operator,
below numguard: the kernel itself returns one element 16 times too large, plus one, for every floating-point dtype and
every caller, numguard's own shadows included. That operator, and none that does not call it, must be named.

"Worst ratio" is the largest error over the bound of this build's accumulation, rounded down: above 1 it is an `error`.
The rounding of one result may take its whole bound, so ratios just below 1 are as they should be. Warnings compare with
the strict bound: that of the accumulation which is documented, or which a sibling of the operator has.

Operators without a check are not judged here: elementwise functions outside the optimizer and the fused LSTM of the CPU
among them.
`lost_updates` looks at steps 100 and later, so these runs are too short for it.
"""


def page(runs: Sequence[CleanRun]) -> str:
    """Return the page in Markdown."""
    own = [run for run in runs if run.subject in OWN_MODELS]
    others = [run for run in runs if run.subject not in OWN_MODELS]
    head = _HEAD.format(
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
    )
    parts = [head, _totals(runs), _controls(runs), "## Own models\n", _own_table(own)]
    parts += [f"## {len({run.subject for run in others})} architectures of `transformers`\n", _others_table(others)]
    parts += ["## Warnings\n", _warnings(runs), "## Calls without a verdict\n", _uncovered(runs), _errors(runs)]
    return "\n".join(part for part in parts if part)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _ratio(ratio: float, digits: int = 3) -> str:
    """Return a ratio rounded down, so that nothing below 1 reads as 1."""
    return f"{math.floor(ratio * 10**digits) / 10**digits:.{digits}f}" if math.isfinite(ratio) else str(ratio)


def _totals(runs: Sequence[CleanRun]) -> str:
    known = sum(defect_of(error, run.precision) is not None for run in runs for error in run.errors)
    false = sum(len(run.errors) for run in runs) - known
    sound = [run.worst_ratio for run in runs if not run.errors]
    steps = sum(run.num_steps for run in runs)
    two = sum(run.num_threads > 1 for run in runs)
    rows = [
        ("runs (with 2 threads)", f"{len(runs)} ({two})"),
        ("clean steps", f"{steps:,}"),
        ("calls of checked operators", f"{sum(run.num_calls for run in runs):,}"),
        ("checks", f"{sum(run.num_checks for run in runs):,}"),
        ("false `error` and `degraded` findings in clean steps", false),
        ("`error` findings that are right: defects of PyTorch, named below", known),
        ("controls found, of all", f"{sum(run.control.found for run in runs)} of {len(runs)}"),
        ("worst ratio, in runs without an error", _ratio(max(sound, default=0.0), digits=6)),
    ]
    return _table(("", ""), rows)


def _controls(runs: Sequence[CleanRun]) -> str:
    planted = Counter(run.control.op for run in runs)
    found = Counter(run.control.op for run in runs if run.control.found)
    rows = [(f"`{op}`", f"{found[op]} of {count}") for op, count in sorted(planted.items())]
    return _table(("fault under", "found"), rows)


def _own_table(runs: Sequence[CleanRun]) -> str:
    rows = [
        (
            run.subject,
            run.precision,
            run.optimizer,
            run.num_threads,
            run.num_steps,
            f"{run.num_checks:,}",
            _ratio(run.worst_ratio),
            len(run.errors),
            len(run.warned),
            f"`{run.control.op}` {'found' if run.control.found else 'NOT FOUND'}",
        )
        for run in sorted(runs, key=lambda run: (run.subject, run.precision, run.optimizer))
    ]
    header = (
        "model",
        "precision",
        "AdamW",
        "threads",
        "steps",
        "checks",
        "worst ratio",
        "errors",
        "warnings",
        "control",
    )
    return _table(header, rows)


def _others_table(runs: Sequence[CleanRun]) -> str:
    """One line for each architecture; a cell is the number of checks, the worst ratio, and what went wrong."""
    precisions = sorted({run.precision for run in runs})
    cells = {(run.subject, run.precision): _cell(run) for run in runs}
    rows = [
        (subject, *(cells.get((subject, precision), "not run") for precision in precisions))
        for subject in sorted({run.subject for run in runs})
    ]
    note = (
        "Each cell: checks, worst ratio, warnings; all had 0 errors and their control found unless it says otherwise.\n"
    )
    return note + "\n" + _table(("architecture", *precisions), rows)


def _cell(run: CleanRun) -> str:
    text = f"{run.num_checks:,}, {_ratio(run.worst_ratio)}, {len(run.warned)}"
    if run.errors:
        text += f", **{len(run.errors)} errors**"
    return text if run.control.found else f"{text}, **{run.control.op} not found**"


def _warnings(runs: Sequence[CleanRun]) -> str:
    groups: dict[tuple[str, ...], list[tuple[CleanRun, Warned]]] = {}
    causes: dict[str, Cause] = {}
    for run in runs:
        for warned in run.warned:
            cause = cause_of(warned.kind, warned.op, warned.output, warned.dtype, warned.message)
            text = "**not explained**" if cause is None else cause.text
            causes |= {} if cause is None else {text: cause}
            groups.setdefault((warned.kind, warned.op, warned.output, warned.dtype, text), []).append((run, warned))
    rows = []
    for (kind, op, output, dtype, text), members in sorted(groups.items()):
        run, worst = max(members, key=lambda member: member[1].ratio or 0.0)
        num_runs = len({id(member) for member, _ in members})
        rows.append(
            (
                kind,
                f"`{op}` {output}" if op else "a module",
                dtype,
                num_runs,
                "" if worst.ratio is None else f"{worst.ratio:.4g}",
                f"{run.subject} {run.precision}",
                text,
                _judgement(kind, causes.get(text)),
            )
        )
    header = ("kind", "operator and output", "dtype", "runs", "worst error / strict bound", "where", "cause", "verdict")
    return _table(header, rows)


def _judgement(kind: str, cause: Cause | None) -> str:
    if cause is None:
        return ""
    if cause.is_defect:
        return "PyTorch defect"
    return "the module's own" if kind == "unstable_region" else "harmless"


def _uncovered(runs: Sequence[CleanRun]) -> str:
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.uncovered)
    return _table(("check and reason", "calls"), counts.most_common())


def _errors(runs: Sequence[CleanRun]) -> str:
    lines = []
    for run in runs:
        for error in run.errors:
            defect = defect_of(error, run.precision)
            reason = "**not explained**" if defect is None else f"A defect of PyTorch: {defect.text}."
            lines.append(f"- {run.subject} {run.precision}: {error} {reason}")
    return "## Errors in clean steps\n\n" + "\n".join(lines) + "\n" if lines else ""
