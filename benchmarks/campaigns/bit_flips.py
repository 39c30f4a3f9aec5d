"""Seeded bit flips between two steps, in weights, moments and buffers; and what writing programs are called.

Run ``python -m benchmarks.campaigns.bit_flips``; it writes ``docs/provenance.md``.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import numguard
from benchmarks.small_gpt import Training
from numguard.interception.memory_sums import can_be_summed

NUM_FLIPS = 500
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
PLACES = ("parameter", "moment", "buffer")


class Normed(nn.Module):
    """A classifier with running statistics and a constant buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(24, 48), nn.BatchNorm1d(48), nn.Linear(48, 8)
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(x * self.scale))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One flip: where, which bit of how many, and what was found before the next write."""

    place: str
    dtype: str
    bit: int
    kind: str


def _candidates(model: nn.Module, optimizer: torch.optim.Optimizer, place: str) -> list[Tensor]:
    if place == "parameter":
        return list(model.parameters())
    if place == "buffer":
        return [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def flip_one(seed: int) -> Outcome:
    """Train three steps; flip one bit after the second; return what was known when the third has written."""
    random = np.random.default_rng(seed)
    place, dtype = PLACES[seed % 3], (torch.float32, torch.bfloat16)[seed // 3 % 2]
    torch.manual_seed(seed)
    model = Normed().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    known: list[str] = []
    bit = -1
    with numguard.guard(model, optimizer, budget=None, modules="no operator is checked here") as g:
        for step in range(3):
            loss = nn.functional.cross_entropy(model(torch.randn(16, 24).to(dtype)).float(), torch.arange(16) % 8)
            loss.backward()
            found = len(g.findings)
            # Nothing was written between the flip and here but by the optimizer, which compares before it writes.
            with suppress(RuntimeError):  # a flipped step count can make AdamW's bias correction complex
                optimizer.step()
            known += [finding.kind for finding in g.findings[found:]]
            known += [finding.kind for finding in g.findings[:found] if step == 2]
            optimizer.zero_grad()
            g.step(loss)
            if step == 1:
                tensors = [t for t in _candidates(model, optimizer, place) if can_be_summed(t)]
                tensor = tensors[int(random.integers(len(tensors)))]
                bit = int(random.integers(8 * tensor.element_size()))
                bits = tensor.data.view(-1).view(INTEGERS[tensor.element_size()])
                bits[int(random.integers(tensor.numel()))] ^= torch.tensor(1, dtype=bits.dtype) << bit
    kinds = [kind for kind in known if kind in ("corruption", "changed_outside_optimizer")]
    return Outcome(place=place, dtype=str(dtype)[6:], bit=bit, kind=kinds[0] if kinds else "missed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What is summed at a budget: share of the state per step, its size, and what the whole guard has cost."""

    width: int
    megabytes: float
    step_milliseconds: float
    share: float
    overhead: float


def measure_share(width: int, length: int, num_steps: int) -> Share:
    """Train the GPT of the cost page at the default budget and return the share of its state summed per step."""
    training = Training(width, length)
    with numguard.guard(training.model, training.optimizer) as g:
        began = time.perf_counter()
        for _ in range(num_steps):
            g.step(training.step())
        seconds = (time.perf_counter() - began) / num_steps
    state = sum(v.nbytes for s in training.optimizer.state.values() for v in s.values() if isinstance(v, Tensor))
    state += sum(parameter.nbytes for parameter in training.model.parameters())
    return Share(
        width=width,
        megabytes=state / 1e6,
        step_milliseconds=1e3 * seconds,
        share=g.hashed_share,
        overhead=float(g.overhead),
    )


def document(outcomes: list[Outcome], shares: list[Share], date: str) -> str:
    """Return the page."""
    lines = [
        "# Provenance",
        "",
        "After an optimizer's step the bits of parameters, moments and buffers are summed as 64-bit integers in blocks "
        "of 4 KiB, in turn and within 15 % of the budget; before its next step they are summed again. Running "
        "statistics, which the forward writes, are compared when the forward begins. A single changed word always "
        "changes its block's sum.",
        "",
        f"Written by `python -m benchmarks.campaigns.bit_flips` on {date}, torch {torch.__version__}.",
        "",
        f"## {len(outcomes)} seeded bit flips between two steps, everything summed at every step",
        "",
        "| where | dtype | flips | `corruption` | `changed_outside_optimizer` | missed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for place in PLACES:
        for dtype in ("float32", "bfloat16"):
            kinds = Counter(o.kind for o in outcomes if (o.place, o.dtype) == (place, dtype))
            cells = [kinds["corruption"], kinds["changed_outside_optimizer"], kinds["missed"]]
            lines.append(f"| {place} | {dtype} | {sum(cells)} | " + " | ".join(str(cell) for cell in cells) + " |")
    lowest = sum(o.bit == 0 for o in outcomes)
    lines += [
        "",
        f"Not found before the next write: {sum(o.kind == 'missed' for o in outcomes)}. {lowest} flips hit the "
        "lowest bit of an element: these are notices and not errors, because an update that is below half the spacing "
        "of nearly all elements, written through `.data`, looks the same.",
        "",
        "## What is summed at the default budget (1 %)",
        "",
        "| width of the GPT | parameters and moments, MB | ms per step | share summed per step | every byte once in | "
        "guard's own share of time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for share in shares:
        turns = f"{1.0 / share.share:,.0f} steps" if share.share else "never"
        lines.append(
            f"| {share.width} | {share.megabytes:.1f} | {share.step_milliseconds:.1f} | {share.share:.2%} | {turns} | "
            f"{share.overhead:.2%} |"
        )
    lines += [
        "",
        "A flip in a part that is not summed in its step is not found here: it is in the sums when that part's turn "
        "comes, and becomes what the optimizer goes on from. `budget=None` sums everything at every step; "
        "`g.hashed_share` tells the share of a run.",
        "",
        "## What programs write",
        "",
        "An average swapped in, `clamp_` on `.data`, the switch of a schedule-free optimizer, loading: "
        "`changed_outside_optimizer`, a notice, once per kind of tensor. Swapped in and out again between two writes, "
        "target networks that are no part of the model, storage moved away and back: nothing. "
        "`g.expect_write(params)` says beforehand that a write is meant (`tests/session/test_provenance.py`).",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; return 1 where a flip was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=NUM_FLIPS)
    parser.add_argument("--output", type=Path, default=Path("docs/provenance.md"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)
    outcomes = [flip_one(seed) for seed in range(options.flips)]
    print(Counter(outcome.kind for outcome in outcomes))
    if options.flips == NUM_FLIPS:
        shares = [measure_share(64, 64, 300), measure_share(256, 128, 150)]
        options.output.write_text(document(outcomes, shares, time.strftime("%d %B %Y", time.gmtime())), "utf-8")
    return int(any(outcome.kind == "missed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
