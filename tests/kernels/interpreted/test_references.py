"""Every kernel equals its reference, on the specs' own inputs."""

import pytest
import torch
from numguard_kernels.registry import specs
from numguard_kernels.spec import Case, KernelSpec, disagreements

CPU = torch.device("cpu")
EVERY = [pytest.param(spec, case, id=f"{spec.name}: {case.name}") for spec in specs() for case in spec.cases]


@pytest.mark.parametrize(("spec", "case"), EVERY)
def test_a_kernel_equals_its_reference(spec: KernelSpec, case: Case) -> None:
    arguments, options = case.make(CPU)
    expected = spec.reference(*arguments, **options)
    result = spec.launcher(*arguments, **options)
    assert disagreements(result, expected, spec.tolerance(expected, *arguments, **options)) == []


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in specs()])
def test_a_disagreement_is_noticed(spec: KernelSpec) -> None:
    """The comparison can fail: the result of one input is not the result of another."""
    firsts = [spec.launcher(*case.make(CPU)[0], **case.make(CPU)[1]) for case in spec.cases[:2]]
    assert disagreements(firsts[0], firsts[1]) != []


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in specs()])
def test_the_same_call_gives_the_same_bits(spec: KernelSpec) -> None:
    (arguments, options) = spec.cases[0].make(CPU)
    first, second = spec.launcher(*arguments, **options), spec.launcher(*arguments, **options)
    assert disagreements(first, second) == []
