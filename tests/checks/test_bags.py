"""Bags of embeddings, segments and gradients of distances: PyTorch's own samples, hard data, and dropped tokens."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from numguard.checks import bags, distance_gradients, distances, segments
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY, PAIRWISE
from tests.checks.hard_images import DTYPES, KINDS, image
from tests.checks.watched_calls import Unsynchronised, Watch, run_samples, watches

EVERY = (*bags.CHECKS, *segments.CHECKS, *distances.CHECKS, *distance_gradients.CHECKS)
BY_OP = {op: check for check in EVERY for op in check.ops}
MODES = ("sum", "mean", "max")
aten = torch.ops.aten


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nn.functional.embedding_bag", "segment_reduce", "cdist"])
@pytest.mark.parametrize("limit", [float("inf"), 400.0])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(EVERY, Probe(arithmetic=NUMPY, limit=limit, offset=0.6))
    run_samples(name, dtype, watch)
    assert watch.wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_bags_are_silent_on_hard_data(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for dtype, watch in watches(EVERY):
        index = torch.randint(0, 9, (120,), generator=generator)
        offsets = torch.tensor([0, 50, 50, 51, 119])
        weight = image(kind, (9, 6), dtype, 1).requires_grad_()
        share = image(kind, (120,), dtype, 2).requires_grad_()
        with watch:
            for mode in MODES:
                for padding in (None, 4):
                    given: dict[str, Any] = {"mode": mode, "padding_idx": padding}
                    y = functional.embedding_bag(index, weight, offsets, **given)
                    y.backward(image("normal", tuple(y.shape), dtype, 7))
            y = functional.embedding_bag(index, weight, offsets, mode="sum", per_sample_weights=share)
            y.backward(image("normal", tuple(y.shape), dtype, 7))
            functional.embedding_bag(index.reshape(12, 10), weight, mode="mean")
        assert len(watch.checked) == 3
        assert watch.wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_segments_are_silent_on_hard_data(kind: str) -> None:
    for dtype in DTYPES:
        watch = Watch(EVERY, Probe(arithmetic=NUMPY))
        x = image(kind, (60, 4), dtype, 2).requires_grad_()
        with watch:
            for reduce in ("sum", "mean", "max", "min", "prod"):
                y = torch.segment_reduce(x, reduce, lengths=torch.tensor([20, 0, 39, 1]), unsafe=True)
                # torch 2.13 shares only a positive gradient among equal maxima.
                y.backward(image("normal", tuple(y.shape), dtype, 7).abs())
        assert watch.num_judged > 0
        assert watch.wrong == []


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_distances_are_silent_on_hard_data(kind: str, power: float) -> None:
    for dtype in (torch.float32, torch.float64):
        watch = Watch(EVERY, Probe(arithmetic=NUMPY))
        first = image(kind, (2, 30, 13), dtype, 1).requires_grad_()
        second = image(kind, (2, 33, 13), dtype, 2).requires_grad_()
        with watch:
            y = torch.cdist(first, second, power, compute_mode="donot_use_mm_for_euclid_dist")
            y.backward(image("normal", tuple(y.shape), dtype, 7))
        assert watch.checked["aten::_cdist_backward"] == 2
        assert watch.wrong == []


@pytest.mark.parametrize("mode", MODES)
def test_a_bag_without_one_of_its_tokens_is_wrong(mode: str) -> None:
    weight = torch.arange(12.0).reshape(6, 2)
    index, offsets = torch.tensor([0, 5, 1, 2, 3]), torch.tensor([0, 2])
    overload = aten._embedding_bag.default
    args = (weight, index, offsets, False, MODES.index(mode))
    call, captured = perform(BY_OP["aten::_embedding_bag"], overload, args, {}, Probe(arithmetic=NUMPY))
    assert not any(v.wrong for _, v in examine(BY_OP[call.op], call, captured, Probe(arithmetic=NUMPY)))
    dropped = overload(weight, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1]), False, MODES.index(mode))
    wrong = OpCall(overload=overload, arguments=call.arguments, output=(dropped[0], *call.output[1:]))
    assert any(v.wrong for _, v in examine(BY_OP[call.op], wrong, captured, Probe(arithmetic=NUMPY)))


def test_rows_behind_the_last_offset_belong_to_no_bag() -> None:
    weight, index, offsets = torch.ones(4, 2), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 3])
    args = (weight, index, offsets, False, 0, False, None, True)
    expected = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    arguments = dict(
        perform(BY_OP["aten::_embedding_bag"], aten._embedding_bag.default, args, {}, Probe(arithmetic=NUMPY))[
            0
        ].arguments
    )
    for result, wrong in ((expected, False), (expected + torch.tensor([[0.0], [1.0]]), True)):
        call = OpCall(overload=aten._embedding_bag.default, arguments=arguments, output=(result, None, None, None))
        assert [v.wrong for _, v in examine(BY_OP[call.op], call, None, Probe(arithmetic=NUMPY))] == [wrong]


def test_what_is_not_given_is_not_covered() -> None:
    grad, index, empty = torch.ones(2, 3), torch.tensor([0, 1]), torch.empty(0, dtype=torch.int64)
    sizes = torch.tensor([1, 1])
    arguments = {
        "grad": grad,
        "indices": index,
        "offset2bag": empty,
        "bag_size": sizes,
        "maximum_indices": empty,
        "num_weights": 3,
        "scale_grad_by_freq": False,
        "mode": 0,
        "per_sample_weights": None,
        "padding_idx": -1,
    }
    overload = aten._embedding_bag_dense_backward.default
    call = OpCall(overload=overload, arguments=arguments, output=torch.zeros(3, 3))
    with pytest.raises(NotCovered, match="without their offsets"):
        examine(BY_OP[call.op], call, None, Probe(arithmetic=NUMPY))
    segment, given = BY_OP["aten::segment_reduce"], {"lengths": torch.tensor([4]), "initial": 2.0}
    args = (torch.ones(4), "mean")
    made, captured = perform(segment, aten.segment_reduce.default, args, given, Probe(arithmetic=NUMPY))
    with pytest.raises(NotCovered, match="with an initial value"):
        examine(segment, made, captured, Probe(arithmetic=NUMPY))


def test_shadows_neither_synchronise_nor_draw() -> None:
    probe = Probe(arithmetic=PAIRWISE, limit=2000.0)
    for check in EVERY:
        for example in check.silent:
            overload, args, kwargs = example.call(torch.float32, torch.Generator().manual_seed(1))
            call, captured = perform(check, overload, args, kwargs, probe)
            with torch.no_grad(), Unsynchronised():
                assert check.judge(call, captured, probe)
