"""What a user hands to a guard, asked for what the rooms need to know of it."""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.interception.mailbox import ImmediateMailbox, Mailbox, Parcel, RingMailbox


def module_names(model: torch.nn.Module | None) -> dict[int, str]:
    """Return the qualified names of a model's modules by ``id``, without what wrappers add to them."""
    if model is None:
        return {}
    wrapper = "module." if isinstance(getattr(model, "module", None), torch.nn.Module) else ""  # DDP and the like
    names = {}
    for name, module in model.named_modules():
        parts = name.removeprefix(wrapper).split(".")
        plain = ".".join(part for part in parts if part not in ("_orig_mod", "_checkpoint_wrapped_module"))
        names[id(module)] = plain or type(module).__name__
    return names


def num_parameters(model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]) -> int | None:
    """Return how many tensors are updated, or None where nothing is known."""
    if optimizers:
        return sum(len(group["params"]) for optimizer in optimizers for group in optimizer.param_groups)
    return sum(1 for _ in model.parameters()) if model is not None else None


def membership(model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]) -> Callable[[Tensor], bool]:
    """Return what tells a parameter of the run; every tensor may be one where none are known."""
    if model is None and not optimizers:
        return lambda tensor: True
    known = {id(parameter) for parameter in (model.parameters() if model is not None else ())}
    known |= {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return lambda tensor: id(tensor) in known


def checked_optimizers(optimizer: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimizers that a user gave as one, as several, or as None.

    Raises
    ------
    UsageError
        If something among them has no ``step`` and ``param_groups``.
    """
    if optimizer is None:
        return ()
    given = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    for one in given:
        if not hasattr(one, "param_groups") or not callable(getattr(one, "step", None)):
            raise UsageError(f"optimizer= got a {type(one).__name__}; give a torch optimizer, or a list of them")
    return given


def mailbox_for(model: torch.nn.Module | None, send: Callable[[Tensor], Parcel] | None) -> tuple[Mailbox, bool]:
    """Return what carries numbers to the host, and whether it does so at once.

    Parameters
    ----------
    model
        Its device decides.
    send
        Starts a copy; None for the device's own way.
    """
    device = next((p.device for p in model.parameters()), None) if model is not None else None
    if send is not None:
        return RingMailbox(device or torch.device("cpu"), send), False
    if device is not None and device.type == "cuda":
        return RingMailbox(device), False
    return ImmediateMailbox(), True


def installed_version() -> str:
    """Return the version of the installed package, ``"unknown"`` in a source tree."""
    try:
        return version("numguard-torch")
    except PackageNotFoundError:
        return "unknown"
