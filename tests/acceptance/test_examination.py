"""One trial is judged for what it computes: faults planted in a subject are found, right ones are silent."""

from dataclasses import replace

import pytest
import torch

from numguard.acceptance.adversaries import DATA, LAYOUTS, fits
from numguard.acceptance.examination import Sighting, examine_trial
from numguard.acceptance.plan import trials_of
from numguard.acceptance.programme import subjects
from numguard.acceptance.reproduction import exit_code
from numguard.acceptance.scripts import script_of_call
from numguard.acceptance.shrinking import shrunk
from numguard.acceptance.subjects import Subject, subject
from numguard.acceptance.trials import Trial, draw_all, trial_from

ROUNDED = subject("((x + 1e9) - 1e9).sum()", "test", [{"n": 64}], x="values n")
RIGHT = subject("(x * x).sum()", "test", [{"n": 64}], x="values n")


def trial(which: Subject, **changes: object) -> Trial:
    plain = Trial(subject=which.name, dtype="float32", sizes=(("n", 64),), gradients=("x",))
    return replace(plain, **changes)  # type: ignore[arg-type]


def sightings(which: Subject, **changes: object) -> tuple[Sighting, ...]:
    outcome = examine_trial(which, trial(which, **changes))
    assert outcome.not_offered == ""
    return outcome.sightings


@pytest.mark.parametrize("data", ["normal", "ones", "shifted", "far", "wide", "outlier", "near_one"])
def test_a_right_call_is_silent(data: str) -> None:
    assert sightings(RIGHT, data=data) == ()


def test_a_call_that_rounds_its_inputs_is_found() -> None:
    found = sightings(ROUNDED, data="shifted")
    assert [entry.kind for entry in found] == ["unstable_region"]
    assert found[0].ratio is not None
    assert found[0].ratio > 1.0


def test_an_overflow_on_the_way_is_found() -> None:
    root = subject("(x * x).sum().sqrt()", "test", [{"n": 64}], x="values n")
    kinds = {entry.kind for entry in sightings(root, data="huge", gradients=())}
    assert kinds == {"overflow"}


def test_equivalent_forms_must_agree_about_nan() -> None:
    masked = subject("x / x", "test", [{"n": 64}], equivalent="torch.where(x == 0, 0.0, x / x)", x="values n")
    found = sightings(masked, data="zeros", gradients=())
    assert ("invariance_broken", "error", "exact") in {(entry.kind, entry.severity, entry.proof) for entry in found}


def test_writing_beside_a_tensor_is_found() -> None:
    wild = subject("x.as_strided((2 * n - 1,), (1,)).mul_(2.0)[:n] * 0 + 1", "test", [{"n": 64}], x="values n")
    found = sightings(wild, layout="gapped", gradients=())
    assert "corruption" in {entry.kind for entry in found}


def test_what_torch_does_not_offer_is_no_finding() -> None:
    strange = subject("torch.linalg.cholesky(x)", "test", [{"n": 64}], x="values n")
    outcome = examine_trial(strange, trial(strange))
    assert outcome.sightings == ()
    assert outcome.not_offered


def test_a_finding_shrinks_and_its_script_fails_alone() -> None:
    (found,) = sightings(ROUNDED, data="shifted", gradients=())

    def shows(candidate: Trial) -> bool:
        return any(entry.fingerprint == found.fingerprint for entry in examine_trial(ROUNDED, candidate).sightings)

    smallest = shrunk(ROUNDED, found.trial, shows, seconds=5.0)
    (again,) = examine_trial(ROUNDED, smallest).sightings
    assert dict(smallest.sizes)["n"] <= 2
    script = script_of_call(ROUNDED, again, 0)
    assert "numguard" not in script
    assert exit_code(script) == 1
    assert exit_code(script.replace("1e9", "0.0")) == 0


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_data_have_their_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    x = DATA[name]((3, 5), dtype)
    assert x.shape == (3, 5)
    assert x.dtype == dtype
    assert bool(torch.isfinite(x).all()) == (name not in ("with_infinity", "with_nan"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_keep_the_values(name: str) -> None:
    x = torch.randn(2, 3, 4, 5)
    assert fits(name, 4)
    laid = LAYOUTS[name](x)
    assert torch.equal(laid, x[:1].expand_as(x) if name == "repeated" else x)
    assert laid.is_contiguous() == (name in ("contiguous", "offset"))


def test_a_trial_is_drawn_alike_and_survives_json() -> None:
    for which in subjects()[::7]:
        for drawn in list(trials_of(which, "quick", 2))[:3]:
            assert trial_from(drawn.plain()) == drawn
            first, second = draw_all(which, drawn), draw_all(which, drawn)
            assert all(torch.equal(x.nan_to_num(), second[name].nan_to_num()) for name, x in first.items())


def test_names_of_subjects_are_unique() -> None:
    names = [entry.name for entry in subjects()]
    assert len(set(names)) == len(names)


def test_attention_whose_scores_overflow_is_no_error() -> None:
    which = next(entry for entry in subjects() if "is_causal" in entry.name)
    for dtype in ("float32", "bfloat16"):
        drawn = Trial(
            subject=which.name,
            dtype=dtype,
            sizes=tuple(which.sizes[0].items()),
            data="huge_signed",
            gradients=("q", "x", "v"),
        )
        outcome = examine_trial(which, drawn)
        assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in outcome.judged
        assert {entry.kind for entry in outcome.sightings} == {"overflow"}
