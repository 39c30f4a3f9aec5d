"""The scores of many models on many tasks, with the covariance that their items give them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.law import FloatArray

_LEAST_SIZES: Final = 3  # two points always lie on a line
_LEAST_ITEMS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScores:
    """One task.

    Parameters
    ----------
    name
        Of the task.
    log_size
        ``[models]``, decimal logarithm of size, ascending.
    score
        ``[models]``, mean over the items; turned so that higher is better.
    covariance
        ``[models, models]``, of the mean scores, from the items. Diagonal where single items are not known.
    """

    name: str
    log_size: FloatArray
    score: FloatArray
    covariance: FloatArray


def read_tasks(
    size: ArrayLike,
    score: ArrayLike | Mapping[str, ArrayLike],
    error: ArrayLike | Mapping[str, ArrayLike] | None,
    num_items: ArrayLike | Mapping[str, ArrayLike] | None,
    *,
    sign: float,
) -> tuple[dict[str, TaskScores], dict[str, str]]:
    """Return the tasks that can be judged, and why the others cannot.

    Raises
    ------
    UsageError
        Arrays do not fit together, or a mean score has neither an error nor a number of items.
    """
    sizes = _array("size", size)
    if sizes.ndim != 1 or not np.isfinite(sizes).all() or not (sizes > 0).all():
        raise UsageError("size must be one number above 0 for each model; pass parameters or compute")
    scores = score if isinstance(score, Mapping) else {"": score}
    if not scores:
        raise UsageError("there is no task to judge; pass score={'task': [one score for each model]}")
    tasks: dict[str, TaskScores] = {}
    not_judged: dict[str, str] = {}
    for name, values in scores.items():
        given = _array(f"score of {name!r}", values)
        if given.ndim not in (1, 2) or given.shape[0] != len(sizes):
            raise UsageError(
                f"the score of {name!r} has the shape {given.shape} and there are {len(sizes)} sizes; "
                "pass [models] or [models, items]"
            )
        if np.isinf(given).any():
            raise UsageError(f"the score of {name!r} holds an infinity; pass NaN where a model was not evaluated")
        there = np.asarray(~np.isnan(given) if given.ndim == 1 else ~np.isnan(given).any(axis=1))
        num_sizes = len(np.unique(sizes[there]))
        if num_sizes < _LEAST_SIZES:
            not_judged[name] = f"scores of {num_sizes} sizes, and a shape needs {_LEAST_SIZES}"
            continue
        if given.ndim == 2:
            mean, covariance = _of_items(name, given[there])
        else:
            mean = given[there]
            errors = _errors(name, mean, there, _of_task(error, name), _of_task(num_items, name))
            covariance = np.diag(errors**2)
        order = np.argsort(sizes[there], kind="stable")
        tasks[name] = TaskScores(
            name=name,
            log_size=np.log10(sizes[there][order]),
            score=sign * mean[order],
            covariance=covariance[np.ix_(order, order)],
        )
    return tasks, not_judged


def _of_items(name: str, items: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return means over the items and the covariance of these means.

    The items are a sample of all that could have been asked: two models that miss the same ones differ by less than
    their errors say. One imaginary item on which two models differ keeps the error of their difference above 0 where
    they answer alike, after Agresti and Coull (The American Statistician 52, 1998): beside ``num + 4`` items its
    variance is ``(range / (num + 4))^2``, a half of it from each model.
    """
    num = items.shape[1]
    if num < _LEAST_ITEMS:
        raise UsageError(f"task {name!r} has {num} items, which say nothing about their error; pass at least two")
    low, high = float(items.min()), float(items.max())
    covariance = np.atleast_2d(np.cov(items)) / num
    if low == high:
        low, high = (0.0, 1.0) if 0.0 <= low <= 1.0 else (low - 0.5, low + 0.5)
    own = 0.5 * ((high - low) / (num + 4)) ** 2
    return items.mean(axis=1), covariance + own * np.eye(len(items))


def _errors(
    name: str, mean: FloatArray, there: np.ndarray, error: ArrayLike | None, num_items: ArrayLike | None
) -> FloatArray:
    errors = None if error is None else _per_model(f"error of {name!r}", error, there)
    counts = None if num_items is None else _per_model(f"num_items of {name!r}", num_items, there)
    if errors is not None and not (errors >= 0).all():
        raise UsageError(f"the error of {name!r} is negative or NaN where there is a score; pass standard errors")
    if counts is not None and not (counts >= 1).all():
        raise UsageError(f"num_items of {name!r} is below 1 where there is a score; pass the number of items")
    if counts is None:
        if errors is None or not (errors > 0).all():
            state = "no error" if errors is None else "an error of 0"
            raise UsageError(
                f"task {name!r} has {state}, which would make every difference significant; pass "
                "num_items=, the number of items behind the mean, or the single items as [models, items]"
            )
        return errors
    # Agresti and Coull's adjusted share: two items solved and two missed beside the real ones.
    if errors is None and not ((mean >= 0) & (mean <= 1)).all():
        raise UsageError(
            f"num_items gives the error of a share of right answers, and {name!r} has a score outside of 0 to 1; "
            "pass error="
        )
    share = (np.clip(mean, 0.0, 1.0) * counts + 2.0) / (counts + 4.0)
    binomial = np.sqrt(share * (1.0 - share) / (counts + 4.0))
    return np.asarray(binomial if errors is None else np.where(errors > 0, errors, binomial))


def _per_model(name: str, values: ArrayLike, there: np.ndarray) -> FloatArray:
    array = _array(name, values)
    if array.ndim == 0:
        return np.full(int(there.sum()), float(array))
    if array.shape != there.shape:
        raise UsageError(f"the {name} has the shape {array.shape}; pass one number for each of {len(there)} models")
    return np.asarray(array[there])


def _of_task(values: ArrayLike | Mapping[str, ArrayLike] | None, name: str) -> ArrayLike | None:
    return values.get(name) if isinstance(values, Mapping) else values


def _array(name: str, values: ArrayLike) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"the {name} is not numeric; pass numbers, and NaN for missing ones") from None
