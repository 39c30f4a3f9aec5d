"""The page of the detectors' campaign."""

import platform
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.campaigns.detectors_data import FAULTS, REFERENCE_FAULTS, Fault
from benchmarks.campaigns.detectors_scoring import (
    OURS,
    OURS_STRICT,
    Count,
    binomial_interval,
    bootstrap_upper,
    poisson_interval,
    poisson_upper,
)
from numguard.detectors.alarm_budget import NEVER, SHARES, THRESHOLDS

INTRODUCTION = """# Loss alarms

`numguard.detectors.LossMonitor` on real loss curves, beside the rules that others ship.

- **Thresholds** come from `python -m benchmarks.campaigns.detectors_calibration`: for each test the least threshold at
  which the calibration runs stay within its part of the budget (one false alarm in 20,000 rows for the whole bank).
  Calibration runs have other data orders than all scored runs: {calibration}, and the clean runs of every second
  AlgoPerf workload. Scored orders: {scored}.
- **Design** is less blind than the thresholds: which statistics exist, their windows and allowances, and that a single
  row against a reference is judged in units of the batches' noise, were chosen with all of these curves in view,
  scored ones included. Thresholds were fixed anew, on the calibration runs, for each of the ten variants that were
  tried last, so the one that is shown here was chosen among ten; the trend's shape and length were chosen by faults
  put into calibration runs.
- **False alarms** are episodes: alarms within 50 rows are one. The first twentieth of a run, at least 600 rows, is not
  scored. Runs were not cleaned by hand: where the data get harder for 1,000 steps, as in build-nanogpt's order near
  step 6,000 in every run, an alarm counts as false.
- **Hits**: a fault is added to the logged loss from a row on; a hit is an alarm of any test within the horizon at a
  place where the same rule on the clean curve gives none within 50 rows. *Chance* is the share of horizons in which
  the clean curve gives an alarm. Delays are medians over hits, in rows.
- Other rules are written from their published descriptions (`benchmarks/campaigns/detectors_rules.py`) and run as
  shipped.

Written by `python -m benchmarks.campaigns.detectors` on {date}, Python {python}, {seconds:.0f} seconds.
"""

LIMITS = """
## Where it ends, and why

- **Drift without a reference** is found where the loss leaves all that lies between a line in the logarithm of the step
  and a power law, both through the rows from 384 to 3,072 back. It takes some 450 rows because the data's own wander is
  as large: in build-nanogpt's order the data get harder twice, and each time is a false alarm. Tried: likelihood ratios
  of a ramp over all onsets (the same hits, no sooner), sums of rows instead of blocks (they find the wander first),
  other exponents, shorter and longer trends, and an allowance between 0.25 and 1.25.
- **A loss that only stops falling**, above its forecast but not above its former level, is not called a shift without a
  reference: at the end of a cooldown whose learning rate is not logged, as in ImageNet runs here, it would be a false
  alarm. Where it lasts, the blocks of the drift show it.
- **A fall without a reference** is judged loosely: a cooldown whose learning rate is not logged looks like one, and
  such calibration runs fix its threshold (`slow_down`).
- **The alarm on clean AlgoPerf rows** is a run labelled clean whose loss rises from 1.01 to 1.25 within two rows and
  stays there.
- **The rate against a reference** rests on one episode: its interval is wide. Two seeds wander apart by some 0.003 nat
  for some hundred rows; baselines of 192, 384 and 600 rows, gaps of 32 to 100 and allowances of 0.15 to 0.6 all trade
  delay for that wander.
- **Spikes and shifts on the loss of one rank** are as small as its noise; nothing but averaging the loss helps.
- **A proxy** is not calibrated: there is no pair of runs of different size on the same batches that is long enough.
  Findings on that rung give no measured rate.
"""


def section(text: str, title: str) -> str:
    """Return a section of a page with its heading, up to the next heading; empty where there is none."""
    _, found, rest = text.partition(f"\n## {title}\n")
    return f"## {title}\n" + rest.partition("\n## ")[0] if found else ""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the campaign measured."""

    all_reduced: dict[str, Count]
    one_rank: dict[str, Count]
    reference: Count
    events: dict[str, tuple[int, int, int, int]]
    scored_workloads: tuple[str, ...]
    lines: list[tuple[int, float, float, str]]
    orders: tuple[str, ...]
    calibration_orders: tuple[str, ...]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _hits(count: Count, fault: Fault, *, interval: bool) -> str:
    total, delays = count.num_faults.get(fault.name, 0), count.delays.get(fault.name, [])
    if not total:
        return "-"
    text = _percent(len(delays) / total)
    if interval:
        low, high = binomial_interval(len(delays), total)
        text += f" ({_percent(low)} to {_percent(high)})"
    if delays:
        text += f" / {statistics.median(delays):.0f}"
    return text


def _rate(count: Count) -> str:
    num, exposure = sum(count.episodes), sum(count.num_rows) / 1e4
    low, high = poisson_interval(num, exposure)
    return f"{num / exposure:.2f} ({low:.2f} to {high:.2f})"


def _table(counts: dict[str, Count]) -> list[str]:
    names = [fault.name for fault in FAULTS]
    lines = [
        "| rule | false alarms per 10,000 rows (95 %) | "
        + " | ".join(f"{name}: hits / delay" for name in names)
        + " |",
        "| --- | --- |" + " --- |" * len(names),
    ]
    for rule, count in counts.items():
        cells = []
        for fault in FAULTS:
            text = _hits(count, fault, interval=rule == OURS)
            chance = count.by_chance.get(fault.name, 0) / max(1, count.num_faults.get(fault.name, 0))
            cells.append(text + (f" (chance {_percent(chance)})" if chance >= 0.005 else ""))
        lines.append(f"| {rule} | {_rate(count)} | " + " | ".join(cells) + " |")
    return lines


def _verdict(good: bool) -> str:
    return "reached" if good else "**not reached**"


def pooled(scores: Scores) -> Count:
    """Return the monitor's false alarms over all scored runs without a reference."""
    parts = [scores.all_reduced[OURS], scores.one_rank[OURS]]
    return Count(
        episodes=[num for part in parts for num in part.episodes],
        num_rows=[num for part in parts for num in part.num_rows],
    )


