"""The verdict and what it rests on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from numguard.finding import KINDS, Finding
from numguard.records import EventLog, MemoryLog, events_of, finding_fields, read_run
from numguard.report import RunSummary, summarise
from numguard.report.on_call import SAYS, operator_name
from tests.report.recorded_run import coverage_fields, start_fields, symptoms, write_run, wrong_sum

STEP: dict[str, Any] = {"loss": 2.5, "step_seconds": 0.1, "own_seconds": 0.0, "armed": False}


def summary_of(*findings: Finding, world_size: int = 1, checks: bool = True, **more: dict[str, Any]) -> RunSummary:
    log = MemoryLog()
    log.write("start", **start_fields(0, world_size=world_size))
    for finding in findings:
        assert log.write("finding", **finding_fields(finding))
    if checks:
        log.write("coverage", **coverage_fields())
    for event, fields in more.items():
        assert log.write(event, **fields), log.last_failure
    return summarise(events_of(log))


def test_a_root_cause_leads_and_its_symptoms_follow() -> None:
    summary = summary_of(*symptoms(), wrong_sum())
    (cause,) = summary.causes
    assert cause.lead.kind == "wrong_result"
    assert [finding.kind for finding in cause.symptoms] == ["loss_spike", "loss_noise"]
    assert summary.num_findings == 3


def test_errors_stand_before_warnings_and_early_before_late() -> None:
    warning = wrong_sum(id="a", fingerprint="a", kind="overflow", severity="warning", first_caught_step=1)
    late = wrong_sum(id="b", fingerprint="b", first_caught_step=50)
    early = wrong_sum(id="c", fingerprint="c", first_caught_step=40)
    assert [cause.lead.id for cause in summary_of(warning, late, early).causes] == ["c", "b", "a"]


def test_the_same_defect_on_two_ranks_is_one_cause(tmp_path: Path) -> None:
    for rank in (0, 1):
        log = EventLog(tmp_path, rank=rank, attempt=0)
        log.write("start", **start_fields(rank))
        finding = wrong_sum(rank=rank, host=f"node-{rank}", last_clean_step=100 + rank, count=3, checked=10)
        log.write("finding", **finding_fields(finding))
        log.close()
    (cause,) = summarise(read_run(tmp_path)).causes
    assert cause.ranks == (0, 1)
    assert (cause.num_failed, cause.num_checked, cause.last_clean_step) == (6, 20, 100)
    assert "on all 2 ranks on 2 hosts" in cause.headline
    assert not any(step.startswith("Drain") for step in cause.next_steps)


def test_planted_faults_are_no_checks_of_the_run() -> None:
    reason = "steps of 0.2 ms are too short for a budget of 1.00%"
    coverage = {**coverage_fields(), "sites": [], "uncovered": {reason: 399, "other": 4}, "num_checks": 0}
    cost = {
        "step": 399, "own_seconds": 0.01, "elapsed_seconds": 0.1, "num_armed_steps": 0, "num_checks": 2, "budget": 0.01,
    }  # fmt: skip
    summary = summary_of(checks=False, coverage=coverage, cost=cost)
    assert summary.verdict == "unknown"
    assert summary.headline == f"nothing was checked, so nothing can be said ({reason})"


def test_a_circle_of_causes_hides_nothing() -> None:
    first = wrong_sum(id="a", fingerprint="a", cause="b")
    second = wrong_sum(id="b", fingerprint="b", cause="a")
    lost = wrong_sum(id="c", fingerprint="c", cause="nowhere")
    summary = summary_of(first, second, lost)
    seen = {item.id for cause in summary.causes for item in (cause.lead, *cause.symptoms)}
    assert seen == {"a", "b", "c"}


def test_a_long_chain_of_causes_ends_at_its_root() -> None:
    chain = [wrong_sum(id=f"{n}", fingerprint=f"{n}", cause=f"{n - 1}" if n else None) for n in range(2_000)]
    (cause,) = summary_of(*reversed(chain)).causes
    assert cause.lead.id == "0"
    assert len(cause.symptoms) == 1_999


@pytest.mark.parametrize(("count", "drains"), [(1, False), (7, False), (8, True)])
def test_one_rank_of_two_is_blamed_once_chance_is_below_one_percent(tmp_path: Path, count: int, drains: bool) -> None:
    """2^-(8 - 1) = 0.8 %."""
    for rank in (0, 1):
        log = EventLog(tmp_path, rank=rank, attempt=0)
        log.write("start", **start_fields(rank))
        if rank:
            log.write("finding", **finding_fields(wrong_sum(count=count)))
        log.close()
    steps = summarise(read_run(tmp_path)).next_steps
    assert any(step.startswith("Drain host node-0018") for step in steps) is drains
    assert any(step.startswith("Replace the operator sum") for step in steps) is not drains


def test_the_checkpoint_is_the_earliest_that_all_errors_allow() -> None:
    summary = summary_of(wrong_sum(), wrong_sum(id="b", fingerprint="b", last_clean_step=90, first_caught_step=130))
    assert summary.next_steps[-1] == "Restart from a checkpoint written at step 90 or before."
    never = summary_of(wrong_sum(), wrong_sum(id="b", fingerprint="b", last_clean_step=None))
    assert not any(step.startswith("Restart") for step in never.next_steps)
    assert any(step.startswith("Trust no checkpoint") for step in never.next_steps)


def test_a_clean_run_goes_on(tmp_path: Path) -> None:
    summary = summarise(read_run(write_run(tmp_path, faulty=False)))
    assert summary.verdict == "go"
    assert summary.causes == ()
    assert "3,080 checks" in summary.headline


def test_a_warning_is_care_and_a_notice_is_nothing() -> None:
    assert summary_of(symptoms()[0]).verdict == "care"
    notice = wrong_sum(kind="hard_batch", severity="notice", proof="none")
    summary = summary_of(notice)
    assert (summary.verdict, summary.num_findings, len(summary.notices)) == ("go", 0, 1)


def test_nothing_checked_is_not_healthy() -> None:
    assert summary_of(checks=False).verdict == "unknown"


def test_a_failed_self_test_is_not_healthy() -> None:
    failed = {"step": 0, "passed": False, "stage": "verdict", "detail": "no finding came out"}
    summary = summary_of(selftest=failed)
    assert summary.verdict == "unknown"
    assert "no finding came out" in summary.degraded[0]


def test_a_loss_that_ends_as_nan_stops_a_run_without_any_finding() -> None:
    log = MemoryLog()
    for step in range(20):
        log.write("step", **{**STEP, "step": step, "loss": 2.0 if step < 15 else float("nan")})
    log.write("coverage", **coverage_fields())
    log.write("origin", step=15, block="blocks.3", phase="backward", detail="inf - inf")
    summary = summarise(events_of(log))
    assert (summary.verdict, summary.headline) == ("stop", "the loss has been NaN since step 15")
    assert "blocks.3" in summary.next_steps[0]


def test_missing_ranks_and_lost_events_spoil_a_clean_verdict(tmp_path: Path) -> None:
    missing = summarise(read_run(write_run(tmp_path, ranks=(0,), faulty=False)))
    assert missing.verdict == "care"
    assert missing.missing_ranks == (1,)
    assert "1 rank missing" in missing.headline
    lost = summary_of(dropped={"count": 5, "reason": "No space left on device"})
    assert lost.verdict == "care"
    assert "5 events of rank 0 could not be written: No space left on device" in lost.degraded


def test_no_directory_above_the_run_is_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "someone" / "run-7")
    summary = summarise(read_run(run_dir))
    assert summary.path == "run-7"
    assert "someone" not in json.dumps(dataclasses.asdict(summary), default=str)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_words(kind: str) -> None:
    assert set(SAYS) == set(KINDS)
    summary = summary_of(wrong_sum(kind=kind, severity=KINDS[kind], capsule="findings/x.safetensors"))
    if KINDS[kind] == "notice":
        assert summary.notices[0].kind == kind
    else:
        assert summary.causes[0].stop is (KINDS[kind] == "error")
        assert all(answer.answer for answer in summary.causes[0].answers)
        assert "{" not in summary.headline


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("aten.sum.dim_IntList", "sum"),
        ("aten::sum.out", "sum"),
        ("aten._foreach_norm.Scalar", "_foreach_norm"),
        ("mine", "mine"),
    ],
)
def test_an_operator_is_named_as_people_say_it(op: str, name: str) -> None:
    assert operator_name(op) == name
