"""What a limit buys of a call: never less than a smaller one does, and never more memory than a check may take."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from numguard.checks import checks_for
from numguard.checks.check import LARGEST_ROW, Probe
from numguard.checks.examination import perform
from numguard.checks.row_samples import sampled_rows
from numguard.shadow.call import overload_name
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY

aten = torch.ops.aten


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


CALLS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "mm": lambda: (aten.mm.default, (normal(128, 256), normal(256, 256))),
    "bmm": lambda: (aten.bmm.default, (normal(4, 128, 128), normal(4, 128, 128))),
    "grouped products": lambda: (
        aten._grouped_mm.default,
        (normal(128, 256), normal(2, 256, 256), torch.tensor([50, 128], dtype=torch.int32)),
    ),
    "softmax": lambda: (aten._softmax.default, (normal(1024, 512), 1, False)),
    "layer norm": lambda: (aten.native_layer_norm.default, (normal(1024, 512), [512], None, None, 1e-5)),
    "cumulative sum": lambda: (aten.cumsum.default, (normal(1024, 2048), 1)),
    "convolution": lambda: (
        aten.convolution.default,
        (normal(2, 16, 40, 40), normal(16, 16, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_larger_limit_never_buys_less(name: str) -> None:
    overload, args = CALLS[name]()
    [check] = checks_for(overload_name(overload))
    call, captured = perform(check, overload, args, {}, Probe(arithmetic=NUMPY))
    counts = []
    for limit in (2.0**12, 2.0**18, 2.0**21, 2.0**21.5, 2.0**22, 2.0**24, inf):
        compared = check.judge(call, captured, Probe(arithmetic=NUMPY, limit=limit))
        counts.append(sum(comparison.computed.numel() for comparison in compared if comparison.output != "checksum"))
    assert counts[0] > 0
    assert counts == sorted(counts)


def test_the_rows_of_a_sample_fit_into_memory_unless_they_are_read_in_pieces() -> None:
    for limit in (2.0**12, 2.0**22, 2.0**30):
        probe = Probe(arithmetic=NUMPY, limit=limit)
        [held], [read] = (sampled_rows((1 << 20,), 1024.0, probe, in_pieces=pieces) for pieces in (False, True))
        num_held, num_read = (len(range(1 << 20)[picked]) for picked in (held, read))
        assert 1024 * num_held <= max(min(limit, LARGEST_ROW), limit / 16)
        assert limit / 4 < 1024 * num_read <= limit


def test_what_no_limit_can_thin_is_refused() -> None:
    with pytest.raises(NotCovered, match="one row of it costs more"):
        sampled_rows((5,), 2.0 * LARGEST_ROW, Probe(arithmetic=NUMPY, limit=1000.0))
    with pytest.raises(NotCovered, match="one row of it costs more"):
        sampled_rows((5,), 2000.0, Probe(arithmetic=NUMPY, limit=1000.0, most=1999.0), in_pieces=True)
    assert sampled_rows((0,), 2.0 * LARGEST_ROW, Probe(arithmetic=NUMPY, limit=1000.0)) == (slice(None),)
