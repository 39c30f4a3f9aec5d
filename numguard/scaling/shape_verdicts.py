"""Does a capability grow with scale, shrink, or turn? A verdict for each of many tasks, few of them false."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from numguard.errors import UsageError
from numguard.scaling.shape_scores import TaskScores, read_tasks
from numguard.scaling.shape_tests import Evidence, evidence_of

Verdict = Literal["positive", "inverse", "U", "inverted-U", "irregular", "flat"]

_NUM_SHAPES: Final = 3  # the trend, U and inverted U: what is tested in each task
_SENTENCES: Final[Mapping[str, str]] = {
    "positive": "improves with scale",
    "inverse": "gets worse with scale",
    "U": "gets worse, then better with scale",
    "inverted-U": "gets better, then worse with scale",
    "irregular": "differs between models by more than the items explain, but not with scale",
    "flat": "does not differ between models by more than the items explain",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeVerdict:
    """How one task's score depends on scale, over the range that was observed.

    Parameters
    ----------
    task
        Its name.
    verdict
        ``"positive"``, ``"inverse"``, ``"U"`` or ``"inverted-U"``: shapes that survive the false-discovery control.
        ``"irregular"``: the models differ by more than their items explain, in no such shape. ``"flat"``: they do not.
    slope, slope_error
        Of the score for each factor of ten in size, by least squares, and its standard error.
    p_value
        Of the reported shape; of the strongest shape where none is reported. Not corrected for the number of tasks.
    q_value
        Smallest false-discovery rate at which this task is selected (Benjamini and Hochberg).
    turning_size
        Where a U or inverted U turns; None for other verdicts.
    smallest, largest
        The observed range: nothing is said about sizes outside of it.
    num_models
        Models with a score.
    scatter
        Standard deviation of the models about a smooth curve, beyond what their items explain; 0 if these explain all.
    """

    task: str
    verdict: Verdict
    slope: float
    slope_error: float
    p_value: float
    q_value: float
    turning_size: float | None
    smallest: float
    largest: float
    num_models: int
    scatter: float

    def __str__(self) -> str:
        turn = f", turning near {self.turning_size:.3g}" if self.turning_size is not None else ""
        return (
            f"{self.task or 'score'}: {_SENTENCES[self.verdict]}{turn}, from size {self.smallest:.3g} to "
            f"{self.largest:.3g} ({self.num_models} models, p={self.p_value:.2g}, q={self.q_value:.2g})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """Verdicts on all tasks that were judged together.

    Parameters
    ----------
    verdicts
        By task, in the order in which they were given.
    false_discovery_rate
        Expected share of wrong ones among the verdicts that name a shape, at most.
    not_judged
        Tasks with scores of fewer than three sizes, with the reason.
    """

    verdicts: Mapping[str, ShapeVerdict]
    false_discovery_rate: float
    not_judged: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks have each verdict."""
        found: list[str] = [verdict.verdict for verdict in self.verdicts.values()]
        return {name: found.count(name) for name in _SENTENCES}

    def tasks(self, verdict: Verdict) -> tuple[str, ...]:
        """Return the tasks with a verdict."""
        return tuple(task for task, found in self.verdicts.items() if found.verdict == verdict)


