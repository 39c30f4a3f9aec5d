"""Every subject of the audit, one line each, and the sizes that its family is tried at."""

from collections.abc import Iterator
from typing import Any, Final

from numguard.acceptance.subjects import Subject, subject

Inputs = dict[str, Any]
_ROWS: Final = ({"n": 5, "c": 37}, {"n": 3, "c": 1}, {"n": 1030, "c": 4}, {"n": 2, "c": 8200})
_LONG: Final = ({"n": 37}, {"n": 8200})
_IMAGES: Final = ({"b": 2, "c": 8, "h": 5, "w": 7}, {"b": 4, "c": 64, "h": 8, "w": 8})
_SLOTS: Final = ({"n": 37, "k": 3, "c": 2}, {"n": 8200, "k": 2, "c": 2})
_PRODUCTS: Final = ({"m": 7, "k": 33, "n": 5}, {"m": 2, "k": 4100, "n": 3})
_HEADS: Final = ({"b": 1, "h": 2, "t": 7, "d": 8}, {"b": 1, "h": 1, "t": 130, "d": 16})
_PAST_COUNTING: Final = ({"n": 1 << 20}, {"n": (1 << 24) + (1 << 23)})
_SLOTS_PAST_COUNTING: Final = ({"n": (1 << 24) + (1 << 22), "k": 2, "c": 1},)


def _reductions() -> Iterator[Subject]:
    family, largest = "reductions", (*_PAST_COUNTING, {"n": (1 << 31) + 8})
    for call in ("x.sum()", "x.mean()", "torch.linalg.vector_norm(x)"):
        yield subject(call, family, _LONG, large=largest, x="values n")
    for order in ("1", "3", "0.5", "float('inf')"):
        yield subject(f"torch.linalg.vector_norm(x, {order})", family, _LONG, large=_PAST_COUNTING, x="values n")
    for call in ("x.prod()", "x.var()", "x.std()", "x.nansum()", "x.logsumexp(0)", "x.amax()", "x.cumsum(0)"):
        yield subject(call, family, _LONG, large=_PAST_COUNTING, x="values n")
    for call in ("x.cumprod(0)", "x.logcumsumexp(0)", "x.cummax(0)[0]", "x.median()", "x.sort()[0]"):
        yield subject(call, family, _LONG, x="values n")
    for name in ("sum", "mean", "prod", "var", "std", "amax", "logsumexp", "cumsum", "norm"):
        for dim in (0, 1):
            extra = "" if name != "norm" else "2, "
            yield subject(f"x.{name}({extra}dim={dim})", family, _ROWS, x="values n c")
    yield subject("F.normalize(x, dim=1)", family, _ROWS, x="values n c")
    yield subject("F.cosine_similarity(x, y, dim=1)", family, _ROWS, x="values n c", y="values n c")
    yield subject("F.pairwise_distance(x, y)", family, _ROWS, x="values n c", y="values n c")
    gradients = "torch.nn.utils.get_total_norm([x])"
    yield subject(gradients, family, _LONG, large=({"n": 1 << 26},), differentiable=False, x="values n")
    clipped = (
        "(setattr(x, 'requires_grad', True), setattr(x, 'grad', x.detach().clone()), "
        "torch.nn.utils.clip_grad_norm_([x], 1e30, foreach={}))[2]"
    )
    for foreach in (True, False):
        call = clipped.format(foreach)
        yield subject(call, family, _LONG, large=({"n": 1 << 26},), differentiable=False, x="values n")


