"""Operands that an operator is about to overwrite, and copies of them."""

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.shadow.call import OpCall, mutated_arguments


def is_overwritten(call: OpCall) -> bool:
    """Return whether an operator writes into the memory of its argument ``self``: in place, or by ``out=``."""
    written = [call[name] for name in mutated_arguments(call.overload)]
    if not written or call["self"].layout != torch.strided:
        return False
    memory = call["self"].untyped_storage().data_ptr()
    return any(tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() == memory for tensor in written)


def keep_overwritten(call: OpCall, probe: Probe) -> Tensor | None:
    """Copy the whole of ``self`` where the operator overwrites it."""
    return call["self"].detach().clone() if is_overwritten(call) else None
