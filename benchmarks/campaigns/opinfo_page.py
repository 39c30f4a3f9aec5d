"""The page that shows what PyTorch's own sample inputs found."""

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from benchmarks.campaigns.opinfo_defects import defect_of
from benchmarks.campaigns.opinfo_runs import SampleRun
from numguard.inquiry import checked_operators
from numguard.shadow.call import overload_name

_HEAD = """# PyTorch's own sample inputs: no false error, every planted fault found

Written by `benchmarks/campaigns/opinfo.py` on {date}, torch {torch}, CPU ({capability}), one thread. To repeat it:

```sh
python -m benchmarks.campaigns.opinfo run --record opinfo.jsonl
python -m benchmarks.campaigns.opinfo page opinfo.jsonl --out docs/opinfo.md
```

Every entry of `torch.testing._internal.common_methods_invocations.op_db` runs with all its sample inputs in float64,
float32, bfloat16 and float16: forward, in place, into `out=`, and backward with random gradients. Every call of a
checked operator inside is judged in full, and judged again by a second route where the first suspects it.

The control: for each operator that was judged in an entry and dtype, the same sample runs once more with a kernel
(`numguard.testing.faulty_kernel`) that gets one element wrong, and an `error` has to name that operator.
"""


def page(runs: Sequence[SampleRun]) -> str:
    """Return the page in Markdown."""
    head = _HEAD.format(
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
    )
    parts = [head, "## Result\n", _totals(runs), "## Errors\n", _errors(runs), "## By operator\n", _operators(runs)]
    parts += ["## Warnings\n", _counts("finding", _warnings(runs))]
    parts += ["## Without a verdict\n", _counts("calls of checked operators", _united(run.uncovered for run in runs))]
    parts += ["Samples that torch itself refuses:\n", _counts("reason", _united(run.refused for run in runs))]
    return "\n".join([*parts, _unreached(runs)])


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _ratio(ratio: float) -> str:
    """Return a ratio rounded down, so that nothing below 1 reads as 1."""
    return f"{math.floor(ratio * 1000) / 1000:.3f}" if math.isfinite(ratio) else str(ratio)


def _united(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return total


def _warnings(runs: Sequence[SampleRun]) -> Counter[str]:
    return _united({f"{what}, {run.dtype}": count for what, count in run.warned.items()} for run in runs)


def _counts(name: str, counts: Counter[str]) -> str:
    rows = ((f"{count:,}", what.replace("|", "\\|")) for what, count in counts.most_common())
    return _table(("number", name), rows) if counts else "None.\n"


def _totals(runs: Sequence[SampleRun]) -> str:
    by_dtype = {dtype: [run for run in runs if run.dtype == dtype] for dtype in dict.fromkeys(r.dtype for r in runs)}

    def row(name: str, some: Sequence[SampleRun]) -> tuple[object, ...]:
        tallies = [tally for run in some for tally in run.operators.values()]
        alarms = [(alarm, run) for run in some for alarm in run.alarms]
        controls = [seen for run in some for seen in run.controls.values() if seen is not None]
        return (
            name,
            len({run.entry for run in some if run.operators}),
            f"{sum(run.num_samples for run in some):,}",
            f"{sum(run.num_backward for run in some):,}",
            f"{sum(tally.num_calls for tally in tallies):,}",
            f"{sum(tally.num_elements for tally in tallies):,}",
            len(alarms),
            sum(defect_of(alarm, run.dtype) is None for alarm, run in alarms),
            f"{sum(seen is True for seen in controls):,} of {len(controls):,}",
        )

    header = ("dtype", "entries", "samples", "with backward", "calls judged", "elements", "errors", "false", "controls")
    return _table(header, [*(row(name, some) for name, some in by_dtype.items()), row("all", runs)])


def _errors(runs: Sequence[SampleRun]) -> str:
    rows = []
    for run in runs:
        for alarm in run.alarms:
            defect = defect_of(alarm, run.dtype)
            told = "**not explained**" if defect is None else f"{defect.text} Proof: {defect.proof}"
            rows.append((run.entry, run.dtype, f"`{alarm.op}`", alarm.output, alarm.sample, alarm.ratio, told))
    header = ("entry", "dtype", "operator", "output", "sample", "error / bound", "defect of PyTorch")
    return _table(header, rows) if rows else "None: no sample input of PyTorch made a check say `error`.\n"


def _operators(runs: Sequence[SampleRun]) -> str:
    rows = []
    for op in sorted({op for run in runs for op in run.operators}):
        tallies = [run.operators[op] for run in runs if op in run.operators]
        controls = [run.controls[op] for run in runs if run.controls.get(op) is not None]
        rows.append(
            (
                f"`{op}`",
                len({run.entry for run in runs if op in run.operators}),
                len({run.dtype for run in runs if op in run.operators}),
                f"{sum(tally.num_calls for tally in tallies):,}",
                f"{sum(tally.num_elements for tally in tallies):,}",
                _ratio(max(tally.worst_ratio for tally in tallies)),
                f"{sum(seen is True for seen in controls)} of {len(controls)}",
            )
        )
    return _table(("operator", "entries", "dtypes", "calls", "elements", "worst ratio", "controls found"), rows)


def _unreached(runs: Sequence[SampleRun]) -> str:
    reached = {op for run in runs for op in run.operators}
    missed = sorted({overload_name(overload) for overload in checked_operators()} - reached)
    names = ", ".join(f"`{name}`" for name in missed) or "none"
    return f"Checked operators that no sample input reaches ({len(missed)}): {names}.\n"
