"""Checks of fused attention, forward and backward: sampled query rows over all keys, sampled keys over all queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from numguard.checks.attention_examples import EXAMPLES
from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.judged_attention import AttentionCall, judged_gradients, judged_rows
from numguard.checks.matmul_precision import precision_now
from numguard.numerics.error_bounds import attention_bounds as bounds
from numguard.numerics.error_bounds.attention_bounds import EXP_SIXTEEN, EXP_WIDE, AttentionModel
from numguard.numerics.error_bounds.contraction_bounds import ieee_accumulation
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, Comparison, NotCovered

ALL: Final = slice(None)
Model = Literal["proved", "calibrated", "assumed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The factors of one call: ``[batch, key heads, queries per key head, rows, features]``.

    Parameters
    ----------
    query, key, value
        The caller's memory, as views; the key side has one query per key head.
    mask
        Additive or boolean ``[batch, key heads, queries per key head, queries, keys]``, or None.
    causal
        True where query i sees the keys up to i only.
    scale
        Factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float

    @property
    def num_queries(self) -> int:
        """Query rows of a head."""
        return self.query.shape[-2]

    @property
    def num_keys(self) -> int:
        """Keys of a head."""
        return self.key.shape[-2]

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.query.shape[2]

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """Batches, key heads, queries per key head, queries and keys, features of a query and of a value."""
        batches, kv_heads, group, num_queries, features = self.query.shape
        return batches, kv_heads, group, num_queries, self.num_keys, features, self.value.shape[-1]

    def grouped(self, tensor: Tensor) -> Tensor:
        """Return a tensor ``[batch, heads, ...]`` of the query side with its heads grouped by key head."""
        return _by_key_head(tensor, self.key.shape[1])


def _by_key_head(tensor: Tensor, kv_heads: int) -> Tensor:
    group = tensor.shape[1] // kv_heads
    return torch.ops.aten.unflatten.int(tensor, 1, (kv_heads, group))  # type: ignore[no-any-return]


class Window(NamedTuple):
    """Evenly spaced batches, key heads, queries and keys."""

    batches: slice = ALL
    heads: slice = ALL
    queries: slice = ALL
    keys: slice = ALL

    def of_queries(self, tensor: Tensor) -> Tensor:
        """Return ``[batch, key heads, group, queries, ...]`` cut and in float64."""
        return tensor[self.batches, self.heads, :, self.queries].detach().to(torch.float64)

    def cut(self, tensor: Tensor) -> Tensor:
        """Return ``[batch, key heads, group, queries, ...]`` cut, in its own dtype."""
        return tensor[self.batches, self.heads, :, self.queries]

    def of_keys(self, tensor: Tensor) -> Tensor:
        """Return ``[batch, key heads, group, keys, ...]`` cut and in float64."""
        return tensor[self.batches, self.heads, :, self.keys].detach().to(torch.float64)


class Scores(NamedTuple):
    """Scores of a window, -inf where masked, their error, and in which rows one of them may have overflowed."""

    value: Tensor
    error: Tensor
    overflows: Tensor


def _heads(call: OpCall) -> Heads:
    query, key, value = call["query"], call["key"], call["value"]
    if call["dropout_p"]:
        raise NotCovered("attention with dropout: the mask is unknown")
    if query.dtype not in UNIT_ROUNDOFF or query.element_size() == 1:
        raise NotCovered(f"attention in {query.dtype}")
    if query.device.type != "cpu" and call["is_causal"] and query.shape[-2] != key.shape[-2]:
        raise NotCovered("causal attention of unequal lengths on an accelerator")
    if query.shape[1] % max(1, key.shape[1]) or key.shape[1] != value.shape[1]:
        raise NotCovered("key and value heads that do not divide the query heads")
    kv_heads = max(1, key.shape[1])
    mask = call.arguments.get("attn_mask", call.arguments.get("attn_bias"))
    if mask is not None:
        mask = _by_key_head(mask.expand(*query.shape[:-1], key.shape[-2]), kv_heads)
    scale = call["scale"]
    return Heads(
        query=_by_key_head(query, kv_heads),
        key=key.unsqueeze(2),
        value=value.unsqueeze(2),
        mask=mask,
        causal=call["is_causal"],
        scale=1.0 / sqrt(query.shape[-1]) if scale is None else scale,
    )


def _given(call: OpCall) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return query, key, value and the mask, if any, for every query and key."""
    query, key = call["query"].detach(), call["key"].detach()
    mask = call.arguments.get("attn_mask", call.arguments.get("attn_bias"))
    if mask is not None:
        mask = mask.detach().expand(*query.shape[:-1], key.shape[-2])
    return query, key, call["value"].detach(), mask


