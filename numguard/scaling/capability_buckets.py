"""A capability judged by difficulty: what the smaller models say of the largest, bucket by bucket."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from numguard.errors import UsageError
from numguard.scaling.capability import CapabilityLaw, mean_minus_log
from numguard.scaling.fit_result import Fit, Prediction
from numguard.scaling.fitting import fit
from numguard.scaling.law import FloatArray

_LEAST_MODELS: Final = 4  # three to fit two parameters with a residual, and one to predict
_FEW_MODELS: Final = 6
_FAR: Final = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Items of like difficulty.

    Parameters
    ----------
    items
        Their columns in ``pass_rate``.
    fit
        Of all models but the largest.
    prediction
        Of the largest model's ``-E[log pass_rate]``.
    observed
        What the largest model achieved.
    item_error
        Standard error of ``observed`` over the bucket's items: how far other items of this difficulty might have come
        out. NaN for a single item.
    sampling_error
        Standard error of ``observed`` from the number of tries for each item; 0 where that is not known.
    """

    items: tuple[int, ...]
    fit: Fit
    prediction: Prediction
    observed: float
    item_error: float
    sampling_error: float

    @property
    def covered(self) -> bool:
        """Whether the largest model came out inside of the interval."""
        return bool(self.prediction.low <= self.observed <= self.prediction.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """What smaller models say of a capability of the largest.

    Parameters
    ----------
    whole
        All items that every model solves, as one bucket.
    buckets
        The same items by difficulty, the easiest first.
    left_out
        Items that not every model solves at least once: no law holds over them.
    warnings
        Reasons for distrust.
    """

    whole: Bucket
    buckets: tuple[Bucket, ...]
    left_out: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def easiest(self) -> Bucket:
        """The easiest bucket, by itself: it saturates first, and GPT-4's prediction missed there alone."""
        return self.buckets[0]

    @property
    def harder(self) -> tuple[Bucket, ...]:
        """All buckets but the easiest."""
        return self.buckets[1:]


def solved_by_all(pass_rate: ArrayLike) -> NDArray[np.bool_]:
    """Return ``[items]``, which of them every model solves at least once.

    Parameters
    ----------
    pass_rate
        ``[models, items]``.
    """
    return np.asarray((_rates(pass_rate) > 0).all(axis=0))


def capability(
    C: ArrayLike,  # noqa: N803  named as in the law's formula
    pass_rate: ArrayLike,
    *,
    num_samples: ArrayLike | None = None,
    num_buckets: int = 6,
    level: float = 0.9,
) -> Capability:
    """Predict the largest model's pass rates from the others, over all items and by difficulty.

    Parameters
    ----------
    C
        ``[models]``, compute of each.
    pass_rate
        ``[models, items]``, share of tries that passed.
    num_samples
        Tries behind each rate: one number, ``[models]`` or ``[models, items]``.
    num_buckets
        Groups of like difficulty, of as equal size as can be.
    level
        Nominal coverage of the prediction intervals.

    Returns
    -------
    Capability
        Fits, predictions and outcomes. The easiest bucket stands by itself.

    Raises
    ------
    UsageError
        Arrays do not fit together, there are fewer than four models, or all of them solve fewer items than there are
        buckets.

    Notes
    -----
    The difficulty of an item is the mean of ``-log pass_rate`` of all models but the largest, so that sorting cannot
    favour the prediction (GPT-4 Technical Report, arXiv 2303.08774, section 3.2). Items that not every model solves are
    left out, the largest included, for its logarithm would be infinite there; a warning says how many fail on the
    largest alone, because these flatter it.
    """
    compute = np.atleast_1d(np.asarray(C, dtype=np.float64))
    rates = _rates(pass_rate)
    if compute.shape != (len(rates),):
        raise UsageError(
            f"there are {compute.size} values of C and {len(rates)} models in pass_rate; pass one for each"
        )
    if len(rates) < _LEAST_MODELS:
        raise UsageError(f"there are {len(rates)} models; at least {_LEAST_MODELS} are needed, one of them to predict")
    order = np.argsort(compute, kind="stable")
    if compute[order[-1]] == compute[order[-2]]:
        raise UsageError("the two largest models have the same compute, so none is predicted; leave one of them out")
    kept = np.nonzero(solved_by_all(rates))[0]
    if num_buckets < 1 or len(kept) < num_buckets:
        raise UsageError(f"every model solves {len(kept)} items, too few for {num_buckets} buckets; ask for fewer")
    compute, ordered = compute[order], rates[order][:, kept]
    tries = _tries(num_samples, rates.shape)
    tries = None if tries is None else tries[order][:, kept]
    difficulty = -np.log(ordered[:-1]).mean(axis=0)
    groups = np.array_split(np.argsort(difficulty, kind="stable"), num_buckets)
    judged = [
        _bucket(compute, ordered[:, group], None if tries is None else tries[:, group], kept[group], level)
        for group in (np.arange(len(kept)), *groups)
    ]
    return Capability(
        whole=judged[0],
        buckets=tuple(judged[1:]),
        left_out=tuple(int(item) for item in np.setdiff1d(np.arange(rates.shape[1]), kept)),
        warnings=tuple(_distrust(compute, rates[order], judged[0])),
    )


def _bucket(
    compute: FloatArray, rates: FloatArray, tries: FloatArray | None, items: NDArray[np.int64], level: float
) -> Bucket:
    smaller = fit(CapabilityLaw(), C=compute[:-1], pass_rate=rates[:-1])
    minus_log = -np.log(rates[-1])
    sampling = 0.0
    if tries is not None:
        # Of log(k / n), to first order; the share two tries nearer to a half keeps it above 0 at k = n.
        share = (rates[-1] * tries[-1] + 2.0) / (tries[-1] + 4.0)
        sampling = float(np.sqrt(((1.0 - share) / (tries[-1] * share)).sum()) / len(share))
    return Bucket(
        items=tuple(int(item) for item in items),
        fit=smaller,
        prediction=smaller.predict(C=float(compute[-1]), level=level),
        observed=float(minus_log.mean()),
        item_error=float(minus_log.std(ddof=1) / np.sqrt(len(minus_log))) if len(minus_log) > 1 else float("nan"),
        sampling_error=sampling,
    )


def _distrust(compute: FloatArray, rates: FloatArray, whole: Bucket) -> list[str]:
    reasons = []
    unsolved = rates == 0
    some = int(unsolved.any(axis=0).sum())
    if some:
        reasons.append(
            f"{some} of {rates.shape[1]} items are left out because not every model solves them: "
            "over all items the capability is worse than said here"
        )
    largest_only = int((unsolved[-1] & ~unsolved[:-1].any(axis=0)).sum())
    if largest_only:
        reasons.append(f"{largest_only} of these fail on the largest model alone, which flatters it")
    if len(compute) < _FEW_MODELS:
        reasons.append(f"{len(compute) - 1} models were fitted; with fewer than {_FEW_MODELS - 1} intervals are rough")
    if compute[-1] > _FAR * compute[-2]:
        reasons.append(f"the largest model has {compute[-1] / compute[-2]:.3g} times the compute of the next: far")
    if mean_minus_log(rates[:, solved_by_all(rates)])[0] < whole.observed:
        reasons.append("the largest model does worse than the smallest: see scaling.shape for an inverse trend")
    return reasons


def _rates(pass_rate: ArrayLike) -> FloatArray:
    try:
        rates = np.asarray(pass_rate, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError("pass_rate is not numeric; pass [models, items] of shares between 0 and 1") from None
    if rates.ndim != 2:
        raise UsageError(f"pass_rate has the shape {rates.shape}; buckets need single items, [models, items]")
    if not ((rates >= 0) & (rates <= 1)).all():
        raise UsageError("pass_rate holds a value outside of 0 to 1 or NaN; pass the share of tries that passed")
    return rates


def _tries(num_samples: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray | None:
    if num_samples is None:
        return None
    tries = np.asarray(num_samples, dtype=np.float64)
    if tries.ndim == 1:
        tries = tries[:, None]
    try:
        tries = np.broadcast_to(tries, shape)
    except ValueError:
        raise UsageError(f"num_samples does not fit {shape[0]} models and {shape[1]} items") from None
    if not (tries >= 1).all():
        raise UsageError("num_samples holds a value below 1; pass how often each item was tried")
    return np.asarray(tries)