def shape(
    size: ArrayLike,
    score: ArrayLike | Mapping[str, ArrayLike],
    *,
    error: ArrayLike | Mapping[str, ArrayLike] | None = None,
    num_items: ArrayLike | Mapping[str, ArrayLike] | None = None,
    higher_is_better: bool = True,
    false_discovery_rate: float = 0.05,
) -> Shapes:
    """Judge how scores depend on scale: positive, inverse, U, inverted U, or none of these.

    Parameters
    ----------
    size
        ``[models]``, parameters or compute of each model; above 0. Several models may have one size.
    score
        The tasks by name, or one task. Each is ``[models]`` mean scores, NaN where a model was not evaluated; or
        ``[models, items]``, each model's score on each item. The latter is stronger: models are compared item by item.
    error
        ``[models]``, standard errors of mean scores over their items, for each task.
    num_items
        Items behind a mean score that is a share of right answers, one number or ``[models]`` for each task. Gives the
        errors where ``error`` does not, and mends errors of 0 (no item was missed, or none solved).
    higher_is_better
        False for losses, perplexities and error rates.
    false_discovery_rate
        Expected share of wrong ones among the shapes that are reported.

    Returns
    -------
    Shapes
        A verdict for each task.

    Raises
    ------
    UsageError
        Arrays do not fit together, or a mean score has neither an error nor a number of items.

    Notes
    -----
    *Trend*: least-squares slope against the logarithm of size, two-sided. *U*: Simonsohn's two lines (Advances in
    Methods and Practices in Psychological Science 1, 2018) as an intersection-union test: for a breakpoint, the score
    falls before it and rises after it, and p is the larger of the two one-sided p values; the smallest over all inner
    sizes is multiplied by their number. A parabola alone would call a saturating curve an inverted U.

    *Errors* are those of the items (paired over models where single items are given), plus the scatter of models about
    a parabola beyond it, which counts seeds and label bias that no item error knows; degrees of freedom after Welch and
    Satterthwaite. With three models there is no scatter to measure and items are all there is.

    *Multiplicity*: the three shapes of a task by Bonferroni, the tasks by Benjamini and Hochberg (1995), and in the
    selected tasks the shapes again at the reduced level of Benjamini and Bogomolov (Journal of the Royal Statistical
    Society B 76, 2014). A U goes before the trend, which a lopsided U also has. Verdicts hold over the observed range:
    of eleven tasks of the Inverse Scaling Prize, six turned at a larger model (Wei et al., arXiv 2211.02011).
    """
    if not 0.0 < false_discovery_rate < 1.0:
        raise UsageError(f"false_discovery_rate={false_discovery_rate!r} is no share; pass for example 0.05")
    tasks, not_judged = read_tasks(size, score, error, num_items, sign=1.0 if higher_is_better else -1.0)
    found = {name: evidence_of(task) for name, task in tasks.items()}
    family = {name: min(1.0, _NUM_SHAPES * one.smallest_p) for name, one in found.items()}
    adjusted = dict(zip(family, _adjusted([*family.values()]), strict=True))
    num_selected = sum(value <= false_discovery_rate for value in adjusted.values())
    level = false_discovery_rate * num_selected / max(len(family), 1)
    differing = _differing(found, false_discovery_rate)
    return Shapes(
        verdicts={
            name: _verdict(
                task,
                found[name],
                adjusted[name],
                level if adjusted[name] <= false_discovery_rate else 0.0,
                name in differing,
                higher_is_better,
            )
            for name, task in tasks.items()
        },
        false_discovery_rate=false_discovery_rate,
        not_judged=not_judged,
    )


def _verdict(
    task: TaskScores, evidence: Evidence, q_value: float, level: float, differs: bool, higher_is_better: bool
) -> ShapeVerdict:
    found: Verdict = "irregular" if differs else "flat"
    p_value, turning = evidence.smallest_p, None
    for shape_name, test in (("U", evidence.dip), ("inverted-U", evidence.hump)):
        if test is not None and _NUM_SHAPES * test.p_value <= level:
            found, p_value, turning = shape_name, test.p_value, test.turning_size  # type: ignore[assignment]
            break
    else:
        if _NUM_SHAPES * evidence.trend_p <= level:
            found, p_value = "positive" if evidence.slope > 0 else "inverse", evidence.trend_p
    return ShapeVerdict(
        task=task.name,
        verdict=found,
        slope=evidence.slope * (1.0 if higher_is_better else -1.0),
        slope_error=evidence.slope_error,
        p_value=p_value,
        q_value=q_value,
        turning_size=turning,
        smallest=float(10 ** task.log_size.min()),
        largest=float(10 ** task.log_size.max()),
        num_models=len(task.log_size),
        scatter=evidence.scatter,
    )


def _differing(found: Mapping[str, Evidence], rate: float) -> frozenset[str]:
    """Return the tasks whose models differ by more than their items explain, at the same false-discovery rate."""
    adjusted = _adjusted([one.difference_p for one in found.values()])
    return frozenset(name for name, value in zip(found, adjusted, strict=True) if value <= rate)


def _adjusted(p_values: list[float]) -> list[float]:
    """Return Benjamini and Hochberg's adjusted p values, in the order given."""
    if not p_values or math.isnan(sum(p_values)):
        return [float("nan")] * len(p_values)
    adjusted: list[float] = np.asarray(stats.false_discovery_control(p_values)).tolist()
    return adjusted
