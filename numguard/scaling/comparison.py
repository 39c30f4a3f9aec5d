"""Several laws fitted to the same runs: which predicts the larger ones best, and how far they disagree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.fit_result import Fit, Prediction
from numguard.scaling.fitting import fit
from numguard.scaling.law import Law


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Fits of several laws to the same runs.

    Parameters
    ----------
    fits
        One for each law, the best first: by the root mean square of roll-out errors on the runs that all laws have
        predicted, because a law is for extrapolation; by the objective where no roll-out was possible.
    errors
        That error of each, in natural logarithms of the value; NaN without a roll-out.
    """

    fits: tuple[Fit, ...]
    errors: tuple[float, ...]

    @property
    def best(self) -> Fit:
        """The fit of the law that predicts larger runs best."""
        return self.fits[0]

    def predictions(self, *, level: float = 0.9, **columns: ArrayLike) -> tuple[Prediction, ...]:
        """Return what each law predicts, in the order of ``fits``; each takes the columns that it knows."""
        return tuple(own.predict(level=level, **_known(own.law, columns)) for own in self.fits)

    def __str__(self) -> str:
        lines = [f"{'law':<20} {'parameters':>10} {'objective':>12} {'roll-out error':>15}"]
        for own, error in zip(self.fits, self.errors, strict=True):
            lines.append(
                f"{own.law.name:<20} {len(own.law.parameters):>10} {own.objective:>12.4e} {np.expm1(error):>15.2%}"
            )
        return "\n".join(lines)


def compare(
    laws: Sequence[Law],
    loss: ArrayLike | None = None,
    *,
    num_bootstraps: int = 1000,
    seed: int = 0,
    **columns: ArrayLike,
) -> Comparison:
    """Return fits of several laws to the same runs.

    Parameters
    ----------
    laws
        At least two.
    loss, num_bootstraps, seed
        As for :func:`~numguard.scaling.fit`.
    **columns
        The columns of all laws together; each takes those that it knows.

    Raises
    ------
    UsageError
        Fewer than two laws, or what :func:`~numguard.scaling.fit` raises.

    Notes
    -----
    Fit forms are scored by extrapolation, as Alabdulmohsin et al., arXiv 2209.06640, section 3, recommend: on the runs
    that are fitted, the form with more parameters always wins.
    """
    if len(laws) < 2:
        raise UsageError(
            f"compare was given {len(laws)} law; pass at least two, for example [PowerLaw(), PowerLaw(floor=False)]"
        )
    fits = [fit(law, loss, num_bootstraps=num_bootstraps, seed=seed, **_known(law, columns)) for law in laws]
    errors = _common_errors(fits)
    ranks = errors if np.isfinite(errors).all() else [own.objective for own in fits]
    order = sorted(range(len(fits)), key=lambda number: ranks[number])
    return Comparison(fits=tuple(fits[k] for k in order), errors=tuple(float(errors[k]) for k in order))


def _known(law: Law, columns: dict[str, ArrayLike]) -> dict[str, Any]:
    return {name: values for name, values in columns.items() if name in (*law.columns, *law.optional_columns)}


def _common_errors(fits: Sequence[Fit]) -> list[float]:
    """Return the roll-out error of each over the pairs of cut and run that all have."""
    tables = [
        {(row, round(cut, 6)): error for row, cut, error in zip(h.row, h.cut, h.error, strict=True)}
        for h in (own.holdout for own in fits)
    ]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    if not shared:
        return [float("nan")] * len(fits)
    return [float(np.sqrt(np.mean([table[key] ** 2 for key in shared]))) for table in tables]
