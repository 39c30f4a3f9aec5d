"""The exact value v of an operator's result, in extended precision, from the inputs that its kernel was given.

Everything is evaluated by NumPy's ``longdouble`` with a 64-bit significand (x86): 11 bits finer than float64 and than
every shadow of numguard, by formulas of their own. Nothing here calls an operator of torch that is under test.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Wide = npt.NDArray[np.longdouble]
Arguments = Mapping[str, Any]

UNIT_ROUNDOFF: Final = float(np.finfo(np.longdouble).eps) / 2.0


def require_extended_precision() -> None:
    """Refuse to go on where ``longdouble`` is float64: v would be no better than what it judges."""
    if UNIT_ROUNDOFF > 2.0**-63:
        raise RuntimeError(
            f"numpy.longdouble has a unit roundoff of {UNIT_ROUNDOFF:.3g} here, too coarse to judge float64; "
            "run the campaign on x86-64 Linux, where it is 2**-64"
        )


def wide(tensor: Tensor) -> Wide:
    """Return a tensor in extended precision, exactly."""
    return tensor.detach().to(torch.float64).contiguous().numpy().astype(np.longdouble)


def _axes(arguments: Arguments, rank: int) -> tuple[int, ...]:
    dims = arguments.get("dim")
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(dims) if isinstance(dims, list | tuple) else (dims,)


def _sum(arguments: Arguments) -> list[Wide | None]:
    x = wide(arguments["self"])
    return [x.sum(axis=_axes(arguments, x.ndim), keepdims=arguments.get("keepdim", False))]


def _mean(arguments: Arguments) -> list[Wide | None]:
    x = wide(arguments["self"])
    return [x.mean(axis=_axes(arguments, x.ndim), keepdims=arguments["keepdim"])]


def _cumsum(arguments: Arguments) -> list[Wide | None]:
    return [np.cumsum(wide(arguments["self"]), axis=arguments["dim"])]


def _prod(arguments: Arguments) -> list[Wide | None]:
    return [wide(arguments["self"]).prod(axis=arguments["dim"], keepdims=arguments["keepdim"])]


def _vector_norm(arguments: Arguments) -> list[Wide | None]:
    x = wide(arguments["self"])
    return [np.sqrt((x * x).sum(axis=_axes(arguments, x.ndim), keepdims=arguments["keepdim"]))]


def _foreach_norm(arguments: Arguments) -> list[Wide | None]:
    return [np.sqrt((wide(x) ** 2).sum()) for x in arguments["self"]]


def _shifted(x: Wide, axis: int) -> tuple[Wide, Wide]:
    """Return ``x - max`` and the logarithm of the sum of its exponentials."""
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted, np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _softmax(arguments: Arguments) -> list[Wide | None]:
    shifted, _ = _shifted(wide(arguments["self"]), arguments["dim"])
    weights = np.exp(shifted)
    return [weights / weights.sum(axis=arguments["dim"], keepdims=True)]


def _log_softmax(arguments: Arguments) -> list[Wide | None]:
    shifted, log_total = _shifted(wide(arguments["self"]), arguments["dim"])
    return [shifted - log_total]


def _logsumexp(arguments: Arguments) -> list[Wide | None]:
    x, (axis,) = wide(arguments["self"]), _axes(arguments, arguments["self"].dim())
    _, log_total = _shifted(x, axis)
    total = x.max(axis=axis, keepdims=True) + log_total
    return [total if arguments["keepdim"] else total.squeeze(axis)]


def _softmax_backward(arguments: Arguments) -> list[Wide | None]:
    grad, y = wide(arguments["grad_output"]), wide(arguments["output"])
    return [y * (grad - (grad * y).sum(axis=arguments["dim"], keepdims=True))]


def _log_softmax_backward(arguments: Arguments) -> list[Wide | None]:
    grad, y = wide(arguments["grad_output"]), wide(arguments["output"])
    return [grad - np.exp(y) * grad.sum(axis=arguments["dim"], keepdims=True)]


def _nll(arguments: Arguments) -> list[Wide | None]:
    """Mean without class weights."""
    x, target = wide(arguments["self"]), arguments["target"].numpy()
    counted = target != arguments["ignore_index"]
    picked = -x[np.flatnonzero(counted), target[counted]]
    weight = np.longdouble(counted.sum())
    return [picked.sum() / weight, np.asarray(weight)]


def _nll_backward(arguments: Arguments) -> list[Wide | None]:
    target = arguments["target"].numpy()
    rows = np.flatnonzero(target != arguments["ignore_index"])
    gradient = np.zeros(tuple(arguments["self"].shape), dtype=np.longdouble)
    gradient[rows, target[rows]] = -wide(arguments["grad_output"]) / wide(arguments["total_weight"])
    return [gradient]


def _layer_norm(arguments: Arguments) -> list[Wide | None]:
    x = wide(arguments["input"])
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + np.longdouble(arguments["eps"]))
    return [(x - mean) * rstd * wide(arguments["weight"]) + wide(arguments["bias"]), mean, rstd]


def _layer_norm_backward(arguments: Arguments) -> list[Wide | None]:
    grad, x, mean, rstd = (wide(arguments[name]) for name in ("grad_out", "input", "mean", "rstd"))
    normal, scaled = (x - mean) * rstd, grad * wide(arguments["weight"])
    slope = (scaled * normal).mean(axis=-1, keepdims=True)
    dx = rstd * (scaled - scaled.mean(axis=-1, keepdims=True) - normal * slope)
    return [dx, (grad * normal).sum(axis=0), grad.sum(axis=0)]


def _mm(arguments: Arguments) -> list[Wide | None]:
    return [wide(arguments["self"]) @ wide(arguments["mat2"])]


def _addmm(arguments: Arguments) -> list[Wide | None]:
    product = wide(arguments["mat1"]) @ wide(arguments["mat2"])
    return [arguments["beta"] * wide(arguments["self"]) + arguments["alpha"] * product]


def _embedding(arguments: Arguments) -> list[Wide | None]:
    return [wide(arguments["weight"])[arguments["indices"].numpy()]]


def _embedding_backward(arguments: Arguments) -> list[Wide | None]:
    grad = wide(arguments["grad_output"])
    table = np.zeros((arguments["num_weights"], grad.shape[-1]), dtype=np.longdouble)
    np.add.at(table, arguments["indices"].numpy().reshape(-1), grad.reshape(-1, grad.shape[-1]))
    return [table]


def _index_add(arguments: Arguments) -> list[Wide | None]:
    table = np.moveaxis(wide(arguments["self"]), arguments["dim"], 0)
    source = np.moveaxis(wide(arguments["source"]), arguments["dim"], 0)
    np.add.at(table, arguments["index"].numpy(), np.longdouble(arguments["alpha"]) * source)
    return [np.moveaxis(table, 0, arguments["dim"])]


def _scatter_add(arguments: Arguments) -> list[Wide | None]:
    table, index, source = wide(arguments["self"]), arguments["index"].numpy(), wide(arguments["src"])
    places = list(np.indices(index.shape))
    places[arguments["dim"]] = index
    np.add.at(table, tuple(places), source[tuple(slice(size) for size in index.shape)])
    return [table]


def _scores(arguments: Arguments) -> Wide:
    query, key = wide(arguments["query"]), wide(arguments["key"])
    scores: Wide = query @ np.swapaxes(key, -1, -2) / np.sqrt(np.longdouble(query.shape[-1]))
    if arguments["is_causal"]:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0.0, scores, -np.inf)
    return scores


def _attention(arguments: Arguments) -> list[Wide | None]:
    scores = _scores(arguments)
    shifted, log_total = _shifted(scores, -1)
    lse = (scores.max(axis=-1, keepdims=True) + log_total).squeeze(-1)
    return [np.exp(shifted - log_total) @ wide(arguments["value"]), lse]


def _attention_backward(arguments: Arguments) -> list[Wide | None]:
    grad, output, key, query = (wide(arguments[name]) for name in ("grad_out", "out", "key", "query"))
    weights = np.exp(_scores(arguments) - wide(arguments["logsumexp"])[..., None])
    inner = grad @ np.swapaxes(wide(arguments["value"]), -1, -2) - (grad * output).sum(axis=-1, keepdims=True)
    scores = weights * inner / np.sqrt(np.longdouble(query.shape[-1]))
    return [scores @ key, np.swapaxes(scores, -1, -2) @ query, np.swapaxes(weights, -1, -2) @ grad]


def _fused_adamw(arguments: Arguments) -> list[Wide | None]:
    lr, beta1, beta2 = (np.longdouble(float(arguments[name])) for name in ("lr", "beta1", "beta2"))
    decay, eps = np.longdouble(arguments["weight_decay"]), np.longdouble(arguments["eps"])
    params, firsts, seconds = [], [], []
    names = ("self", "grads", "exp_avgs", "exp_avg_sqs", "state_steps")
    for param, grad, first, second, step in zip(*(arguments[name] for name in names), strict=True):
        p, g, number = wide(param), wide(grad), wide(step)
        m = beta1 * wide(first) + (1 - beta1) * g
        v = beta2 * wide(second) + (1 - beta2) * g * g
        denominator = np.sqrt(v) / np.sqrt(1 - beta2**number) + eps
        params.append(p * (1 - lr * decay) - lr / (1 - beta1**number) * m / denominator)
        firsts.append(m)
        seconds.append(v)
    return [*params, *([None] * len(params)), *firsts, *seconds]


def _fused_sgd(arguments: Arguments) -> list[Wide | None]:
    lr, momentum, decay = (np.longdouble(float(arguments[name])) for name in ("lr", "momentum", "weight_decay"))
    params, buffers = [], []
    names = ("self", "grads", "momentum_buffer_list")
    for param, grad, buffer in zip(*(arguments[name] for name in names), strict=True):
        p = wide(param)
        g = wide(grad) + decay * p
        b = g if arguments["is_first_step"] else momentum * wide(buffer) + (1 - arguments["dampening"]) * g
        params.append(p - lr * (g + momentum * b if arguments["nesterov"] else b))
        buffers.append(b)
    return [*params, *([None] * len(params)), *buffers]


def _each(rule: Callable[..., Wide], *names: str) -> Callable[[Arguments], list[Wide | None]]:
    """Return the values of an elementwise operator on one tensor, or on lists of them with one factor or many."""

    def values(arguments: Arguments) -> list[Wide | None]:
        columns: list[Sequence[Any]] = [
            arguments[name] if isinstance(arguments[name], list | tuple) else [arguments[name]] for name in names
        ]
        longest = max(len(column) for column in columns)
        rows = zip(*(column if len(column) == longest else list(column) * longest for column in columns), strict=True)
        return [
            rule(*(wide(item) if isinstance(item, Tensor) else np.longdouble(item) for item in row)) for row in rows
        ]

    return values


def _lerp(start: Wide, end: Wide, weight: Wide) -> Wide:
    return start + weight * (end - start)


#: Values of the results, in the order of :attr:`numguard.testing.KernelCall.results`, by operator; None for a result
#: that the operator leaves alone.
VALUES: Final[Mapping[str, Callable[[Arguments], list[Wide | None]]]] = {
    "aten::sum": _sum,
    "aten::sum.dim_IntList": _sum,
    "aten::mean.dim": _mean,
    "aten::cumsum": _cumsum,
    "aten::prod.dim_int": _prod,
    "aten::linalg_vector_norm": _vector_norm,
    "aten::_foreach_norm.Scalar": _foreach_norm,
    "aten::_softmax": _softmax,
    "aten::_log_softmax": _log_softmax,
    "aten::logsumexp": _logsumexp,
    "aten::_softmax_backward_data": _softmax_backward,
    "aten::_log_softmax_backward_data": _log_softmax_backward,
    "aten::nll_loss_forward": _nll,
    "aten::nll_loss_backward": _nll_backward,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_layer_norm_backward": _layer_norm_backward,
    "aten::mm": _mm,
    "aten::bmm": _mm,
    "aten::addmm": _addmm,
    "aten::embedding": _embedding,
    "aten::embedding_dense_backward": _embedding_backward,
    "aten::index_add": _index_add,
    "aten::scatter_add": _scatter_add,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten::_fused_adamw_": _fused_adamw,
    "aten::_fused_sgd_": _fused_sgd,
    "aten::_foreach_lerp_.Scalar": _each(_lerp, "self", "tensors1", "weight"),
    "aten::_foreach_addcmul_.Scalar": _each(lambda a, b, c, s: a + s * b * c, "self", "tensor1", "tensor2", "value"),
    "aten::_foreach_addcdiv_.ScalarList": _each(
        lambda a, b, c, s: a + s * b / c, "self", "tensor1", "tensor2", "scalars"
    ),
    "aten::_foreach_sqrt": _each(np.sqrt, "self"),
    "aten::lerp_.Scalar": _each(_lerp, "self", "end", "weight"),
    "aten::addcmul_": _each(lambda a, b, c, s: a + s * b * c, "self", "tensor1", "tensor2", "value"),
    "aten::addcdiv_": _each(lambda a, b, c, s: a + s * b / c, "self", "tensor1", "tensor2", "value"),
}
