"""The checks' own examples as a second driver: operators that no subject reaches, and all their overloads.

An example is a call that its check is silent about in every right build. Here it runs in further layouts, and its
arguments are given to every other operator of the check that takes them: in-place ones, and those that write to
``out=``.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from numguard.acceptance.adversaries import LAYOUTS, fits
from numguard.acceptance.examination import NOT_OFFERED, Outcome, red_zone, sighting_of
from numguard.acceptance.red_zones import overwritten, surroundings
from numguard.acceptance.trials import DTYPES, Trial
from numguard.checks import REGISTRY, Example
from numguard.inquiry import Inquiry
from numguard.shadow.call import bind, mutated_arguments, overload_name, tensors_in

_SEED: Final = 11  # another one than that of the checks' own tests
_LAYOUTS: Final = ("contiguous", "transposed", "gapped", "offset")
Call = tuple[torch._ops.OpOverload, dict[str, Any]]


def examine_check(name: str, dtype_name: str) -> list[Outcome]:
    """Return what became of the silent examples of a check in one dtype, in every layout and overload."""
    dtype = DTYPES[dtype_name]
    return [
        _examined(overload, given, Trial(subject=f"{name}: {example.name}", dtype=dtype_name, sizes=(), layout=layout))
        for example in REGISTRY[name].silent
        if dtype in example.dtypes
        for layout in _LAYOUTS
        for overload, given in _calls(example, dtype, layout, REGISTRY[name].ops)
    ]


def _calls(example: Example, dtype: torch.dtype, layout: str, ops: tuple[str, ...]) -> Iterator[Call]:
    def drawn() -> Call:
        overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(_SEED))
        return overload, tree_map(lambda item: _laid(item, layout), bind(overload, args, kwargs))

    try:
        overload, given = drawn()
        if layout != "contiguous":
            if _is_given_by_users(overload):
                yield overload, given
            return
        yield overload, given
        for name in ops:
            other = _overload(name)
            if other is not None and other is not overload:
                again = _fitted(other, *drawn())
                if again is not None:
                    yield other, again
    except NOT_OFFERED:
        return


def _is_given_by_users(overload: torch._ops.OpOverload) -> bool:
    """Return whether tensors reach an operator as users made them; what is internal may ask its caller for a layout."""
    name = overload._schema.name.partition("::")[2]
    return bool(mutated_arguments(overload)) or not (name.startswith(("_", "native_")) or name.endswith("_backward"))


def _laid(item: Any, layout: str) -> Any:
    plain = isinstance(item, Tensor) and item.layout is torch.strided
    return LAYOUTS[layout](item) if plain and fits(layout, item.dim()) else item


def _overload(name: str) -> torch._ops.OpOverload | None:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)


def _fitted(other: torch._ops.OpOverload, overload: torch._ops.OpOverload, given: Mapping[str, Any]) -> Any:
    """Return the arguments of one operator as those of another, with tensors to write to, or None."""
    wanted = other._schema.arguments
    names = {argument.name for argument in wanted if not argument.is_out}
    if not set(given) <= names or any(
        not argument.has_default_value() and not argument.is_out and argument.name not in given for argument in wanted
    ):
        return None
    outs = [argument.name for argument in wanted if argument.is_out]
    results = tensors_in(overload(**given)) if outs else []
    if len(results) < len(outs):
        return None
    return {**given, **{name: torch.empty_like(x) for name, x in zip(outs, results, strict=False)}}


def _examined(overload: torch._ops.OpOverload, given: Mapping[str, Any], trial: Trial) -> Outcome:
    first = {name: x for name, value in given.items() for x in tensors_in(value)[:1]}
    around = surroundings({name: x for name, x in first.items() if x.layout is torch.strided})
    try:
        answer = Inquiry().ask(overload, (), given)
    except NOT_OFFERED as reason:
        return Outcome(not_offered=str(reason).partition("\n")[0])
    sightings = [
        sighting_of(trial.subject, trial, finding) for finding in answer.findings if finding.kind != "degraded"
    ]
    sightings += [red_zone(overload_name(overload), trial, name) for name in overwritten(around)]
    return Outcome(
        sightings=tuple(sightings),
        judged=tuple(dict.fromkeys(judged.call.op for judged in answer.judged)),
        unjudged=answer.unjudged,
    )
