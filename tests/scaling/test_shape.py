"""Verdicts on scale: right where the truth is known, rarely wrong where nothing is there."""

import csv
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numguard import scaling
from numguard.errors import UsageError
from tests.scaling.real_data import real_data

SIZES = np.geomspace(1e8, 1e11, 9)
POSITION = np.linspace(-1.0, 1.0, len(SIZES))
FORMS = {
    "positive": 0.5 + 0.2 * POSITION,
    "inverse": 0.5 - 0.2 * POSITION,
    "U": 0.4 + 0.3 * POSITION**2,
    "inverted-U": 0.7 - 0.3 * POSITION**2,
    "flat": np.full(len(SIZES), 0.5),
}
#: Binomial error of 400 items at a half; differences of the forms above are many times that.
NUM_ITEMS = 400


def _answers(rng: np.random.Generator, share: NDArray[np.float64], num_items: int = NUM_ITEMS) -> NDArray[np.float64]:
    """Right and wrong answers of models that agree on which items are hard, [models, items]."""
    return np.asarray(rng.random(num_items)[None, :] < share[:, None], dtype=np.float64)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_from_means(form: str) -> None:
    rng = np.random.default_rng(1)
    score = rng.binomial(NUM_ITEMS, FORMS[form]) / NUM_ITEMS
    verdict = scaling.shape(SIZES, score, num_items=NUM_ITEMS).verdicts[""]
    assert verdict.verdict == form
    assert (verdict.turning_size is not None) == (form in ("U", "inverted-U"))
    if verdict.turning_size is not None:
        assert 10**8.8 < verdict.turning_size < 10**10.2


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_from_single_items(form: str) -> None:
    items = _answers(np.random.default_rng(2), FORMS[form])
    assert scaling.shape(SIZES, items).verdicts[""].verdict == form


@pytest.mark.parametrize(("form", "turned"), [("positive", "inverse"), ("U", "inverted-U"), ("flat", "flat")])
def test_a_loss_turns_every_verdict_round(form: str, turned: str) -> None:
    rng = np.random.default_rng(3)
    score = rng.binomial(NUM_ITEMS, FORMS[form]) / NUM_ITEMS
    up = scaling.shape(SIZES, score, num_items=NUM_ITEMS).verdicts[""]
    down = scaling.shape(SIZES, score, num_items=NUM_ITEMS, higher_is_better=False).verdicts[""]
    assert (up.verdict, down.verdict) == (form, turned)
    assert up.slope == pytest.approx(down.slope), "the slope is that of the score as it was given"


def test_a_curve_that_saturates_is_no_inverted_u() -> None:
    """A parabola has its top inside of such a curve; two lines do not bend down."""
    rng = np.random.default_rng(4)
    curve = 0.9 - 0.6 * np.exp(-3 * (POSITION + 1))
    score = rng.binomial(4 * NUM_ITEMS, curve) / (4 * NUM_ITEMS)
    top = np.polyfit(POSITION, score, 2)
    assert -1 < -top[1] / (2 * top[0]) < 1
    assert scaling.shape(SIZES, score, num_items=4 * NUM_ITEMS).verdicts[""].verdict == "positive"


def test_items_in_common_make_small_differences_visible() -> None:
    """Models that share which items are hard differ by less than their errors say: pairing sees it, means do not."""
    rng = np.random.default_rng(5)
    items = _answers(rng, 0.5 + 0.01 * POSITION, 1000)
    assert scaling.shape(SIZES, items).verdicts[""].verdict == "positive"
    assert scaling.shape(SIZES, items.mean(axis=1), num_items=1000).verdicts[""].verdict == "flat"


def test_scatter_of_models_is_not_taken_for_a_shape() -> None:
    """Models with a bias of their own differ by far more than their items explain, yet not with size."""
    rng = np.random.default_rng(6)
    score = {f"task {n}": np.clip(0.5 + 0.1 * rng.standard_normal(len(SIZES)), 0, 1) for n in range(60)}
    found = scaling.shape(SIZES, score, num_items=10_000)
    named = [verdict for verdict in found.verdicts.values() if verdict.verdict not in ("irregular", "flat")]
    # Under the null every rejection is false, and the rate bounds the chance of any at 5 %.
    assert named == []
    assert found.counts["irregular"] > 50


