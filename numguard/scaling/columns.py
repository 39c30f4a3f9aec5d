"""The columns that a user hands in, checked once, so that every law may rely on them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.law import Columns, Design, FloatArray, Law

_LABELS = frozenset({"curve"})  # columns whose values are names, not numbers


def read_columns(law: Law, given: Mapping[str, ArrayLike]) -> Columns:
    """Return the columns as float64 arrays whose first dimension is the row.

    Parameters
    ----------
    law
        Says which columns there must be and may be.
    given
        Arrays or lists by name; a scalar counts as a column of one row.

    Raises
    ------
    UsageError
        A column is missing, unknown, empty, not numeric, not finite, or of another length than the others.
    """
    wanted = ", ".join(f"{name}=…" for name in law.columns)
    missing = [name for name in law.columns if name not in given]
    if missing:
        raise UsageError(f"{law.name} is {law.formula} and needs the column {missing[0]!r}; pass {wanted}")
    unknown = [name for name in given if name not in (*law.columns, *law.optional_columns)]
    if unknown:
        optional = f", and may have {', '.join(law.optional_columns)}" if law.optional_columns else ""
        raise UsageError(f"{law.name} has no column {unknown[0]!r}: its columns are {', '.join(law.columns)}{optional}")
    columns = {name: _labels(values) if name in _LABELS else _numbers(name, values) for name, values in given.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UsageError(f"the columns differ in length: {listed}; row i of each must be the same run")
    if min(lengths.values(), default=0) == 0:
        raise UsageError(f"the columns are empty; pass one value for each run in {wanted}")
    return columns


def read_loss(law: Law, loss: ArrayLike, *, num_rows: int, may_miss: bool) -> FloatArray:
    """Return the loss as float64, checked against the columns; NaN only where the law lets rows be unobserved."""
    values = _numbers("loss", loss, may_miss=may_miss)
    if values.shape != (num_rows,):
        raise UsageError(
            f"loss has shape {values.shape} and the columns have {num_rows} rows; pass one loss for each row"
        )
    observed = values[~np.isnan(values)]
    if (observed <= 0).any():
        worst = float(observed.min())
        raise UsageError(
            f"{law.name} is fitted to the logarithm of the loss, and {worst:g} has none; pass positive losses"
        )
    return values


def log_loss(loss: FloatArray | None) -> FloatArray:
    """Return the logarithms of losses, of which :func:`~numguard.scaling.fit` has seen to it that they are there."""
    assert loss is not None
    return np.asarray(np.log(loss))


def require_positive(law: Law, columns: Columns, *names: str) -> None:
    """Raise :class:`~numguard.errors.UsageError` where one of the named columns holds a value that is not above 0."""
    for name in names:
        if name in columns and not (columns[name] > 0).all():
            row = int(np.argmin(columns[name] > 0))
            raise UsageError(
                f"{name}[{row}] is {columns[name][row]:g}, and {law.formula} needs it above 0; "
                "correct that row or leave it out"
            )


def compute_design(law: Law, columns: Columns) -> Design:
    """Return the design of a law in the compute ``C`` alone: its logarithm, which is also the size of a row."""
    require_positive(law, columns, "C")
    log_c = np.log(columns["C"])
    return Design(terms={"log_c": log_c}, size=log_c, block=np.arange(len(log_c)))


def _numbers(name: str, values: ArrayLike, *, may_miss: bool = False) -> FloatArray:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise UsageError(f"column {name!r} is not numeric; pass a list or an array of numbers") from None
    broken = np.isinf(array) if may_miss else ~np.isfinite(array)
    if broken.any():
        row = int(np.nonzero(broken)[0][0])
        raise UsageError(f"{name}[{row}] is {array[row]}, which cannot be fitted; leave that row out")
    return array


def _labels(values: ArrayLike) -> FloatArray:
    """Return ``0, 1, …`` for the distinct names in the order of their first appearance."""
    names = np.atleast_1d(np.asarray(values)).tolist()
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.asarray([order[name] for name in names], dtype=np.float64)
