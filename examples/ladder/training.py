"""The models of the ladder and how they are trained: one family, so that nothing but the size changes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_LAYERS: Final = 2
HEAD_WIDTH: Final = 8
SHIFT: Final = 4
VOCABULARY: Final = 256
_HELD_OUT_BLOCK, _HELD_OUT_EVERY = 4096, 16
_HELD_OUT_WINDOWS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One size of the family. Everything follows from the width.

    Parameters
    ----------
    width
        Of the residual stream; a multiple of 8.
    context
        Bytes that the model sees.
    tokens_per_parameter
        Length of training.
    """

    width: int
    context: int = 128
    tokens_per_parameter: int = 20

    @property
    def num_parameters(self) -> int:
        """Weights that take part in a matrix product: the blocks' and the head's, not the embedding's."""
        return 12 * NUM_LAYERS * self.width**2 + VOCABULARY * self.width

    @property
    def batch(self) -> int:
        """Sequences in a batch."""
        return self.width // 4

    @property
    def tokens_per_step(self) -> int:
        """Bytes in a batch."""
        return self.batch * self.context

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.num_parameters * self.tokens_per_parameter // self.tokens_per_step

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: six for each weight, and attention's two products (PaLM, arXiv 2204.02311, app. B)."""
        return 6 * self.num_parameters + 12 * NUM_LAYERS * self.width * self.context

    def compute(self, step: int) -> float:
        """Return the floating-point operations up to the end of a step, counted from 1."""
        return float(self.flops_per_token) * self.tokens_per_step * step

    @property
    def peak_learning_rate(self) -> float:
        """Tuned on the widths 16 to 48 alone."""
        return 0.032 * math.pow(16 / self.width, 0.4)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 1: linear warm-up over 5 %, then linear to a tenth."""
        progress = step / self.num_steps
        if progress < 0.05:
            return self.peak_learning_rate * progress / 0.05
        return self.peak_learning_rate * (1.0 - 0.9 * (progress - 0.05) / 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one step says.

    Parameters
    ----------
    step
        Counted from 1.
    tokens, compute
        Bytes and floating-point operations up to its end.
    learning_rate, loss, grad_norm
        Of the step; loss in nats per byte.
    held_out_loss
        After the step, on text that no run learns from; None for most steps.
    """

    step: int
    tokens: int
    compute: float
    learning_rate: float
    loss: float
    grad_norm: float
    held_out_loss: float | None


class Shift(nn.Module):
    """Adds a learned mixture of the last bytes' features to each place.

    Without it two blocks learn to look back only after hundreds of steps, all at once, and the smallest rungs would
    stand on the other side of that jump than the largest.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel_size=SHIFT, groups=width, bias=False)
        nn.init.normal_(self.mix.weight, std=SHIFT**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, shape [batch, length, width], with what the places before it add."""
        result: Tensor = x + self.mix(F.pad(x.transpose(1, 2), (SHIFT - 1, 0))).transpose(1, 2)
        return result


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.shift = Shift(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, shape [batch, length, width], with what the block adds."""
        batch, length, width = x.shape
        heads = self.qkv(self.shift(self.attention_norm(x))).view(batch, length, 3, width // HEAD_WIDTH, HEAD_WIDTH)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.down(F.gelu(self.up(self.forward_norm(x))))
        return result


class ByteGPT(nn.Module):
    """A byte-level GPT of two blocks."""

    def __init__(self, rung: Rung) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(VOCABULARY, rung.width), nn.Embedding(rung.context, rung.width)
        self.blocks = nn.Sequential(*(Block(rung.width) for _ in range(NUM_LAYERS)))
        self.norm, self.head = nn.LayerNorm(rung.width), nn.Linear(rung.width, VOCABULARY, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                embedding = name.startswith(("bytes", "positions"))
                nn.init.normal_(weight, std=0.1 if embedding else weight.shape[1] ** -0.5)
        nn.init.zeros_(self.head.weight)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the mean loss in nats per byte over windows, int64 of shape [batch, length + 1]."""
        given, wanted = windows[:, :-1], windows[:, 1:]
        x = self.bytes(given) + self.positions.weight[: given.shape[1]]
        logits = self.head(self.norm(self.blocks(x)))
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Windows of text, shape [number, context + 1]: those to learn from, and some that no run ever learns from."""

    learned: Tensor
    held_out: Tensor


def corpus_of(text: bytes, context: int) -> Corpus:
    """Cut text into windows in one fixed random order; every sixteenth block of 4 KiB is held out.

    Parameters
    ----------
    text
        At least 64 KiB and a window.
    context
        Bytes that a model sees.
    """
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    blocks = data[: len(data) // _HELD_OUT_BLOCK * _HELD_OUT_BLOCK].view(-1, _HELD_OUT_BLOCK)
    held_out = torch.arange(len(blocks)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    generator = torch.Generator().manual_seed(20)
    parts = []
    for part in (blocks[~held_out].flatten(), blocks[held_out].flatten()):
        windows = part.unfold(0, context + 1, context)
        parts.append(windows[torch.randperm(len(windows), generator=generator)])
    return Corpus(learned=parts[0], held_out=parts[1][:_HELD_OUT_WINDOWS].long())


def train(rung: Rung, corpus: Corpus, *, seed: int, marks: frozenset[int]) -> Iterator[Row]:
    """Train one model and yield a row for each step.

    Parameters
    ----------
    rung
        Its size.
    corpus
        All runs of a rung see the same batches in the same order.
    seed
        Of the weights.
    marks
        Steps, counted from 1, after which the held-out loss is taken.
    """
    torch.manual_seed(seed)
    model = ByteGPT(rung)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, foreach=True)
    for step in range(1, rung.num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rung.learning_rate(step)
        first = (step - 1) * rung.batch
        chosen = torch.arange(first, first + rung.batch) % len(corpus.learned)
        loss = model(corpus.learned[chosen].long())
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield Row(
            step=step,
            tokens=step * rung.tokens_per_step,
            compute=rung.compute(step),
            learning_rate=rung.learning_rate(step),
            loss=float(loss.detach()),
            grad_norm=float(grad_norm),
            held_out_loss=_held_out_loss(model, corpus) if step in marks else None,
        )


@torch.no_grad()
def _held_out_loss(model: ByteGPT, corpus: Corpus) -> float:
    return float(torch.stack([model(part) for part in torch.split(corpus.held_out, 32)]).mean())
