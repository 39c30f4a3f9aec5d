"""Every backend gives the same answer, within the bounds that each states."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from numguard.backends import inner_product, observed_updates, replica_checksum, tensor_statistics
from numguard.backends.statistics import CORE, NEEDS
from numguard.errors import UsageError
from numguard.shadow.comparison import Comparison
from numguard.shadow.verdict import Verdict, evaluate, evaluate_on_host

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BACKENDS = ("native", "torch")


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "native":
        request.getfixturevalue("_twin")
    monkeypatch.setenv("NUMGUARD_BACKEND", request.param)
    return str(request.param)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_statistics(backend: str, dtype: torch.dtype, precise: bool) -> None:
    x = normal(5, 7, 60, dtype=dtype)
    small = float(torch.finfo(dtype).smallest_normal) / 2
    x[0, 0, :4] = torch.tensor([0.0, -0.0, small, 1.5], dtype=torch.float64).to(dtype)
    found = tensor_statistics(x.transpose(0, 1), needs=NEEDS, precise=precise)
    exact = sum(map(Fraction, x.double().reshape(-1).tolist()), Fraction(0))
    assert found.sum is not None
    assert found.sum_low is not None
    assert found.absolute_sum is not None
    error = abs(Fraction(float(found.sum)) + Fraction(float(found.sum_low)) - exact)
    assert error <= Fraction(found.relative_error) * Fraction(float(found.absolute_sum)) * Fraction(1 + 2**-20)
    assert float(found.maximum) == float(x.double().abs().max())  # type: ignore[arg-type]
    assert (found.num_zero, found.num_subnormal, found.num_nan, found.num_inf) == (2, 1, 0, 0)
    assert float(found.minimum_nonzero) == float(torch.finfo(dtype).smallest_normal) / 2  # type: ignore[arg-type]
    assert found.exponents is not None
    assert int(found.exponents.sum()) == x.numel()


def test_statistics_along_dimensions(backend: str) -> None:
    x = normal(6, 5, 40)
    for dim in (0, 1, -1, (0, 2), (1, 2)):
        found = tensor_statistics(x, dim=dim)
        assert found.num_nan is None
        torch.testing.assert_close(found.sum, x.double().sum(dim), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.maximum, x.double().abs().amax(dim), rtol=0, atol=0)


def test_statistics_of_nothing_and_of_what_is_no_number(backend: str) -> None:
    empty = tensor_statistics(torch.zeros(0), needs=NEEDS)
    assert (float(empty.sum), float(empty.maximum), float(empty.minimum_nonzero)) == (0.0, 0.0, math.inf)  # type: ignore[arg-type]
    found = tensor_statistics(torch.tensor([1.0, math.inf, math.nan]), needs=(*CORE, "num_nan", "num_inf", "exponents"))
    assert (found.num_nan, found.num_inf) == (1, 1)
    assert math.isnan(float(found.maximum))  # type: ignore[arg-type]
    assert found.exponents is not None
    assert found.exponents[255] == 2


def test_mistakes_of_the_user(backend: str) -> None:
    with pytest.raises(UsageError, match="no statistic is named 'median'"):
        tensor_statistics(torch.zeros(3), needs=("median",))
    with pytest.raises(UsageError, match="no real floating-point dtype"):
        tensor_statistics(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="two vectors of one length"):
        inner_product(torch.zeros(3), torch.zeros(4))
    with pytest.raises(UsageError, match="different lengths or shapes"):
        observed_updates([torch.zeros(3)], [torch.zeros(4)])
    with pytest.raises(UsageError, match="float64"):
        observed_updates([torch.zeros(3, dtype=torch.float64)], [torch.zeros(3, dtype=torch.float64)])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_inner_product(backend: str, dtype: torch.dtype) -> None:
    x, y = normal(700, dtype=dtype), normal(700, dtype=dtype, seed=1)
    pairs = zip(map(Fraction, x.tolist()), map(Fraction, y.tolist()), strict=True)
    found = inner_product(x, y)
    assert abs(Fraction(found.value) - sum(a * b for a, b in pairs)) <= Fraction(found.error_bound)


@pytest.mark.usefixtures("_twin")
def test_hash_is_the_same_on_every_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [normal(n, dtype=dtype, seed=n) for n in (0, 1, 3, 1023, 5001) for dtype in FLOATS]
    tensors += [torch.arange(77, dtype=torch.int8), normal(40, 50).t(), normal(64, dtype=torch.float32)[1:]]
    hashes = []
    for name in BACKENDS:
        monkeypatch.setenv("NUMGUARD_BACKEND", name)
        hashes.append(replica_checksum(tensors))
    assert torch.equal(*hashes)
    other = normal(5001, seed=5001)
    other[4000] = torch.nextafter(other[4000], torch.tensor(math.inf))
    assert replica_checksum([other]) != replica_checksum([normal(5001, seed=5001)])
    assert replica_checksum([torch.tensor([0.0, 1.0])]) != replica_checksum([torch.tensor([-0.0, 1.0])])
    assert replica_checksum([]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_health_of_a_step(backend: str, dtype: torch.dtype) -> None:
    parameter = torch.tensor([1.0, 1.0, 1.0, 0.0, 2.0], dtype=dtype)
    tiny = float(torch.finfo(dtype).eps) / 8
    update = torch.tensor([0.5, tiny, 0.0, math.inf, -1.0])
    found = observed_updates([parameter, normal(3000, dtype=dtype)], [update, 1e-2 * normal(3000, seed=1)])
    assert found.num_updated[0] == 3
    assert found.num_stagnant[0] == 1
    assert float(found.update_mass[0]) == pytest.approx(1.5 + tiny)
    assert float(found.lost_mass[0]) == pytest.approx(tiny)
    assert found.num_nonfinite[:, 0].tolist() == [0, 1]
    moved = (normal(3000, dtype=dtype).float() + 1e-2 * normal(3000, seed=1)).to(dtype)
    stayed = (moved == normal(3000, dtype=dtype)) & (normal(3000, seed=1) != 0)
    assert found.num_stagnant[1] == int(stayed.sum())
    assert float(found.norms[0, 1]) == pytest.approx(float(normal(3000, dtype=dtype).double().norm()), rel=1e-12)


@pytest.mark.usefixtures("_twin")
@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_verdict_is_that_of_torch(
    dtype: torch.dtype, rounds: bool, propagates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one-pass verdict against the one that runs on devices, over numbers that are right, wrong and no numbers."""
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0], dtype=torch.float64)
    exact = torch.cat((normal(600, dtype=torch.float64), special.repeat_interleave(5)))
    computed = torch.cat((exact[:600], special.repeat(5))).to(dtype)
    computed[17] = computed[17] * 1.5
    strict = exact[:600].abs().nan_to_num(1.0) * 1e-9
    strict = torch.cat((strict, torch.full((25,), 1e-3, dtype=torch.float64)))
    strict[40] = math.inf
    cases = [(strict, None, 0.0), (0.0, strict, 1e-12), (strict, 2.0 * strict, strict), (strict[:1], None, strict[:1])]
    for narrow, permissive, error in cases:
        comparison = Comparison(
            output="result",
            computed=computed,
            exact=exact,
            strict=narrow,
            permissive=permissive,
            shadow_error=error,
            rounds_output=rounds,
            propagates_nonfinite=propagates,
        )
        verdicts = {}
        for name in BACKENDS:
            monkeypatch.setenv("NUMGUARD_BACKEND", name)
            verdicts[name] = np.array(evaluate_on_host(comparison))
        verdicts["device"] = evaluate(comparison).numpy()
        mean = Verdict._fields.index("mean_ratio")
        for name in ("torch", "device"):
            np.testing.assert_allclose(verdicts["native"][:mean], verdicts[name][:mean], rtol=1e-12)
            np.testing.assert_allclose(verdicts["native"][mean], verdicts[name][mean], rtol=1e-6, atol=1e-9)


def test_verdict_of_broadcast_and_strided_elements(backend: str) -> None:
    computed = normal(30, 40).t()
    exact = computed.double()
    comparison = Comparison(output="result", computed=computed, exact=exact, strict=exact[:, :1].abs())
    found = evaluate_on_host(comparison)
    assert found.num_elements == 1200
    assert not found.wrong
    assert found.worst_computed in computed
