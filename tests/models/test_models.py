"""The test models are what the other tests take them for: they learn, repeat themselves, and stay small."""

import pytest
import torch

from tests.models import MODELS, PRECISIONS, Training, build
from tests.models.precision import Precision


def _losses(name: str, precision: Precision, num_steps: int) -> list[float]:
    training = Training(build(name, seed=3), precision)
    return [float(training.step(step)) for step in range(num_steps)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_falls(name: str, precision: Precision) -> None:
    losses = _losses(name, precision, 50)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.numguard
@pytest.mark.parametrize("name", MODELS)
def test_two_runs_from_one_seed_are_bitwise_equal(name: str) -> None:
    assert _losses(name, "fp32", 3) == _losses(name, "fp32", 3)


@pytest.mark.parametrize("name", MODELS)
def test_batch_is_a_pure_function_of_seed_and_step(name: str) -> None:
    batch, again = build(name, seed=1).batch, build(name, seed=1).batch
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(batch(5), again(5), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(batch(5), batch(6), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    model, batch, loss = build(name)
    loss(model, batch(0)).backward()
    assert [label for label, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", MODELS)
def test_models_are_small(name: str) -> None:
    assert sum(parameter.numel() for parameter in build(name).model.parameters()) < 100_000


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        build("perceptron")
