"""Every registered check: silent on its correct calls, awake for its faults, and independent of what it checks."""

import importlib
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

import numguard.checks
from numguard.checks import MODULES, REGISTRY, checks_for, registry_of, select
from numguard.checks.check import Check, Example, Probe
from numguard.checks.examination import examine, perform
from numguard.errors import UsageError
from numguard.numerics.error_bounds.judgement import alarm_threshold
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, mutated_arguments, overload_name
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import ONES, PAIRWISE, REDUCTION, routes_for
from numguard.shadow.verdict import Verdict, evaluate

CHECKS = tuple(REGISTRY.values())
READS_BACK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero", "aten::masked_select"}
ELEMENTWISE = {"pointwise"}  # additions and products are all that a shadow has on a device; on the CPU it has NumPy
DRAWS = ("rand", "normal", "bernoulli", "uniform", "multinomial", "exponential")


def routes_of(check: Check) -> list[Arithmetic]:
    on_cpu = routes_for(check.family, "cpu")
    elsewhere = [route for route in (ONES, REDUCTION) if check.family not in route.families]
    return [*on_cpu, *elsewhere]


def runs_here(check: Check) -> bool:
    """Whether this build has a CPU kernel, or a decomposition, of an operator of the check."""
    keys = ("CPU", "CompositeImplicitAutograd", "CompositeExplicitAutograd")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(op, key) for op in check.ops for key in keys)


def made(check: Check, example: Example, dtype: torch.dtype, probe: Probe) -> tuple[OpCall, Any]:
    """Run the example's operator, corrupted where it is to be found."""
    overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(7))
    assert overload_name(overload) in check.ops
    call, captured = perform(check, overload, args, kwargs, probe)
    if example.corrupt is None:
        return call, captured
    return replace(call, output=example.corrupt(call.output, args)), captured


def every(kind: str) -> list[Any]:
    return [
        pytest.param(check, example, id=f"{check.name}-{example.name}")
        for check in CHECKS
        for example in getattr(check, kind)
    ]


# the registry ---------------------------------------------------------------------------------------------------


def test_every_module_with_checks_is_registered() -> None:
    names = [module.name for module in pkgutil.iter_modules(numguard.checks.__path__)]
    with_checks = {name for name in names if hasattr(importlib.import_module(f"numguard.checks.{name}"), "CHECKS")}
    assert {module.__name__.rpartition(".")[2] for module in MODULES} == with_checks


def test_names_are_unique_and_plain() -> None:
    assert len(REGISTRY) == sum(len(module.CHECKS) for module in MODULES)
    assert all(name.replace("_", "").isalnum() and name == name.lower() for name in REGISTRY)
    with pytest.raises(UsageError, match="two checks are named 'sum'"):
        registry_of([REGISTRY["sum"], REGISTRY["sum"]])


def test_checks_are_found_by_overload() -> None:
    assert [check.name for check in checks_for("aten::sum.dim_IntList")] == ["sum"]
    assert checks_for("aten::relu") == ()


def test_every_overload_is_spelled_as_pytorch_does() -> None:
    known = {f"{s.name}.{s.overload_name}" if s.overload_name else s.name for s in torch._C._jit_get_all_schemas()}
    assert {op for check in CHECKS for op in check.ops} - known == set()