def _normalisations() -> Iterator[Subject]:
    family = "normalisation"
    for call in ("F.layer_norm(x, (c,), w, b)", "F.rms_norm(x, (c,), w)"):
        bias: Inputs = {"b": "weight c"} if "b)" in call else {}
        yield subject(call, family, _ROWS, x="values n c", w="weight c", **bias)
    yield subject(
        "F.batch_norm(x, None, None, w, b, True)",
        family,
        _ROWS[:1] + _ROWS[2:],
        x="values n c",
        w="weight c",
        b="weight c",
    )
    images: Inputs = {"x": "values b c h w"}
    affine: Inputs = {"g": "weight c", "o": "weight c"}
    yield subject("F.group_norm(x, 4, g, o)", family, _IMAGES, **images, **affine)
    yield subject("F.batch_norm(x, None, None, g, o, True)", family, _IMAGES, **images, **affine)
    yield subject("F.instance_norm(x, None, None, g, o)", family, _IMAGES, **images, **affine)
    yield subject("F.local_response_norm(x, 3)", family, _IMAGES[:1], **images)


def _exponentials() -> Iterator[Subject]:
    for name in ("softmax", "log_softmax"):
        for dim in (0, 1):
            large = ({"n": (1 << 24) + (1 << 22), "c": 2},) if dim == 0 else ()
            yield subject(f"x.{name}({dim})", "exponentials", _ROWS, large=large, x="values n c")


def _losses() -> Iterator[Subject]:
    rows = ({"n": 5, "c": 37}, {"n": 8200, "c": 8}, {"n": 512, "c": 500})
    for reduction in ("mean", "sum", "none"):
        how = f"reduction='{reduction}'"
        yield subject(f"F.cross_entropy(x, i, {how})", "losses", rows, x="values n c", i="index n < c")
        yield subject(f"F.nll_loss(x, i, {how})", "losses", rows, x="values n c", i="index n < c")
        for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
            yield subject(f"F.{name}(x, y, {how})", "losses", _ROWS[:3], x="values n c", y="weight n c")
        yield subject(f"F.binary_cross_entropy(x, y, {how})", "losses", _ROWS[:3], x="unit n c", y="unit n c")
        logits = f"F.binary_cross_entropy_with_logits(x, y, {how})"
        yield subject(logits, "losses", _ROWS[:3], x="values n c", y="unit n c")
        yield subject(f"F.kl_div(x, y, {how})", "losses", _ROWS[:3], x="values n c", y="distribution n c")
    yield subject("F.soft_margin_loss(x, y)", "losses", _ROWS[:3], x="values n c", y="signs n c")
    yield subject("F.poisson_nll_loss(x, y)", "losses", _ROWS[:3], x="values n c", y="unit n c")
    smoothed = "F.cross_entropy(x, i, label_smoothing=0.1)"
    yield subject(smoothed, "losses", rows, x="values n c", i="index n < c")


def _scatters() -> Iterator[Subject]:
    rows: Inputs = {"x": "values n c", "i": "index n < k"}
    read: Inputs = {"x": "values k c", "i": "index n < k"}
    for call in (
        "torch.zeros(k, c, dtype=x.dtype).index_add(0, i, x)",
        "torch.zeros(k, c, dtype=x.dtype).scatter_add(0, i[:, None].expand(n, c), x)",
        "torch.zeros(k, c, dtype=x.dtype).index_put((i,), x, accumulate=True)",
        "torch.zeros(k, c, dtype=x.dtype).index_reduce(0, i, x, 'mean')",
        "torch.zeros(k, c, dtype=x.dtype).scatter_reduce(0, i[:, None].expand(n, c), x, 'mean')",
        "torch.segment_reduce(x, 'sum', lengths=torch.tensor([n]))",
        "torch.segment_reduce(x, 'mean', lengths=torch.tensor([n]))",
        "torch.segment_reduce(x, 'max', lengths=torch.tensor([n]))",
    ):
        yield subject(call, "scatters", _SLOTS, large=_SLOTS_PAST_COUNTING, **rows)
    for call in (
        "F.embedding(i, x)",
        "x[i]",
        "x.index_select(0, i)",
        "x.gather(0, i[:, None].expand(n, c))",
        "torch.take(x, i)",
        "F.embedding_bag(i, x, torch.arange(n), mode='sum')",
        "F.embedding_bag(i[None], x, mode='sum')",
        "F.embedding_bag(i[None], x, mode='mean')",
        "F.embedding_bag(i[None], x, mode='sum', scale_grad_by_freq=True)",
    ):
        yield subject(call, "scatters", _SLOTS, large=_SLOTS_PAST_COUNTING, **read)
    counted = "torch.bincount(i, x)"
    yield subject(
        counted, "scatters", _SLOTS, large=_SLOTS_PAST_COUNTING, differentiable=False, x="values n", i="index n < k"
    )
    yield subject("torch.histc(x, 4, 0, 4)", "scatters", _LONG, large=_PAST_COUNTING, differentiable=False, x="unit n")
    folded = ({"n": 41, "s": 8}, {"n": 2048, "s": 600})
    yield subject("x.unfold(0, s, 1)", "scatters", folded, x="values n")
    yield subject("x.repeat(s, 1)", "scatters", ({"n": 4, "s": 5}, {"n": 4, "s": 2000}), x="values n")
    sparse = "torch.sparse_coo_tensor(i[None], x, (k,), check_invariants=True).coalesce().values()"
    yield subject(sparse, "scatters", _SLOTS, differentiable=False, x="values n", i="index n < k")


