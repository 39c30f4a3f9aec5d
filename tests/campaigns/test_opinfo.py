"""A seeded sample of PyTorch's own sample inputs raises no error, and every fault under them is found."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks.campaigns.opinfo import complaints, from_fields
from benchmarks.campaigns.opinfo_page import page
from benchmarks.campaigns.opinfo_runs import DTYPES, Alarm, SampleRun, Tally, entries, entry_name, run_samples
from benchmarks.campaigns.planted_control import spoil
from numguard.testing import KernelCall, faulty_kernel

pytest.importorskip("expecttest", reason="PyTorch's list of operators comes with the `test` extra")

NUM_PICKED = 40
NAMES = (
    *("sum", "prod", "cumsum", "var", "softmax", "logsumexp", "addmm", "bmm", "argmax", "median", "sort", "index_add"),
    *("scatter_add", "nn.functional.conv2d", "nn.functional.batch_norm", "nn.functional.group_norm", "norm"),
    *("nn.functional.layer_norm", "nn.functional.avg_pool2d", "nn.functional.nll_loss", "nn.functional.embedding"),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before, logger = torch.get_num_threads(), logging.getLogger("numguard")
    level = logger.level
    torch.set_num_threads(1)
    logger.setLevel(logging.CRITICAL)  # the planted faults are found, loudly
    yield
    torch.set_num_threads(before)
    logger.setLevel(level)


def _picked() -> list[tuple[str, str]]:
    """Return entries from all over the list, each in one dtype, and the families by name."""
    names = sorted({entry_name(entry) for entry in entries() if not entry_name(entry).startswith("jiterator")})
    random = np.random.default_rng(20261122)
    chosen = [str(name) for name in random.choice(names, NUM_PICKED, replace=False)]
    return [(name, list(DTYPES)[turn % len(DTYPES)]) for turn, name in enumerate((*NAMES, *chosen))]


def _run(name: str, dtype: str, **options: bool) -> SampleRun:
    entry = next(entry for entry in entries() if entry_name(entry) == name)
    return run_samples(entry, dtype, most=10, **options)


@pytest.mark.parametrize(("name", "dtype"), _picked(), ids=str)
def test_samples_raise_no_error_and_their_faults_are_found(name: str, dtype: str) -> None:
    run = _run(name, dtype)
    assert complaints(run) == []
    assert run.num_elements > 0 or name not in NAMES


def test_a_wrong_kernel_under_a_sample_is_complained_of() -> None:
    def wrong(call: KernelCall) -> None:
        call.results[0].mul_(1.5)

    with faulty_kernel("aten::sum.dim_IntList", wrong):
        run = _run("sum", "float32", with_controls=False)
    assert run.alarms
    assert {alarm.op for alarm in run.alarms} <= {"aten::sum.dim_IntList", "aten::sum"}  # which is built on it
    assert len(complaints(run)) == len(run.alarms)


def test_a_fault_that_nobody_finds_is_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.campaigns.planted_control.corrupt", lambda call: None)
    run = _run("cumsum", "float32")
    assert "control: aten::cumsum was wrong, and not found" in complaints(run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool], ids=str)
def test_a_fault_changes_one_element(dtype: torch.dtype) -> None:
    result = torch.tensor([[0.0, 1.0], [-2.0, 0.5]]).to(dtype)
    before = result.clone()
    assert spoil(result)
    assert int((result != before).sum()) == 1


def test_what_is_not_finite_is_not_made_wrong() -> None:
    assert not spoil(torch.full((3,), torch.nan))


RUN = SampleRun(
    entry="sum",
    dtype="float32",
    num_samples=3,
    num_backward=2,
    operators={"aten::sum": Tally(num_calls=3, num_elements=1234, worst_ratio=0.9999)},
    alarms=[
        Alarm(kind="wrong_result", op="aten::sum", output="result", phase="forward", sample=1, ratio=3.0, message="!")
    ],
    warned={"overflow aten::sum result": 2},
    controls={"aten::sum": True},
    refused={"ValueError: no": 1},
    uncovered={"sum: too long": 5},
)


def test_a_run_survives_the_record() -> None:
    assert from_fields(json.loads(json.dumps(asdict(RUN)))) == RUN


def test_the_page_shows_every_error_and_what_was_not_judged() -> None:
    text = page([RUN])
    assert "| float32 | 1 | 3 | 2 | 3 | 1,234 | 1 | 1 | 1 of 1 |" in text
    assert "| sum | float32 | `aten::sum` | result | 1 | 3.0 | **not explained** |" in text
    assert "| `aten::sum` | 1 | 1 | 3 | 1,234 | 0.999 | 1 of 1 |" in text
    assert "| 5 | sum: too long |" in text
    assert "`aten::mm`" in text.partition("no sample input reaches")[2]
    assert "None: no sample input of PyTorch" in page([replace(RUN, alarms=[])])
