"""A plain training loop over one of the models, one call a step."""

from typing import Any

import torch
from torch import Tensor

from tests.models.precision import Precision, cast_batch, cast_model, in_precision
from tests.models.recipe import Recipe


class Training:
    """Everything that one training run holds: model, optimizer, loss scaler.

    fp16 autocast uses a ``GradScaler``, as real scripts do. The gradient norm is clipped at 1.

    Parameters
    ----------
    recipe
        From :func:`tests.models.build`.
    precision
        One of :data:`tests.models.PRECISIONS`.
    optimizer
        Class in ``torch.optim``; further keywords go to it.
    """

    def __init__(self, recipe: Recipe, precision: Precision = "fp32", optimizer: str = "AdamW", **options: Any) -> None:
        self.recipe, self.precision = recipe, precision
        self.model = cast_model(recipe.model, precision)
        options = {"lr": 3e-3, **options}
        self.optimizer: torch.optim.Optimizer = getattr(torch.optim, optimizer)(self.model.parameters(), **options)
        # 2**16, torch's default first scale, would make the first dozen steps skipped ones.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=precision == "fp16_autocast")

    def step(self, number: int) -> Tensor:
        """Train on batch ``number`` and return the loss, detached."""
        batch = cast_batch(self.recipe.batch(number), self.precision)
        self.optimizer.zero_grad()
        with in_precision(self.precision):
            loss = self.recipe.loss(self.model, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()
