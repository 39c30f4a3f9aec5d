"""A byte-level GPT: pre-norm blocks, fused attention; RMSNorm, tied embedding and checkpointing by choice."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.models.byte_stream import VOCABULARY, byte_batch
from tests.models.recipe import Batch, Recipe


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return result


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float, norm: type[nn.Module]) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(width), SelfAttention(width, num_heads, dropout)
        self.feed_forward_norm = norm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        result: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return result


class ByteGPT(nn.Module):
    """Predicts the next byte; ``forward`` takes int64 [batch, length] and returns logits [batch, length, 256]."""

    def __init__(
        self,
        *,
        width: int = 32,
        num_layers: int = 2,
        num_heads: int = 2,
        context: int = 32,
        dropout: float = 0.0,
        rms_norm: bool = False,
        tied: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        norm = nn.RMSNorm if rms_norm else nn.LayerNorm
        self.checkpointed = checkpointed
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout, norm) for _ in range(num_layers))
        self.norm = norm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_byte_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy of the next byte, in nats."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def build_gpt(seed: int) -> Recipe:
    """LayerNorm, dropout, a head of its own."""
    torch.manual_seed(seed)
    return Recipe(ByteGPT(dropout=0.1), partial(byte_batch, seed, size=8, context=32), next_byte_loss)


def build_modern_gpt(seed: int) -> Recipe:
    """RMSNorm, tied embedding, activation checkpointing."""
    torch.manual_seed(seed)
    model = ByteGPT(rms_norm=True, tied=True, checkpointed=True)
    return Recipe(model, partial(byte_batch, seed, size=8, context=32), next_byte_loss)
