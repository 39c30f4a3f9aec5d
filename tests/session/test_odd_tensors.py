"""Tensors that no check can read are counted with the reason, and the program runs as without a guard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import numguard
from numguard.interception.unchecked import computes
from numguard.session.check_table import overload_of

MIB = 1 << 20


def guarded(program: Callable[[], Any], **options: Any) -> Any:
    """Run a program in an exhaustive step and return the guard."""
    with numguard.guard(**{"budget": None, **options}) as guard:
        program()
        guard.step(torch.ones(3).sum())
    assert [finding.message for finding in guard.findings] == []
    return guard


def fake() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.mm(torch.ones(3, 3), torch.ones(3, 3)).sum()


SKIPPED: dict[str, tuple[str, Callable[[], Any]]] = {
    "complex": ("complex tensor", lambda: torch.ones(3, dtype=torch.complex64).sum()),
    "sparse": ("sparse_coo tensor", lambda: torch.eye(3).to_sparse().sum()),
    "csr": ("sparse_csr tensor", lambda: torch.eye(3).to_sparse_csr() @ torch.ones(3, 3)),
    "meta": ("meta tensor", lambda: torch.ones(3, device="meta").sum()),
    "fake": ("fake tensor", fake),
    "quantized": ("quantized tensor", lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8).mean()),
    "nested": ("nested tensor", lambda: torch.nested.nested_tensor([torch.ones(2, 3)]).softmax(-1)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*prototype", "ignore:.*quantiz")
@pytest.mark.parametrize("name", SKIPPED)
def test_what_cannot_be_read_is_counted_with_the_reason(name: str) -> None:
    reason, program = SKIPPED[name]
    guard = guarded(program)
    assert any(reason in why and count >= 1 for why, count in guard.coverage.uncovered.items()), (
        guard.coverage.uncovered
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda: torch.ones(0).sum(),
        lambda: torch.ones(0, 4).softmax(-1),
        lambda: torch.ones(0, 3) @ torch.ones(3, 0),
        lambda: torch.ones(4, 0) @ torch.ones(0, 4),
        lambda: nn.functional.layer_norm(torch.ones(0, 4), [4]),
        lambda: nn.functional.embedding(torch.ones(0, dtype=torch.int64), torch.ones(3, 4)),
        lambda: torch.ones(3, 4).expand(5, 3, 4).sum(0),
        lambda: torch.ones(()).cumsum(0),
        lambda: torch.vmap(lambda x: x.sum())(torch.ones(3, 4)),
        lambda: torch.func.grad(lambda x: (x @ x).sum())(torch.ones(3, 3)),
        lambda: torch.jit.script(nn.Linear(2, 2))(torch.ones(1, 2)).sum(),
        lambda: torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)),
        lambda: torch.fx.experimental.proxy_tensor.make_fx(lambda x: x.sum())(torch.ones(2)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_odd_degrades_the_guard(program: Callable[[], Any]) -> None:
    assert guarded(program).overhead.num_steps == 1


class Shaped(nn.Module):
    """A block whose result is of a kind that a boundary cannot keep."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block, self.other = nn.Sequential(Shape(shape)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.block(x), self.other(x)


class Shape(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(x)


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.to_sparse(),
        lambda x: torch.nested.nested_tensor([x, x]),
        lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.to("meta"),
        lambda x: torch.view_as_complex(x.reshape(2, 2, 2)),
        lambda x: x[:0],
        lambda x: x > 0,
        lambda x: None,
        lambda x: (),
        lambda x: {},
        lambda x: [x, x],
    ],
)
@pytest.mark.filterwarnings("ignore:.*prototype")
def test_a_block_may_return_anything(shape: Callable[[Tensor], Any]) -> None:
    model = Shaped(shape)
    with numguard.guard(model, budget=0.5) as guard:
        for _ in range(3):
            model(torch.ones(2, 4))[1].sum().backward()
            guard.step(torch.tensor(torch.nan))
    assert {finding.kind for finding in guard.findings} == {"nonfinite"}