def _models(dtype: torch.dtype, device_type: str) -> tuple[AttentionModel, AttentionModel, Model]:
    """Return the strict and the permissive model, and what stands behind the latter."""
    accumulation = ieee_accumulation(dtype)
    narrow = dtype in (torch.float16, torch.bfloat16)
    strict = AttentionModel(
        unit_roundoff=accumulation.unit_roundoff,
        smallest_normal=accumulation.smallest_normal,
        exponential=EXP_SIXTEEN if narrow else EXP_WIDE * accumulation.unit_roundoff,
        weight_roundoff=UNIT_ROUNDOFF[dtype] if narrow else 0.0,
        weight_smallest=smallest_rounding(dtype) if narrow else 0.0,
        weight_largest=torch.finfo(dtype).max,
    )
    if device_type != "cpu":
        factors = precision_now(dtype, dtype, device_type).strict
        strict = replace(
            strict,
            unit_roundoff=factors.unit_roundoff,
            factor_roundoff=factors.input_roundoff,
            exponential=max(EXP_SIXTEEN, factors.input_roundoff) if narrow else 2 * strict.exponential,
        )
    permissive = strict
    if narrow:
        permissive = replace(strict, store_roundoff=UNIT_ROUNDOFF[dtype], store_smallest=smallest_rounding(dtype))
    return strict, permissive, "calibrated" if device_type == "cpu" else "assumed"


def _scores(heads: Heads, window: Window, model: AttentionModel, arithmetic: Arithmetic) -> Scores:
    query, key = window.of_queries(heads.query), window.of_keys(heads.key).transpose(-1, -2)
    value = arithmetic.product(query, key) * heads.scale
    mass = arithmetic.product(query.abs(), key.abs())
    # A score is formed before it is scaled and masked: an infinite one spoils its row wherever it stands.
    overflows = ~(mass < torch.finfo(accumulator_dtype(heads.query.dtype)).max)
    mass = mass * abs(heads.scale)
    if heads.mask is not None:
        mask = heads.mask[window.batches, window.heads, :, window.queries, window.keys].detach()
        if mask.dtype == torch.bool:
            value = torch.where(mask, value, -torch.inf)
        else:
            wide = mask.to(torch.float64)
            value, mass = value + wide, mass + wide.abs()
    if heads.causal:
        queries = torch.arange(heads.num_queries, device=value.device)[window.queries]
        keys = torch.arange(heads.num_keys, device=value.device)[window.keys]
        value = torch.where(keys > queries.unsqueeze(-1), -torch.inf, value)
    error = bounds.score_error(torch.where(value == -torch.inf, 0.0, mass), query.shape[-1], model)
    return Scores(value, error, arithmetic.maximum(overflows.double(), (-1,), True) > 0)


