"""Laws that are sums of positive power terms: their logarithm is a log-sum-exp of linear forms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from numguard.scaling.law import FloatArray

_LEAST_EXPONENT = -300.0  # far below one rounding, and products of two still no subnormals, which are slow


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """``exp(theta[scale] - theta[exponent] * log_base)``; a constant where ``exponent`` is None.

    Parameters
    ----------
    scale, exponent
        Components of ``theta``.
    log_base
        ``[rows]`` or ``[vectors, rows]``, the logarithm of what is raised to the exponent.
    """

    scale: int
    exponent: int | None
    log_base: FloatArray


def log_sum(theta: FloatArray, terms: Sequence[Term]) -> tuple[FloatArray, FloatArray]:
    """Return ``log sum_m exp(z_m)``, ``[vectors, rows]``, and the share of each term, ``[vectors, terms, rows]``.

    Notes
    -----
    The largest exponent is taken out before anything is raised, so that nothing overflows; the shares
    ``exp(z_m) / sum`` are the derivatives by ``z_m`` (softmax).
    """
    exponents = []
    for term in terms:
        scale = theta[:, term.scale, None]
        slope = 0.0 if term.exponent is None else theta[:, term.exponent, None] * term.log_base
        exponents.append(np.broadcast_to(scale - slope, (len(theta), term.log_base.shape[-1])))
    stacked = np.stack(exponents, axis=1)
    largest = stacked.max(axis=1)
    raised = np.exp(np.maximum(stacked - largest[:, None], _LEAST_EXPONENT))
    total = raised.sum(axis=1)
    return largest + np.log(total), raised / total[:, None]


def log_sum_gradient(terms: Sequence[Term], shares: FloatArray, num_parameters: int) -> FloatArray:
    """Return ``[vectors, num_parameters, rows]``, the derivatives of :func:`log_sum` by scales and exponents."""
    gradient = np.zeros((len(shares), num_parameters, shares.shape[-1]))
    for number, term in enumerate(terms):
        gradient[:, term.scale] = shares[:, number]
        if term.exponent is not None:
            gradient[:, term.exponent] = -shares[:, number] * term.log_base
    return gradient


def log_sum_and_gradient(
    theta: FloatArray, terms: Sequence[Term], num_parameters: int
) -> tuple[FloatArray, FloatArray]:
    """Return the value of :func:`log_sum` with its derivatives by scales and exponents."""
    value, shares = log_sum(theta, terms)
    return value, log_sum_gradient(terms, shares, num_parameters)


def grid(*axes: Sequence[float] | FloatArray) -> FloatArray:
    """Return every combination, ``[starts, axes]``."""
    return np.asarray(list(product(*axes)), dtype=np.float64)


def vector(params: Mapping[str, float], names: Sequence[str], positive: Sequence[str]) -> FloatArray:
    """Return ``theta`` of named parameters, of which those in ``positive`` are kept as logarithms."""
    return np.asarray([np.log(params[name]) if name in positive else params[name] for name in names])
