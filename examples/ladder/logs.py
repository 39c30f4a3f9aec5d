"""The runs' logs: one CSV file for each run, there only when the run has ended."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.ladder.training import Corpus, Rung, train

#: Twentieths of a run after which the held-out loss is taken.
MARKS: Final = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20)
#: The first of them that is predicted: earlier ones come out of the warm-up, which no law of compute describes.
FIRST_PREDICTED: Final = MARKS.index(4)
_NAMES: Final = ("step", "tokens", "lr", "loss", "grad_norm", "held_out_loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """One run, read back.

    Parameters
    ----------
    rung, seed
        Which run.
    tokens, losses
        Bytes seen up to the end of each step, and the loss of its batch in nats per byte.
    marks
        Step, counted from 1, and held-out loss at each of :data:`MARKS`.
    """

    rung: Rung
    seed: int
    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    marks: tuple[tuple[int, float], ...]

    @property
    def final_loss(self) -> float:
        """Held-out loss of the trained model."""
        return self.marks[-1][1]


def log_path(folder: Path, rung: Rung, seed: int) -> Path:
    """Return where a run's log is, or will be."""
    return folder / f"width{rung.width:03d}-seed{seed}.csv"


def mark_steps(rung: Rung) -> tuple[int, ...]:
    """Return the steps, counted from 1, after which the held-out loss is taken."""
    return tuple(max(rung.num_steps * mark // MARKS[-1], 1) for mark in MARKS)


def run(folder: Path, rung: Rung, corpus: Corpus, seed: int, on_step: Callable[[int, float], None]) -> Log:
    """Train, write the log, and return it.

    Parameters
    ----------
    folder
        Where logs are.
    rung, corpus, seed
        What to train, and on what.
    on_step
        Called with the number and the loss of each step.
    """
    path = log_path(folder, rung, seed)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_NAMES)
        for row in train(rung, corpus, seed=seed, marks=frozenset(mark_steps(rung))):
            held_out = "" if row.held_out_loss is None else f"{row.held_out_loss:.5f}"
            rates = (f"{row.learning_rate:.3e}", f"{row.loss:.5f}", f"{row.grad_norm:.4f}")
            writer.writerow((row.step, row.tokens, *rates, held_out))
            on_step(row.step, row.loss)
    os.replace(unfinished, path)
    return read_log(path, rung, seed)


def read_log(path: Path, rung: Rung, seed: int) -> Log:
    """Return a log that :func:`run` wrote."""
    with path.open(newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    return Log(
        rung=rung,
        seed=seed,
        tokens=tuple(int(row["tokens"]) for row in rows),
        losses=tuple(float(row["loss"]) for row in rows),
        marks=tuple((int(row["step"]), float(row["held_out_loss"])) for row in rows if row["held_out_loss"]),
    )