def _window(heads: Heads, probe: Probe, *, keys: bool = False) -> Window:
    """Return the rows to form again: query rows, or keys, then batches, then key heads."""
    batches, kv_heads, group, queries, features = heads.query.shape
    features += heads.value.shape[-1]
    count, others = (heads.num_keys, queries) if keys else (queries, heads.num_keys)
    cost = 2 * max(1, group * others * features)
    rows = probe.rows(count, batches * kv_heads * cost)
    cost *= len(range(count)[rows])
    some = probe.rows(batches, kv_heads * cost)
    chosen = probe.rows(kv_heads, len(range(batches)[some]) * cost)
    return Window(some, chosen, ALL, rows) if keys else Window(some, chosen, rows, ALL)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    heads = _heads(call)
    output, lse = call.output[0].detach(), call.output[1].detach()
    if output.numel() == 0 or heads.num_keys == 0:
        return ()
    arithmetic = probe.arithmetic
    model, permissive, grounds = _models(output.dtype, output.device.type)
    window = _window(heads, probe)
    if lse.numel():
        lse = lse.reshape(*output.shape[:2], -1)[..., : heads.num_queries]

    def result() -> Tensor:
        return window.cut(heads.grouped(output))

    def log_result() -> Tensor:
        return window.cut(heads.grouped(lse))

    if arithmetic.fused is not None:
        known = AttentionCall(heads.sizes, heads.scale, heads.causal, model, permissive, grounds)
        tensors = (*_given(call), output, lse if lse.numel() else None)
        judged = judged_rows(known, window, tensors, (result, log_result), arithmetic)
        if judged is not None:
            return judged
    scores = _scores(heads, window, model, arithmetic)
    value = window.of_keys(heads.value)
    peak = arithmetic.maximum(scores.value, (-1,), True)
    shifted = scores.value - peak  # NaN in a row without any key: nothing is said about it
    delta = scores.error + model.unit_roundoff * torch.where(shifted == -torch.inf, 0.0, -shifted) + model.exponential
    exponential, error = bounds.exponential_error(shifted, delta)
    total = arithmetic.total(exponential, (-1,), True)
    weights = exponential / total
    relative = bounds.total_error(arithmetic.total(error, (-1,), True) / total, heads.num_keys, model)
    factors = bounds.weights_with_rounding(
        weights, bounds.weights_bound(error / total, relative, weights), heads.num_keys, model
    )
    sizes = value.abs()
    floor = bounds.output_floor(
        arithmetic.maximum(sizes, (-2,), True), arithmetic.total(sizes, (-2,), True), heads.num_keys, model
    )
    bound = arithmetic.product(factors, sizes) + floor
    comparisons = [
        _comparison(
            "output",
            result(),
            arithmetic.product(weights, value),
            bound,
            bound,
            model,
            grounds,
        )
    ]
    if lse.numel():
        log_total = total.log()
        bound = bounds.logsumexp_bound(relative, log_total, model)
        exact = (peak + log_total).squeeze(-1)
        bound = bound.squeeze(-1)
        comparisons.append(_comparison("logsumexp", log_result(), exact, bound, bound, model, grounds))
    return comparisons


def _comparison(
    output: str,
    computed: Tensor,
    exact: Tensor,
    strict: Tensor,
    permissive: Tensor,
    model: AttentionModel,
    grounds: Model,
) -> Comparison:
    """Compare; the shadow makes the same operations with the unit roundoff of float64, hence its share of E."""
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=strict,
        permissive=None if permissive is strict else permissive,
        shadow_error=strict * (SHADOW_ROUNDOFF / model.unit_roundoff),
        model=grounds,
    )


class Gradients(NamedTuple):
    """P and dS of a window with their errors, ``[batch, key heads, group, queries, keys]``."""

    weights: Tensor
    weights_error: Tensor
    scores: Tensor
    scores_error: Tensor


