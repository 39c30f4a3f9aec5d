"""Rows of an attention that others formed, judged against the same rows in two-float."""

import math

import torch
from torch import Tensor

from numguard_kernels.exponential import HARDWARE_EXP_IN_ROUNDOFFS
from numguard_kernels.output_rounding import output_constants, rounded_bound
from numguard_kernels.product_checks import ProductVerdict
from numguard_kernels.rows import tree_height
from numguard_kernels.weighted_sums import weighted_columns

_U = 2.0**-24


def sampled_queries(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> ProductVerdict:
    """Judge some rows of one head of an attention, ``softmax(scale query keys^T) values``.

    Parameters
    ----------
    query, output
        The sampled rows of the queries and of the result: shapes ``[s, d]`` and ``[s, e]``.
    keys, values
        Shapes ``[t, d]`` and ``[t, e]``; all four float32, float16 or bfloat16.
    mask
        bool of shape ``[s, t]``, True where a query sees a key; every query sees at least one.
    scale
        ``1 / sqrt(d)`` by default.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For shapes that do not fit.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    With probabilities p, an output is within ``sum_j p_j |v_j| (d_j + D + u_P + 2 e + h u)`` of the shadow before its
    rounding: d_j the error of a score, ``(k + 3) u scale |q| |k_j|`` and ``3 u |s_j - m|`` for its way through the
    exponential, ``D = sum p_j d_j``, u_P the rounding of p to the dtype of the values, e that of an exponential, h the
    height of a tree over the keys with two rescalings for each tile of 16 (Blanchard, Higham, Higham, IMA J. Numer.
    Anal. 41, 2021; Higham, ASNA 2nd ed., section 3.5). The implementation must keep its scores in fp32.
    """
    expected = (query.shape[0], values.shape[1])
    if keys.shape[1] != query.shape[1] or values.shape[0] != keys.shape[0] or tuple(output.shape) != expected:
        raise ValueError(
            f"sampled_queries got query {tuple(query.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)} "
            f"and output {tuple(output.shape)}: give it [s, d], [t, d], [t, e] and [s, e]"
        )
    depth, num_keys = query.shape[1], keys.shape[0]
    scale = 1.0 / math.sqrt(depth) if scale is None else scale
    products = weighted_columns(keys.t(), query)
    score = (products.sum + products.sum_low) * scale
    score_error = products.absolute_sum * (abs(scale) * (depth + 3) * _U * 1.01)
    if mask is not None:
        score = score.masked_fill(~mask, -math.inf)
        score_error = score_error.masked_fill(~mask, 0.0)
    distance = score - score.amax(-1, keepdim=True)
    exponential = distance.exp()
    # A product with ones adds up: the sum that a faulty softmax would use is not asked.
    ones = torch.ones(num_keys, 1, dtype=torch.float64, device=query.device)
    p = exponential / (exponential @ ones)
    error = score_error + 3.0 * _U * distance.abs().nan_to_num(0.0, 0.0, 0.0)
    height = tree_height(num_keys) + 2 * math.ceil(num_keys / 16)
    rounded = torch.finfo(values.dtype).eps / 2 if values.dtype != torch.float32 else 0.0
    common = rounded + 2.0 * (HARDWARE_EXP_IN_ROUNDOFFS + height) * _U
    relative = (error + (p * error) @ ones + common) * (1.0 + 2.0**-7)
    high = p.float()
    found = weighted_columns(values, high, low=(p - high.double()).float(), magnitudes=(p * relative).float())
    shadow = found.sum + found.sum_low
    grown = found.absolute_sum * (1.0 + (num_keys + 8) * _U)
    # The sum of magnitudes without its errors is smaller by the least of these.
    own = grown * ((found.relative_error + 2.0**-40) / common)
    constants = output_constants(output.dtype)
    bound = rounded_bound(shadow, grown, own, constants) + num_keys * 2.0**-124
    judged = (shadow.abs() + bound < constants["LARGEST"]) & (relative.amax(-1, keepdim=True) < 0.125)
    value = output.double()
    return ProductVerdict(value, shadow, bound, judged & ~((value - shadow).abs() <= bound))
