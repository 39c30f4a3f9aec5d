"""A mistake in the options is told at once, with what to type instead."""

from pathlib import Path
from typing import Any

import pytest
import torch

import numguard
from numguard.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checks": "softmx"}, "'softmax'"),
        ({"checks": ["sum", "bogus"]}, "layer_norm"),
        ({"checks": []}, "leave it out"),
        ({"checks": 5}, "not a string"),
        ({"checks": "("}, "re.escape"),
        ({"modules": "("}, "re.escape"),
        ({"modules": 5}, "not a string"),
        ({"skip": ["a", None]}, "not a string"),
        ({"budget": 0}, "budget=0.01"),
        ({"budget": -0.1}, "budget=None"),
        ({"budget": 1.5}, "budget=None"),
        ({"budget": float("nan")}, "budget=None"),
        ({"budget": "1%"}, "budget=0.01"),
        ({"budget": True}, "budget=0.01"),
        ({"seed": 1.5}, "integer"),
        ({"seed": True}, "integer"),
        ({"on_finding": None}, '"raise"'),
        ({"on_finding": "print"}, '"log"'),
        ({"run_dir": 5}, "pathlib.Path"),
        ({"accept": 5}, "pathlib.Path"),
        ({"capture": "capsule"}, "run_dir="),
        ({"capture": "everything"}, '"capsule"'),
        ({"trend": 1}, "leave it out"),
        ({"regions": []}, "leave it out"),
        ({"model": "net"}, "torch.nn.Module"),
        ({"optimizer": "adam"}, "torch optimizer"),
        ({"optimizer": [None]}, "torch optimizer"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        numguard.guard(**options)
    assert words in str(refused.value)
    assert next(iter(options)) in str(refused.value)


def test_a_missing_accept_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.toml"):
        numguard.guard(accept=tmp_path / "missing.toml").start()


@pytest.mark.parametrize("seed", [0, -1, -(2**70), 2**70])
def test_every_integer_is_a_seed(seed: int) -> None:
    with numguard.guard(seed=seed) as guard:
        guard.step(1.0)
    assert guard.coverage.num_steps == 1


def test_modules_and_skip_choose_what_is_checked() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 4))

    def sites(**options: Any) -> set[tuple[str, str]]:
        guard = numguard.guard(model, budget=None, **options)
        with guard:
            loss = model(torch.ones(2, 4)).sum()
            loss.backward()
            guard.step(loss)
        assert [finding.message for finding in guard.findings] == []
        return {(site.op.partition("::")[2].partition(".")[0], site.module) for site in guard.coverage.sites}

    everything = sites()
    assert {("addmm", "0"), ("addmm", "2"), ("native_layer_norm", "1")} <= everything
    assert {module for _, module in sites(modules="^2$")} == {"2"}
    assert ("addmm", "0") not in sites(skip=["0"])
    assert ("addmm", "2") in sites(skip=["0"])
    assert "native_layer_norm" not in {op for op, _ in sites(skip="layer_norm.*")}
    assert {op for op, _ in sites(checks=["layer_norm.*"])} == {"native_layer_norm", "native_layer_norm_backward"}
