"""One trial: a subject at given sizes, on given data, in a given layout, asked for given gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from numguard.acceptance.adversaries import DATA, GROWING, LAYOUTS, fits
from numguard.acceptance.subjects import Input, Subject

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is run.

    Parameters
    ----------
    subject
        Its name in the programme.
    dtype
        Of every floating-point input.
    sizes
        Figures of the dimensions.
    data, layout
        Names of the kind of data and of the layout of the inputs that take it.
    gradients
        Inputs whose gradients are asked for.
    num_threads
        Of torch's own pool.
    compiled
        Whether ``torch.compile`` is between the expression and its result.
    """

    subject: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    data: str = "normal"
    layout: str = "contiguous"
    gradients: tuple[str, ...] = ()
    num_threads: int = 1
    compiled: bool = False

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def trial_from(plain: Mapping[str, Any]) -> Trial:
    """Return the trial that plain JSON values describe."""
    sizes = tuple((str(name), int(size)) for name, size in plain["sizes"])
    return Trial(**{**plain, "sizes": sizes, "gradients": tuple(plain["gradients"])})


def _index(entry: Input, sizes: Mapping[str, int], growing: bool) -> Tensor:
    shape = entry.shape(sizes)
    # Everything into one slot is what makes a counter long; elsewhere the slots are hit evenly.
    return torch.zeros(shape, dtype=torch.int64) if growing else torch.randint(0, sizes[entry.limit], shape)


def draw(entry: Input, trial: Trial) -> Tensor:
    """Return one input in its layout; all random numbers come from torch's default generator."""
    sizes, dtype = dict(trial.sizes), DTYPES[trial.dtype]
    shape = entry.shape(sizes)
    if entry.role == "index":
        return _index(entry, sizes, trial.data in GROWING)
    if entry.role == "mask":
        keep = torch.rand(shape) < 0.7
        keep[-1] = False
        return keep
    if entry.role == "signs":
        return torch.where(torch.rand(shape) < 0.5, -1.0, 1.0).to(dtype)
    if entry.role == "unit":
        return (0.01 + 0.98 * torch.rand(shape, dtype=torch.float64)).to(dtype)
    if entry.role == "distribution":
        return torch.rand(shape, dtype=torch.float64).softmax(-1).to(dtype)
    if entry.role == "weight":
        return (0.5 + torch.rand(shape, dtype=torch.float64)).to(dtype)
    x = DATA[trial.data](shape, dtype)
    return LAYOUTS[trial.layout](x) if fits(trial.layout, len(shape)) else x


def draw_all(subject: Subject, trial: Trial) -> Tensors:
    """Return every input of a trial, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {entry.name: draw(entry, trial) for entry in subject.inputs}


@cache
def _compiled_code(expression: str) -> Any:
    return compile(expression, "<subject>", "eval")


def evaluated(expression: str, tensors: Mapping[str, Any], sizes: Mapping[str, int], *, compiled: bool = False) -> Any:
    """Return the value of a subject's expression."""
    code = _compiled_code(expression)
    if not compiled:
        return eval(code, {"torch": torch, "F": F, **sizes, **tensors})
    names = [*tensors]
    function = eval(f"lambda {', '.join(names)}: ({expression})", {"torch": torch, "F": F, **sizes})
    return torch.compile(function, dynamic=False)(*tensors.values())  # type: ignore[no-untyped-call]


def results_of(value: Any) -> Tensors:
    """Return the floating-point tensors of a result by name."""
    if isinstance(value, Tensor):
        return {"result": value} if value.is_floating_point() else {}
    items = [item for item in value if isinstance(item, Tensor) and item.is_floating_point()]
    return {f"result[{place}]": item for place, item in enumerate(items)}


def cotangent(out: Tensor, data: str) -> Tensor:
    """Return the gradient that flows back into a result: ones where the data only grow, else eighths of both signs.

    Eighths are exact in every format, so that float64 is given the same gradient.
    """
    if data in GROWING:
        return torch.ones(out.shape, dtype=out.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randn(out.shape, dtype=torch.float64).mul_(8.0).round_().div_(8.0).to(out.dtype)


def _unmoved(x: Tensor) -> Tensor:
    return x


def run_trial(
    subject: Subject, trial: Trial, tensors: Mapping[str, Tensor], move: Callable[[Tensor], Tensor] | None = None
) -> Tensors:
    """Return the results and the gradients of a trial on given tensors by name: ``"result"``, ``"x.grad"``.

    Parameters
    ----------
    move
        Applied to the gradients that flow back into the results; None for not at all.
    """
    leaves = {
        name: x.detach().requires_grad_(name in trial.gradients) if x.is_floating_point() else x
        for name, x in tensors.items()
    }
    with torch.set_grad_enabled(bool(trial.gradients)):
        value = evaluated(subject.expression, leaves, dict(trial.sizes), compiled=trial.compiled)
    results = results_of(value)
    found = {name: result.detach() for name, result in results.items()}
    attached = {name: result for name, result in results.items() if result.requires_grad}
    if not trial.gradients or not attached:
        return found
    given = torch.autograd.grad(
        [*attached.values()],
        [leaves[name] for name in trial.gradients],
        [(move or _unmoved)(cotangent(result.detach(), trial.data)) for result in attached.values()],
        allow_unused=True,
    )
    found |= {f"{name}.grad": x for name, x in zip(trial.gradients, given, strict=True) if x is not None}
    return found
