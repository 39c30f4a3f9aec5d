"""Why a correct run warns: the measured cause of each class of warnings, and whether PyTorch is at fault."""

import re
from dataclasses import dataclass
from typing import Final

_SIXTEEN: Final = "bfloat16|float16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """What is behind a class of warnings.

    Parameters
    ----------
    kind, op, output, dtype
        Regular expressions that match the whole of what the finding says.
    message
        Regular expression that is found in what the finding tells.
    text
        What the operator does.
    is_defect
        True where PyTorch loses precision that its documentation, or a sibling of the operator, does not lose.
    """

    kind: str = "inaccurate_accumulation"
    op: str
    output: str = ".*"
    dtype: str = _SIXTEEN
    message: str = ""
    text: str
    is_defect: bool = True

    def explains(self, kind: str, op: str, output: str, dtype: str, message: str) -> bool:
        """Return whether this is the cause of a warning."""
        pairs = ((self.kind, kind), (self.op, op), (self.output, output), (self.dtype, dtype))
        return all(re.fullmatch(pattern, value) for pattern, value in pairs) and bool(re.search(self.message, message))


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """A defect of PyTorch for which an `error` is right.

    Parameters
    ----------
    error, precision
        Regular expressions: found in the error, and matched by the whole precision of the run.
    text
        What is wrong, since when that is known, and how it was told from a false alarm.
    """

    error: str
    precision: str
    text: str


DEFECTS: Final = (
    Defect(
        error="^wrong_result: aten::convolution returned",
        precision="bf16.*",
        text="oneDNN 3.12 multiplies bfloat16 wrongly where the result is one column wide and the stride is not 1 "
        "(pytorch/pytorch#169688 has it in three dimensions; here in two, channels last, kernels of 8, 12 and 16). "
        "With `torch.backends.mkldnn.flags(enabled=False)` the same calls are right to a rounding; "
        "`tests/checks/test_convolution_defects.py` compares with exact sums",
    ),
)


def defect_of(error: str, precision: str) -> Defect | None:
    """Return the defect of PyTorch that an error is right about, or None: somebody has to look."""
    known = (d for d in DEFECTS if re.search(d.error, error) and re.fullmatch(d.precision, precision))
    return next(known, None)


_REGION: Final = "bfloat16|float16|float32"
_EACH_ADDITION: Final = "every addend is rounded into the 16-bit output, one after the other; long sums stand still"

CAUSES: Final = (
    Cause(
        op="aten::native_layer_norm_backward",
        output="grad_(weight|bias)",
        text="rows are added up in a buffer of the gradient's dtype, even for float32 parameters under autocast",
    ),
    Cause(
        op="aten::native_layer_norm_backward",
        output="grad_input",
        text="formed from raw sums, which cancel where the mean of a row exceeds its standard deviation",
    ),
    Cause(op="aten::embedding_dense_backward", text=_EACH_ADDITION),
    Cause(op="aten::(_unsafe_)?index_put_?|aten::_index_put_impl_", text=_EACH_ADDITION),
    Cause(op="aten::index_add_?", text=_EACH_ADDITION),
    Cause(op="aten::col2im", text=_EACH_ADDITION),
    Cause(
        op="aten::_log_softmax",
        text="x - max(x) is rounded to 16 bits before log(Z) is subtracted, and the difference cancels",
    ),
    Cause(op="aten::logsumexp", text="composed of four operators that each round to 16 bits"),
    Cause(op="aten::_softmax", text="over a dimension that is not the last, exp(x - max) is rounded to 16 bits"),
    Cause(op="aten::nll_loss(2d)?_forward", text="partial sums of the loss are kept in 16 bits"),
    Cause(
        op="aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        output="grad_(query|key|value)",
        text="added up in the 16-bit output, once for each block of 32 queries (dK, dV) or 512 keys (dQ)",
    ),
    Cause(
        op="aten::(_foreach_norm|linalg_vector_norm).*",
        dtype="float32",
        text="squares are added in a few sequential lanes; the error grows with the length, where sum's does not",
    ),
    Cause(
        op="aten::((add|sub|mul|div)_?\\.Tensor|_foreach_(add|sub|mul|div)_?\\.Scalar)",
        text="one rounding more: the Python number is rounded to the tensor's dtype before it is used",
        is_defect=False,
    ),
    Cause(
        op="aten::convolution(_backward)?",
        text="without an instruction that multiplies the format, images and kernel positions are added one at a time "
        "in the 16-bit output",
    ),
    Cause(
        op="aten::native_group_norm",
        dtype="float32|float64|bfloat16|float16",
        text="in the channels_last layout the variance is mean(x^2) - mean(x)^2, which cancels where the mean is large",
    ),
    Cause(
        op="aten::native_group_norm_backward",
        dtype="float32|float64|bfloat16|float16",
        text="formed from raw sums, which cancel where the mean of a group exceeds its standard deviation",
    ),
    Cause(
        op="aten::(_?native_batch_norm|_batch_norm|_?native_batch_norm_legit).*",
        text="mean, reciprocal deviation and scale are kept in 16 bits where the parameters are",
    ),
    Cause(
        op="aten::((max|avg|_?adaptive_(max|avg))_pool[23]d.*_backward)",
        text="overlapping windows are added up in the 16-bit output, one after the other",
    ),
    Cause(
        op="aten::(mse_loss|smooth_l1_loss|huber_loss|binary_cross_entropy.*|soft_margin_loss)(_backward)?",
        text="every elementwise step, and each loss before the mean, is rounded to 16 bits",
        is_defect=False,
    ),
    *(
        Cause(kind="unstable_region", op="", dtype=_REGION, message=module, text=text, is_defect=False)
        for module, text in (
            (
                "NewGELUActivation",
                "x (1 + tanh(u)) / 2 in single operators: 1 + tanh(u) cancels for negative x, the tail has no digits "
                "left",
            ),
            ("DiffLlamaAttention", "two attentions are subtracted from each other and cancel"),
            (
                "WavLMAttention",
                "only under autocast, which forms scores and sums in 16 bits; the module returns float32",
            ),
            (
                "SwitchTransformersTop1Router",
                "a probability beside 1, which no change of the logits could move, is four units in its last place "
                "off: the softmax's own roundings",
            ),
        )
    ),
)


def cause_of(kind: str, op: str, output: str, dtype: str, message: str = "") -> Cause | None:
    """Return the known cause of a warning, or None: somebody has to look."""
    return next((cause for cause in CAUSES if cause.explains(kind, op, output, dtype, message)), None)
