"""Small training steps in which one operator is called at a known place: module ``block.site``, or the optimizer."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIXTEEN: Final = (torch.bfloat16, torch.float16)

MODULE: Final = "block.site"
ROWS, WIDTH = 12, 40
BLOCK: Final = 4  # elements that a block fault loses, and that share their magnitude

#: Magnitudes span the significand of the dtype, so that some addend lies a few bounds above the error of every sum.
_BINADES: Final = {torch.float64: 56, torch.float32: 26, torch.bfloat16: 10, torch.float16: 12}

Forward = Callable[["Called", Tensor], Tensor]


def spread(dtype: torch.dtype, generator: torch.Generator, *shape: int) -> Tensor:
    """Return factors: one for seven blocks in ten, a power of two down to the last bit of the dtype for the rest."""
    if not shape:
        return torch.ones((), dtype=dtype)
    blocks = (*shape[:-1], -(-shape[-1] // BLOCK))
    exponents = torch.randint(0, _BINADES[dtype] + 1, blocks, generator=generator)
    small = torch.rand(blocks, generator=generator) < 0.3
    factors = torch.where(small, torch.exp2(-exponents.double()), 1.0)
    return factors.repeat_interleave(BLOCK, dim=-1)[..., : shape[-1]].to(dtype)


class Called(nn.Module):
    """Calls one operator on its input.

    Parameters
    ----------
    forward_of
        What to call, with this module for its parameters.
    shapes
        Parameters by name.
    """

    weight: Tensor
    bias: Tensor
    mix: Tensor
    index: Tensor

    def __init__(
        self, forward_of: Forward, dtype: torch.dtype, generator: torch.Generator, **shapes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.forward_of = forward_of
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            setattr(self, name, nn.Parameter(values * spread(dtype, generator, *shape)))
        self.register_buffer("index", torch.randint(0, 5, (ROWS,), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_of(self, x)


class Net(nn.Module):
    """A stem, and the site in a block of its own."""

    spread: Tensor

    def __init__(self, site: Called, width: int, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.stem = nn.Linear(9, width)
        for parameter in self.stem.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.stem.to(dtype)
        self.block = nn.Sequential(OrderedDict(site=site))
        self.register_buffer("spread", spread(dtype, generator, ROWS, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.stem(x) * self.spread)
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One operator at one place of a training step.

    Parameters
    ----------
    op
        What the guard has to name.
    phase
        Where the fault acts: the forward pass of the site, the backward pass, or the optimizer.
    forward
        What the site computes.
    shapes
        Parameters of the site.
    primary
        Arguments whose elements an input fault drops, doubles or shifts.
    kernel
        Where the fault lies, if it is another operator that ``op`` is built on.
    width
        Columns of the input.
    neutral
        What a dropped element is replaced by: nothing added, nothing multiplied, or no weight.
    optimizer
        ``"sgd"``, ``"fused_sgd"``, ``"fused"``, ``"foreach"`` or ``"plain"``, the last three of AdamW.
    which
        Of several calls with different shapes in that phase, the one that goes wrong.
    dtypes
        Dtypes in which the operator exists.
    under_mode
        True where autograd calls this operator under a dispatch mode only, and its in-place twin otherwise.
    """

    op: str
    phase: Literal["forward", "backward", "optimizer"]
    forward: Forward
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    primary: tuple[str, ...] = ("self",)
    kernel: str | None = None
    width: int = WIDTH
    neutral: float = 0.0
    optimizer: str = "sgd"
    which: int = 0
    dtypes: tuple[torch.dtype, ...] = FLOATS
    under_mode: bool = False

    @property
    def faulty(self) -> str:
        """Operator under which the fault is put."""
        return self.kernel or self.op

    @property
    def module(self) -> str:
        """Module that the guard has to name."""
        return "" if self.phase == "optimizer" else MODULE

    @property
    def name(self) -> str:
        """Short, for tables and test ids."""
        nested = f" in {self.kernel.removeprefix('aten::')}" if self.kernel else ""
        return f"{self.op.removeprefix('aten::')}{nested}, {self.phase}"

    def net(self, dtype: torch.dtype, generator: torch.Generator) -> Net:
        """Return the model."""
        return Net(Called(self.forward, dtype, generator, **dict(self.shapes)), self.width, dtype, generator)


