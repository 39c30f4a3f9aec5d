"""Lost updates: which share of what the optimizer meant to do never reached the parameters."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from numguard.checks.update_loss import THRESHOLD, UpdateLedger, update_masses_by_tensor
from numguard.interception.attribution import Origin
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared

WARM_UP: Final = 100  # steps: a learning rate that rises from zero loses its first updates and means nothing by it
WINDOW: Final = 1000  # steps
_ENOUGH: Final = 8  # checked optimizer calls of a module before its share is reported as a finding


class Updates:
    """Adds up the update masses of checked optimizer calls by top-level module.

    Parameters
    ----------
    model, optimizers
        Whose parameters count.
    step
        First step of this attempt.
    """

    def __init__(self, model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
        self._modules: dict[int, str] = {}
        for optimizer in optimizers:
            for number, group in enumerate(optimizer.param_groups):
                self._modules |= {id(parameter): f"group {number}" for parameter in group["params"]}
        if model is not None:
            for name, parameter in model.named_parameters():
                self._modules[id(parameter)] = _top_level(name)
        self._counts: dict[str, int] = {}
        self._ledger = UpdateLedger(first_step=step + WARM_UP, last_step=step + WARM_UP + WINDOW - 1)

    def add(self, step: int, call: OpCall, captured: Any, comparisons: Sequence[Compared], origin: Origin) -> None:
        """Add a judged call; nothing is read back from the device."""
        if self._ledger.is_complete(step):
            self._ledger = UpdateLedger(first_step=step, last_step=step + WINDOW - 1)
            self._counts.clear()
        records = update_masses_by_tensor(call, captured, comparisons, lambda tensor: id(tensor) in self._modules)
        if records is None:
            return
        tensors = call["self"] if isinstance(call["self"], list | tuple) else [call["self"]]
        for record in records:
            for place, number in enumerate(record.numbers):
                module = self._modules.get(id(tensors[number]), "parameters")
                self._counts[module] = self._counts.get(module, 0) + 1
                self._ledger = self._ledger.with_masses(step, module, record.lost[place], record.intended[place])

    def shares(self) -> dict[str, float]:
        """Return the share lost by module in the present window; this waits for an accelerator."""
        return self._ledger.shares()

    def window(self) -> int:
        """Return the length of the window in steps."""
        return WINDOW

    def report(self, step: int, enter: Callable[..., None]) -> None:
        """Enter a ``lost_updates`` finding for each module that has lost more than the threshold."""
        for module, share in self.shares().items():
            if share > THRESHOLD and self._counts.get(module, 0) >= _ENOUGH:
                enter(
                    "lost_updates",
                    (module,),
                    op="",
                    module=module,
                    phase="optimizer",
                    first_caught_step=step,
                    message=(
                        f"{share:.0%} of the update that the optimizer computed for {module} was lost: the stored "
                        "parameters did not change, because the update is below half their spacing."
                    ),
                    advice=(
                        "Keep master weights in float32, round stochastically, or raise the learning rate: these "
                        "parameters follow their gradient much more slowly than asked."
                    ),
                    evidence={"share": share, "threshold": THRESHOLD, "window": WINDOW},
                )


def _top_level(name: str) -> str:
    """Return the block that a parameter belongs to: ``blocks.3`` of ``blocks.3.mlp.weight``."""
    parts = [part for part in name.split(".")[:-1] if part not in ("_orig_mod", "module")]
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return parts[0] if parts else "parameters"
