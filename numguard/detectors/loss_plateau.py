"""The loss stops falling while the reference goes on."""

from typing import Final

#: Change of the loss per step, as a share of the reference's, below which the loss is said to stand still.
STANDSTILL: Final = 0.5


def stands_still(residual_slope: float, reference_slope: float) -> bool:
    """Return whether the loss itself stands still.

    Parameters
    ----------
    residual_slope
        Change of loss minus reference per step since the onset.
    reference_slope
        Change of the reference per step.
    """
    if reference_slope >= 0.0:
        return False
    return abs(residual_slope + reference_slope) <= STANDSTILL * abs(reference_slope)