def optimizer_for(site: Site, net: nn.Module, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Return the optimizer, with steps of some units in the last place so that one lost update is a small error."""
    parameters = list(net.parameters())
    lr = 64.0 * torch.finfo(dtype).eps
    match site.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=lr, foreach=False)
        case "fused_sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.01, fused=True)
        case kind:
            return torch.optim.AdamW(parameters, lr=lr, fused=kind == "fused", foreach=kind == "foreach", eps=1e-3)


def _heads(site: Called, x: Tensor) -> Tensor:
    query, key, value = ((x @ site.mix).view(1, ROWS, 3, 2, 8)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def _linear(site: Called, x: Tensor) -> Tensor:
    return F.linear(x, site.weight, site.bias)


def _batched(site: Called, x: Tensor) -> Tensor:
    return torch.bmm(x.view(3, 4, WIDTH), site.weight)


def _norm(site: Called, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), site.weight, site.bias)


def _loss(site: Called, x: Tensor) -> Tensor:
    return F.nll_loss(x, site.index)


def _embedding(site: Called, x: Tensor) -> Tensor:
    return F.embedding(site.index, site.weight)


def _scattered(site: Called, x: Tensor) -> Tensor:
    return torch.scatter_add(x, 0, site.index.unsqueeze(1).expand(-1, WIDTH), x)


def _indexed(site: Called, x: Tensor) -> Tensor:
    return torch.index_add(x[:5], 0, site.index, x)


def _gathered(site: Called, x: Tensor) -> Tensor:
    return x.gather(0, site.index.unsqueeze(1).expand(-1, WIDTH))


def _biased(site: Called, x: Tensor) -> Tensor:
    return x[:, :24] + site.bias


_LINEAR = (("weight", (24, WIDTH)), ("bias", (24,)))
_NORM = (("weight", (WIDTH,)), ("bias", (WIDTH,)))
_MATRIX = (("weight", (WIDTH, 24)),)
_BATCH = (("weight", (3, WIDTH, 24)),)
_TABLE = (("weight", (5, WIDTH)),)
_HEADS = (("mix", (WIDTH, 48)),)
_QKV = ("query", "key", "value")
_FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def _forward(op: str, forward: Forward, primary: tuple[str, ...] = ("self",), **rest: object) -> Site:
    return Site(op=f"aten::{op}", phase="forward", forward=forward, primary=primary, **rest)  # type: ignore[arg-type]


def _backward(op: str, forward: Forward, primary: tuple[str, ...], **rest: object) -> Site:
    return Site(op=f"aten::{op}", phase="backward", forward=forward, primary=primary, **rest)  # type: ignore[arg-type]


def _update(op: str, optimizer: str, primary: tuple[str, ...], dtypes: tuple[torch.dtype, ...] = FLOATS) -> Site:
    return Site(
        op=f"aten::{op}",
        phase="optimizer",
        forward=_linear,
        shapes=_LINEAR,
        optimizer=optimizer,
        primary=primary,
        dtypes=dtypes,
    )


NO_WEIGHT: Final = -float("inf")

SITES: Final[tuple[Site, ...]] = (
    _forward("sum", lambda s, x: x.sum()),
    _forward("sum", lambda s, x: x.sum(), kernel="aten::sum.dim_IntList"),
    _forward("sum.dim_IntList", lambda s, x: x.sum(-1)),
    _forward("mean.dim", lambda s, x: x.mean(-1)),
    _forward("cumsum", lambda s, x: x.cumsum(-1)),
    _forward("prod.dim_int", lambda s, x: (1.0 + x / 8).prod(-1), neutral=1.0),
    _forward("linalg_vector_norm", lambda s, x: torch.linalg.vector_norm(x, dim=-1)),
    _forward("_softmax", lambda s, x: x.softmax(-1), neutral=NO_WEIGHT),
    _forward("_log_softmax", lambda s, x: x.log_softmax(-1), neutral=NO_WEIGHT),
    _forward("logsumexp", lambda s, x: x.logsumexp(-1), neutral=NO_WEIGHT),
    _forward("nll_loss_forward", _loss, width=5),
    _forward("native_layer_norm", _norm, ("input",), shapes=_NORM),
    _forward("mm", lambda s, x: x @ s.weight, ("self", "mat2"), shapes=_MATRIX),
    _forward("addmm", _linear, ("mat1", "mat2", "self"), shapes=_LINEAR),
    _forward("bmm", _batched, ("self", "mat2"), shapes=_BATCH),
    _forward("embedding", _embedding, ("weight",), shapes=_TABLE),
    _forward("index_add", _indexed, ("source",)),
    _forward("scatter_add", _scattered, ("src",)),
    Site(op=_FLASH, phase="forward", forward=_heads, shapes=_HEADS, primary=_QKV),
    _backward("sum.dim_IntList", _biased, ("self",), shapes=(("bias", (24,)),)),
    _backward("cumsum", lambda s, x: x.cumsum(-1), ("self",)),
    _backward("_softmax_backward_data", lambda s, x: x.softmax(-1), ("grad_output",)),
    _backward("_log_softmax_backward_data", lambda s, x: x.log_softmax(-1), ("grad_output",)),
    _backward("nll_loss_backward", _loss, ("grad_output",), width=5),
    _backward("native_layer_norm_backward", _norm, ("grad_out", "input"), shapes=_NORM),
    _backward("mm", lambda s, x: x @ s.weight, ("self", "mat2"), shapes=_MATRIX),
    _backward("mm", lambda s, x: x @ s.weight, ("self", "mat2"), shapes=_MATRIX, which=1),
    _backward("bmm", _batched, ("self", "mat2"), shapes=_BATCH),
    _backward("embedding_dense_backward", _embedding, ("grad_output",), shapes=_TABLE),
    _backward("index_add", lambda s, x: x.index_select(0, s.index), ("source",), under_mode=True),
    _backward("scatter_add", _gathered, ("src",), under_mode=True),
    Site(op=f"{_FLASH}_backward", phase="backward", forward=_heads, shapes=_HEADS, primary=("grad_out", "value")),
    Site(op="aten::_foreach_norm.Scalar", phase="optimizer", forward=_linear, shapes=_LINEAR),
    _update("_fused_adamw_", "fused", ("grads",)),
    # In 16 bits the fused SGD of torch 2.13 is wrong by itself on the CPU, which the guard reports at step 0.
    _update("_fused_sgd_", "fused_sgd", ("grads",), (torch.float32, torch.float64)),
    _update("_foreach_lerp_.Scalar", "foreach", ("tensors1",)),
    _update("_foreach_addcmul_.Scalar", "foreach", ("tensor1",)),
    _update("_foreach_sqrt", "foreach", ("self",)),
    _update("_foreach_addcdiv_.ScalarList", "foreach", ("tensor1",)),
    _update("lerp_.Scalar", "plain", ("end",)),
    _update("addcmul_", "plain", ("tensor1",)),
    _update("addcdiv_", "plain", ("tensor1",)),
)
