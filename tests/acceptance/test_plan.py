"""What an audit runs when its time is short: the same share of every family, and what tells most first."""

import io
import json
from collections import Counter
from math import inf

import pytest

from numguard.acceptance.plan import balanced, compiled_trials, trials_of
from numguard.acceptance.programme import subjects
from numguard.acceptance.timetable import SHARES, Timetable
from numguard.acceptance.trials import Trial
from numguard.acceptance.worker import run_batch


def trials(family: str, num_subjects: int, num_each: int) -> list[list[Trial]]:
    return [
        [Trial(subject=f"{family} {subject}", dtype="float32", sizes=(("n", rank),)) for rank in range(num_each)]
        for subject in range(num_subjects)
    ]


def test_a_plan_that_is_broken_off_has_the_same_share_of_every_family() -> None:
    plan = balanced({"many": trials("many", 40, 5), "few": trials("few", 4, 5)})
    assert len(plan) == len(set(plan)) == 220
    for share in (0.25, 0.5, 0.75):
        begun = Counter(trial.subject.split()[0] for trial in plan[: int(share * len(plan))])
        assert begun["many"] / 200 == pytest.approx(share, abs=0.05)
        assert begun["few"] / 20 == pytest.approx(share, abs=0.05)


def test_what_tells_most_of_each_subject_comes_first() -> None:
    plan = balanced({"only": trials("only", 7, 3)})
    assert [dict(trial.sizes)["n"] for trial in plan] == [0] * 7 + [1] * 7 + [2] * 7


def test_the_order_of_a_plan_is_a_function_of_its_seed() -> None:
    groups = {"only": trials("only", 20, 1)}
    assert balanced(groups, seed=1) == balanced(groups, seed=1)
    assert balanced(groups, seed=1) != balanced(groups, seed=2)


def test_every_subject_is_tried_by_both_levels_and_compiled() -> None:
    for entry in subjects():
        counts = [len(list(trials_of(entry, level, 2))) for level in ("quick", "full")]
        assert counts[0] <= counts[1]
        assert (counts[0] > 0) == (entry.family != "pipelines")
        assert all(trial.compiled for trial in compiled_trials(entry))


def test_parts_end_in_their_order_and_the_last_one_in_time() -> None:
    table = Timetable(["reproducers", "eager", "examples"], 30.0)
    ends = [table.end_of(name) for name in SHARES if name in table]
    assert ends == sorted(ends)
    assert ends[-1] - ends[0] == pytest.approx(30.0 * (SHARES["examples"] + SHARES["reproducers"]) / 71.0)
    assert "large" not in table


def test_a_batch_that_is_late_stops_between_its_tasks() -> None:
    out = io.StringIO()
    tasks = {"echo": lambda given: given["x"]}
    batch = [
        {"task": "echo", "given": {"x": x}, "deadline": deadline} for x, deadline in ((1, inf), (2, 0.0), (3, inf))
    ]
    run_batch(batch, tasks, out)
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert said == [{"at": 0}, {"done": 0, "answer": 1}, {"late": 2}]
