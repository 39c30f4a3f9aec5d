"""Operators that compute something and have no check: coverage names them, so that silence is not taken for health."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch

# Numbers come out of these as they went in, or were drawn, or are indices, flags and sizes: nothing is rounded.
_NO_ARITHMETIC: Final = frozenset(
    {
        "_conj_physical", "_copy_from", "_copy_from_and_resize", "_efficientzerotensor", "_foreach_copy_",
        "_foreach_zero_", "_local_scalar_dense", "_nested_tensor_from_mask", "_pack_padded_sequence", "_pin_memory",
        "_resize_output_", "_to_copy", "_to_dense", "_to_sparse", "_unique", "_unique2", "_unsafe_index",
        "_unsafe_view", "all", "allclose", "any", "arange", "argmax", "argmin", "as_strided_copy",
        "as_strided_scatter", "block_diag", "bucketize", "cat", "channel_shuffle", "clone", "complex",
        "constant_pad_nd", "copy", "copy_", "count_nonzero", "diag_embed", "diagonal_backward", "diagonal_copy",
        "diagonal_scatter", "empty", "empty_like", "empty_permuted", "empty_quantized", "empty_strided",
        "expand_copy", "eye", "fill", "fill_", "flip", "full", "full_like", "gather", "im2col", "index", "index_copy",
        "index_copy_", "index_fill", "index_fill_", "index_select", "is_pinned", "is_same_size", "isin", "lift",
        "lift_fresh_copy", "masked_fill", "masked_fill_", "masked_scatter", "masked_scatter_", "masked_select",
        "narrow_copy", "native_dropout_backward", "new_empty", "new_empty_strided", "new_full", "new_ones",
        "new_zeros", "nonzero", "nonzero_static", "ones", "ones_like", "permute_copy", "pixel_shuffle",
        "pixel_unshuffle", "record_stream", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat",
        "repeat_interleave", "replication_pad1d", "replication_pad2d", "replication_pad3d", "resize", "roll", "rot90",
        "scalar_tensor", "scatter", "scatter_", "searchsorted", "select_backward", "select_copy", "select_scatter",
        "set", "slice_backward", "slice_copy", "slice_scatter", "split_copy", "split_with_sizes_copy", "squeeze_copy",
        "stack", "t_copy", "take", "transpose_copy", "tril", "tril_", "tril_indices", "triu", "triu_", "triu_indices",
        "unbind_copy", "unfold_copy", "unique_consecutive", "unique_dim", "unsafe_split", "unsafe_split_with_sizes",
        "unsqueeze_copy", "view_copy", "where", "zero", "zero_", "zeros", "zeros_like",
    }
)  # fmt: skip

_SPOKEN_FOR: Final = frozenset({torch.Tag.pointwise, torch.Tag.nondeterministic_seeded, torch.Tag.inplace_view})


def computes(overload: torch._ops.OpOverload) -> bool:
    """Return whether an operator rounds: it is no view, no copy, no draw of random numbers.

    Operators that work element by element are left out as well: the audit examines those over their whole domain.
    """
    schema = overload._schema
    namespace, _, name = schema.name.partition("::")
    if namespace in ("prim", "prims", "profiler", "numguard_selftest"):
        return False
    if namespace == "aten" and name in _NO_ARITHMETIC:
        return False
    if not _SPOKEN_FOR.isdisjoint(overload.tags):
        return False
    kinds = [returned.alias_info for returned in schema.returns]
    is_view = bool(kinds) and all(alias is not None and not alias.is_write for alias in kinds)
    return not is_view


def reasons(
    seen: Mapping[torch._ops.OpOverload, Sequence[int]], checked: Mapping[torch._ops.OpOverload, object]
) -> dict[str, int]:
    """Return what coverage says of the operators that were met in armed steps without a check.

    Parameters
    ----------
    seen
        Operators that nobody was asked about, with how often each was called.
    checked
        Operators that have a check, whether or not the user wanted it.
    """
    found: dict[str, int] = {}
    for overload, tally in list(seen.items()):
        if overload not in checked and computes(overload):
            reason = f"{overload._schema.name}: no check"
            found[reason] = found.get(reason, 0) + sum(tally)
    return found
