"""A defect of oneDNN that may or may not be on this machine: numguard says what exact sums say."""

import pytest
import torch

import numguard


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of the switch that turns oneDNN off
@pytest.mark.parametrize("size", [6, 8, 12, 16])
def test_one_column_of_bfloat16_is_judged_as_exact_sums_judge_it(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2, 8, size, size, generator=generator).to(torch.bfloat16, memory_format=torch.channels_last)
    weight = (torch.randn(8, 8, size, size, generator=generator) / (8 * size * size) ** 0.5).bfloat16()
    computed = torch.nn.functional.conv2d(x, weight, stride=size)[..., 0, 0].double()
    terms = x.double().unsqueeze(1) * weight.double()
    exact = terms.sum((-1, -2, -3))
    # One rounding to 8 bits, beside roundings of 24 bits on the way; a wrong result is off by as much as its own size.
    is_right = bool(((computed - exact).abs() <= 0.01 * terms.abs().sum((-1, -2, -3))).all())
    verdict = numguard.verify(torch.nn.functional.conv2d, x, weight, stride=size)
    assert verdict.ok == is_right
    with torch.backends.mkldnn.flags(enabled=False):
        assert numguard.verify(torch.nn.functional.conv2d, x, weight, stride=size).ok