LARGE: dict[str, Callable[[], Any]] = {
    "sum of int8": lambda: torch.ones(1, dtype=torch.int8).expand(2**31 + 8).sum(),
    "sum of bool": lambda: torch.ones(1, dtype=torch.bool).expand(2**31 + 8).sum(),
    "mean of bf16": lambda: torch.ones(1, dtype=torch.bfloat16).expand(2**31 + 8).mean(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_tensor_above_two_to_the_31_is_checked_or_counted_in_little_memory(name: str) -> None:
    guarded(lambda: torch.ones(8).sum(), budget=0.5)  # what is imported for the first guard is not the check's
    with numguard.guard(budget=0.5) as guard:
        guard._run.arming.schedule.interval = 1
        with memory_of(guard._run.inspector) as peaks:
            for _ in range(2):
                LARGE[name]()
                guard.step(1.0)
    assert [finding.message for finding in guard.findings] == []
    assert guard.coverage.num_checks + sum(guard.coverage.uncovered.values()) > 0
    assert peaks
    assert max(peaks) < 64 * MIB


@contextmanager
def memory_of(inspector: Any) -> Iterator[list[int]]:
    """Collect by how many bytes the process grew at most in each part of a check, before the operator and after it.

    The operator itself is no part of that: torch copies these tensors to another dtype first, in 8 to 16 GiB.
    """
    peaks: list[int] = []

    def measured(part: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            Path("/proc/self/clear_refs").write_text("5")  # from here on the largest size is counted anew
            before = resident_bytes("VmRSS")
            try:
                return part(*given)
            finally:
                peaks.append(resident_bytes("VmHWM") - before)

        return run

    parts = {name: getattr(inspector, name) for name in ("_begin", "_judge_all")}
    for name, part in parts.items():
        setattr(inspector, name, measured(part))
    try:
        yield peaks
    finally:
        for name in parts:
            delattr(inspector, name)


def resident_bytes(which: str) -> int:
    """Return the present (``VmRSS``) or the largest resident size (``VmHWM``) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_transforms_of_functions_run_as_without_a_guard() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with numguard.guard(model, budget=None) as guard:
        torch.func.vmap(model)(x)
        torch.func.jvp(lambda x: model(x).softmax(-1), (x,), (x,))
        torch.func.hessian(lambda x: model(x).square().sum())(x[0])
        guard.step(1.0)
    assert guard.findings == ()
    assert any("torch.func" in reason for reason in guard.coverage.uncovered)
    assert guard.coverage.num_checks > 0


class Boxed(Tensor):
    """Has no memory of its own; the operators on it run on what it holds."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "Boxed":
        box = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype)  # type: ignore[attr-defined]
        box.held = held
        return box

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = [arg.held if isinstance(arg, Boxed) else arg for arg in args]
        return Boxed(func(*held, **(kwargs or {})))


def test_what_a_tensor_without_memory_holds_is_checked() -> None:
    guard = guarded(lambda: Boxed(torch.ones(3, 4)).sum(1))
    assert [site.op for site in guard.coverage.sites if site.shape == "2d,2^4"] == ["aten::sum.dim_IntList"]


def test_operators_without_a_check_are_named_and_those_that_only_move_numbers_are_not() -> None:
    def program() -> None:
        x = torch.arange(6.0).reshape(2, 3)
        torch.geqrf(x)
        torch.cat([x, x.clone()]).index_select(0, torch.tensor([0])).exp().t().contiguous()
        torch.rand(3).sum()

    assert guarded(program).coverage.uncovered == {"aten::geqrf: no check": 1}
    assert guarded(program, checks="sum").coverage.uncovered == {"aten::geqrf: no check": 1}


@pytest.mark.parametrize(
    ("op", "rounds"),
    [
        ("aten::mm", True), ("aten::geqrf", True), ("aten::fft_fft", True), ("aten::_fused_adagrad_", True),
        ("aten::cat", False), ("aten::exp", False), ("aten::view", False), ("aten::transpose_", False),
        ("aten::bernoulli_.float", False), ("aten::copy_", False),
    ],
)  # fmt: skip
def test_what_rounds_is_told_from_what_does_not(op: str, rounds: bool) -> None:
    overload = overload_of(op)
    assert overload is not None
    assert computes(overload) == rounds