def _products() -> Iterator[Subject]:
    family = "contractions"
    yield subject("x @ y", family, _PRODUCTS, x="values m k", y="values k n")
    yield subject("F.linear(x, y, b)", family, _PRODUCTS, x="values m k", y="values n k", b="weight n")
    yield subject(
        "torch.baddbmm(z, x[None], y[None])", family, _PRODUCTS, x="values m k", y="values k n", z="values 1 m n"
    )
    yield subject("torch.dot(x, y)", family, _LONG, x="values n", y="values n")
    yield subject("torch.mv(x, y)", family, _PRODUCTS, x="values m k", y="values k")
    yield subject(
        "torch.cdist(x[None], y[None])",
        family,
        ({"m": 5, "n": 3, "k": 9}, {"m": 40, "n": 33, "k": 9}),
        x="values m k",
        y="values n k",
    )
    yield subject("torch.einsum('mk,kn->m', x, y)", family, _PRODUCTS, x="values m k", y="values k n")
    images = ({"b": 2, "c": 4, "h": 9, "w": 9, "o": 3, "k": 3}, {"b": 1, "c": 64, "h": 6, "w": 6, "o": 4, "k": 3})
    yield subject("F.conv2d(x, y, padding=1)", family, images, x="values b c h w", y="values o c k k")
    yield subject("F.conv_transpose2d(x, y)", family, images, x="values b c h w", y="values c o k k")
    yield subject(
        "F.conv1d(x, y)", family, ({"b": 2, "c": 4, "t": 40, "o": 3, "k": 5},), x="values b c t", y="values o c k"
    )
    heads: Inputs = {"q": "values b h t d", "x": "values b h t d", "v": "values b h t d"}
    yield subject("F.scaled_dot_product_attention(q, x, v)", family, _HEADS, **heads)
    yield subject("F.scaled_dot_product_attention(q, x, v, is_causal=True)", family, _HEADS, **heads)
    attend = (
        "F.multi_head_attention_forward(x, x, x, d, 2, p, None, None, None, False, 0.0, o, None, "
        "attn_mask=~m, need_weights={})[0]"
    )
    yield subject(
        attend.format(False),
        family,
        ({"t": 5, "b": 1, "d": 8, "e": 24},),
        equivalent=attend.format(True),
        x="values t b d",
        p="weight e d",
        o="weight d d",
        m="mask t t",
    )


