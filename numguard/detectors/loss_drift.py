"""Step or ramp: what kind of departure from a reference on the same batches an alarm of the level means."""

from collections.abc import Sequence
from typing import Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.loss_plateau import stands_still

NUM_STARTS: Final = 12


def _least_squares(values: Sequence[float], shape: Sequence[float]) -> tuple[float, float]:
    """Return the factor of a shape and the squares that remain."""
    weight = sum([part * part for part in shape])
    factor = sum([part * value for part, value in zip(shape, values, strict=True)]) / weight
    return factor, sum([(value - factor * part) ** 2 for part, value in zip(shape, values, strict=True)])


def departure(values: Sequence[float], onset_rows: int) -> tuple[str, float, int]:
    """Return ``"loss_shift"`` or ``"loss_drift"``, its height or its slope per row, and its age in rows.

    Parameters
    ----------
    values
        Residuals less their usual level, oldest first.
    onset_rows
        First estimate of the age.

    Notes
    -----
    Least squares over two families with the same number of parameters, a step and a ramp, each with its best starting
    row among :data:`NUM_STARTS` between a quarter and twice the estimated age.
    """
    num_rows = len(values)
    most, least = min(num_rows, 2 * onset_rows + 16), max(2, onset_rows // 4)
    best: tuple[float, str, float, int] | None = None
    for index in range(NUM_STARTS):
        age = least + (most - least) * index // (NUM_STARTS - 1)
        before = [0.0] * (num_rows - age)
        for kind, shape in (
            ("loss_shift", [*before, *[1.0] * age]),
            ("loss_drift", [*before, *[float(row) for row in range(1, age + 1)]]),
        ):
            factor, remaining = _least_squares(values, shape)
            if best is None or remaining < best[0]:
                best = (remaining, kind, factor, age)
    assert best is not None
    return best[1:]


def name_departure(
    alarm: Alarm, residuals: Sequence[float], level: float, reference_slope_per_row: float
) -> tuple[str, float, int]:
    """Return the kind of finding for an alarm of the level against a reference on the same batches.

    Parameters
    ----------
    alarm
        What crossed.
    residuals
        The last rows of loss minus reference, oldest first.
    level
        Their usual level.
    reference_slope_per_row
        Change of the reference per row.

    Returns
    -------
    tuple of str, float, int
        ``"loss_shift"``, ``"loss_drift"`` or ``"loss_plateau"``; the height of the shift, or the slope per row of the
        others; age in rows.
    """
    values = [value - level for value in residuals]
    kind, size, age = departure(values, max(2, alarm.onset_rows))
    if kind == "loss_drift" and stands_still(size, reference_slope_per_row):
        kind = "loss_plateau"
    return kind, size, age
