"""What is to be said of loss logs: each with its curve and what was found on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from numguard.finding import Finding
from numguard.records.damage import Damage
from numguard.records.loss_series import LossCurve
from numguard.records.trend_band import TrendBand
from numguard.report.quantities import counted, listed

_MOST_FINDINGS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCurve:
    """One run of a log.

    Parameters
    ----------
    name
        Of the log, and of the run in it where it holds several.
    curve
        Its losses.
    findings
        Warnings and notices, by step.
    rung
        What the loss was compared with, in words.
    """

    name: str
    curve: LossCurve
    findings: tuple[Finding, ...]
    rung: str

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings that are more than notices."""
        return tuple(finding for finding in self.findings if finding.severity != "notice")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFile:
    """One file that was read: its name, what it is, its damage, and what was assumed."""

    name: str
    format: str
    num_rows: int
    names: tuple[str, ...]
    damage: Damage
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveSummary:
    """What ``numguard curve`` shows.

    Parameters
    ----------
    files
        That were read, references included.
    runs
        In the order of the files, with the ``rank`` of curve and findings the place in this order.
    bands
        To be drawn: registered predictions, or the usual range of a single run.
    rate
        How often an alarm is false, in words.
    """

    files: tuple[LogFile, ...]
    runs: tuple[RunCurve, ...]
    bands: tuple[TrendBand, ...]
    rate: str

    @property
    def num_alarms(self) -> int:
        """Warnings in all runs."""
        return sum(len(run.alarms) for run in self.runs)

    @property
    def is_damaged(self) -> bool:
        """Whether some of the input could not be used."""
        return any(file.damage for file in self.files)

    @property
    def verdict(self) -> str:
        """Colour of the page, as a report's: ``"care"`` or ``"go"``."""
        return "care" if self.num_alarms else "go"

    @property
    def headline(self) -> str:
        """What was found, in one line."""
        num_losses = sum(run.curve.num_steps for run in self.runs)
        scope = f"{counted(num_losses, 'row')} of {counted(len(self.runs), 'run')}"
        if not self.num_alarms:
            return f"no alarm in {scope}"
        first = min((run for run in self.runs if run.alarms), key=lambda run: _step(run.alarms[0]))
        kinds = listed(sorted({finding.kind for run in self.runs for finding in run.alarms}))
        return (
            f"{counted(self.num_alarms, 'alarm')} in {scope} ({kinds}); the first at step {_step(first.alarms[0]):,}"
            + (f" of {first.name}" if len(self.runs) > 1 else "")
        )


def _step(finding: Finding) -> int:
    return finding.first_caught_step or 0


def numbered(runs: Sequence[RunCurve]) -> tuple[RunCurve, ...]:
    """Return runs whose curves and findings bear the place of their run as ``rank``, so that marks find their curve."""
    return tuple(
        replace(
            run,
            curve=replace(run.curve, rank=place),
            findings=tuple(replace(finding, rank=place) for finding in run.findings[:_MOST_FINDINGS]),
        )
        for place, run in enumerate(runs)
    )
