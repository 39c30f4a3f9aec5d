"""``numguard curve``: what is wrong with the loss of a run, from the log that some tool wrote of it."""

import json
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from numguard.cli.mistakes import told_in_one_line
from numguard.cli.page_place import page_at
from numguard.detectors import CALIBRATIONS, LossMonitor, ReferenceRun
from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.records.lines import as_plain
from numguard.records.loss_logs import LossLog, read_loss_log
from numguard.records.loss_series import LossCurve
from numguard.records.trend_band import TrendBand, band_from, usual_range
from numguard.report.curve_summary import CurveSummary, LogFile, RunCurve, numbered
from numguard.report.curve_text import plain_curve
from numguard.report.inert_text import inert

if TYPE_CHECKING:
    from numguard.session.registered_trend import RegisteredTrend

_DAMAGED = 3
_PAGE = "curve.html"


def show_curve(
    *logs: str,
    reference: str | None = None,
    trend: str | None = None,
    prediction: str | None = None,
    column: Annotated[list[str] | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    out: Annotated[str | None, Parameter(name=("--out", "--html"))] = None,
) -> int:
    """Find spikes, shifts, drifts and noise in the loss of finished or running jobs, with a known false-alarm rate.

    Reads CSV, JSON lines, trainer_state.json of Hugging Face, TensorBoard event files and folders, tables and histories
    exported from Weights & Biases, Trackio projects and exports, and the run_dir of a guard.

    Exits with 0 if nothing was found, 1 if there are alarms, 2 for bad input, and 3 if nothing was found in what could
    be read but part of the input was damaged.

    Parameters
    ----------
    logs
        Files or folders; each is looked at by itself.
    reference
        Log of an earlier run with the same recipe on the same batches: its noise is subtracted.
    trend
        Registry of predictions (numguard scaling register): alarms where the loss leaves the band.
    prediction
        Name of the prediction, where the registry holds several.
    column
        NAME=COLUMN where a log names a column otherwise, as in loss=train/nll. Names: step, loss, grad_norm, lr,
        tokens, loss_scale, skipped, batch_id, run.
    json
        Print one JSON object instead of text.
    out
        Folder for curve.html, or a file that ends in .html: the curve, the band and the marks in one file.
    """
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        with told_in_one_line():
            if not logs:
                raise UsageError("numguard curve needs a log; give a file or folder, as in: numguard curve losses.csv")
            return _curve(logs, reference, _trend(trend, prediction), _columns(column or []), as_json=json, out=out)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _curve(
    logs: Sequence[str],
    reference: str | None,
    trend: "RegisteredTrend | None",
    columns: dict[str, str],
    *,
    as_json: bool,
    out: str | None,
) -> int:
    page = None if out is None else page_at(out, _PAGE)
    files = []
    other = None
    if reference is not None:
        earlier = read_loss_log(reference, columns)
        other = _reference(earlier)
        files.append(_file(earlier))
    runs: list[RunCurve] = []
    ranges: list[TrendBand | None] = []
    for path in logs:
        log = read_loss_log(path, columns)
        files.append(_file(log))
        runs += _runs(log, other, trend)
        if len(logs) == 1 and len(log.runs) == 1 and page is not None:
            ranges.append(usual_range(log.columns["step"], log.columns["loss"][:]))
    bands = [_drawn(trend)] if trend is not None else ranges
    summary = CurveSummary(
        files=tuple(files),
        runs=numbered(runs),
        bands=tuple(band for band in bands if band is not None),
        rate=_rate("reference" if other is not None else "log-trend"),
    )
    _tell(summary, as_json=as_json, page=page)
    if summary.num_alarms:
        return 1
    return _DAMAGED if summary.is_damaged else 0


def _tell(summary: CurveSummary, *, as_json: bool, page: Path | None) -> None:
    for file in summary.files:
        if file.damage:
            first = f" ({inert(file.damage.examples[0], 300)})" if file.damage.examples else ""
            print(f"numguard: {inert(file.name, 200)}: {file.damage.describe()}{first}", file=sys.stderr)
    print(_json(summary) if as_json else plain_curve(summary), end="\n" if as_json else "")
    if page is not None:
        from numguard.report.curve_page import write_curve_page

        write_curve_page(summary, page)
        where = f"\nThe curve with its marks: {inert(page, 400)}"
        print(where, file=sys.stderr if as_json else sys.stdout)


def _runs(log: LossLog, other: ReferenceRun | None, trend: "RegisteredTrend | None") -> list[RunCurve]:
    """Return the runs of a log, each looked at by itself."""
    monitor = LossMonitor(reference=other, trend=_Followed(trend, log) if trend is not None else None)
    found: dict[str, list[Finding]] = {name: [] for name in log.runs}
    for finding in monitor.scan(log.columns):
        found[str(finding.evidence.get("run", ""))].append(finding)
    name = Path(log.path).name or log.path
    return [
        RunCurve(
            name=f"{name}: {run}" if run else name,
            curve=curve,
            findings=tuple(
                _afterwards(finding, curve)
                for finding in sorted(found[run], key=lambda finding: finding.first_caught_step or 0)
            ),
            rung=_rung(other, trend, found[run]),
        )
        for run, curve in zip(log.runs, log.curves(), strict=True)
    ]


def _afterwards(finding: Finding, curve: LossCurve) -> Finding:
    """Return a finding of something nonfinite with what became of the run, which its whole log tells."""
    if finding.kind != "nonfinite" or curve.last_loss is None:
        return finding
    if not math.isfinite(curve.last_loss):
        return replace(
            finding,
            message=f"{finding.message}, and the last loss is {curve.last_loss}",
            advice="Stop, and go back to the last checkpoint before this step: the weights are not finite.",
        )
    return replace(
        finding,
        message=f"{finding.message}; the last loss is finite again, {curve.last_loss:.4g}",
        advice="The run went on from it: look at the batch of this step, and whether the step was skipped.",
    )


class _Followed:
    """A registered trend along a log: it is asked by steps, and may be registered along tokens."""

    def __init__(self, trend: "RegisteredTrend", log: LossLog) -> None:
        self._trend = trend
        self._tokens: dict[int, float | None] = {}
        if trend.axis == "tokens":
            if "tokens" not in log.columns:
                raise UsageError(
                    f"{log.path} has no column of tokens, along which {trend.name!r} was registered; "
                    "say which it is with --column tokens=NAME"
                )
            self._tokens = dict(zip(log.columns["step"], log.columns["tokens"][:], strict=True))

    def __call__(self, step: int) -> tuple[float, float, float] | None:
        self._trend.tokens = self._tokens.get(step)
        return self._trend(step)


def _rung(other: ReferenceRun | None, trend: "RegisteredTrend | None", found: Sequence[Finding]) -> str:
    refused = any(finding.evidence.get("detector") == "same_order" for finding in found)
    parts = [] if other is None or refused else [f"{other.name} on the same batches"]
    parts += ["its own log-trend"]
    parts += [] if trend is None else [f"the registered prediction {trend.name}"]
    return " and ".join(parts)


def _reference(log: LossLog) -> ReferenceRun:
    if len(log.runs) > 1:
        raise UsageError(f"--reference {log.path} holds {len(log.runs)} runs; give the log of one")
    steps, losses, batches = log.rows()
    return ReferenceRun.of(steps, losses, batches, name=Path(log.path).name or log.path)


def _trend(registry: str | None, name: str | None) -> "RegisteredTrend | None":
    if registry is None:
        if name is not None:
            raise UsageError("--prediction names an entry of a registry; say which one with --trend FILE")
        return None
    from numguard import scaling
    from numguard.session.registered_trend import RegisteredTrend  # needs torch, which takes its second to start

    return RegisteredTrend(scaling.registered(registry, name))


def _drawn(trend: "RegisteredTrend") -> TrendBand | None:
    band = band_from(trend.to_fields())
    return None if isinstance(band, str) else band


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        name, sign, column = pair.partition("=")
        if not sign or not name or not column:
            raise UsageError(f"--column {pair[:60]!r} is no pair; write for example --column loss=train/nll")
        columns[name.strip()] = column
    return columns


def _file(log: LossLog) -> LogFile:
    return LogFile(
        name=log.path,
        format=log.format,
        num_rows=len(log),
        names=tuple(column if name == column else f"{name}={column}" for name, column in log.names.items()),
        damage=log.damage,
        notes=log.notes,
    )


def _rate(rung: str) -> str:
    measured = [f"compared with {name}, {rate}" for name, rate in CALIBRATIONS.items() if rate and name == rung]
    known = "; ".join(measured) or "no rate was measured for this comparison"
    return f"How often an alarm is false, measured on real runs that had no part in fixing the thresholds: {known}."


def _json(summary: CurveSummary) -> str:
    content = {
        "headline": summary.headline,
        "num_alarms": summary.num_alarms,
        "files": [asdict(file) for file in summary.files],
        "runs": [
            {
                "name": run.name,
                "compared_with": run.rung,
                "num_rows": run.curve.num_steps,
                "first_step": run.curve.first_step,
                "last_step": run.curve.last_step,
                "last_loss": run.curve.last_loss,
                "num_nonfinite": run.curve.num_nonfinite,
                "findings": [asdict(finding) for finding in run.findings],
            }
            for run in summary.runs
        ],
        "bands": [asdict(band) for band in summary.bands],
        "rate": summary.rate,
    }
    return json.dumps(as_plain(content), allow_nan=False, indent=1)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
