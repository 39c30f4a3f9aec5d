"""Units of a loss: nats, bits, for each token or each byte."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.law import FloatArray

UNITS: Final = ("nats_per_token", "bits_per_token", "nats_per_byte", "bits_per_byte")


def convert_loss(loss: ArrayLike, unit: str, to: str, *, bytes_per_token: float | None = None) -> FloatArray:
    """Return losses in another unit.

    Parameters
    ----------
    loss
        Losses in ``unit``, for example ``cross_entropy`` as torch gives it: nats per token.
    unit, to
        ``"nats_per_token"``, ``"bits_per_token"``, ``"nats_per_byte"`` or ``"bits_per_byte"``.
    bytes_per_token
        Bytes of the evaluated text over its tokens, needed between tokens and bytes. Losses per token of different
        tokenisers cannot be compared; losses per byte of the same text can.

    Raises
    ------
    UsageError
        A unit does not exist, or ``bytes_per_token`` is missing or not above 0.

    Notes
    -----
    ``bits = nats / ln 2``; a loss per byte is the loss per token over ``bytes_per_token``. Both are factors, so an
    exponent of a scaling law is the same in all units, and its scales and floor change by the factor.

    Examples
    --------
    >>> round(float(convert_loss(2.0, "nats_per_token", "bits_per_byte", bytes_per_token=4.0)), 4)
    0.7213
    """
    for name in (unit, to):
        if name not in UNITS:
            raise UsageError(f"{name!r} is not a unit of loss; pass one of {', '.join(UNITS)}")
    factor = 1.0
    if unit.startswith("nats") and to.startswith("bits"):
        factor /= np.log(2.0)
    elif unit.startswith("bits") and to.startswith("nats"):
        factor *= np.log(2.0)
    if unit.endswith("token") != to.endswith("token"):
        if bytes_per_token is None or not bytes_per_token > 0:
            raise UsageError(
                f"{unit} to {to} needs bytes_per_token, which is {bytes_per_token!r}; pass the bytes of the evaluated "
                "text over its tokens, for example bytes_per_token=4.2"
            )
        factor *= 1 / bytes_per_token if unit.endswith("token") else bytes_per_token
    return np.asarray(np.asarray(loss, dtype=np.float64) * factor)
