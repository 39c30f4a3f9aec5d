"""A small network with everything that a guard could disturb, and a record of a run of it, bit for bit."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH = 16


class Block(nn.Module):
    """A residual block with dropout; ``shape`` wraps its result as real blocks do."""

    def __init__(self, shape: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        hidden = nn.functional.gelu(self.up(self.norm(x)))
        return self.shape(x + self.down(nn.functional.dropout(hidden, 0.1, self.training)))


class Net(nn.Module):
    """Embedding, blocks, a head with softmax."""

    def __init__(self, num_blocks: int = 2, recompute: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.head = nn.Linear(WIDTH, 20)
        self.recompute = recompute

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x) if self.recompute is None else checkpoint(block, x, use_reentrant=self.recompute)
        return self.head(x)


class Trail(NamedTuple):
    """Digests of losses and gradients of every step, and of everything at the end; and the losses as numbers."""

    steps: list[str]
    end: str
    losses: list[float]


def digest(tensors: Iterable[Tensor | None]) -> str:
    """Return a digest of the bits of some tensors."""
    summary = hashlib.blake2b(digest_size=12)
    for tensor in tensors:
        bits = (
            b"none" if tensor is None else tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
        summary.update(bits)
    return summary.hexdigest()


def batch(step: int, rows: int = 6) -> Tensor:
    """Return the tokens of one step, the same in every run."""
    return torch.randint(0, 20, (rows, 5), generator=torch.Generator().manual_seed(step))


def train(
    make_model: Callable[[], nn.Module],
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    *,
    num_steps: int,
    guard: Callable[..., Any] | None = None,
    autocast: torch.dtype | None = None,
    scaler: bool = False,
    rows: Callable[[int], int] = lambda step: 6,
    wrap: Callable[[nn.Module], Callable[..., Any]] = lambda model: model,
    between: Callable[[int, nn.Module], None] = lambda step, model: None,
    request: Callable[[int, Any], None] = lambda step, guard: None,
) -> tuple[Trail, Any]:
    """Train, with a guard where one is given, and return what happened bit for bit, and the guard."""
    torch.manual_seed(7)
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=20, enabled=scaler)
    call, steps, losses = wrap(model), [], []
    with guard(call if isinstance(call, nn.Module) else model, optimizer) if guard else nullcontext() as g:
        for step in range(num_steps):
            tokens = batch(step, rows(step))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                logits = call(tokens)
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(1, 1).flatten())
            scale.scale(loss).backward()
            scale.unscale_(optimizer)
            steps.append(digest([loss, *(p.grad for p in model.parameters())]))
            losses.append(loss.item())
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scale.step(optimizer)
            scale.update()
            between(step, model)
            if g is not None:
                request(step, g)
                g.step(loss)
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    end = digest([*model.parameters(), *model.buffers(), *state, torch.get_rng_state()])
    return Trail(steps, end, losses), g