def _pooling() -> Iterator[Subject]:
    for call in (
        "F.avg_pool2d(x, 3)",
        "F.max_pool2d(x, 3)",
        "F.adaptive_avg_pool2d(x, (2, 3))",
        "F.adaptive_max_pool2d(x, 2)",
        "F.interpolate(x, scale_factor=2.0, mode='bilinear')",
        "F.interpolate(x, scale_factor=2.0, mode='nearest')",
        "F.interpolate(x, scale_factor=1.7, mode='bicubic')",
        "F.grid_sample(x, torch.zeros(b, 4, 4, 2, dtype=x.dtype), align_corners=False)",
        "F.pixel_shuffle(x, 2)",
        "F.unfold(x, 3)",
        "F.pad(x, (1, 2, 1, 0), mode='reflect')",
        "F.pad(x, (1, 2, 1, 0), mode='replicate')",
    ):
        yield subject(
            call, "pooling", ({"b": 2, "c": 8, "h": 9, "w": 11}, {"b": 1, "c": 4, "h": 66, "w": 66}), x="values b c h w"
        )


def _activations() -> Iterator[Subject]:
    for name in ("gelu", "silu", "softplus", "elu", "mish", "logsigmoid", "hardswish", "tanh", "sigmoid", "selu"):
        yield subject(f"F.{name}(x)", "activations", _ROWS[:1] + _ROWS[2:3], x="values n c")
    yield subject("F.glu(x)", "activations", ({"n": 5, "c": 38},), x="values n c")
    yield subject("F.prelu(x, a)", "activations", _ROWS[:1] + _ROWS[2:3], x="values n c", a="weight c")


def _optimizers() -> Iterator[Subject]:
    """Yield single steps of the optimizers on a parameter that lies in memory as its values do, and nowhere else."""
    parameter = "torch.empty_strided(x.size(), x.stride(), dtype=x.dtype).copy_(x).requires_grad_()"
    step = "(lambda p: (setattr(p, 'grad', y.clone()), torch.optim.{}.step(), p.detach())[2])({})"
    for made in (
        "SGD([p], 0.5, momentum=0.9, fused=True)",
        "SGD([p], 0.5, momentum=0.9, foreach=True)",
        "SGD([p], 0.5, momentum=0.9, foreach=False)",
        "Adam([p], 0.5, fused=True)",
        "AdamW([p], 0.5, fused=True)",
        "AdamW([p], 0.5, foreach=True)",
        "AdamW([p], 0.5, foreach=False)",
        "Adagrad([p], 0.5)",
        "RMSprop([p], 0.5)",
    ):
        call = step.format(made, parameter)
        yield subject(call, "optimizers", _ROWS[:1], differentiable=False, x="values n c", y="weight n c")


def _pipelines() -> Iterator[Subject]:
    """Yield short programs: a compiler fuses what is pointwise with what moves elements and with what pads them."""
    sizes = tuple({"b": 1, "c": 8, "h": side, "w": side} for side in (17, 34, 66))
    moved: Inputs = {"reversed": "3, 2, 1, 0", "swapped": "0, 1, 3, 2", "rotated": "1, 2, 3, 0"}
    for points in ("x * 0.5 * (torch.erf(x * 0.7071067811865476) + 1)", "torch.tanh(x)"):
        for order in moved.values():
            turned = f"v.permute({order})"
            yield subject(f"(lambda v: {turned}.sum(-1))({points})", "pipelines", sizes, x="values b c h w")
            padded = f"F.pad({turned}, (0, 3, 0, h - c))"
            yield subject(f"(lambda v: {padded}.softmax(-1))({points})", "pipelines", sizes, x="values b c h w")
        both = "F.pad(v, (0, 0, 0, 0, 0, h - c)) @ F.pad(v.permute(3, 2, 1, 0), (0, 0, 0, h - c))"
        yield subject(f"(lambda v: {both})({points})", "pipelines", sizes, x="values b c h w")


def subjects() -> tuple[Subject, ...]:
    """Return every subject."""
    return (
        *_reductions(),
        *_normalisations(),
        *_exponentials(),
        *_losses(),
        *_scatters(),
        *_products(),
        *_pooling(),
        *_activations(),
        *_optimizers(),
        *_pipelines(),
    )
