"""Whatever a child process does, the pool goes on and says what it was."""

from collections.abc import Iterator

import pytest

from numguard.acceptance.pool import Pool

WORKER = "tests.acceptance.dying_worker"


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2, seconds=2.0, program=WORKER) as opened:
        yield opened


def test_every_task_is_answered(pool: Pool) -> None:
    answers, left = pool.run("square", [{"x": x} for x in range(20)], batch_size=3)
    assert left == 0
    assert sorted(answer.value for answer in answers) == [x * x for x in range(20)]


def test_every_way_to_die_is_a_result(pool: Pool) -> None:
    ways = ["fine", "signal", "fine", "sleep", "memory", "error", "fine", "spin"]
    answers, left = pool.run("die", [{"how": how} for how in ways], batch_size=8)
    ended = sorted((answer.given["how"], answer.ended) for answer in answers)
    assert left == 0
    assert ended == [
        ("error", "failed"),
        ("fine", ""),
        ("fine", ""),
        ("fine", ""),
        ("memory", "out_of_memory"),
        ("signal", "crash"),
        ("sleep", "hang"),
        ("spin", "hang"),
    ]
    assert any("SIGSEGV" in answer.reason for answer in answers)


def test_nothing_is_begun_after_the_deadline(pool: Pool) -> None:
    answers, left = pool.run("square", [{"x": 1}], deadline=0.0)
    assert (answers, left) == ([], 1)
