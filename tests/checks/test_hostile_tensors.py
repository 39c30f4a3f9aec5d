"""Whole functions, forward and backward, on tensors drawn to break them: no alarm about a correct build."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from numguard.testing import assert_accurate, strategies

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "prod": lambda x: x.prod(-1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(-1),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: functional.rms_norm(x, x.shape[-1:]),
    "product": lambda x: x @ x.transpose(-1, -2),
    "cross_entropy": lambda x: functional.cross_entropy(x, torch.arange(x.shape[0]) % x.shape[1]),
    "attention": lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None]),
}
matrices = strategies.shapes(min_dims=2, max_dims=2)
tensors = strategies.floating_tensors(shape=matrices) | strategies.nonfinite_tensors(shape=matrices)


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(x=tensors)
def test_correct_functions_pass_on_every_kind_of_data_and_layout(name: str, x: Tensor) -> None:
    def forward_and_backward(x: Tensor) -> None:
        result = FUNCTIONS[name](x)
        result.backward(torch.linspace(-1.0, 1.0, result.numel()).to(x.dtype).reshape(result.shape))

    assert_accurate(forward_and_backward, x.requires_grad_())
