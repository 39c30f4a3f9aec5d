"""The project's own models, the demo's among them."""

from collections.abc import Callable
from functools import cache, partial
from typing import Final

import torch
from torch import Tensor, nn

from numguard.demonstration.corpus import standard_library_text
from numguard.demonstration.training_script import Training
from tests.models import MODELS, Recipe, build
from tests.models.recipe import Batch


@cache
def _text() -> Tensor:
    return torch.tensor(list(standard_library_text(2**17)), dtype=torch.uint8)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    mean, _ = model(*batch)
    result: Tensor = mean
    return result


def build_demo(seed: int) -> Recipe:
    """Return the GPT of ``numguard demo`` with its data; its loss calls ``torch.sum``."""
    training = Training(_text(), seed)
    return Recipe(training.model, training.batch, _loss)


#: What makes each model, with its seed as the only argument.
OWN_MODELS: Final[dict[str, Callable[[int], Recipe]]] = {
    "demo": build_demo,
    **{name: partial(build, name) for name in MODELS},
}
