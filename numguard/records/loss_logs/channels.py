"""Which column of a log is which: the names that trainers and trackers give to step, loss and what stands beside."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

#: Channels that a log can have, and the names under which common tools write them: lower case, with ``_`` for spaces
#: and dashes. The first one that is there counts.
KNOWN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "step": (
            "step",
            "_step",
            "global_step",
            "trainer/global_step",
            "train/global_step",
            "iteration",
            "iterations",
            "iter",
            "train_step",
            "steps",
        ),
        "loss": (
            "loss",
            "train/loss",
            "train_loss",
            "training_loss",
            "train/train_loss",
            "train/loss_step",
            "train_loss_step",
            "loss/train",
            "loss/train/total",
            "lm_loss",
            "lm_loss_training/lm_loss",
            "train/lm_loss",
            "train/crossentropyloss",
            "train/ce_loss",
            "loss_metrics/global_avg_loss",
            "total_loss",
            "train/total_loss",
        ),
        "grad_norm": (
            "grad_norm",
            "train/grad_norm",
            "gradient_norm",
            "train/gradient_norm",
            "optim/total_grad_norm",
            "grad_norm/grad_norm",
            "global_grad_norm",
        ),
        "lr": (
            "lr",
            "learning_rate",
            "train/learning_rate",
            "train/lr",
            "optim/lr",
            "optim/learning_rate_group0",
            "learning_rate/learning_rate",
        ),
        "tokens": (
            "tokens",
            "num_tokens",
            "train/tokens",
            "tokens_seen",
            "num_input_tokens_seen",
            "train/num_input_tokens_seen",
            "throughput/total_tokens",
            "consumed_tokens",
        ),
        "loss_scale": ("loss_scale", "train/loss_scale", "loss_scale/loss_scale"),
        "skipped": ("skipped",),
        "batch_id": ("batch_id", "batch_hash"),
        "run": ("run", "run_name"),
    }
)
NUMBERS: Final = ("loss", "grad_norm", "lr", "tokens", "loss_scale")
LABELS: Final = ("batch_id", "run")
_NOT_TRAINING: Final = ("eval", "val", "test", "aux", "scale", "dev/")


def normalised(name: str) -> str:
    """Return a column's name as :data:`KNOWN` spells it."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def chosen(names: Iterable[str], asked: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each channel that the names hold.

    Parameters
    ----------
    names
        Columns of a log, or keys of one row.
    asked
        Columns that the user named, by channel; they alone count for their channel.
    """
    spelled: dict[str, str] = {}
    present = set()
    for name in names:
        present.add(name)
        spelled.setdefault(normalised(name), name)
    found = {channel: name for channel, name in asked.items() if name in present}
    for channel, known in KNOWN.items():
        if channel not in asked:
            best = next((spelled[name] for name in known if name in spelled), None)
            if best is not None:
                found[channel] = best
    return found


def only_loss(names: Iterable[str]) -> str | None:
    """Return the one column that can only be the training loss, or None where there is none or more than one."""
    able = [
        name
        for name in names
        if "loss" in (spelled := normalised(name)) and not any(word in spelled for word in _NOT_TRAINING)
    ]
    return able[0] if len(able) == 1 else None
