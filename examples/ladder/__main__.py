"""A ladder of small GPTs predicts a larger one: fit, register, train, verify.

Usage, from the root of the repository::

    python -m examples.ladder                                      everything, about a quarter of an hour on one core
    python -m examples.ladder --folder examples/ladder/losses --figure docs/images/ladder.svg
                                                                   the figures of docs/ladder.md, from these logs
    python -m examples.ladder --sample                             half a minute, to see that it works

A run that is in the folder already is not trained again, so the command can be stopped and repeated.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from examples.ladder.figure import draw
from examples.ladder.forecast import FULL, SAMPLE, Ladder, fit_marks, register_target, score
from examples.ladder.logs import Log, log_path, read_log, run
from examples.ladder.training import Corpus, Rung, corpus_of
from numguard import scaling
from numguard.demonstration import standard_library_text
from numguard.errors import NumguardError

NAME = "ladder target"
TARGET_SEED = 100


def climb(folder: Path, ladder: Ladder, say: Callable[[str], None], figure: Path | None = None) -> scaling.Verification:
    """Train the rungs, register what the target should reach, train it, and return how the prediction did.

    Parameters
    ----------
    folder
        Of logs and registry.
    ladder
        Which sizes.
    say
        Called with each line that is worth reading.
    figure
        Where to draw; in the folder by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry = folder / "predictions.json"
    logs = [_run(folder, rung, seed, say) for rung in ladder.rungs for seed in ladder.seeds]
    fits = fit_marks(logs)
    last = fits[-1]
    say(f"fit of the final loss: {last.law.formula}, " + ", ".join(f"{k}={v:.4g}" for k, v in last.params.items()))
    for warning in last.warnings:
        say(f"  distrust: {warning}")
    if not registry.exists():
        if log_path(folder, ladder.target, TARGET_SEED).exists():
            raise NumguardError("the target was trained before it was predicted; delete its log and start again")
        register_target(registry, NAME, ladder, fits)
    known = scaling.registered(registry, NAME)
    say(
        f"registered {known.time}: {known.value[-1]:.4f} nats per byte, {known.level:.0%} interval "
        f"{known.low[-1]:.4f} to {known.high[-1]:.4f}, at {known.distance:.1f} times the largest fitted compute"
    )
    say(f"receipt: {known.hash}")
    target = _run(folder, ladder.target, TARGET_SEED, say)
    verification = score(registry, NAME, target)
    say(str(verification))
    draw(folder / "ladder.svg" if figure is None else figure, logs, last, verification, target)
    return verification


def _run(folder: Path, rung: Rung, seed: int, say: Callable[[str], None]) -> Log:
    path = log_path(folder, rung, seed)
    if path.exists():
        log = read_log(path, rung, seed)
    else:
        log = run(folder, rung, _corpus(rung.context), seed, _Progress(rung))
        print(file=sys.stderr)
    say(f"width {rung.width:3d}, seed {seed:3d}: {rung.compute(rung.num_steps):.3g} operations, {log.final_loss:.4f}")
    return log


@cache
def _corpus(context: int) -> Corpus:
    return corpus_of(standard_library_text(64 * 2**20), context)


class _Progress:
    def __init__(self, rung: Rung) -> None:
        self._rung = rung

    def __call__(self, step: int, loss: float) -> None:
        if step % 20 == 0:
            line = f"\rwidth {self._rung.width}: step {step} of {self._rung.num_steps}, loss {loss:.3f}"
            print(line, end="", file=sys.stderr, flush=True)


def main() -> int:
    """Run the whole story and return 0 if the target came out inside of the registered interval."""
    parser = argparse.ArgumentParser(description="A ladder of small GPTs predicts a larger one.")
    parser.add_argument("--folder", type=Path, default=Path("ladder-runs"), help="of logs and registry")
    parser.add_argument("--sample", action="store_true", help="tiny models, in half a minute")
    parser.add_argument("--figure", type=Path, help="where to draw; ladder.svg in the folder by default")
    given = parser.parse_args()
    try:
        verification = climb(given.folder, SAMPLE if given.sample else FULL, print, given.figure)
    except NumguardError as error:
        print(f"ladder: {error}", file=sys.stderr)
        return 2
    return 0 if verification.ok else 1


if __name__ == "__main__":
    sys.exit(main())
