"""The ladder: its small sample from end to end, and the figures in its document from the logs that are kept."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.ladder import forecast
from examples.ladder.__main__ import NAME, TARGET_SEED, climb
from examples.ladder.logs import log_path, read_log
from examples.ladder.training import Rung, corpus_of
from numguard import scaling
from numguard.demonstration import standard_library_text
from numguard.errors import NumguardError
from tests.house.source_tree import ROOT

LOSSES = ROOT / "examples" / "ladder" / "losses"
PAGE = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
TINY = forecast.Ladder(
    rungs=tuple(Rung(width=width, context=16, tokens_per_parameter=1) for width in (8, 16, 24)),
    target=Rung(width=32, context=16, tokens_per_parameter=1),
    seeds=(0,),
)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    climb(folder, TINY, lambda line: None)
    return folder


def test_a_tiny_ladder_is_climbed_once_and_then_read(climbed: Path) -> None:
    said: list[str] = []
    before = {path: path.read_bytes() for path in climbed.iterdir()}
    first = climb(climbed, TINY, said.append)
    assert {path: path.read_bytes() for path in climbed.iterdir()} == before
    assert any(line.startswith("registered ") for line in said)
    assert first.registered.low[-1] < first.registered.value[-1] < first.registered.high[-1]
    assert len(first.outcome) == len(first.registered.value)
    ElementTree.parse(climbed / "ladder.svg")
    log = read_log(log_path(climbed, TINY.target, TARGET_SEED), TINY.target, TARGET_SEED)
    assert len(log.losses) == TINY.target.num_steps
    assert log.final_loss < log.losses[0]


def test_a_target_that_was_trained_first_is_refused(climbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(climbed, folder)
    (folder / "predictions.json").unlink()
    with pytest.raises(NumguardError, match="trained before it was predicted"):
        climb(folder, TINY, lambda line: None)
    assert not (folder / "predictions.json").exists()


def test_the_kept_ladder_gives_the_documents_figures(tmp_path: Path) -> None:
    folder = tmp_path / "losses"
    shutil.copytree(LOSSES, folder)
    said: list[str] = []
    found = climb(folder, forecast.FULL, said.append)
    known = found.registered
    assert forecast.FULL.distance >= 30
    assert known.distance == pytest.approx(forecast.FULL.distance)
    for figure in (known.value[-1], known.low[-1], known.high[-1], found.outcome[-1]):
        assert f"{figure:.4f}" in PAGE
    assert known.hash in PAGE
    assert f"{found.relative_error[-1]:+.1%}".replace("%", " %") in PAGE
    assert f"{sum(found.inside)} of {len(found.inside)} marks" in PAGE


def test_the_prediction_that_is_kept_came_from_the_logs_that_are_kept() -> None:
    """The data's hash in the registry is that of the losses: the band was not made from other runs."""
    ladder = forecast.FULL
    logs = [read_log(log_path(LOSSES, rung, seed), rung, seed) for rung in ladder.rungs for seed in ladder.seeds]
    known = scaling.registered(LOSSES / "predictions.json", NAME)
    fits = forecast.fit_marks(logs)
    assert [form["data_hash"] for form in known.forms] == [fitted.data_hash for fitted in fits]


def test_nothing_of_the_held_out_text_is_learned() -> None:
    text = standard_library_text(2**20)
    corpus = corpus_of(text, 128)
    learned = {bytes(window.tolist()) for window in corpus.learned}
    held_out = [bytes(window.tolist()) for window in corpus.held_out]
    # Licences and headers stand in several files; a window of 129 bytes that is met twice is one of those.
    assert sum(window in learned for window in held_out) <= 0.01 * len(held_out)
    assert all(window in text for window in held_out[:8])


def test_the_document_names_commands_that_exist() -> None:
    assert re.search(r"^python -m examples\.ladder +#", PAGE, flags=re.M)
    assert re.search(r"^python -m examples\.ladder --sample", PAGE, flags=re.M)
