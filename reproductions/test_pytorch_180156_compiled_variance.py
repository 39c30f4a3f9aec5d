"""The variance that Inductor compiles is 5 % off where the mean is 10^6.

Symptom
    A whitening layer works in eager mode; compiled, its scale is off by five percent on features whose mean is a
    million times their deviation.
Cause
    The generated code runs Welford's update in fp32: each of the means on the way is rounded to a multiple of 1/16.
    The eager kernel accumulates in fp64.
Fix
    fp64 for the accumulation, or a shift by one of the data.
Affected
    torch 2.13 on the CPU, Inductor; issue 180156 is related. Live: nothing here is emulated. Compiled code calls no
    operators that a guard could see; it is found where the author put the compiled function beside its reference with
    ``numguard.shadowed``.
"""

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.compiler import compiler
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="180156",
    url="https://github.com/pytorch/pytorch/issues/180156",
    family="normalization-forward",
    kind="live",
    catalogue="L27-inductor-var-offset",
    found_by="guard",
    declared=True,
)
MEAN = 1e6


def spread(x: Tensor) -> Tensor:
    """Return the variance of each row."""
    return x.var(1)


def shifted_spread(x: Tensor) -> Tensor:
    """Return the variance of each row, relative to its first element: the differences are exact here."""
    return (x - x[:, :1]).var(1)


def _in_float64(x: Tensor) -> Tensor:
    return x.double().var(1)


def play(stage: Stage) -> None:
    x = stage.cast(torch.randn(8, 4096) + MEAN, torch.float32)
    with compiler() as compiled, stage.watched():
        function = compiled(shifted_spread if stage.fixed else spread)
        if stage.watcher is not None:
            function = numguard.shadowed(reference=_in_float64, error_bound=lambda x: 1e-4 * _in_float64(x))(function)
        variance = function(x)
        stage.step()
    stage.keep("variance", variance)
    stage.keep("right", _in_float64(x))


def _error(stage):
    return float((stage.kept["variance"].double() / stage.kept["right"] - 1).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)) + MEAN
    eager = float((spread(x).double() / _in_float64(x) - 1).abs().max())
    tell("relative error, compiled", _error(broken), "shifted", _error(fixed), "eager", eager)
    assert _error(broken) > 0.02
    assert _error(fixed) < 1e-5
    assert eager < 1e-6


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="spread")
    assert finding.ratio > 100.0


def test_the_fix_is_silent(silent):
    assert _error(silent(play)) < 1e-5