def test_false_discoveries_stay_below_the_rate() -> None:
    """Of 100 families of 20 flat and 5 real tasks: the mean share of false among the named, at most 5 %."""
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(100):
        truth = {f"flat {n}": FORMS["flat"] for n in range(20)}
        truth |= {f"real {n}": 0.5 + 0.06 * (-1) ** n * POSITION for n in range(5)}
        score = {name: rng.binomial(NUM_ITEMS, curve) / NUM_ITEMS for name, curve in truth.items()}
        found = scaling.shape(SIZES, score, num_items=NUM_ITEMS)
        named = {task: one.verdict for task, one in found.verdicts.items() if one.verdict not in ("flat", "irregular")}
        right = {f"real {n}": "positive" if n % 2 == 0 else "inverse" for n in range(5)}
        wrong = sum(right.get(task) != verdict for task, verdict in named.items())
        shares.append(wrong / max(len(named), 1))
    # The share of one family has a variance of at most its mean: 0.05 + 3 sqrt(0.05 / 100) = 0.117.
    assert np.mean(shares) <= 0.117


def test_it_finds_what_is_there_as_well() -> None:
    rng = np.random.default_rng(8)
    tasks = {f"{form} {n}": curve for form, curve in FORMS.items() for n in range(20)}
    score = {name: rng.binomial(NUM_ITEMS, curve) / NUM_ITEMS for name, curve in tasks.items()}
    found = scaling.shape(SIZES, score, num_items=NUM_ITEMS)
    assert [name for name, one in found.verdicts.items() if one.verdict != name.split()[0]] == []


def test_perfect_scores_have_an_error_too() -> None:
    """A reported error of 0 would make a single missed item significant."""
    score = [1.0, 1.0, 1.0, 0.995]
    found = scaling.shape(SIZES[:4], score, error=[0.0, 0.0, 0.0, 0.005], num_items=200)
    assert found.verdicts[""].verdict == "flat"
    with pytest.raises(UsageError, match=r"an error of 0.*num_items="):
        scaling.shape(SIZES[:4], score, error=[0.0, 0.0, 0.0, 0.005])


def test_models_that_were_not_evaluated_are_left_out() -> None:
    nan = float("nan")
    found = scaling.shape(SIZES[:4], {"few": [0.1, nan, nan, 0.9], "some": [0.1, nan, 0.5, 0.9]}, num_items=NUM_ITEMS)
    assert found.not_judged == {"few": "scores of 2 sizes, and a shape needs 3"}
    assert found.verdicts["some"].num_models == 3
    assert found.verdicts["some"].verdict == "positive"
    assert found.tasks("positive") == ("some",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": [1, -2, 3], "score": [0.1, 0.2, 0.3], "num_items": 9}, "size must be one number above 0"),
        ({"size": [1, 2, 3], "score": [0.1, 0.2], "num_items": 9}, "shape \\(2,\\) and there are 3 sizes"),
        ({"size": [1, 2, 3], "score": [0.1, 0.2, 0.3]}, "has no error, which would make every difference"),
        ({"size": [1, 2, 3], "score": [0.1, 0.2, 0.3], "error": -1.0}, "negative or NaN"),
        ({"size": [1, 2, 3], "score": [0.1, 0.2, 3.0], "num_items": 9}, "outside of 0 to 1; pass error="),
        ({"size": [1, 2, 3], "score": [0.1, 0.2, np.inf], "num_items": 9}, "infinity; pass NaN"),
        ({"size": [1, 2, 3], "score": [0.1, 0.2, 0.3], "num_items": 0}, "below 1"),
        ({"size": [1, 2, 3], "score": "abc", "num_items": 9}, "not numeric"),
        ({"size": [1, 2, 3], "score": {}, "num_items": 9}, "no task to judge"),
        ({"size": [1, 2, 3], "score": [[1], [0], [1]]}, "1 items, which say nothing"),
        (
            {"size": [1, 2, 3], "score": [0.1, 0.2, 0.3], "num_items": 9, "false_discovery_rate": 0},
            "false_discovery_rate=0 is no share",
        ),
    ],
)
def test_a_mistake_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scaling.shape(arguments.pop("size"), arguments.pop("score"), **arguments)


