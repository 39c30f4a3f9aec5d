"""Clean training raises no error and breaks no check; a fault under one operator of the same training is named."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks.campaigns.architectures import ARCHITECTURES
from benchmarks.campaigns.clean_run import CONTROLS, CleanRun, Control, Plan, Warned, run_clean
from benchmarks.campaigns.clean_training import architecture_plans, complaints, from_fields, own_plans
from benchmarks.campaigns.clean_training_page import page
from benchmarks.campaigns.warning_causes import cause_of
from numguard.testing import KernelCall, faulty_kernel

pytest.importorskip("transformers", reason="the architectures come from the `test` extra")

SAMPLE = ("gpt2", "qwen3_moe", "gemma2", "mamba", "deberta-v2", "t5", "swin", "whisper")


def _own() -> Iterator[Plan]:
    """Every model in every precision, with the ways of AdamW in turn."""
    for number, plan in enumerate(own_plans(num_steps=6)):
        if number % 3 == number // 3 % 3:
            yield plan


def _name(plan: Plan) -> str:
    return f"{plan.subject}-{plan.precision}-{plan.optimizer}"


OWN = list(_own())
TINY = [
    plan for plan in architecture_plans(num_steps=2) if plan.subject in SAMPLE and plan.precision in ("fp32", "bf16")
]
FULL = [*own_plans(), *architecture_plans()]


@pytest.mark.parametrize("plan", OWN, ids=_name)
def test_own_models_train_without_an_error_and_their_faults_are_found(plan: Plan) -> None:
    run = run_clean(plan)
    assert complaints(run) == []
    assert run.num_checks > 6 * plan.num_steps


@pytest.mark.parametrize("plan", TINY, ids=_name)
def test_architectures_train_without_an_error_and_their_faults_are_found(plan: Plan) -> None:
    run = run_clean(plan)
    assert complaints(run) == []
    assert run.num_checks > 10 * plan.num_steps


@pytest.mark.slow
@pytest.mark.parametrize("plan", FULL, ids=_name)
def test_the_whole_campaign(plan: Plan) -> None:
    assert complaints(run_clean(plan)) == []


def test_the_campaign_is_as_large_as_promised() -> None:
    models = {plan.subject for plan in own_plans()}
    runs = {(plan.subject, plan.precision) for plan in own_plans() if plan.num_steps >= 50}
    assert {"demo", "resnet", "moe", "lstm", "unet"} <= models
    assert len(runs) == 3 * len(models)
    precisions = {"fp32", "bf16"}
    assert sum(precisions <= set(architecture.precisions) for architecture in ARCHITECTURES) >= 40
    assert len(OWN) == len(runs)
    assert len(TINY) == 2 * len(SAMPLE)


def _spoil(call: KernelCall) -> None:
    call.results[0].mul_(1.5)


def test_a_wrong_kernel_in_a_clean_step_is_complained_of() -> None:
    plan = next(plan for plan in own_plans(num_steps=1) if plan.subject == "lstm" and plan.turn % len(CONTROLS) == 0)
    with faulty_kernel("aten::embedding_dense_backward", _spoil):
        found = complaints(run_clean(plan))
    assert len(found) == 1
    assert found[0].startswith("wrong_result: aten::embedding_dense_backward")


RUN = CleanRun(
    subject="gpt2",
    precision="bf16",
    optimizer="fused",
    num_threads=1,
    num_steps=2,
    num_calls=100,
    num_checks=90,
    worst_ratio=0.5,
    seconds=1.0,
    errors=(),
    warned=(Warned(kind="overflow", op="aten::mm", output="result", dtype="float16", ratio=None, message="too large"),),
    uncovered={"prod: why not": 10},
    control=Control(op="aten::mm", named=("aten::mm",)),
)


@pytest.mark.parametrize(
    "control",
    [
        Control(op="aten::mm", named=()),
        Control(op="aten::mm", named=("aten::bmm",)),
        Control(op="aten::mm", named=("aten::bmm", "aten::mm")),
        Control(op="aten::mm", named=("aten::mm",), degraded=("a check broke",)),
    ],
)
def test_a_fault_that_is_not_found_or_found_elsewhere_is_complained_of(control: Control) -> None:
    assert complaints(replace(RUN, warned=(), control=control))[0].startswith("control: aten::mm was wrong")


def test_a_warning_without_a_cause_is_complained_of() -> None:
    assert complaints(RUN) == ["unexplained overflow of aten::mm (result) on float16: too large"]
    assert cause_of("inaccurate_accumulation", "aten::logsumexp", "result", "float32") is None
    assert cause_of("inaccurate_accumulation", "aten::logsumexp", "result", "bfloat16") is not None


def test_the_page_shows_every_run_error_and_warning() -> None:
    text = page([RUN, replace(RUN, subject="lstm", precision="fp32", errors=("wrong_result: seven is not six",))])
    assert "| gpt2 | 90, 0.500, 1 |" in text
    assert "| lstm | fp32 | fused | 1 | 2 | 90 | 0.500 | 1 | 1 | `aten::mm` found |" in text
    assert "- lstm fp32: wrong_result: seven is not six" in text
    assert "**not explained**" in text
    assert "0.999, 1 |" in page([replace(RUN, worst_ratio=0.99996)])
    assert "| prod: why not | 20 |" in text


def test_a_run_survives_the_record() -> None:
    assert from_fields(json.loads(json.dumps(asdict(RUN)))) == RUN


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    plan = next(plan for plan in own_plans(num_steps=1) if plan.num_threads != before and plan.subject == "unet")
    run = run_clean(plan)
    assert run.num_threads == plan.num_threads != before
    assert torch.get_num_threads() == before
