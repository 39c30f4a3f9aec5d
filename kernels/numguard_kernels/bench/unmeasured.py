"""What the machine code of the kernels lets one expect of GPUs that are not there."""

import importlib.metadata
from collections.abc import Sequence

from numguard_kernels.bench.table import Table

_COLUMNS = ("kernel", "types", "registers", "spilled bytes", "load bytes", "instructions/element", "bytes/element")


def predicted_table(names: Sequence[str] = ("sm_80", "sm_90", "sm_100", "gfx942")) -> Table:
    """Return registers, spills, load widths and instructions of every kernel, and the predicted share of memory time.

    Compiles every kernel for every target, which takes a minute or two, and needs no GPU. Registers and instructions
    are those of the second target.

    Parameters
    ----------
    names
        Of the targets.

    Raises
    ------
    ImportError
        Where Triton is not installed.
    """
    from numguard_kernels.ahead_of_time import TARGETS, compile_for, predicted
    from numguard_kernels.registry import specs

    targets = [TARGETS[name] for name in names]
    shown = targets[min(1, len(targets) - 1)]
    rows = []
    for spec in specs():
        for compilation in spec.compilations:
            codes = {target.name: compile_for(compilation, target) for target in targets}
            code = codes[shown.name]
            rows.append(
                (
                    spec.name,
                    compilation.name,
                    str(code.registers),
                    str(code.spill_bytes),
                    str(code.load_bytes),
                    f"{code.instructions_per_element:.2f}",
                    f"{compilation.bytes_per_element:g}",
                    *(f"{predicted(compilation, codes[t.name], t).memory_share:.2f}" for t in targets),
                )
            )
    return Table(
        title="Predicted from machine code, not measured: there is no GPU here",
        header=(
            f"Triton {importlib.metadata.version('triton')}; registers and instructions for {shown.name}",
            "the last columns: largest share of the peak memory bandwidth that issuing the instructions allows",
        ),
        columns=(*_COLUMNS, *(target.gpu for target in targets)),
        rows=tuple(rows),
    )
