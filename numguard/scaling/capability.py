"""Capability as a power of compute: how the mean logarithm of the pass rate shrinks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from numguard.errors import UsageError
from numguard.scaling.columns import compute_design
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import Term, grid, log_sum, log_sum_and_gradient, vector

_EXPONENTS = (-0.2, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class CapabilityLaw:
    """Mean over the items of ``-log pass_rate`` at compute ``C``: ``alpha C^(-k)``.

    ``pass_rate`` is ``[models, items]``, or ``[models]`` where single items are not known (then it is the logarithm of
    the mean, which hides how hard items are spread). No loss is passed: ``fit(CapabilityLaw(), C=…, pass_rate=…)``.
    A prediction is of ``-E[log pass_rate]``: its ``exp(-value)`` is the geometric mean of the pass rates.

    Notes
    -----
    OpenAI, *GPT-4 Technical Report*, arXiv 2303.08774, section 3.2. The law holds over items that *every* model solves
    at least once; the logarithm of a pass rate of 0 is infinite, and replacing it by a small number would decide the
    slope. Leaving such items out makes a capability look better than it is, more so for smaller models: say how many
    were left out. :func:`~numguard.scaling.capability` does, and judges items by difficulty.
    """

    @property
    def name(self) -> str:
        """The class's name."""
        return "CapabilityLaw"

    @property
    def formula(self) -> str:
        """The mean is over items."""
        return "-E[log pass_rate] = alpha*C^(-k)"

    @property
    def source(self) -> str:
        """Where it is from."""
        return "GPT-4 Technical Report, arXiv 2303.08774, section 3.2"

    @property
    def columns(self) -> tuple[str, ...]:
        """Compute; a prediction needs no more."""
        return ("C",)

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """What is observed; a fit needs it."""
        return ("pass_rate",)

    @property
    def response(self) -> str:
        """What is modelled."""
        return "-E[log pass_rate]"

    @property
    def rows_may_miss(self) -> bool:
        """Every row is a model."""
        return False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Scale and exponent."""
        return ("alpha", "k")

    @property
    def derived(self) -> tuple[str, ...]:
        """None."""
        return ()

    def design(self, columns: Columns) -> Design:
        """Return the models; their size is their compute."""
        return compute_design(self, columns)

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return ``[models]``, the logarithm of the mean over the items of ``-log pass_rate``."""
        if loss is not None:
            raise UsageError("CapabilityLaw computes what it fits from pass rates; pass pass_rate=… and no loss")
        if "pass_rate" not in columns:
            raise UsageError("CapabilityLaw needs what the models achieved; pass pass_rate=[models, items] or [models]")
        return np.log(mean_minus_log(columns["pass_rate"]))

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return exponents, each with the scale that meets the first, middle or last model."""
        log_c = design.terms["log_c"]
        order = np.argsort(log_c, kind="stable")
        anchors = np.unique(order[[0, len(order) // 2, len(order) - 1]])
        pairs = grid(_EXPONENTS, np.asarray(anchors, dtype=np.float64))
        return np.asarray([(target[int(row)] + k * log_c[int(row)], k) for k, row in pairs])

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return the logarithm of the mean of ``-log pass_rate``."""
        return log_sum(theta, self._terms(design))[0]

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return the same with its derivatives."""
        return log_sum_and_gradient(theta, self._terms(design), len(self.parameters))

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``alpha, k``."""
        return np.column_stack([np.exp(theta[:, 0]), theta[:, 1]])

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("alpha",))

    def _terms(self, design: Design) -> tuple[Term, ...]:
        return (Term(scale=0, exponent=1, log_base=design.terms["log_c"]),)


def mean_minus_log(pass_rate: FloatArray) -> FloatArray:
    """Return ``[models]``, the mean over the items of ``-log pass_rate``, above 0.

    Raises
    ------
    UsageError
        A rate is outside of 0 to 1, or 0, or a model passes every item always.
    """
    rates = pass_rate[:, None] if pass_rate.ndim == 1 else pass_rate
    if rates.ndim != 2 or rates.shape[1] == 0:
        raise UsageError(f"pass_rate has the shape {pass_rate.shape}; pass [models, items], or [models]")
    if not ((rates >= 0) & (rates <= 1)).all():
        model, item = (int(place[0]) for place in np.nonzero(~((rates >= 0) & (rates <= 1))))
        raise UsageError(f"pass_rate[{model}, {item}] is {rates[model, item]:g}; pass shares between 0 and 1")
    if (rates == 0).any():
        model, item = (int(place[0]) for place in np.nonzero(rates == 0))
        raise UsageError(
            f"model {model} never solved item {item}, and the logarithm of 0 is infinite; leave out items that not "
            "every model solves: pass_rate[:, scaling.solved_by_all(pass_rate)], or call scaling.capability, which does"
        )
    mean = -np.log(rates).mean(axis=1)
    if not (mean > 0).all():
        model = int(np.argmin(mean))
        raise UsageError(f"model {model} passes every item always, which says nothing about scale; leave it out")
    return np.asarray(mean)