def _pythia() -> dict[int, dict[str, dict[str, tuple[float, float]]]]:
    """Accuracy and its error by step, task and model."""
    found: dict[int, dict[str, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    with real_data("pythia_evals", "pythia_v1_long.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "acc":
                found[int(row["step"])][row["task"]][row["model"]] = (float(row["value"]), float(row["stderr"]))
    return found


def _size(model: str) -> float:
    text = model.split("-")[1]
    return float(text[:-1]) * {"m": 1e6, "b": 1e9}[text[-1]]


def _judged(steps: dict[int, dict[str, dict[str, tuple[float, float]]]], step: int) -> scaling.Shapes:
    tasks = steps[step]
    models = sorted({model for by_model in tasks.values() for model in by_model})
    # share (1 - share) / error^2 + 1 is the number of items, wherever the error is not 0
    num_items: dict[str, float] = {}
    for task in tasks:
        pairs = [pair for one in steps.values() for pair in one[task].values() if pair[1] > 0]
        num_items[task] = float(np.median([value * (1 - value) / error**2 + 1 for value, error in pairs]))
    missing = (float("nan"), float("nan"))
    value = {task: [one.get(model, missing)[0] for model in models] for task, one in tasks.items()}
    error = {task: [one.get(model, missing)[1] for model in models] for task, one in tasks.items()}
    return scaling.shape([_size(model) for model in models], value, error=error, num_items=num_items)


def test_pythia_has_no_inverse_task_beyond_chance() -> None:
    """z > 2.5 task by task calls one task inverse and one inverted U; with 65 tasks these are chance."""
    found = _judged(_pythia(), 143_000)
    assert sum(found.counts.values()) == 65
    assert {found.counts[verdict] for verdict in ("inverse", "U", "inverted-U")} == {0}
    assert {"lambada_openai", "arc_easy", "arc_challenge", "piqa", "sciq", "winogrande"} <= set(found.tasks("positive"))


def test_models_that_have_learned_nothing_have_no_shape() -> None:
    """Six checkpoints of the first 16 steps, 65 tasks each: every shape would be a false discovery."""
    steps = _pythia()
    for step in (0, 1, 2, 4, 8, 16):
        counts = _judged(steps, step).counts
        assert counts["flat"] + counts["irregular"] == 65


def test_truthfulqa_is_inverse_in_the_families_where_it_was_found() -> None:
    """Lin et al., arXiv 2109.07958: of models trained on the web alone, larger ones are less truthful."""
    families: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with real_data("obs_scaling", "base_llm_benchmark_eval.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            size = float(row["Model Size (B)"])
            families[row["Model Family"]].append((size, float(row["TruthfulQA"]), float(row["HellaSwag"])))
    for family in ("Pythia", "GPT-Neo/J", "OPT"):
        size, truthful, sensible = zip(*families[family], strict=True)
        assert scaling.shape(size, truthful, num_items=817).verdicts[""].verdict == "inverse"
        assert scaling.shape(size, sensible, num_items=10_042).verdicts[""].verdict == "positive"


def test_four_models_that_jump_about_are_not_given_a_shape() -> None:
    """GPT-2 on tasks of the inverse scaling pipeline: .08, .45, .26, .91 with 1,000 items is no curve to rely on."""
    sizes = {"gpt2": 124e6, "gpt2-medium": 355e6, "gpt2-large": 774e6, "gpt2-xl": 1.5e9}
    tasks: dict[str, dict[str, tuple[float, float, float]]] = defaultdict(dict)
    with real_data("inverse_scaling_naimenz", "summary_by_model.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["mean_correct"]:
                figures = (float(row["mean_correct"]), float(row["se_correct"]), float(row["n"]))
                tasks[row["task"]][row["model"]] = figures
    missing = (float("nan"),) * 3
    score, error, num_items = (
        {task: [one.get(model, missing)[part] for model in sizes] for task, one in tasks.items()} for part in range(3)
    )
    found = scaling.shape([*sizes.values()], score, error=error, num_items=num_items)
    assert found.verdicts["boolq-1shot-gpt2"].verdict == "positive"
    assert found.verdicts["syllogism-0shot-gpt2"].verdict == "irregular"
    assert found.verdicts["conjunction-fallacy-0shot-gpt2"].verdict == "flat"
    assert len(found.not_judged) == 6
