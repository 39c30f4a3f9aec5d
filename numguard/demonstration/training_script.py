"""Trains a small GPT to predict the next byte of a text. It knows nothing of numguard, and it only calls torch.sum.

This file is copied next to the demo's report, so that the lines the report names can be read there.
"""

import torch
from torch import Tensor, nn

CONTEXT = 64
BATCH = 16
WIDTH = 64


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a layer norm."""

    def __init__(self, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, width] to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attention = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attention.transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return result


class MaskedLoss(nn.Module):
    """The mean loss of all bytes but those that only indent."""

    def forward(self, logits: Tensor, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss, a scalar, and the summed loss of each sequence, shape [batch]."""
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        counted = (tokens != ord(" ")).float()
        losses = losses.view_as(counted) * counted
        mean = torch.sum(losses) / torch.sum(counted)
        return mean, torch.sum(losses.detach(), dim=-1)


class GPT(nn.Module):
    """A byte-level GPT of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        self.loss = MaskedLoss()

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :class:`MaskedLoss` returns."""
        x = self.tokens(tokens) + self.positions.weight
        losses: tuple[Tensor, Tensor] = self.loss(self.head(self.norm(self.blocks(x))), tokens, targets)
        return losses


class Training:
    """A model, its optimizer and its data.

    Parameters
    ----------
    text
        What is learned, shape [n], uint8.
    seed
        Of the first weights and of the order of the batches.
    """

    def __init__(self, text: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        self.text, self.seed = text, seed
        self.model = GPT()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3)
        self.hardest = 0.0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return bytes and next bytes of one step, each [batch, context]."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        starts = torch.randint(len(self.text) - CONTEXT - 1, (BATCH, 1), generator=random)
        window = self.text[starts + torch.arange(CONTEXT + 1)].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def step(self, number: int) -> Tensor:
        """Train on one batch and return its loss."""
        self.optimizer.zero_grad()
        loss, of_sequences = self.model(*self.batch(number))
        loss.backward()
        self.clip_gradients(1.0)
        self.optimizer.step()
        self.hardest = of_sequences.max().item()
        detached: Tensor = loss.detach()
        return detached

    def clip_gradients(self, limit: float) -> None:
        """Scale the gradients so that their norm is at most ``limit``."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.sqrt(torch.sum(torch.stack([torch.sum(g * g) for g in gradients])))
        for gradient in gradients:
            gradient.mul_(torch.clamp(limit / norm, max=1.0))
