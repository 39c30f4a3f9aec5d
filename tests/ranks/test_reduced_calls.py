"""``functional.all_reduce`` on two and three gloo ranks: torch's bits, silence where it is right, faults found."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from numguard import functional

PROGRAM = Path(__file__).with_name("reduced_calls.py")
Answers = list[dict[str, Any]]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Answers]:
    """Return what every rank of a group of two and of a group of three has written."""
    folders = {num_ranks: tmp_path_factory.mktemp(f"group{num_ranks}") for num_ranks in (2, 3)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(num_ranks), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for num_ranks, folder in folders.items()
        for rank in range(num_ranks)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)[-4000:]
    return {
        n: [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(n)] for n, folder in folders.items()
    }


@pytest.fixture(params=[2, 3], ids=["two ranks", "three ranks"])
def ranks(request: pytest.FixtureRequest, groups: dict[int, Answers]) -> Answers:
    return groups[request.param]


def _kinds(outcome: dict[str, Any]) -> list[str]:
    return sorted(finding["kind"] for finding in outcome["guard"])


def _is_said_everywhere(outcome: dict[str, Any], kind: str) -> bool:
    """Return whether a kind is the guard's, logged outside, and raised under strict."""
    return kind in _kinds(outcome) and any(kind in line for line in outcome["logged"]) and outcome["raised"] is not None


def test_bits_are_torchs_and_right_results_are_silent(ranks: Answers) -> None:
    for answer in ranks:
        assert answer["clean"]["different"] == []
        assert answer["clean"]["findings"] == []
        reasons = answer["clean"]["uncovered"]
        assert len(reasons) == 4
        assert all("PRODUCT of" in reason and count == 8 for reason, count in reasons.items())


def test_one_changed_rank_is_told_from_the_others(ranks: Answers) -> None:
    last = len(ranks) - 1
    for rank, answer in enumerate(ranks):
        outcome = answer["faults"]["one element"]
        expected = ["collective_mismatch", "wrong_result"] if rank == last else ["collective_mismatch"]
        assert _kinds(outcome) == expected
        assert all(_is_said_everywhere(outcome, kind) for kind in expected)
        mismatch = next(finding for finding in outcome["guard"] if finding["kind"] == "collective_mismatch")
        assert mismatch["evidence"]["ranks_outside_the_bound"] == [last]
        assert (mismatch["severity"], mismatch["proof"], mismatch["confirmed"]) == ("error", "exact", "exact")
        named = "ranks 0, 1 differ, and their number does not tell" if last == 1 else "rank 2 differs from ranks 0, 1"
        assert named in mismatch["message"]


def test_a_lost_block_is_wrong_and_proved(ranks: Answers) -> None:
    for answer in ranks:
        outcome = answer["faults"]["lost block"]
        assert _kinds(outcome) == ["wrong_result"]
        assert _is_said_everywhere(outcome, "wrong_result")
        (finding,) = outcome["guard"]
        proof = [finding[name] for name in ("severity", "proof", "model", "confirmed", "op")]
        assert proof == ["error", "bound", "proved", "second-shadow", "c10d::all_reduce"]
        assert finding["location"].rpartition(":")[0].endswith("reduced_calls.py")


def test_a_nan_from_finite_inputs_is_wrong(ranks: Answers) -> None:
    for answer in ranks:
        outcome = answer["faults"]["nan"]
        assert _kinds(outcome) == ["wrong_result"]
        assert _is_said_everywhere(outcome, "wrong_result")
        assert "returned nan where" in outcome["guard"][0]["message"]


def test_one_bit_that_no_bound_sees_is_a_mismatch(ranks: Answers) -> None:
    for answer in ranks:
        outcome = answer["faults"]["last bit"]
        assert _kinds(outcome) == ["collective_mismatch"]
        assert _is_said_everywhere(outcome, "collective_mismatch")
        assert outcome["guard"][0]["evidence"]["ranks_outside_the_bound"] == []


def test_extrema_are_exact(ranks: Answers) -> None:
    for answer in ranks:
        (finding,) = answer["faults"]["minimum"]["guard"]
        assert (finding["kind"], finding["proof"]) == ("wrong_result", "exact")
        assert finding["evidence"]["element"] == 7


def test_a_strided_column_is_found(ranks: Answers) -> None:
    for answer in ranks:
        assert "wrong_result" in _kinds(answer["column"])
        assert answer["column"]["raised"] is not None


def test_layouts_that_differ_are_found(ranks: Answers) -> None:
    for answer in ranks:
        assert _kinds(answer["layouts"]) == ["collective_mismatch", "wrong_result"]


def test_other_arguments_are_told_before_the_collective(ranks: Answers) -> None:
    for answer in ranks:
        outcome = answer["other dtype"]
        assert _kinds(outcome) == ["collective_mismatch"]
        assert outcome["raised"] == "collective_mismatch"
        message = outcome["guard"][0]["message"]
        assert "SUM of 8 elements of float32; SUM of 8 elements of int32" in message


def test_a_rank_without_notes_keeps_nobody_waiting(ranks: Answers) -> None:
    for answer in ranks:
        for name, reason in (
            ("notes", "all_reduce: a rank could take no notes"),
            ("look", "all_reduce: a rank could not look at its result"),
        ):
            outcome = answer["broken notes"][name]
            assert (outcome["guard"], outcome["raised"]) == ([], None)
            assert outcome["uncovered"] == {reason: 1}


def test_notes_that_arrive_changed_blame_the_transport(ranks: Answers) -> None:
    for answer in ranks:
        outcome = answer["broken notes"]["transport"]
        assert _kinds(outcome) == ["collective_mismatch"]
        assert outcome["guard"][0]["op"] == "c10d::all_gather"


def test_what_is_passed_on_is_counted_and_torchs_own(ranks: Answers) -> None:
    for answer in ranks:
        passed = answer["passed on"]
        assert passed["findings"] == []
        assert passed["uncovered"] == {
            "all_reduce: async_op=True": 1,
            "all_reduce: not a plain tensor, or not reduced when the call returns": 1,
        }
        for ours, theirs in passed["refused"]:
            assert ours == theirs


def test_compiled_code_is_not_broken_up(groups: dict[int, Answers]) -> None:
    assert [answer["passed on"]["compiled"] for answer in groups[2]] == [[2.0], [2.0]]


def test_without_a_process_group_the_error_is_torchs() -> None:
    with pytest.raises(ValueError, match="Default process group has not been initialized"):
        functional.all_reduce(torch.ones(2))


def test_the_signature_is_torchs() -> None:
    ours, theirs = (inspect.signature(function) for function in (functional.all_reduce, torch.distributed.all_reduce))
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        assert ours.parameters[name].default == parameter.default


def test_a_guard_that_looks_away_leaves_the_others_theirs(groups: dict[int, Answers]) -> None:
    assert [answer["looks away"]["kinds"] for answer in groups[3]] == [[], ["wrong_result"], []]
    assert [answer["looks away"]["kinds"] for answer in groups[2]] == [[], []]
