"""Every elementwise function of torch, found by looking: 16-bit formats in full, wider ones on random bit patterns.

Formats up to float32 are held against the same function in float64, float64 itself against mpmath where that is
installed and has a function of the name.
"""

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from numguard.acceptance.examination import Sighting
from numguard.acceptance.explained import MOST_CHANGES, Excess, excesses
from numguard.acceptance.trials import DTYPES, Tensors, Trial
from numguard.finding import fingerprint

_NUM_PATTERNS: Final = 1 << 16
_NUM_IN_MPMATH: Final = 120
_DIGITS: Final = 40
BIT_PATTERNS: Final = "bit patterns"  # what a trial of these functions calls its data
_REFUSED: Final = (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError, AttributeError)
_ALIASES: Final = {"arccos": "acos", "arcsin": "asin", "arctan": "atan", "absolute": "fabs", "abs": "fabs"}


@cache
def functions() -> Mapping[str, int]:
    """Return the elementwise functions of torch, ``"torch.exp"``, with the number of tensors that they take, 1 or 2."""
    # Of torch what is generated from the operators, nothing that changes a setting; of torch.nn.functional the rest.
    listed = {name: f"torch.nn.functional.{name}" for name in dir(torch.nn.functional) if not hasattr(torch, name)}
    listed |= {name: f"torch.{name}" for name in dir(torch._C._VariableFunctions)}
    found = {}
    for name, call in sorted(listed.items()):
        function = function_named(call)
        if name.startswith("_") or name.endswith("_") or isinstance(function, type) or not callable(function):
            continue
        for num_tensors in (1, 2):
            if _is_elementwise(function, num_tensors):
                found[call] = num_tensors
                break
    return found


def function_named(call: str) -> Callable[..., Any] | None:
    """Return the function of torch that a call names, ``"torch.exp"``; None where there is none."""
    place, _, name = call.rpartition(".")
    function: Callable[..., Any] | None = getattr({"torch": torch}.get(place, torch.nn.functional), name, None)
    return function


def _is_elementwise(function: Callable[..., Any], num_tensors: int) -> bool:
    """Return whether each element of a result depends on the elements at its own place, and on nothing else."""
    inputs = [torch.tensor([0.3, 0.7, 0.2, 0.9, 0.5], dtype=torch.float64) + 0.01 * k for k in range(num_tensors)]
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            whole = function(*(x.clone() for x in inputs))
            if not isinstance(whole, Tensor) or whole.shape != (5,) or whole.dtype != torch.float64:
                return False
            parts = [function(*(x[k : k + 1].clone() for x in inputs)) for k in range(5)]
            changed = [x.clone() for x in inputs]
            changed[0][0] = 0.45
            other = function(*changed)
    except _REFUSED:
        return False
    if not all(isinstance(part, Tensor) and part.shape == (1,) for part in parts):
        return False
    near = torch.allclose(torch.cat(parts), whole, rtol=1e-12, atol=0.0, equal_nan=True)
    return near and torch.allclose(other[1:], whole[1:], rtol=1e-12, atol=0.0, equal_nan=True)


