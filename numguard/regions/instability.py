"""Is the error of a region explained by one-ulp changes of what it was given?

A backward stable algorithm returns what exact arithmetic returns for inputs that are off by a unit or so in their last
place. So the error of every element is compared with the largest change that one-ulp changes of the inputs can make
in that element, and the rounding of the element itself. What is counted, added and sorted here, NumPy does: the
reductions of torch may be what is wrong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from numguard.numerics import ulp
from numguard.regions.float64_replay import Values, replay, signs, ulp_or_zero
from numguard.regions.recording import Recording
from numguard.shadow.comparison import NotCovered

FACTOR: Final = 8.0  # one-ulp changes that a stable region may be off by; stable ones stay below 1, measured
DRAWS: Final = 3
EXAMINED: Final = 6  # elements whose derivatives are taken, the worst first
MOST_RESULTS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionVerdict:
    """What became of one call of a region.

    Parameters
    ----------
    ratio
        Error of the worst element that was examined, in one-ulp changes; an upper bound of it where none came near
        :data:`FACTOR`.
    error, change
        Of that element: absolute error, and one-ulp change.
    computed, exact
        Its value and that of the float64 replay.
    result
        Operator that returned it, and flat index.
    num_elements, num_suspicious
        Elements judged, and those beyond :data:`FACTOR` one-ulp changes as far as random changes show.
    dtype
        Of the result.
    """

    ratio: float
    error: float
    change: float
    computed: float
    exact: float
    result: str
    index: int
    num_elements: int
    num_suspicious: int
    dtype: str

    @property
    def unstable(self) -> bool:
        """Whether no one-ulp changes, eight times over, explain the error."""
        return self.ratio > FACTOR


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    name: str
    computed: Tensor
    exact: Tensor
    rounding: Tensor
    error: Tensor

    @staticmethod
    def of(name: str, computed: Tensor, exact: Tensor) -> "_Result":
        wide, exact = computed.detach().to(torch.float64), exact.detach()
        error = (wide - exact).abs()
        # Beyond the format's range an infinity is right, and where float64 has no number nothing is known.
        largest = torch.finfo(computed.dtype).max
        judged = torch.isfinite(exact) & ~(torch.isinf(wide) & (exact.abs() > largest))
        error = torch.where(judged, torch.where(torch.isfinite(wide), error, torch.inf), 0.0)
        return _Result(
            name=name,
            computed=wide,
            exact=exact,
            rounding=0.5 * ulp(torch.where(judged, exact, 1.0), computed.dtype),
            error=error,
        )


def judge_recording(recording: Recording, random: torch.Generator) -> RegionVerdict:
    """Judge what a recorded region has computed against its replay in float64.

    Parameters
    ----------
    recording
        Complete; its tensors are still what they were when the region returned.
    random
        Private generator on the host.

    Raises
    ------
    NotCovered
        With the reason.

    Notes
    -----
    The one-ulp change of an element ``y`` is ``sum_i |dy/dx_i| ulp(x_i) + ulp(y) / 2``, the largest change to first
    order, or what random changes were seen to make where that is more (a clamp, a kink). Derivatives are taken of the
    few worst elements alone, and only where random changes do not explain them. Backward stability: Higham, ASNA
    2nd ed., sections 1.5 and 1.6.
    """
    if recording.reason is not None:
        raise NotCovered(recording.reason)
    numbers = sorted(recording.results(), key=lambda number: -recording.tensors[number].numel())[:MOST_RESULTS]
    if not numbers:
        raise NotCovered("it computed nothing from floating-point inputs")
    values = Values(recording)

    def evaluate(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = dict(zip(values.inputs, inputs, strict=True))
        table = replay(recording, values.fixed, given, slopes=torch.is_grad_enabled())
        return [table[number] for number in numbers]

    return _judge(
        [recording.made_by(number) for number in numbers],
        [recording.tensors[number] for number in numbers],
        evaluate,
        list(values.inputs.values()),
        values.steps,
        random,
    )


def judge_form(
    form: Callable[..., Tensor | Sequence[Tensor]],
    arguments: Sequence[Tensor],
    computed: Sequence[Tensor],
    random: torch.Generator,
) -> RegionVerdict:
    """Judge what a region has returned against a reference form of it.

    Parameters
    ----------
    form
        Takes the arguments in float64 and returns one tensor for each of ``computed``, in float64.
    arguments
        Floating-point tensors that the region was given.
    computed
        What it returned for them.
    random
        Private generator on the host.

    Raises
    ------
    NotCovered
        If the form returns other shapes than the region.
    """

    def evaluate(inputs: Sequence[Tensor]) -> list[Tensor]:
        returned = form(*inputs)
        tensors = [returned] if isinstance(returned, Tensor) else list(returned)
        if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in computed]:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise NotCovered(f"its reference form returned shapes {shapes}, not those of the region")
        return tensors

    return _judge(
        [f"result {place}" for place in range(len(computed))],
        list(computed),
        evaluate,
        [tensor.detach().to(torch.float64, copy=True) for tensor in arguments],
        lambda: [ulp_or_zero(tensor.detach()) for tensor in arguments],
        random,
    )


def _judge(
    names: list[str],
    computed: list[Tensor],
    evaluate: Callable[[Sequence[Tensor]], list[Tensor]],
    inputs: list[Tensor],
    make_steps: Callable[[], list[Tensor]],
    random: torch.Generator,
) -> RegionVerdict:
    with torch.no_grad():
        results = [_Result.of(*parts) for parts in zip(names, computed, evaluate(inputs), strict=True)]
        changes, steps = [result.rounding for result in results], []
        if any(_flat(result.error > FACTOR * result.rounding).any() for result in results):
            steps = make_steps()
            changes = _random_changes(results, evaluate, inputs, steps, random)
    ratios = [_ratio(result.error, change) for result, change in zip(results, changes, strict=True)]
    num_suspicious = sum(int(np.count_nonzero(ratio > FACTOR)) for ratio in ratios)
    worst = _examine(results, changes, ratios, evaluate, inputs, steps) if num_suspicious else None
    place, index, change = worst if worst is not None else _largest(ratios, changes)
    result = results[place]
    error = float(result.error.reshape(-1)[index])
    return RegionVerdict(
        ratio=error / change if change > 0.0 else (math.inf if error > 0.0 else 0.0),
        error=error,
        change=change,
        computed=float(result.computed.reshape(-1)[index]),
        exact=float(result.exact.reshape(-1)[index]),
        result=result.name,
        index=index,
        num_elements=sum(result.error.numel() for result in results),
        num_suspicious=num_suspicious,
        dtype=str(computed[place].dtype)[6:],
    )


def _ratio(error: Tensor, change: Tensor) -> NDArray[np.float64]:
    """Return errors in one-ulp changes, flat: one without bound explains everything but a number that is none."""
    ratio = torch.where(torch.isfinite(change), error / change, 0.0)
    return _flat(torch.where(error == 0.0, 0.0, ratio))


def _flat(values: Tensor) -> NDArray[Any]:
    flat: NDArray[Any] = values.detach().cpu().numpy().reshape(-1)
    return flat


def _random_changes(
    results: list[_Result],
    evaluate: Callable[[Sequence[Tensor]], list[Tensor]],
    inputs: list[Tensor],
    steps: list[Tensor],
    random: torch.Generator,
) -> list[Tensor]:
    largest = [torch.zeros_like(result.error) for result in results]
    for _ in range(DRAWS):
        moved = [value + step * signs(value, random) for value, step in zip(inputs, steps, strict=True)]
        for place, (result, exact) in enumerate(zip(results, evaluate(moved), strict=True)):
            change = (exact - result.exact).abs().nan_to_num(nan=torch.inf)
            largest[place] = torch.maximum(largest[place], change)
    return [result.rounding + change for result, change in zip(results, largest, strict=True)]


def _largest(ratios: list[NDArray[np.float64]], changes: list[Tensor]) -> tuple[int, int, float]:
    place = max(range(len(ratios)), key=lambda number: float(ratios[number].max(initial=-1.0)))
    if not ratios[place].size:
        raise NotCovered("its results are empty")
    index = int(np.argmax(ratios[place]))
    return place, index, float(changes[place].reshape(-1)[index])


def _examine(
    results: list[_Result],
    changes: list[Tensor],
    ratios: list[NDArray[np.float64]],
    evaluate: Callable[[Sequence[Tensor]], list[Tensor]],
    inputs: list[Tensor],
    steps: list[Tensor],
) -> tuple[int, int, float]:
    """Take the derivatives of the worst elements; return the worst that is left, with its one-ulp change."""
    candidates: list[tuple[float, int, int]] = []
    for place, ratio in enumerate(ratios):
        few = min(EXAMINED, ratio.size)
        worst = np.argpartition(ratio, ratio.size - few)[ratio.size - few :] if few else ()
        candidates += [(float(ratio[index]), place, int(index)) for index in worst if ratio[index] > FACTOR]
    candidates.sort(reverse=True)
    # The caller's hooks on saved tensors (a checkpoint's, an offloader's) must not see these.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
        leaves = [value.clone().requires_grad_() for value in inputs]
        exact = evaluate(leaves)
        found = []
        for _, place, index in candidates[:EXAMINED]:
            error = float(results[place].error.reshape(-1)[index])
            seen = float(changes[place].reshape(-1)[index])
            change = seen
            if math.isfinite(error):  # a number that is none is off by more than any change
                first = _first_order(exact[place].reshape(-1)[index], leaves, steps)
                change = max(seen, first + float(results[place].rounding.reshape(-1)[index]))
            found.append((error / change if change > 0.0 else math.inf, place, index, change))
    _, place, index, change = max(found)
    return place, index, change


def _first_order(element: Tensor, leaves: list[Tensor], steps: list[Tensor]) -> float:
    if not element.requires_grad:
        return 0.0
    try:
        gradients = torch.autograd.grad(element, leaves, retain_graph=True, allow_unused=True)
    except (RuntimeError, NotImplementedError):
        raise NotCovered("a derivative of the region could not be taken") from None
    total = 0.0
    for gradient, step in zip(gradients, steps, strict=True):
        if gradient is not None:
            total += float(_flat(gradient.abs() * step).sum())
    return total if not math.isnan(total) else math.inf


def _as_it_is(value: Tensor) -> Tensor:
    return value
