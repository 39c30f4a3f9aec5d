"""The examples of the checks drive the operators that nobody calls by name."""

import pytest
import torch

from numguard.acceptance.exemplified import examine_check
from numguard.checks import REGISTRY


@pytest.mark.parametrize("name", ["sum", "embedding", "softmax", "cumsum"])
def test_examples_that_are_right_are_silent_in_every_layout(name: str) -> None:
    outcomes = examine_check(name, "float32")
    assert [entry.message for outcome in outcomes for entry in outcome.sightings] == []
    assert set(REGISTRY[name].ops) & {op for outcome in outcomes for op in outcome.judged}


def test_operators_that_write_to_out_are_reached() -> None:
    judged = {op for outcome in examine_check("sum", "float32") for op in outcome.judged}
    assert "aten::sum.IntList_out" in judged


def test_a_dtype_without_examples_has_no_outcomes() -> None:
    name = next(n for n, check in REGISTRY.items() if all(torch.float16 not in e.dtypes for e in check.silent))
    assert examine_check(name, "float16") == []
