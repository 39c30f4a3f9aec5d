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
    text
        What the operator does.
    is_defect
        True where PyTorch loses precision that its documentation, or a sibling of the operator, does not lose.
    """

    kind: str = "inaccurate_accumulation"
    op: str
    output: str = ".*"
    dtype: str = _SIXTEEN
    text: str
    is_defect: bool = True

    def explains(self, kind: str, op: str, output: str, dtype: str) -> bool:
        """Return whether this is the cause of a warning."""
        pairs = ((self.kind, kind), (self.op, op), (self.output, output), (self.dtype, dtype))
        return all(re.fullmatch(pattern, value) for pattern, value in pairs)


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
)


def cause_of(kind: str, op: str, output: str, dtype: str) -> Cause | None:
    """Return the known cause of a warning, or None: somebody has to look."""
    return next((cause for cause in CAUSES if cause.explains(kind, op, output, dtype)), None)
