"""A byte-level transformer whose last feed-forward layer is experts behind a top-2 router."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.models.byte_gpt import ByteGPT, next_byte_loss
from tests.models.byte_stream import byte_batch
from tests.models.recipe import Batch, Recipe


class Experts(nn.Module):
    """Sends every token to its two best experts and adds their answers back with ``index_add``."""

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(num_experts)
        )
        self.load = torch.zeros(num_experts)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = torch.softmax(self.router(tokens), dim=-1)
        weights, choices = probabilities.topk(2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        load = torch.zeros_like(probabilities[0]).scatter_add(0, choices.flatten(), weights.flatten())
        self.load = load.detach()
        self.balance = (load / load.sum() * probabilities.mean(dim=0)).sum() * len(self.experts)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(choices == number)
            answer = expert(tokens[rows]) * weights[rows, slots, None]
            result = result.index_add(0, rows, answer.to(result.dtype))
        return result.view_as(x)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    loss = next_byte_loss(model, batch)  # first: the forward sets the balances
    balance = [module.balance for module in model.modules() if isinstance(module, Experts)]
    return loss + 0.01 * torch.stack(balance).sum()


def build_moe(seed: int) -> Recipe:
    """Four experts in the last block, two a token, with a load-balancing term."""
    torch.manual_seed(seed)
    model = ByteGPT()
    model.blocks[-1].feed_forward = Experts(32, num_experts=4)
    return Recipe(model, partial(byte_batch, seed, size=8, context=32), _loss)