def test_selection_by_name_and_expression() -> None:
    assert select() == CHECKS
    assert [check.name for check in select(["sum", "mean"])] == ["sum", "mean"]
    assert [check.name for check in select(["(nan)?sum"])] == ["sum", "nansum"]
    assert [check.name for check in select(["sum", "mean"], ["m.*"])] == ["sum"]
    assert {check.name for check in select(None, "sum")} == set(REGISTRY) - {"sum"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((["softmx"], ()), "checks= got 'softmx', which matches no check; did you mean 'softmax'? Valid names: sum, "),
        ((None, ["zzz"]), "skip= got 'zzz', which matches no check. Valid names: sum, "),
        ((["("], ()), "checks= got '(', which is not a regular expression"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(arguments: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(*arguments)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_has_examples_and_advice(check: Check) -> None:
    assert check.ops
    assert check.advice
    if runs_here(check):
        assert check.silent
        assert check.fires
    assert all(example.corrupt is None for example in check.silent)
    assert all(example.corrupt is not None for example in check.fires)
    for examples in (check.silent, check.fires):
        assert len({example.name for example in examples}) == len(examples)


# silent and awake -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "example"), every("silent"))
def test_silent_examples_are_silent_on_every_route(check: Check, example: Example) -> None:
    for dtype in example.dtypes:
        for route in routes_of(check):
            probe = Probe(arithmetic=route)
            results = examine(check, *made(check, example, dtype, probe), probe)
            assert [str(verdict) for _, verdict in results if verdict.wrong] == [], (dtype, route.name)
            assert check.cost(made(check, example, dtype, probe)[0]) >= 0.0


@pytest.mark.parametrize(("check", "example"), every("silent"))
def test_silent_examples_are_silent_when_sampled(check: Check, example: Example) -> None:
    for dtype in example.dtypes:
        for offset in (0.0, 0.4, 0.99):
            probe = Probe(arithmetic=routes_for(check.family, "cpu")[0], limit=40.0, offset=offset)
            results = examine(check, *made(check, example, dtype, probe), probe)
            assert [str(verdict) for _, verdict in results if verdict.wrong] == [], (dtype, offset)


@pytest.mark.parametrize(("check", "example"), every("fires"))
def test_faults_are_found_on_every_route(check: Check, example: Example) -> None:
    for dtype in example.dtypes:
        for route in routes_of(check):
            probe = Probe(arithmetic=route)
            results = examine(check, *made(check, example, dtype, probe), probe)
            assert any(verdict.wrong for _, verdict in results), (dtype, route.name, [str(v) for _, v in results])


# planted errors -------------------------------------------------------------------------------------------------


class Output:
    """One call whose output can be altered, element by element, before it is judged again."""

    def __init__(self, check: Check, call: OpCall, captured: Any, probe: Probe) -> None:
        self.check, self.call, self.captured, self.probe = check, call, captured, probe
        self.leaves, self.structure = tree_flatten(call.output)

    def comparisons(self, leaf: int | None = None, place: int = 0, value: float = 0.0) -> list[Comparison]:
        """Judge the call, with one element of one output tensor replaced where ``leaf`` is given."""
        leaves = list(self.leaves)
        if leaf is not None:
            flat = leaves[leaf].detach().clone(memory_format=torch.contiguous_format)
            flat.view(-1)[place] = value
            leaves[leaf] = torch.empty_like(leaves[leaf]).copy_(flat)
        call = replace(self.call, output=tree_unflatten(leaves, self.structure))
        with torch.no_grad():
            return list(self.check.judge(call, self.captured, self.probe))

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield the largest element of every floating-point output, and the one in its middle."""
        for number, leaf in enumerate(self.leaves):
            strided = isinstance(leaf, Tensor) and leaf.layout == torch.strided
            if strided and leaf.is_floating_point() and leaf.numel():
                flat = torch.nan_to_num(leaf.detach().double().reshape(-1), posinf=0.0, neginf=0.0)
                yield number, int(flat.abs().argmax())
                yield number, flat.numel() // 2


def located(before: list[Comparison], after: list[Comparison]) -> list[tuple[int, int]]:
    """Return the comparisons, with their elements, that see a NaN which they did not see before."""
    found = []
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        changed = (new.computed.double().isnan() & ~old.computed.double().isnan()).reshape(-1)
        found += [(number, int(index)) for index in changed.nonzero().reshape(-1)]
    return found


def threshold(comparison: Comparison, index: int) -> tuple[float, float]:
    """Return the shadow of one element and B there: 0 for elements that must be equal, inf where none is given."""
    shape = comparison.computed.shape

    def element(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).expand(shape).reshape(-1)[index]

    exact = element(comparison.exact)
    if not comparison.rounds_output:
        return float(exact), 0.0 if exact.isfinite() else math.inf
    loosest = comparison.strict if comparison.permissive is None else comparison.permissive
    bound = alarm_threshold(exact, element(loosest), comparison.computed.dtype, element(comparison.shadow_error))
    finite = exact.isfinite() and exact.abs() + bound < torch.finfo(comparison.computed.dtype).max
    return float(exact), float(bound) if finite else math.inf


def worst(comparisons: list[Comparison]) -> float:
    return max(Verdict(*evaluate(comparison).tolist()).worst_ratio for comparison in comparisons)


def plant(output: Output, leaf: int, place: int) -> int:
    """Plant NaN, then an error of 2.5 B, in one element of an output; return how many bounds it was held against."""
    plain, marked = output.comparisons(), output.comparisons(leaf, place, math.nan)
    planted = 0
    for number, index in located(plain, marked):
        exact, bound = threshold(plain[number], index)
        value = exact + (2.5 * bound if bound else max(1.0, abs(exact) / 4.0))
        if math.isinf(bound) or not torch.tensor(value).to(output.leaves[leaf].dtype).isfinite():
            continue
        assert worst([marked[number]]) > 1.0, ("nan", leaf, place)
        assert worst(output.comparisons(leaf, place, value)) > 1.0, (leaf, place, exact, bound)
        planted += 1
    return planted


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_errors_of_two_and_a_half_bounds_and_nans_are_found(check: Check) -> None:
    planted, functional = 0, 0
    for example in check.silent:
        for dtype in example.dtypes:
            probe = Probe(arithmetic=routes_for(check.family, "cpu")[0])
            call, captured = made(check, example, dtype, probe)
            if mutated_arguments(call.overload):
                continue
            output = Output(check, call, captured, probe)
            places = set(output.places())
            planted += sum(plant(output, leaf, place) for leaf, place in places)
            functional += bool(places)
    assert planted >= functional


# independence ---------------------------------------------------------------------------------------------------


class Recorder(TorchDispatchMode):
    """Notes the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran.add(overload_name(func))
        return func(*args, **(kwargs or {}))


def test_the_recorder_sees_what_it_looks_for() -> None:
    with Recorder() as recorder:
        x = torch.ones(3).sum()
        x.item()
        torch.rand(2)
    assert {"aten::sum", "aten::_local_scalar_dense"} <= recorder.ran
    assert any(word in op for op in recorder.ran for word in DRAWS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_no_shadow_runs_an_operator_of_its_family_or_reads_back(check: Check) -> None:
    family = {op for other in CHECKS if other.family == check.family for op in other.ops}
    for route in routes_of(check):
        for example in check.silent:
            for dtype in example.dtypes:
                probe = Probe(arithmetic=route)
                call, captured = made(check, example, dtype, probe)
                with torch.no_grad():
                    check.judge(call, captured, probe)  # how this build adds is observed once, on private numbers
                    with Recorder() as recorder:
                        check.judge(call, captured, probe)
                where = (route.name, example.name, dtype)
                if route.name == "numpy" or check.family not in ELEMENTWISE:
                    assert recorder.ran & family == set(), where
                assert [op for op in recorder.ran if any(word in op for word in DRAWS)] == [], where
                if route.name != "numpy":
                    assert recorder.ran & READS_BACK == set(), where


def bits(tensor: Tensor) -> Tensor:
    if tensor.layout == torch.sparse_coo:
        return torch.cat((bits(tensor._indices()), bits(tensor._values())))
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_judging_changes_no_argument_and_no_generator(check: Check) -> None:
    for example in check.silent:
        probe = Probe(arithmetic=PAIRWISE)
        call, captured = made(check, example, example.dtypes[0], probe)
        tensors = [leaf for leaf in tree_flatten((dict(call.arguments), call.output))[0] if isinstance(leaf, Tensor)]
        before, state = [bits(tensor) for tensor in tensors], torch.get_rng_state()
        with torch.no_grad():
            check.judge(call, captured, probe)
        assert all(torch.equal(old, bits(new)) for old, new in zip(before, tensors, strict=True))
        assert torch.equal(state, torch.get_rng_state())