def _gradients(call: OpCall, heads: Heads, window: Window, model: AttentionModel, route: Arithmetic) -> Gradients:
    """Return P and dS on what the operator was given: the saved output and log-sum-exp are inputs here."""
    scores = _scores(heads, window, model, route)
    lse = window.of_queries(heads.grouped(call["logsumexp"].reshape(call["query"].shape[:-1]))).unsqueeze(-1)
    masked = scores.value == -torch.inf
    exponent = torch.where(masked, -torch.inf, scores.value - lse)
    exponent = torch.where(torch.isfinite(lse), exponent, torch.nan)
    u = model.unit_roundoff
    sizes = torch.where(masked, 0.0, scores.value.abs() + lse.abs())
    delta = scores.error + u * sizes + model.exponential + 2.0 * u
    weights, weights_error = bounds.exponential_error(exponent, delta)
    weights_error = torch.where(scores.overflows, torch.inf, weights_error)
    grad = window.of_queries(heads.grouped(call["grad_out"]))
    output = window.of_queries(heads.grouped(call["out"]))
    value = window.of_keys(heads.value).transpose(-1, -2)
    inner = grad * output
    difference = route.product(grad, value) - route.total(inner, (-1,), True)
    mass = route.product(grad.abs(), value.abs()) + route.total(inner.abs(), (-1,), True)
    error = bounds.score_gradient_bound(weights, weights_error, difference, mass, value.shape[-2], model)
    error = torch.where(scores.overflows, torch.inf, error)
    return Gradients(weights, weights_error, weights * difference, error)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Turns a left factor with its error and a right factor into the comparison of one gradient."""

    strict: AttentionModel
    permissive: AttentionModel
    grounds: Model
    arithmetic: Arithmetic

    def compare(
        self, name: str, computed: Tensor, left: Tensor, error: Tensor, right: Tensor, scale: float, num_stores: int
    ) -> Comparison:
        """Compare ``scale * left @ right`` with what was computed."""
        sizes = right.abs()
        product = self.arithmetic.product
        masses = product(error, sizes), product(left.abs(), sizes), self.arithmetic.total(sizes, (-2,), True)
        strict, permissive = (
            bounds.gradient_bound(*masses, right.shape[-2], num_stores, scale, model)
            for model in (self.strict, self.permissive)
        )
        if self.permissive == self.strict:
            permissive = strict
        exact = product(left, right) * scale
        return _comparison(name, computed, exact, strict, permissive, self.strict, self.grounds)


def _merged(tensor: Tensor) -> Tensor:
    """Merge group and queries: the gradients of a key head sum over both."""
    return tensor.flatten(2, 3)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    heads = _heads(call)
    grad_query, grad_key, grad_value = (x.detach() for x in call.output)
    if not grad_query.numel() or not grad_key.numel():
        return ()
    strict, permissive, grounds = _models(grad_query.dtype, grad_query.device.type)
    judge = _Judge(strict=strict, permissive=permissive, grounds=grounds, arithmetic=probe.arithmetic)
    half = replace(probe, limit=probe.limit / 4)
    by_query, by_key = _window(heads, half), _window(heads, half, keys=True)
    key_blocks = -(-heads.num_keys // bounds.KEY_BLOCK) + 1
    query_blocks = (-(-heads.num_queries // bounds.QUERY_BLOCK) + 1) * heads.group
    cut = (by_key.batches, by_key.heads, by_key.keys)
    results = (
        lambda: by_query.cut(heads.grouped(grad_query)),
        lambda: grad_key[cut],
        lambda: grad_value[cut],
    )
    if probe.arithmetic.fused is not None:
        known = AttentionCall(heads.sizes, heads.scale, heads.causal, strict, permissive, grounds)
        lse = call["logsumexp"].detach().reshape(call["query"].shape[:-1])
        tensors = (
            *(*_given(call), call["out"].detach(), lse),
            *(call["grad_out"].detach(), grad_query, grad_key, grad_value),
        )
        blocks = (float(key_blocks), float(query_blocks))
        judged = judged_gradients(known, (by_query, by_key), tensors, results, blocks, probe.arithmetic)
        if judged is not None:
            return judged
    gradients = _gradients(call, heads, by_query, strict, probe.arithmetic)
    comparisons = [
        judge.compare(
            "grad_query",
            results[0](),
            gradients.scores,
            gradients.scores_error,
            by_query.of_keys(heads.key),
            heads.scale,
            key_blocks,
        )
    ]
    if by_query != by_key:
        gradients = _gradients(call, heads, by_key, strict, probe.arithmetic)
    weights, weights_error, scores, scores_error = (_merged(x).transpose(-1, -2) for x in gradients)
    query = _merged(by_key.of_queries(heads.query))
    grad = _merged(by_key.of_queries(heads.grouped(call["grad_out"])))
    return [
        *comparisons,
        judge.compare("grad_key", results[1](), scores, scores_error, query, heads.scale, query_blocks),
        judge.compare("grad_value", results[2](), weights, weights_error, grad, 1.0, query_blocks),
    ]


def _cost(call: OpCall) -> float:
    query, key, value = call["query"], call["key"], call["value"]
    return 2.0 * float(query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _backward_cost(call: OpCall) -> float:
    return 4.0 * _cost(call)


_ADVICE: Final = (
    "Compare with torch.nn.attention.sdpa_kernel(SDPBackend.MATH); if only the fused kernel is wrong, train with "
    "another backend and report shapes, mask and dtype."
)

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "attention",
        {
            "attention": (
                _forward,
                (
                    "_scaled_dot_product_flash_attention_for_cpu",
                    "_scaled_dot_product_flash_attention",
                    "_scaled_dot_product_efficient_attention",
                    "_scaled_dot_product_cudnn_attention",
                ),
            ),
        },
        EXAMPLES,
        cost=_cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "attention",
        {"attention_backward": (_backward, ("_scaled_dot_product_flash_attention_for_cpu_backward",))},
        EXAMPLES,
        cost=_backward_cost,
        advice=_ADVICE,
    ),
)
