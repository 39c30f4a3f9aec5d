"""Which models an optimizer trains, and which optimizers there are, found among the living objects."""

import gc

from torch import nn
from torch.optim import Optimizer


def living_optimizers() -> list[Optimizer]:
    """Return every optimizer that exists, in order of creation as far as the collector knows it."""
    return [
        thing for thing in gc.get_objects() if issubclass(type(thing), Optimizer) and hasattr(thing, "param_groups")
    ]


def model_of(optimizers: list[Optimizer]) -> nn.Module | None:
    """Return the outermost module that owns parameters of the optimizers.

    Where there are several (two networks that train each other), a ``ModuleList`` holds them.

    Parameters
    ----------
    optimizers
        From :func:`living_optimizers`.
    """
    wanted = {
        id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
    }
    # type() and not isinstance(): proxies among the living objects may run code when asked for their class.
    modules = [
        thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module) and "_parameters" in thing.__dict__
    ]
    inner = {id(child) for module in modules for child in module.__dict__["_modules"].values()}
    roots = [module for module in modules if id(module) not in inner and _owns(module, wanted)]
    if len(roots) <= 1:
        return roots[0] if roots else None
    return nn.ModuleList(roots)


def _owns(module: nn.Module, wanted: set[int]) -> bool:
    return any(id(parameter) in wanted for parameter in module.parameters())
