"""Strategies draw what they promise, in every dtype and layout, and say what to type where they cannot."""

import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck, Unsatisfiable
from torch import Tensor

from numguard.errors import UsageError
from numguard.testing import strategies
from numguard.testing.memory_layouts import LAYOUTS
from tests.house.source_tree import ROOT

quick = settings(max_examples=60, deadline=None, derandomize=True)
FLOATS = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


def _condition(terms: list[Fraction]) -> float:
    return float(sum(map(abs, terms), Fraction(0)) / abs(sum(terms, Fraction(0))))


@quick
@given(strategies.floating_tensors(shape=strategies.shapes(min_dims=0, min_size=0, max_size=9)))
def test_tensors_are_finite_and_of_every_dtype(x: Tensor) -> None:
    assert x.dtype in FLOATS
    assert x.dim() <= 3
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("layout", [*LAYOUTS])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (0, 3)], ids=str)
def test_a_layout_changes_nothing_but_the_strides(layout: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    laid_out = LAYOUTS[layout](x)
    assert torch.equal(laid_out, x)
    is_plain = laid_out.is_contiguous() and laid_out.storage_offset() == 0
    assert x.numel() == 0 or is_plain is (layout == "contiguous" or (layout == "transposed" and x.dim() < 2))


@quick
@given(strategies.floating_tensors(kinds="ones", layouts=["gapped", "offset"], dtype=torch.bfloat16, shape=(2, 3)))
def test_every_choice_is_kept(x: Tensor) -> None:
    assert x.dtype == torch.bfloat16
    assert x.tolist() == [[1.0] * 3] * 2
    assert not (x.is_contiguous() and x.storage_offset() == 0)


@quick
@given(strategies.nonfinite_tensors(), strategies.nonfinite_tensors(value=-math.inf, shape=(1,)))
def test_nonfinite_values_are_placed(x: Tensor, single: Tensor) -> None:
    assert 1 <= int((~torch.isfinite(x)).sum()) <= 3
    assert single.tolist() == [-math.inf]


@quick
@given(strategies.ill_conditioned_sums(condition_number=1e6, num_terms=70))
def test_sums_have_the_condition_number(x: Tensor) -> None:
    assert x.shape == (70,)
    assert _condition([Fraction(value) for value in x.double().tolist()]) == pytest.approx(1e6, rel=0.01)


@quick
@given(strategies.ill_conditioned_dots(condition_number=1e5))
def test_dots_have_the_condition_number(pair: tuple[Tensor, Tensor]) -> None:
    products = [Fraction(a) * Fraction(b) for a, b in zip(*(x.double().tolist() for x in pair), strict=True)]
    assert 2.0 * _condition(products) == pytest.approx(1e5, rel=0.02)


@quick
@given(strategies.ill_conditioned_sums(), strategies.ill_conditioned_dots())
def test_the_defaults_can_always_be_met(x: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    assert x.dtype in FLOATS
    assert pair[0].shape == pair[1].shape


def _draw(strategy: Any) -> None:
    @settings(max_examples=5, database=None, deadline=None)
    @given(strategy)
    def run(drawn: object) -> None:
        assert drawn is not None

    run()


def test_what_cannot_be_is_said_where_all_was_given() -> None:
    with pytest.raises(UsageError, match="too few"):
        _draw(strategies.ill_conditioned_sums(condition_number=1e12, num_terms=3, dtype=torch.bfloat16))
    with pytest.raises((FailedHealthCheck, Unsatisfiable)):
        _draw(strategies.ill_conditioned_sums(condition_number=1e12, num_terms=st.just(3), dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "ramps"}, r"kinds= got 'ramps', which does not exist; give some of: constant, ramp"),
        ({"layouts": ()}, r"layouts= is empty; give some of: contiguous"),
    ],
)
def test_an_unknown_choice_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strategies.floating_tensors(**options)


def test_drawing_leaves_the_random_numbers_of_torch_alone() -> None:
    before = torch.random.get_rng_state()
    _draw(st.tuples(strategies.nonfinite_tensors(), strategies.ill_conditioned_sums()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_room_needs_neither_hypothesis_nor_pytest_and_says_what_to_type() -> None:
    program = (
        "import sys; import numguard.testing; assert not {'hypothesis', 'pytest'} & set(sys.modules)\n"
        "sys.modules['hypothesis'] = None\n"
        "import numguard.testing.strategies"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1
    assert "ModuleNotFoundError: numguard.testing.strategies needs Hypothesis" in done.stderr
    assert done.stderr.rstrip().endswith("type: pip install hypothesis")