def patterns(dtype: torch.dtype) -> Tensor:
    """Return every number of a 16-bit format, or as many random bit patterns of a wider one."""
    if dtype.itemsize == 2:
        return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(0)
    bits = {4: torch.int32, 8: torch.int64}[dtype.itemsize]
    limits = torch.iinfo(bits)
    whole = torch.randint(limits.min, limits.max, (_NUM_PATTERNS // 2,), dtype=bits, generator=generator).view(dtype)
    usual = torch.randn(_NUM_PATTERNS // 2, dtype=torch.float64, generator=generator).mul(4.0).to(dtype)
    return torch.cat([whole, usual])


def examine_function(call: str, dtype_name: str) -> list[Sighting]:
    """Return where a function of torch is further from the truth than one-ulp changes explain."""
    function, dtype = function_named(call), DTYPES[dtype_name]
    if function is None:
        return []
    x = patterns(dtype)
    tensors: Tensors = {"x": x}
    if functions()[call] == 2:
        tensors["y"] = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    try:
        computed = function(*tensors.values())
    except _REFUSED:
        return []
    if not isinstance(computed, Tensor) or computed.dtype != dtype:
        return []
    if dtype is torch.float64:
        found = _in_mpmath(call.rpartition(".")[2], tensors, computed)
    else:

        def evaluate(inputs: Tensors, move: Callable[[Tensor], Tensor] | None) -> Tensors:
            return {"result": function(*inputs.values())}

        found = excesses({"result": computed}, tensors, evaluate)
    return [_sighting(call, dtype_name, tensors, excess) for excess in found]


def _in_mpmath(name: str, tensors: Tensors, computed: Tensor) -> list[Excess]:
    """Return the worst of a few elements against arithmetic in 40 digits."""
    try:
        mpmath = importlib.import_module("mpmath")
    except ImportError:
        return []
    exactly = getattr(mpmath, _ALIASES.get(name, name), None)
    if exactly is None or len(tensors) != 1:
        return []
    places = torch.arange(len(computed) - _NUM_IN_MPMATH, len(computed))
    eps, worst = 2.0**-52, None
    with mpmath.workdps(_DIGITS):
        for place in places.tolist():
            x, value = float(tensors["x"][place]), float(computed[place])
            try:
                exact = exactly(mpmath.mpf(x))
                change = abs(exactly(mpmath.mpf(x) * (1 + eps)) - exact) + abs(exact) * eps
                error = abs(mpmath.mpf(value) - exact)
            except (ValueError, TypeError, ArithmeticError, AttributeError):
                continue
            if not mpmath.isfinite(exact) or not isinstance(exact, mpmath.mpf) or not math.isfinite(float(exact)):
                continue
            allowed = float(MOST_CHANGES * change) + 2.0**-1022
            found = Excess(output="result", index=place, computed=value, exact=float(exact), allowed=allowed)
            if float(error) > allowed and (worst is None or found.ratio > worst.ratio):
                worst = found
    return [] if worst is None else [worst]


def _sighting(call: str, dtype: str, tensors: Tensors, excess: Excess) -> Sighting:
    at = [float(x[excess.index]) for x in tensors.values()]
    return Sighting(
        fingerprint=fingerprint("unstable_region", call, dtype, "forward", "elementwise"),
        kind="unstable_region",
        severity="warning",
        subject=call,
        trial=Trial(subject=call, dtype=dtype, sizes=(), data=BIT_PATTERNS),
        computed=excess.computed,
        exact=excess.exact,
        forward_error=abs(excess.computed - excess.exact),
        error_bound=excess.allowed,
        ratio=excess.ratio,
        message=(
            f"{call}({', '.join(map(repr, at))}) in {dtype} is {excess.computed!r} instead of {excess.exact!r}: "
            f"{excess.ratio:.3g} times what is allowed, {MOST_CHANGES:.0f} one-ulp changes"
        ),
        advice="Evaluate this function in a wider format, or keep such arguments away from it.",
        evidence={"at": [value.hex() for value in at]},
    )


_SCRIPT: Final = '''"""{message}

Exits with 1 where this build of torch is wrong, with 0 where it is right.
"""

import sys

import torch

inputs = [torch.full((64,), float.fromhex(text), dtype=torch.{dtype}) for text in {at}]
computed = {call}(*inputs).double()
exact = {exact}
allowed = {allowed!r}
error = (computed - exact).abs()
wrong = ~(error <= allowed) & ~((computed == exact) | (computed.isnan() & exact.isnan()))
print(f"computed {{computed[0].item()!r}}, exact {{exact[0].item()!r}}, allowed {{allowed!r}}")
sys.exit(1 if wrong.any() else 0)
'''


def script_of_function(sighting: Sighting) -> str:
    """Return the stand-alone reproducer of a wrong value of a function."""
    exact = f"{sighting.subject}(*(x.double() for x in inputs))"
    if sighting.trial.dtype == "float64":
        exact = f"torch.full((64,), {sighting.exact!r}, dtype=torch.float64)  # in 40 digits, by mpmath"
    return _SCRIPT.format(
        message=sighting.message,
        dtype=sighting.trial.dtype,
        call=sighting.subject,
        at=list(sighting.evidence["at"]),
        exact=exact,
        allowed=sighting.error_bound,
    )
