"""What the campaign of clean elements runs: the subjects of the audit, and some for the checks that they miss."""

from collections.abc import Iterator
from typing import Final

from numguard.acceptance.programme import subjects
from numguard.acceptance.subjects import Subject, subject

_ROWS: Final = ({"n": 64, "c": 37}, {"n": 5, "c": 300})
_IMAGES: Final = ({"b": 2, "c": 8, "h": 9, "w": 11},)
_VOLUMES: Final = ({"b": 2, "c": 4, "t": 6, "h": 7, "w": 9},)

#: Subjects that torch 2.13.0 gets wrong on clean data, with why: an error of theirs is no false alarm.
WRONG_IN_TORCH: Final = {
    "F.embedding_bag(i[None], x, mode='sum', scale_grad_by_freq=True)": (
        "the gradient is divided by the frequency of another index (pytorch issue 190063)"
    ),
}


def _further() -> Iterator[Subject]:
    for call in (
        "torch.var_mean(x, 1)",
        "torch.std_mean(x, 1)",
        "torch._safe_softmax(x, 1)",
        "torch.aminmax(x, dim=1)",
        "x.topk(3, 1)[0]",
        "x.kthvalue(5, 1)[0]",
        "x.nanmedian(1)[0]",
        "x.max(1)[0]",
        "x.cummin(1)[0]",
    ):
        yield subject(call, "further", _ROWS, x="values n c")
    yield subject("x[0].gather(0, x.argmax(1) * 0)", "further", _ROWS, differentiable=False, x="values n c")
    yield subject("torch._fused_rms_norm(x, (c,), w, 1e-5)[0]", "further", _ROWS, x="values n c", w="weight c")
    unscale = "torch._amp_foreach_non_finite_check_and_unscale_"
    yield subject(
        f"{unscale}([y := x.clone()], torch.zeros(1), torch.full((1,), 0.125)) or y",
        "further",
        _ROWS,
        differentiable=False,
        x="values n c",
    )
    yield subject("F.nll_loss(x, i)", "further", _IMAGES, x="values b c h w", i="index b h w < c")
    for call in ("max_pool3d(x, 3)", "avg_pool3d(x, 2)", "adaptive_avg_pool3d(x, 2)", "adaptive_max_pool3d(x, 2)"):
        yield subject(f"F.{call}", "further", _VOLUMES, x="values b c t h w")
    yield subject("F.conv3d(x, y)", "further", _VOLUMES, x="values b c t h w", y="values 3 c 3 3 3")
    yield subject("F.conv2d(x, y, groups=c)", "further", _IMAGES, x="values b c h w", y="values c 1 3 3")


def clean_subjects() -> tuple[Subject, ...]:
    """Return every subject but those that torch gets wrong, and short programs, which are for the compiler."""
    known = (entry for entry in subjects() if entry.family != "pipelines" and entry.name not in WRONG_IN_TORCH)
    return (*known, *_further())
