"""Small real models for the tests, each with its batches and its loss.

::

    model, batch, loss = build("gpt", seed=0)
    value = loss(model, batch(step))

Every batch is a pure function of seed and step, every step takes a few milliseconds on one core, and every model
learns: its loss falls within fifty steps.
"""

from collections.abc import Callable
from typing import Final

from tests.models.byte_gpt import build_gpt, build_modern_gpt
from tests.models.long_short_term import build_lstm
from tests.models.mixture_of_experts import build_moe
from tests.models.precision import PRECISIONS as PRECISIONS
from tests.models.precision import in_precision as in_precision
from tests.models.recipe import Recipe as Recipe
from tests.models.residual_cnn import build_resnet
from tests.models.training import Training as Training
from tests.models.unet import build_unet

BUILDERS: Final[dict[str, Callable[[int], Recipe]]] = {
    "gpt": build_gpt,
    "gpt_modern": build_modern_gpt,
    "resnet": build_resnet,
    "moe": build_moe,
    "lstm": build_lstm,
    "unet": build_unet,
}
MODELS: Final = tuple(BUILDERS)


def build(name: str, seed: int = 0) -> Recipe:
    """Return model, batch function and loss function of a name in :data:`MODELS`.

    The global random state is set to ``seed``, as a training script would.
    """
    return BUILDERS[name](seed)
