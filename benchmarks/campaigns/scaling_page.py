"""The page that shows what the fitter gives on published runs."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

_HEAD = """# Scaling laws: ground truth

Written by `benchmarks/campaigns/scaling_holdouts.py` on {date}, numpy {numpy}, scipy {scipy}. To repeat it (the
published runs are not part of the repository; they are read from `shared/data` beside it):

```sh
python -m benchmarks.campaigns.scaling_holdouts --out docs/scaling_ground_truth.md
```

## Published constants

Asserted by `tests/scaling/test_published_constants.py` and `test_loss_curves.py` wherever the data are.

{constants}
## Predictions 8 to 16 times further

Nominal coverage is 90 %. Each family of runs is fitted up to some size, and the largest run that is at most 16 times
(and at least 8 times) larger is predicted. "Last" counts one prediction for each family, from the largest fit that
leaves a run to predict; "all" counts fits that grow by a factor of 2 as well, which share runs and are not independent.
The least error of the form, the constant that was settled on data, is chosen for each source on the *other* sources
alone: the smallest of {candidates}, for each factor of e, that covers nine
tenths of a source on average. All sources together choose {chosen}, which is what `fit` uses.
"""

_AFTER = """
What this does not show: the fraction of the roll-out rate (a fifth) and the shape of the band were settled while
looking at these families; an earlier band, settled on two of the sources, covered only two thirds of the others, which
is why the choice is now made source by source. Families of one source are alike: their predictions fail together.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def page(
    results: Sequence[Any],
    rows: Sequence[Sequence[str]],
    totals: Mapping[bool, Sequence[int]],
    intervals: Mapping[bool, tuple[float, float]],
    chosen: float,
    constants: Sequence[Sequence[str]],
) -> str:
    """Return the page in Markdown."""
    parts = [
        _HEAD.format(
            date=datetime.date.today().isoformat(),
            numpy=np.__version__,
            scipy=scipy.__version__,
            candidates="0.4, 0.6, 0.8, 1.0, 1.2 and 1.5 %",
            chosen=f"{chosen:.1%}",
            constants=table(constants[0], constants[1:]),
        ),
        table(("source", "constant", "last", "all", "median error", "median half-width"), rows),
    ]
    for latest, name in ((True, "One prediction for each family"), (False, "All predictions")):
        covered, num = totals[latest]
        low, high = intervals[latest]
        parts.append(
            f"{name}: {covered} of {num} covered, {covered / num:.0%} (95 % Clopper-Pearson {low:.0%} to {high:.0%}).\n"
        )
    own = [
        (
            result.family,
            result.num_fitted,
            f"{result.times:.1f}",
            f"{np.expm1(result.error):+.1%}",
            f"{np.expm1(result.half_widths[2]):.1%}",
        )
        for result in results
        if result.latest
    ]
    parts += [
        _AFTER.lstrip("\n"),
        "### Each family's last prediction\n",
        table(("family", "runs fitted", "times further", "error", f"half-width at {chosen:.1%}"), own),
    ]
    return "\n".join(parts)