def _targets(scores: Scores) -> list[str]:
    count, ours = pooled(scores), scores.all_reduced[OURS]
    num, exposure = sum(count.episodes), sum(count.num_rows) / 1e4
    upper, drawn = poisson_upper(num, exposure), bootstrap_upper(count.episodes, count.num_rows)
    lines = ["| target | measured | |", "| --- | --- | --- |"]
    lines.append(f"| at most 0.5 false alarms per 10,000 rows | {_rate(count)} | {_verdict(count.rate() <= 0.5)} |")
    lines.append(
        f"| upper 95 % limit at most 1.0 | {upper * 1e0:.2f} (Poisson), {drawn * 1e4:.2f} (runs drawn again) | "
        f"{_verdict(max(upper, drawn * 1e4) <= 1.0)} |"
    )
    for fault, part, ladder in (
        *((fault, ours, "no reference") for fault in FAULTS),
        *((fault, scores.reference, "same-order reference") for fault in REFERENCE_FAULTS),
    ):
        total, delays = part.num_faults.get(fault.name, 0), part.delays.get(fault.name, [])
        share, delay = len(delays) / max(1, total), statistics.median(delays) if delays else float("inf")
        verdict = _verdict(share >= 0.9 and delay <= fault.wanted_delay)
        lines.append(
            f"| {fault.name}, {ladder}: 90 % within {fault.wanted_delay:.0f} rows (median) | "
            f"{_hits(part, fault, interval=True)} of {total} | {verdict} |"
        )
    for rule, budget in ((OURS, "default budget"), (OURS_STRICT, "budget 1e-7")):
        hits, events, alarms, rows = scores.events[rule]
        low, high = binomial_interval(hits, events)
        verdict = _verdict(hits >= 0.85 * events and 1e4 * alarms <= 0.5 * rows)
        lines.append(
            f"| AlgoPerf, {budget}: 85 % of real events at 0.5 per 10,000 clean rows | {_percent(hits / events)} "
            f"({_percent(low)} to {_percent(high)}) of {events}, {1e4 * alarms / rows:.2f} | {verdict} |"
        )
    ahead = bool(scores.lines[1][3]) and not scores.lines[0][3]
    lines.append(f"| 104B: the alarm comes one step before the loss jumps | see below | {_verdict(ahead)} |")
    return lines


def _events(scores: Scores) -> list[str]:
    lines = ["| rule | events hit | alarm episodes per 10,000 clean rows |", "| --- | --- | --- |"]
    for rule, (hits, events, alarms, rows) in scores.events.items():
        lines.append(f"| {rule} | {hits} of {events} ({_percent(hits / events)}) | {1e4 * alarms / rows:.1f} |")
    return lines


def _thresholds() -> list[str]:
    lines = ["| test | without a reference | against a reference |", "| --- | --- | --- |"]
    for name, threshold in THRESHOLDS["log-trend"].items():
        other = THRESHOLDS["reference"][name].level
        lines.append(f"| {name} | {threshold.level:g} | {f'{other:g}' if other < NEVER else 'not used'} |")
    return lines


def page(scores: Scores, seconds: float, cost: str = "") -> str:
    """Return the page, with the section that :mod:`benchmarks.campaigns.detectors_cost` wrote into the one before."""
    introduction = INTRODUCTION.format(
        calibration=", ".join(scores.calibration_orders),
        scored=", ".join(scores.orders),
        date=datetime.now(UTC).strftime("%d %B %Y"),
        python=platform.python_version(),
        seconds=seconds,
    )
    shares = ", ".join(f"{name} {_percent(share)}" for name, share in SHARES.items())
    reference = scores.reference
    parts = [
        introduction,
        "## Targets\n",
        *_targets(scores),
        "\n## Every rule, loss averaged over all ranks\n",
        *_table(scores.all_reduced),
        "\n## Every rule, loss of one rank\n",
        "Noise is two to five times as large, with heavy tails: average the loss over ranks before you log it.\n",
        *_table(scores.one_rank),
        "\n## Against a reference on the same batches\n",
        f"19 pairs of runs that differ by seed and hardware only. False alarms: {_rate(reference)} per 10,000 rows "
        f"({sum(reference.episodes)} in {sum(reference.num_rows):,} rows).\n",
        "\n## Real events: AlgoPerf\n",
        "Sustained spikes and divergences of 150 rows and more, labelled by a rule on the loss; an alarm within 25 "
        "rows of the label counts. Clean rows are those of workloads that took no part in fixing the thresholds: "
        + ", ".join(scores.scored_workloads)
        + ".\n",
        *_events(scores),
        "\n## The 104B log\n",
        "| step | loss | gradient norm | said |",
        "| --- | --- | --- | --- |",
        *(f"| {step} | {loss:.4g} | {norm:,.0f} | {said} |" for step, loss, norm, said in scores.lines),
        LIMITS,
        *([cost] if cost else []),
        "## Thresholds\n",
        f"Shares of the budget: {shares}.\n",
        *_thresholds(),
    ]
    return "\n".join(parts) + "\n"
