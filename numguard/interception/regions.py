"""Regions of a model: which of its modules are looked at whole, and what is known of each."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from numguard.interception.attribution import short_path

Extent = Literal["own", "whole", "form", "script"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredRegion:
    """Modules that a user wants shadowed whole.

    Parameters
    ----------
    pattern
        Matches whole qualified names.
    form
        Reference form; None to replay what the module has run.
    """

    pattern: re.Pattern[str]
    form: Callable[..., Any] | None = None


@dataclass(slots=True)
class RegionSite:
    """One region with its tallies.

    ``extent`` says what of it is judged: ``"own"``, what the module computes itself, its children's results being
    given; ``"whole"``, with its children; ``"form"``, against a reference form; ``"script"``, what the training script
    computes from the result of the model, its loss above all.
    """

    name: str
    kind: str
    extent: Extent
    location: str | None
    module: torch.nn.Module | None = None
    form: Callable[..., Any] | None = None
    rank: int = 0
    num_seen: int = 0
    num_checked: int = 0
    num_excused: int = 0
    num_failed: int = 0
    num_elements: int = 0
    seconds: float = 0.0
    last_checked_step: int = -1
    last_clean_step: int | None = None
    worst_ratio: float = 0.0
    is_trivial: bool = False

    @property
    def is_fresh(self) -> bool:
        """Whether nothing is known of it yet."""
        return self.num_checked + self.num_excused == 0


def region_sites(model: torch.nn.Module, names: dict[int, str], declared: Sequence[DeclaredRegion]) -> list[RegionSite]:
    """Return the regions of a model: every module's own operators, the declared ones, and the script's.

    Parameters
    ----------
    model
        Wrappers looked through: what the script computes begins where it returns.
    names
        Qualified names by ``id`` of the module.
    declared
        First match counts.
    """
    sites = [RegionSite(name="script", kind="script", extent="script", location=None)]
    instances: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict | torch.nn.Sequential):
            continue
        name, kind = names.get(id(module), type(module).__name__), type(module).__name__
        match = next((region for region in declared if region.pattern.fullmatch(name)), None)
        instances[kind] = instances.get(kind, 0) + 1
        sites.append(
            RegionSite(
                name=name,
                kind=kind,
                extent="own" if match is None else "whole" if match.form is None else "form",
                location=_place(module),
                module=module,
                form=match.form if match is not None else None,
                # What the user has written comes before torch's own modules, and one of each class before the second.
                rank=-1 if match is not None else instances[kind] + 1000 * _is_torch(module),
            )
        )
    return sites


def _is_torch(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


def _place(module: torch.nn.Module) -> str | None:
    if _is_torch(module):
        return None
    try:
        code = inspect.unwrap(type(module).forward).__code__
    except (AttributeError, ValueError):
        return None
    return f"{short_path(code.co_filename)}:{code.co_firstlineno}"


def chosen(
    sites: Iterable[RegionSite], seconds: float, *, exhaustive: bool, unknown_seconds: float
) -> list[RegionSite]:
    """Return the regions of one armed step: those never looked at first, then the oldest, within the quota."""
    wanted = [site for site in sites if not site.is_trivial]
    if exhaustive:
        return wanted
    wanted.sort(key=lambda site: (not site.is_fresh, site.last_checked_step, site.rank))
    taken, planned = [], 0.0
    for site in wanted:
        cost = site.seconds or unknown_seconds
        if planned + cost <= seconds:
            planned += cost
            taken.append(site)
    return taken
